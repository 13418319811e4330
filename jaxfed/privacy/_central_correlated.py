"""Central privacy with correlated noise: no sampling has to be relied on.

Kairouz et al. 2021, arXiv:2103.00039 (DP-FTRL); Choquette-Choo et al. 2023,
arXiv:2306.08153 (banded); McMahan et al. 2024, arXiv:2408.08868 (BLT): the noise of
one round partly cancels in later ones, so that the sum of all rounds, which is what a
model is, carries less of it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import accounting, clipping, keys, noise, tree
from jaxfed.clipping import _lattice
from jaxfed.privacy import _correlated_layout, _joint, _statement
from jaxfed.privacy._base import RUN_DISTANCE, Cost, Exposure, Privacy
from jaxfed.privacy._statement import Statement
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


class _State(NamedTuple):
    """What the next round needs. The noise in it is a secret."""

    stream: PyTree
    round: jax.Array
    """() int32: rounds released so far."""


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class CentralCorrelated(Privacy):
    """Client-level privacy with a trusted server and correlated noise.

    Formal guarantee: the releases of up to `rounds` rounds are together
    (epsilon, delta)-differentially private for `self.epsilon()` when one client's
    whole data is left out, for every sequence of cohorts in which no client
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
            delta = self._checked_delta(self.delta)
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
        del client_sizes
        if rounds > self.rounds:
            raise ValueError(
                f"rounds must be <= the horizon of the noise = {self.rounds}, got "
                f"{rounds}; build the privacy object for as many rounds as you run."
            )
        sent = local.sends(params)
        distance = tree.size(sent) * self._layout(sent).distance
        _joint.check_distance(distance, self.rounds, sent)

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
            key=keys.for_leaf(check.key(key=key), 0),
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

    def at_rest(self, state: _State) -> PyTree:
        """Returns nothing: the noise of earlier rounds is a secret."""
        del state
        return ()

    def resumed(
        self,
        params: Params,
        kept: PyTree,
        *,
        rounds: int,
        noise_key: Callable[[int], jax.Array],
    ) -> _State:
        """Draws the noise of the earlier rounds again, from their keys."""
        del kept
        state, shapes = self.init(params), _integers(params)
        for index in range(rounds):
            state = self._advanced(state, shapes, key=noise_key(index))
        return state

    @functools.partial(jax.jit, static_argnums=0)
    def _advanced(self, state: _State, total: PyTree, *, key: jax.Array) -> _State:
        return self.release(state, total, key=key)[0]

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

    def cost(self, rounds: int, *, relation: str = "zero_out") -> Cost:
        """Returns what the run costs a client: all of it at the first round."""
        self._check_horizon(rounds)
        found = super().cost(rounds, relation=relation)
        return found._replace(every=rounds, may_repeat=False)

    def epsilon(
        self, *, rounds: int | None = None, delta: float | None = None
    ) -> float:
        """Returns an upper bound of epsilon of the whole run.

        Args:
            rounds: at most the horizon; fewer cost the same.
            delta: strictly between 0 and 1; the calibrated one if there is one.
        """
        rounds, delta = self._planned(rounds, delta)
        return accounting.epsilon(
            self.event(rounds),
            1,
            delta=delta,
            distance=RUN_DISTANCE,
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
        delta = self._checked_delta(delta)
        check.positive_integer("pass how many rounds you will run", rounds=rounds)
        planned = dataclasses.replace(self, rounds=rounds)
        multiplier = accounting.calibrate_multiplier(
            _gaussian, 1, epsilon=epsilon, delta=delta, distance=RUN_DISTANCE
        )
        strategy = planned.noise.sensitivity(rounds, planned.participation)
        multiplier = math.nextafter(multiplier * strategy, math.inf)
        return dataclasses.replace(
            planned,
            noise=dataclasses.replace(self.noise, multiplier=multiplier),
            delta=delta,
        )

    def _statement(self, rounds: int | None) -> Statement:
        assert rounds is not None  # this object has a horizon
        self._check_horizon(rounds)
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

    def _exposures(self, unit: str, rounds: int) -> list[Exposure]:
        relation = "replace_one" if unit == "example" else "zero_out"
        return [Exposure(self.event(rounds), 1, relation)]

    def _check_horizon(self, rounds: int) -> None:
        if check.positive_integer(rounds=rounds) > self.rounds:
            raise ValueError(
                f"rounds must be <= the horizon of the noise = {self.rounds}, got "
                f"{rounds}; the noise covers no more."
            )

    def _run_multiplier(self, multiplier: float) -> float:
        strategy = self.noise.sensitivity(self.rounds, self.participation)
        return math.nextafter(multiplier / strategy, 0.0) if multiplier else 0.0

    def _layout(self, params: Params) -> _correlated_layout.Layout:
        return _correlated_layout.find(
            self.noise,
            self.rounds,
            self.participation,
            max_clients=self.sampling.max_clients,
            run_multiplier=self._run_multiplier(self.noise.multiplier),
            dimension=tree.size(params),
        )


def _integers(params: Params) -> PyTree:
    return jax.tree.map(lambda a: jnp.zeros(jnp.shape(a), jnp.int32), params)


def _gaussian(multiplier: float) -> "DpEvent":
    from dp_accounting import GaussianDpEvent

    return GaussianDpEvent(multiplier)
