"""Central privacy with correlated noise: no sampling has to be relied on.

Kairouz et al. 2021, arXiv:2103.00039 (DP-FTRL); Choquette-Choo et al. 2023,
arXiv:2306.08153 (banded); McMahan et al. 2024, arXiv:2408.08868 (BLT): the noise of
one round partly cancels in later ones, so that the sum of all rounds, which is what a
model is, carries less of it.
"""

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import accounting, clipping, noise, tree
from jaxfed.clipping import _lattice
from jaxfed.noise import _discrete
from jaxfed.noise._gaussian import SMOOTHING_DISTANCE, SMOOTHING_VARIANCE
from jaxfed.privacy import _joint, _statement
from jaxfed.privacy._base import Privacy
from jaxfed.sampling import Sampler
from jaxfed.typing import (
    ClientResult,
    LocalWork,
    Params,
    Participation,
    PyTree,
    Released,
)

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_WORD = 2**31


class _State(NamedTuple):
    """What the next round needs. The noise in it is a secret."""

    stream: PyTree
    round: jax.Array
    """() int32: rounds released so far."""


class _Layout(NamedTuple):
    """The grid of a run and the noise on it; static."""

    lattice: _lattice.Lattice
    stream: noise.Stream
    distance: float
    """Of one scalar of one round."""


class _Largest(NamedTuple):
    """Stands for a sampler where only the size of its noise matters."""

    largest: int

    def draw(self, shape: tuple[int, ...], *, key: jax.Array) -> jax.Array:
        raise NotImplementedError


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class CentralCorrelated(Privacy):
    """Client-level privacy with a trusted server and correlated noise.

    Formal guarantee: the releases of up to `rounds` rounds are together
    (epsilon, delta)-differentially private for `self.epsilon()` when one client's
    whole data is replaced by none, for every sequence of cohorts in which no client
    takes part twice within `participation.min_separation` rounds or more than
    `participation.max_participations` times; the engine refuses any other. The whole
    run is one Gaussian mechanism, charged before its first round: stopping early
    gives nothing back, and no round beyond the horizon is covered. The claim is about
    the integers that are released; see `jaxfed.noise.Stream` for the theorem.

    Args:
        sampling: which clients take part; only its participation contract counts.
        clipping: `clipping.Fixed`.
        noise: `noise.BLT`, `noise.Banded` or `noise.Tree`.
        rounds: the horizon.
        delta: the delta at which epsilon is reported; set by `calibrated`.
    """

    sampling: Sampler
    clipping: clipping.Fixed
    noise: noise.Correlated
    rounds: int
    delta: float | None = None

    def __post_init__(self) -> None:
        check.instance(
            Sampler,
            "pass for example sampling.MinSeparation(...)",
            sampling=self.sampling,
        )
        _joint.check_own_sampler(self.sampling)
        check.instance(
            clipping.Fixed,
            "pass clipping.Fixed(norm=...): the noise of earlier rounds must fit the "
            "clip of later ones",
            clipping=self.clipping,
        )
        check.instance(
            (noise.BLT, noise.Banded, noise.Tree), "pass noise.BLT()", noise=self.noise
        )
        check.positive_integer(
            "correlated noise needs its horizon: pass rounds=...", rounds=self.rounds
        )
        if self.delta is not None:
            delta = _joint.checked_delta(self.delta, self.sampling.population)
            object.__setattr__(self, "delta", delta)

    @property
    def participation(self) -> Participation:
        """The contract that every sequence of cohorts keeps."""
        return self.sampling.participation(self.rounds)

    def validate(
        self,
        *,
        params: Params,
        rounds: int,
        local: LocalWork,
        client_sizes: np.ndarray,
    ) -> None:
        """Checks horizon, overflow and the noise's accuracy.

        Raises:
            ValueError: more rounds than the horizon, or the run cannot be built.
        """
        del local, client_sizes
        if rounds > self.rounds:
            raise ValueError(
                f"rounds must be <= the horizon of the noise = {self.rounds}, got "
                f"{rounds}; build the privacy object for as many rounds as you run."
            )
        distance = tree.size(params) * self._layout(params).distance
        _joint.check_distance(distance, self.rounds, params)

    def init(self, params: Params) -> _State:
        """Returns the state of the noise before the first round."""
        shapes = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.int32), params
        )
        stream = self._layout(params).stream
        return _State(stream.init(shapes), jnp.zeros((), jnp.int32))

    def encode(self, state: _State, result: ClientResult, *, key: jax.Array) -> PyTree:
        """Returns the clipped update as integers. The client's weight is ignored."""
        return self.encode_counted(state, result, key=key)[0]

    def encode_counted(
        self, state: _State, result: ClientResult, *, key: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        """Returns what `encode` does, and whether the update counts."""
        del state
        leaves, structure = jax.tree.flatten(result.update)
        encoded = _lattice.encode(
            leaves,
            jnp.float32(self.clipping.norm),
            self._layout(result.update).lattice,
            key=check.key(key=key),
        )
        return structure.unflatten(encoded.value), encoded.is_finite

    def release(
        self, state: _State, total: PyTree, *, key: jax.Array
    ) -> tuple[_State, Released]:
        """Adds this round's part of the correlated noise, and divides."""
        layout = self._layout(total)
        for leaf in jax.tree.leaves(total):
            if leaf.dtype != jnp.int32:
                raise TypeError(
                    f"total must hold int32 leaves, got {leaf.dtype}; pass the sum of "
                    "what encode returned."
                )
        stream, drawn = layout.stream.next(
            state.stream, key=check.key(key=key), round_index=state.round
        )
        step = jnp.float32(self.clipping.norm / layout.lattice.target)
        is_covered = state.round < self.rounds  # beyond the horizon nothing is released

        def noised(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.where(is_covered, (a + b).astype(jnp.float32) * step, jnp.nan)

        value = jax.tree.map(noised, total, drawn)
        released = Released(value=value).mean_over(self.sampling.expected_clients)
        return _State(stream, state.round + 1), released

    def sensitivity(self, relation: str = "zero_out") -> float:
        """Returns the L2 distance by which one client moves the encoded run.

        That is the clip norm times the sensitivity of the strategy.
        """
        check.one_of(("zero_out", "replace_one"), relation=relation)
        factor = 2 if relation == "replace_one" else 1
        strategy = self.noise.sensitivity(self.rounds, self.participation)
        return factor * self.clipping.norm * strategy

    def event(self, rounds: int) -> "DpEvent":
        """Returns the one Gaussian that all rounds together are, however many run."""
        from dp_accounting import GaussianDpEvent

        self._check_horizon(rounds)
        return GaussianDpEvent(self._run_multiplier(self.noise.multiplier))

    def epsilon(
        self, *, rounds: int | None = None, delta: float | None = None
    ) -> float:
        """Returns an upper bound of epsilon of the whole run.

        Args:
            rounds: at most the horizon; fewer cost the same.
            delta: strictly between 0 and 1; the calibrated one if there is one.
        """
        rounds = self.rounds if rounds is None else rounds
        delta = self.delta if delta is None else delta
        if delta is None:
            raise ValueError(
                "epsilon needs delta, got None; call privacy.epsilon(delta=1e-5), or "
                "calibrate first."
            )
        return accounting.epsilon(
            self.event(rounds),
            1,
            delta=_joint.checked_delta(delta, self.sampling.population),
            distance=_joint.RUN_DISTANCE,
        )

    def epsilon_curve(self, rounds: int) -> np.ndarray | None:
        """Returns the epsilon of the whole run for every round: it is spent at once."""
        if self.delta is None:
            return None
        return np.full(rounds, self.epsilon(rounds=rounds))

    def calibrated(
        self, *, epsilon: float, delta: float, rounds: int
    ) -> "CentralCorrelated":
        """Returns a copy with the least noise that meets a budget.

        Args:
            epsilon: the budget of the run, > 0.
            delta: strictly between 0 and 1, below 1 / population.
            rounds: the horizon.
        """
        delta = _joint.checked_delta(delta, self.sampling.population)
        check.positive_integer("pass how many rounds you will run", rounds=rounds)
        planned = dataclasses.replace(self, rounds=rounds)
        multiplier = accounting.calibrate_multiplier(
            _gaussian, 1, epsilon=epsilon, delta=delta, distance=_joint.RUN_DISTANCE
        )
        strategy = planned.noise.sensitivity(rounds, planned.participation)
        multiplier = math.nextafter(multiplier * strategy, math.inf)
        return dataclasses.replace(
            planned,
            noise=dataclasses.replace(self.noise, multiplier=multiplier),
            delta=delta,
        )

    def statement(self, *, rounds: int | None = None) -> str:
        """Returns the guarantee in words, with what it does not cover."""
        self._check_horizon(self.rounds if rounds is None else rounds)
        contract = self.participation
        participation = (
            f"{self.sampling.describe()}; no client takes part twice within "
            f"{contract.min_separation:,} rounds, or more than "
            f"{contract.max_participations:,} times, which the server enforces"
        )
        return _statement.central(
            epsilon=self.epsilon() if self.delta is not None else None,
            delta=self.delta,
            rounds=self.rounds,
            participation=participation,
            clip=self.clipping.describe(),
            multiplier=self.noise.multiplier,
            relation="zero_out",
            law=f"{type(self.noise).__name__}-correlated discrete Gaussian noise",
        )

    def _check_horizon(self, rounds: int) -> None:
        if check.positive_integer(rounds=rounds) > self.rounds:
            raise ValueError(
                f"rounds must be <= the horizon of the noise = {self.rounds}, got "
                f"{rounds}; the noise covers no more."
            )

    def _run_multiplier(self, multiplier: float) -> float:
        strategy = self.noise.sensitivity(self.rounds, self.participation)
        return math.nextafter(multiplier / strategy, 0.0) if multiplier else 0.0

    def _layout(self, params: Params) -> _Layout:
        return _layout(self, tree.size(params))


def _gaussian(multiplier: float) -> "DpEvent":
    from dp_accounting import GaussianDpEvent

    return GaussianDpEvent(multiplier)


@functools.lru_cache(maxsize=32)
def _layout(privacy: CentralCorrelated, dimension: int) -> _Layout:
    """Finds the finest grid on which neither sums nor noise can overflow.

    The noise is scaled so that the run has exactly the multiplier that is accounted:
    what rounding adds to the sensitivity (`Stream.sensitivity`) is added to it.
    """
    strategy = privacy.noise.strategy(privacy.rounds, privacy.participation)
    max_clients = privacy.sampling.max_clients
    ratio = privacy._run_multiplier(privacy.noise.multiplier)
    lattice = _lattice.choose(
        dimension=dimension,
        max_clients=max_clients,
        multiplier=ratio * strategy.sensitivity,
    )
    levels = lattice.levels
    while levels >= 1:
        probe = noise.streaming(strategy, _Largest(1))
        stddev = ratio * probe.sensitivity(norm=levels, dimension=dimension)
        scale = math.hypot(stddev, math.sqrt(SMOOTHING_VARIANCE)) if ratio else 0.0
        try:
            rough = noise.streaming(strategy, _Largest(max(1, math.ceil(16 * scale))))
            fits = rough.largest + max_clients * levels < _WORD
        except ValueError:
            fits = False
        if fits:
            return _placed(privacy, strategy, dimension, levels, ratio)
        levels //= 2
    raise ValueError(
        f"a sum over up to {max_clients:,} clients with noise multiplier "
        f"{privacy.noise.multiplier:g} over {privacy.rounds:,} rounds does not fit "
        "32-bit integers; take fewer clients a round, or less noise."
    )


def _placed(
    privacy: CentralCorrelated,
    strategy: noise.Strategy,
    dimension: int,
    levels: int,
    ratio: float,
) -> _Layout:
    lattice = _lattice.at(
        levels,
        dimension=dimension,
        max_clients=privacy.sampling.max_clients,
        stddev=ratio * strategy.sensitivity * levels,
    )
    bound = noise.streaming(strategy, _Largest(1))
    for _ in range(3):  # the rounding's part depends, a little, on the noise's size
        stddev = ratio * bound.sensitivity(norm=levels, dimension=dimension)
        scale = math.hypot(stddev, math.sqrt(SMOOTHING_VARIANCE)) if ratio else 0.0
        sampler = _discrete.gaussian(scale)
        stream = noise.streaming(strategy, sampler)
        needed = ratio * stream.sensitivity(norm=levels, dimension=dimension)
        if needed <= stddev or not ratio:
            break
        bound = stream
    else:
        raise AssertionError((privacy, dimension, levels))
    if stream.largest + privacy.sampling.max_clients * levels >= _WORD:
        raise AssertionError((privacy, dimension, levels))
    # a tree draws up to two nodes a round on average
    return _Layout(lattice, stream, 2 * (sampler.distance + SMOOTHING_DISTANCE))
