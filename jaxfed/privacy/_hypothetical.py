"""A small simulated cohort that carries the noise of a large one; hypothetical epsilon.

A private run of a million clients cannot be simulated client by client. What its model
learns from, a noised mean, can be: the mean over a small cohort with noise of the same
standard deviation as the mean over the large one has. (Granqvist et al. 2024,
arXiv:2404.06430, simulate so, by `noise_cohort_size`.) Nobody ran the large cohort, and
the small one has no such epsilon: it is the epsilon of the run that is supposed.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, final

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed import clipping, keys, noise
from jaxfed.noise._gaussian import SMOOTHING_VARIANCE
from jaxfed.privacy import _joint
from jaxfed.privacy._base import Privacy
from jaxfed.privacy._central import Central
from jaxfed.privacy._statement import Statement
from jaxfed.sampling import Sampler
from jaxfed.typing import ClientResult, LocalWork, Params, PyTree, Released

if TYPE_CHECKING:
    from dp_accounting import DpEvent

# What the smoothing of the noise and randomised rounding may add to the standard
# deviation on the small sum, as a share of it: far below what a run can show.
_MOST_ADDED = 1e-3


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypothetical(Privacy):
    """Simulates a large private run with a small cohort. Gives no guarantee.

    A cohort is drawn by `sampling` from the simulated clients, each is clipped as
    `privacy` says, and the mean gets noise of the standard deviation that it has in
    the large run: on the small sum, the multiplier of `privacy` times the ratio of the
    expected cohorts. The counts of adaptive clipping are scaled alike.

    `epsilon`, `epsilon_of`, `epsilon_curve`, `event`, `calibrated` and `statement` are
    those of `privacy`, the run that is supposed. Everything that is printed, written or
    drawn says hypothetical, and a key from `keys.secure` is refused: nothing can be
    released with this object.

    Args:
        sampling: who takes part in the simulation.
        privacy: the run that is supposed: `privacy.central` with `noise.Gaussian`.
    """

    sampling: Sampler
    delta: float | None = dataclasses.field(default=None, init=False, repr=False)
    privacy: Central

    def __post_init__(self) -> None:
        check.instance(
            Sampler,
            "pass the sampler of the simulated clients",
            sampling=self.sampling,
        )
        check.instance(
            Central,
            "pass privacy.central(...) with independent noise; no other mechanism "
            "adds noise to a mean that could stand for a larger cohort's",
            privacy=self.privacy,
        )
        check.instance(
            noise.Gaussian,
            "Skellam noise ties the grid to the multiplier; pass noise.Gaussian(...)",
            noise=self.privacy.noise,
        )
        if self.privacy.noise.multiplier == 0:
            raise ValueError(
                "noise.multiplier must be > 0, got 0.0; without noise there is nothing "
                "to scale: give privacy.central(...) the small sampler."
            )
        few, many = self.sampling.expected_clients, self._supposed_clients
        if few > many:
            raise ValueError(
                f"sampling must expect at most as many clients as the run that is "
                f"supposed = {many:g}, got {few:g}; pass a sampler of smaller cohorts, "
                "or simulate privacy.central(...) itself."
            )
        object.__setattr__(self, "delta", self.privacy.delta)
        self._simulated()  # a sampler of others is refused here and now

    @property
    def is_hypothetical(self) -> bool:
        """True."""
        return True

    @property
    def rounds(self) -> int | None:
        """The planned number of rounds, if `privacy` was calibrated."""
        return self.privacy.rounds

    @property
    def simulated_multiplier(self) -> float:
        """The noise on the small sum, over the clip norm."""
        ratio = self.sampling.expected_clients / self._supposed_clients
        return self.privacy.noise.multiplier * ratio

    def validate(
        self,
        *,
        params: Params,
        rounds: int,
        local: LocalWork,
        client_sizes: np.ndarray,
    ) -> None:
        """Checks that the simulation can be built, and the run that is supposed.

        Raises:
            ValueError: one of them cannot.
        """
        self.init(local.sends(params))
        try:
            self.privacy.validate(
                params=params, rounds=rounds, local=local, client_sizes=client_sizes
            )
        except ValueError as error:
            raise ValueError(
                f"the run that is supposed must be possible, but is not: {error}"
            ) from error

    def init(self, params: Params) -> PyTree:
        """Returns the clipping rule's state: `()` or the current norm.

        Raises:
            ValueError: the sum could overflow, or its grid is too coarse for the noise.
        """
        simulated = self._simulated()
        layout = simulated._joint(params)
        most = self.sampling.max_clients
        for part in (*layout.parts, *([layout.count] if layout.count else [])):
            _check_grid(part, most)
        return simulated.init(params)

    def encode(self, state: PyTree, result: ClientResult, *, key: jax.Array) -> PyTree:
        """Returns the clipped update as integers. The client's weight is ignored."""
        return self.encode_counted(state, result, key=key)[0]

    def encode_counted(
        self, state: PyTree, result: ClientResult, *, key: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        """Returns what `encode` does, and whether the update counts."""
        key = _only_simulated(key)
        return self._simulated().encode_counted(state, result, key=key)

    def release(
        self, state: PyTree, total: PyTree, *, key: jax.Array
    ) -> tuple[PyTree, Released]:
        """Returns the mean over the small cohort with the large cohort's noise.

        Raises:
            ValueError: the key is from `keys.secure`.
        """
        return self._simulated().release(state, total, key=_only_simulated(key))

    def public(self, state: PyTree) -> dict[str, jax.Array]:
        """Returns the clip norm where it changes from round to round."""
        return self._simulated().public(state)

    def sensitivity(self, relation: str = "zero_out") -> float:
        """Returns the L2 distance by which one client can move the sum of updates."""
        return self.privacy.sensitivity(relation)

    def event(self, rounds: int) -> "DpEvent":
        """Returns the event of the run that is supposed."""
        return self.privacy.event(rounds)

    def epsilon(
        self, *, rounds: int | None = None, delta: float | None = None
    ) -> float:
        """Returns the epsilon of the run that is supposed, not of what is simulated.

        Args:
            rounds: how many; the planned number if this object was calibrated.
            delta: strictly between 0 and 1; the calibrated one if there is one.
        """
        return self.privacy.epsilon(rounds=rounds, delta=delta)

    def epsilon_curve(self, rounds: int) -> np.ndarray | None:
        """Returns epsilon of the supposed run after each round, or None."""
        return self.privacy.epsilon_curve(rounds)

    def epsilon_of(
        self,
        unit: str,
        *,
        count: int = 1,
        rounds: int | None = None,
        delta: float | None = None,
    ) -> float:
        """Returns epsilon of the supposed run for another unit; see `Privacy`."""
        return self.privacy.epsilon_of(unit, count=count, rounds=rounds, delta=delta)

    def calibrated(
        self, *, epsilon: float, delta: float, rounds: int
    ) -> "Hypothetical":
        """Returns a copy in which the supposed run has the least noise for a budget.

        Args:
            epsilon: the budget of the supposed run after `rounds` rounds, > 0.
            delta: below 1 / the supposed population.
            rounds: how many rounds will be run.
        """
        supposed = self.privacy.calibrated(epsilon=epsilon, delta=delta, rounds=rounds)
        return dataclasses.replace(self, privacy=supposed)

    def plot_tradeoff(self, **options: Any) -> Any:
        """Draws the trade-off of the supposed run, and says that it is hypothetical."""
        figure = self.privacy.plot_tradeoff(**options)
        (axes,) = figure.axes
        axes.set_title("HYPOTHETICAL: of a larger cohort", fontsize="medium")
        axes.set_ylabel(f"hypothetical {axes.get_ylabel()}")
        return figure

    def _statement(self, rounds: int | None) -> Statement:
        of = self.privacy._statement(rounds)
        return dataclasses.replace(
            of,
            claim="HYPOTHETICAL: a claim about a run with a larger cohort that was not "
            f"made; what is simulated in its place has no such guarantee. {of.claim}",
            sampling=f"supposed: {of.sampling}; simulated: {self.sampling.describe()}",
            mechanism=f"supposed: {of.mechanism}; simulated: "
            f"{self.simulated_multiplier:.4g} times that norm on the sum of a smaller "
            "cohort, so that the mean has the noise of the larger",
            precision=f"in the supposed run, {of.precision}",
            hypothetical=True,
        )

    @property
    def _supposed_clients(self) -> float:
        return self.privacy.sampling.expected_clients

    def _simulated(self) -> Central:
        """Returns what runs: a `Central` of the small cohort, with its own noise."""
        clip = self.privacy.clipping
        if isinstance(clip, clipping.Adaptive) and clip.count_stddev is not None:
            ratio = self.sampling.expected_clients / self._supposed_clients
            clip = dataclasses.replace(clip, count_stddev=ratio * clip.count_stddev)
        return Central(
            sampling=self.sampling,
            clipping=clip,
            noise=noise.Gaussian(multiplier=self.simulated_multiplier),
        )


def hypothetical(privacy: Central, *, sampling: Sampler) -> Hypothetical:
    """Returns a simulation of a large private run by a small cohort.

    Its epsilon is hypothetical and labelled so everywhere; see `Hypothetical`.

    Args:
        privacy: the run that is supposed, `privacy.central(...)` with the large
            population, cohort and noise.
        sampling: who takes part in the simulation; `sampling.FixedSize` leaves out the
            chance in a cohort's size, which weighs more in a small one.
    """
    return Hypothetical(sampling=sampling, privacy=privacy)


def _only_simulated(key: jax.Array) -> jax.Array:
    """Refuses a key that real releases are made with; known inside `jit` too."""
    if keys.is_secure(key):
        raise ValueError(
            "key must be from keys.simulated for a hypothetical object, got a secure "
            "key; its noise is too small for any release: use the object that it "
            "wraps, `.privacy`, with its whole cohort."
        )
    return key


def _check_grid(part: _joint.Part, max_clients: int) -> None:
    """Refuses noise of so few grid steps that the grid's own rounding adds to it."""
    lattice = part.lattice
    stddev = part.noise.multiplier * lattice.levels
    rounding = max_clients / 4 if lattice.is_random else 0.0  # 1/4 a client at most
    added = (SMOOTHING_VARIANCE + rounding) / 2  # over stddev**2, to first order
    if added > _MOST_ADDED * stddev**2:
        raise ValueError(
            f"the noise on the simulated sum must be wide for its grid, got "
            f"{stddev:.3g} steps for up to {max_clients:,} clients, whose rounding "
            "would add over 0.1 %; simulate a larger cohort, or suppose more noise."
        )
