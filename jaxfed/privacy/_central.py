"""Central differential privacy for clients: sample, clip, sum, add noise, divide.

McMahan et al. 2018, arXiv:1710.06963, algorithm 1 with the fixed-denominator
estimator: the sum of clipped updates has sensitivity `clipping.norm`, whoever takes
part, and is divided by a public constant.
"""

import dataclasses
from typing import TYPE_CHECKING, final

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import accounting, clipping, noise
from jaxfed.privacy import _statement
from jaxfed.privacy._base import Privacy
from jaxfed.sampling import FixedSize, Full, Poisson, Sampler
from jaxfed.typing import ClientResult, ClippedSum, Params, PyTree, Released

if TYPE_CHECKING:
    from dp_accounting import DpEvent

RELATIONS = ("zero_out", "replace_one")


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Central(Privacy):
    """Client-level privacy with a trusted server.

    Formal guarantee: over `rounds` rounds, the sequence of releases is
    (epsilon, delta)-differentially private for
    `epsilon = self.epsilon(rounds=rounds, delta=delta)` when one client's whole data
    is replaced by none (zero-out relation, public population) and the noise is an
    ideal Gaussian. Nothing else that leaves a round is covered.

    Args:
        sampling: `sampling.Poisson` or `sampling.Full`.
        clipping: `clipping.Fixed`.
        noise: `noise.Gaussian`.
        delta: the delta at which epsilon is reported; set by `calibrated`.
        rounds: the planned number of rounds; set by `calibrated`.
    """

    sampling: Sampler
    clipping: clipping.Fixed
    noise: noise.Gaussian
    delta: float | None = None
    rounds: int | None = None

    def __post_init__(self) -> None:
        check.instance(
            Sampler,
            "pass for example sampling.Poisson(population=..., rate=0.1)",
            sampling=self.sampling,
        )
        check.instance(
            clipping.Fixed, "pass clipping.Fixed(norm=...)", clipping=self.clipping
        )
        check.instance(
            noise.Gaussian, "pass noise.Gaussian(multiplier=...)", noise=self.noise
        )
        if self.delta is not None:
            object.__setattr__(self, "delta", self._checked_delta(self.delta))
        if self.rounds is not None:
            check.positive_integer(rounds=self.rounds)
        if type(self.sampling) not in (Poisson, Full, FixedSize):
            raise TypeError(
                "sampling must be one of jaxfed's own samplers, got "
                f"{type(self.sampling).__name__}; their events are proved and tested, "
                "use sampling.Poisson or sampling.Full."
            )
        self.sampling.event(1.0)  # refuses a sampler without accounting, here and now

    def init(self, params: Params) -> PyTree:
        """Returns `()`: fixed clipping and independent noise keep no state."""
        del params
        return ()

    def encode(self, state: PyTree, result: ClientResult, *, key: jax.Array) -> PyTree:
        """Returns the clipped update. The client's weight is ignored."""
        del state, key
        return self.clipping.clip(result.update).value

    def release(
        self, state: PyTree, total: PyTree, *, key: jax.Array
    ) -> tuple[PyTree, Released]:
        """Adds noise to the sum, then divides by the expected number of clients."""
        clipped = ClippedSum(total=total, l2_bound=jnp.float32(self.clipping.norm))
        noised = self.noise.release(clipped, key=key)
        return state, noised.mean_over(self.sampling.expected_clients)

    def sensitivity(self, relation: str = "zero_out") -> float:
        """Returns the L2 distance by which one client can move the sum.

        Args:
            relation: `"zero_out"`, one client's data replaced by none: `norm`;
                `"replace_one"`, replaced by other data: twice that.
        """
        check.one_of(RELATIONS, relation=relation)
        return self.clipping.norm * (2 if relation == "replace_one" else 1)

    def event(self, rounds: int) -> "DpEvent":
        """Returns the event of `rounds` rounds under the zero-out relation."""
        from dp_accounting import SelfComposedDpEvent

        check.positive_integer(rounds=rounds)
        return SelfComposedDpEvent(self._round_event(), rounds)

    def epsilon(
        self, *, rounds: int | None = None, delta: float | None = None
    ) -> float:
        """Returns an upper bound of epsilon after `rounds` rounds.

        Args:
            rounds: how many; the planned number if this object was calibrated.
            delta: strictly between 0 and 1; the calibrated one if there is one.

        Raises:
            ValueError: neither given nor calibrated, or out of range.
        """
        rounds = self.rounds if rounds is None else rounds
        delta = self.delta if delta is None else delta
        if rounds is None or delta is None:
            missing = "rounds" if rounds is None else "delta"
            raise ValueError(
                f"epsilon needs {missing}, got None; call "
                "privacy.epsilon(rounds=100, delta=1e-5), or calibrate first."
            )
        delta = self._checked_delta(delta)
        return accounting.epsilon(self._round_event(), rounds, delta=delta)

    def epsilon_curve(self, rounds: int) -> np.ndarray | None:
        """Returns epsilon after each of `rounds` rounds, or None without a delta."""
        if self.delta is None:
            return None
        return accounting.epsilon_curve(self._round_event(), rounds, delta=self.delta)

    def calibrated(self, *, epsilon: float, delta: float, rounds: int) -> "Central":
        """Returns a copy with the least noise that meets a budget.

        Args:
            epsilon: the budget after `rounds` rounds, > 0.
            delta: strictly between 0 and 1; below 1 / population, or the guarantee
                allows a few clients to be published.
            rounds: how many rounds will be run.
        """
        delta = self._checked_delta(delta)
        check.positive_integer("pass how many rounds you will run", rounds=rounds)
        multiplier = accounting.calibrate_multiplier(
            self.sampling.event, rounds, epsilon=epsilon, delta=delta
        )
        return dataclasses.replace(
            self,
            noise=dataclasses.replace(self.noise, multiplier=multiplier),
            delta=delta,
            rounds=rounds,
        )

    def statement(self, *, rounds: int | None = None) -> str:
        """Returns the guarantee in words, with what it does not cover.

        Args:
            rounds: how many are run; the planned number if not given.
        """
        rounds = self.rounds if rounds is None else rounds
        is_known = rounds is not None and self.delta is not None
        return _statement.central(
            epsilon=self.epsilon(rounds=rounds) if is_known else None,
            delta=self.delta,
            rounds=rounds,
            participation=self.sampling.describe(),
            clip=self.clipping.norm,
            multiplier=self.noise.multiplier,
        )

    def _checked_delta(self, delta: float) -> float:
        check.open_probability("pass for example delta=1e-5", delta=delta)
        if delta >= 1 / self.sampling.population:
            raise ValueError(
                f"delta must be < 1 / population = {1 / self.sampling.population:.3g}, "
                f"got {delta}; a larger one would permit publishing a client outright."
            )
        return float(delta)

    def _round_event(self) -> "DpEvent":
        # z is noise over sensitivity; both come from the objects that run
        stddev = self.noise.multiplier * self.clipping.norm
        return self.sampling.event(stddev / self.sensitivity())


def central(
    *,
    sampling: Sampler,
    clipping: clipping.Fixed,
    noise: noise.Gaussian,
    delta: float | None = None,
) -> Central:
    """Returns client-level privacy with a trusted server; see `Central`."""
    return Central(sampling=sampling, clipping=clipping, noise=noise, delta=delta)
