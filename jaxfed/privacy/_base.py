"""What every privacy object can be asked."""

import abc
import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfed import tree
from jaxfed._config import Configuration
from jaxfed.sampling import Sampler
from jaxfed.typing import ClientResult, LocalWork, Params, PyTree, Released

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Privacy(Configuration, abc.ABC):
    """An `Aggregator` that says what it guarantees.

    Subclasses are frozen keyword-only dataclasses with a `sampling` field.
    """

    sampling: Sampler
    delta: float | None = None

    def validate(
        self,
        *,
        params: Params,
        rounds: int,
        local: LocalWork,
        client_sizes: np.ndarray,
    ) -> None:
        """Checks, before anything runs, that such a run can be private as claimed.

        Args:
            params: the model's parameters.
            rounds: how many rounds will be run.
            local: what clients do.
            client_sizes: (num_clients,) how many examples each client has.
        """
        del params, rounds, local, client_sizes

    @abc.abstractmethod
    def init(self, params: Params) -> PyTree:
        """Returns the aggregator's state before the first round."""

    @abc.abstractmethod
    def encode(self, state: PyTree, result: ClientResult, *, key: jax.Array) -> PyTree:
        """Turns one client's result into what is summed; non-finite ones into zero."""

    def encode_counted(
        self, state: PyTree, result: ClientResult, *, key: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        """Returns what `encode` does, and whether the result counts: () bool, private.

        It is False where zero stands for a result that could not be used. A simulation
        counts such a client as failed.
        """
        return self.encode(state, result, key=key), tree.is_finite(result.update)

    @abc.abstractmethod
    def release(
        self, state: PyTree, total: PyTree, *, key: jax.Array
    ) -> tuple[PyTree, Released]:
        """Turns the sum into a mean update that may leave the round."""

    def public(self, state: PyTree) -> dict[str, jax.Array]:
        """Returns the numbers in the state that were released, for the history."""
        del state
        return {}

    @abc.abstractmethod
    def event(self, rounds: int) -> "DpEvent":
        """Returns the dp-accounting event of that many rounds."""

    @abc.abstractmethod
    def epsilon(
        self, *, rounds: int | None = None, delta: float | None = None
    ) -> float:
        """Returns an upper bound of epsilon after `rounds` rounds."""

    @abc.abstractmethod
    def epsilon_curve(self, rounds: int) -> np.ndarray | None:
        """Returns epsilon after each round, or None while no delta is named."""

    @abc.abstractmethod
    def statement(self, *, rounds: int | None = None) -> str:
        """Returns the guarantee in words, with what it does not cover."""

    def plot_tradeoff(self, **options: Any) -> Any:
        """Draws epsilon against rounds and noise; needs the extra `plot`."""
        from jaxfed.privacy import _plot

        return _plot.tradeoff(self, **options)
