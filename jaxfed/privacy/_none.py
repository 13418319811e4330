"""No privacy, said aloud: the plain weighted mean.

McMahan et al. 2017, arXiv:1602.05629, algorithm 1, line "w_{t+1}".
"""

import abc
import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.privacy._base import Privacy
from jaxfed.privacy._statement import Statement
from jaxfed.sampling import Sampler
from jaxfed.typing import ClientResult, Params, PyTree, Released

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unprotected(Privacy, abc.ABC):
    """What has no guarantee by its type: epsilon is infinite, whatever its fields."""

    sampling: Sampler
    delta: None = dataclasses.field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        remedy = "pass for example sampling.Full(population=...)"
        check.instance(Sampler, remedy, sampling=self.sampling)

    @abc.abstractmethod
    def _reason(self) -> str:
        """Returns why there is none, in one sentence."""

    def init(self, params: Params) -> PyTree:
        """Returns `()`: there is no state."""
        del params
        return ()

    def encode(self, state: PyTree, result: ClientResult, *, key: jax.Array) -> PyTree:
        """Returns what `encode_counted` does; zeros where not finite."""
        return self.encode_counted(state, result, key=key)[0]

    def event(self, rounds: int) -> "DpEvent":
        """Returns the event that no accountant gives a finite epsilon."""
        from dp_accounting import NonPrivateDpEvent

        check.positive_integer(rounds=rounds)
        return NonPrivateDpEvent()

    def epsilon(
        self, *, rounds: int | None = None, delta: float | None = None
    ) -> float:
        """Returns infinity."""
        del rounds, delta
        return math.inf

    def epsilon_of(
        self,
        unit: str,
        *,
        count: int = 1,
        rounds: int | None = None,
        delta: float | None = None,
    ) -> float:
        """Returns infinity."""
        del unit, count, rounds, delta
        return math.inf

    def epsilon_curve(self, rounds: int) -> np.ndarray:
        """Returns infinity for every round."""
        return np.full(rounds, math.inf)

    def _statement(self, rounds: int | None) -> Statement:
        return Statement(
            claim=f"No privacy guarantee. {self._reason()}",
            epsilon=math.inf,
            delta=None,
            rounds=rounds,
            unit="none",
            relation="none",
            sampling=self.sampling.describe(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoPrivacy(Unprotected):
    """A mean over clients without clip and without noise. Gives no guarantee.

    Args:
        sampling: which clients take part in a round.
        weighting: `"examples"` weighs each client by how many examples it owns, as
            federated averaging does; `"clients"` weighs all alike.
    """

    weighting: str = "examples"

    def __post_init__(self) -> None:
        super().__post_init__()
        check.one_of(("examples", "clients"), weighting=self.weighting)

    def encode_counted(
        self, state: PyTree, result: ClientResult, *, key: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        """Returns weight times update, weight, and one; and whether it is finite."""
        del state, key
        weight = result.weight if self.weighting == "examples" else jnp.float32(1)
        update = tree.astype(result.update, jnp.float32)
        weighted = {
            "update": tree.scale(update, weight),
            "weight": weight,
            "count": jnp.float32(1),
        }
        ok = tree.is_finite(weighted)
        return tree.where(ok, weighted, tree.zeros_like(weighted)), ok

    def release(
        self, state: PyTree, total: PyTree, *, key: jax.Array
    ) -> tuple[PyTree, Released]:
        """Returns the weighted mean; zero for an empty cohort."""
        del key
        weight = total["weight"]
        safe = jnp.where(weight > 0, weight, 1.0)
        value = tree.scale(total["update"], 1.0 / safe)
        return state, Released(value=value, num_clients=total["count"])

    def _reason(self) -> str:
        return (
            "Updates are neither clipped nor noised: every release may reveal any "
            "client's data (epsilon is infinite)."
        )


def none(*, sampling: Sampler, weighting: str = "examples") -> NoPrivacy:
    """Returns an aggregator without any privacy guarantee; see `NoPrivacy`."""
    return NoPrivacy(sampling=sampling, weighting=weighting)
