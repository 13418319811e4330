"""Example-level privacy inside each silo: DP-SGD, with an epsilon for every silo.

Abadi et al. 2016, arXiv:1607.00133, algorithm 1, run by each silo on its own examples
with its own noise; what leaves a silo is private already, and the server's mean is
post-processing.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, final

import jax
import numpy as np
import optax

from jaxfed import _check as check
from jaxfed import accounting, clipping, noise
from jaxfed.privacy import _dp_sgd, _joint, _statement
from jaxfed.privacy._base import RUN_DISTANCE, Cost, Exposure, Privacy, checked_delta
from jaxfed.privacy._none import NoPrivacy
from jaxfed.privacy._statement import Statement
from jaxfed.sampling import Poisson, Sampler
from jaxfed.typing import (
    Batching,
    ClientResult,
    LocalWork,
    LossFunction,
    Params,
    PyTree,
    Released,
)

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleLevel(Privacy):
    """Privacy for each example, with a trusted silo and an untrusted server.

    Formal guarantee: over `rounds` rounds, everything that silo i sends is
    (epsilon_i, delta)-differentially private with
    `epsilon_i = self.epsilons(rounds=rounds, delta=delta)[i]` when one of its examples
    is left out (zero-out relation; the sizes of silos are public).
    `epsilon` is the largest of them; a person with one example in one silo is covered
    by that silo's. A silo is assumed to take part in every round: the sampling of
    silos is never multiplied with the sampling of examples (it would claim far less
    than the truth for the silos that were chosen).

    Args:
        sampling: which silos take part in a round.
        sizes: how many examples each silo has; public.
        rate: the probability that an example takes part in a step, in (0, 1].
        steps: local steps in a round.
        clipping: of each example's gradient: `clipping.Fixed` or `clipping.PerLayer`.
        noise: `noise.Gaussian`, added to each step's sum of clipped gradients.
        weighting: `"examples"` weighs silos by their public sizes, `"clients"` alike.
        delta: the delta at which epsilon is reported; set by `calibrated`.
        rounds: the planned number of rounds; set by `calibrated`.
    """

    sampling: Sampler
    sizes: tuple[int, ...]
    rate: float
    steps: int
    clipping: clipping.Clipping
    noise: noise.Gaussian
    weighting: str = "examples"
    delta: float | None = None
    rounds: int | None = None

    def __post_init__(self) -> None:
        check.instance(
            Sampler, "pass sampling.Full(population=...)", sampling=self.sampling
        )
        sizes = tuple(
            check.positive_integer("pass data.client_sizes", sizes=_whole(size))
            for size in np.ravel(self.sizes)
        )
        object.__setattr__(self, "sizes", sizes)
        if len(sizes) != self.sampling.population:
            raise ValueError(
                f"sizes must name every silo: got {len(sizes)} for a population of "
                f"{self.sampling.population}; pass data.client_sizes."
            )
        check.probability("pass for example rate=0.1", rate=self.rate)
        object.__setattr__(self, "rate", float(self.rate))
        check.positive_integer("pass for example steps=10", steps=self.steps)
        check.instance(
            (clipping.Fixed, clipping.PerLayer),
            "pass clipping.Fixed(norm=...)",
            clipping=self.clipping,
        )
        check.instance(
            noise.Gaussian, "pass noise.Gaussian(multiplier=...)", noise=self.noise
        )
        check.one_of(("examples", "clients"), weighting=self.weighting)
        if self.rounds is not None:
            check.positive_integer(rounds=self.rounds)
        if self.delta is not None:
            object.__setattr__(self, "delta", self._checked_delta(self.delta))

    def sgd(
        self,
        loss_fn: LossFunction,
        optimizer: optax.GradientTransformation,
        *,
        microbatch_size: int | None = None,
    ) -> LocalWork:
        """Returns the local work that this object accounts for.

        Every step takes a Poisson sample of the silo's examples, clips the gradient of
        each, sums them as integers, adds noise and divides by the expected batch.

        Args:
            loss_fn: as in `clients.sgd`.
            optimizer: any optax optimizer; it sees only noised gradients.
            microbatch_size: how many examples' gradients are held at once; all of a
                batch if not given.
        """
        return _dp_sgd.dp_sgd(
            self,
            loss_fn,
            optimizer,
            layout_of=self._joint,
            batching=Batching(batch_size=self._cap, steps=self.steps, rate=self.rate),
            microbatch_size=microbatch_size,
        )

    def validate(
        self,
        *,
        params: Params,
        rounds: int,
        local: LocalWork,
        client_sizes: np.ndarray,
    ) -> None:
        """Checks that the local work is this object's own and that the sizes are true.

        Raises:
            ValueError: they are not, or the noise of so long a run would be too far
                from its ideal law.
        """
        if local.mechanism != self:
            raise ValueError(
                f"local work must be this privacy object's own, got {local!r}; write "
                "local = privacy.sgd(loss_fn, optimizer) with the object that the "
                "algorithm gets, after calibration."
            )
        if tuple(int(size) for size in client_sizes) != self.sizes:
            raise ValueError(
                "sizes must be those of the data, which has other ones; pass "
                "sizes=data.client_sizes."
            )
        steps = rounds * self.steps
        _joint.check_distance(self._joint(params).distance, steps, params)

    def init(self, params: Params) -> PyTree:
        """Returns `()`: the noise is drawn in the silos."""
        self._joint(params)
        return self._mean.init(params)

    def encode(self, state: PyTree, result: ClientResult, *, key: jax.Array) -> PyTree:
        """Returns weight times update: private already."""
        return self._mean.encode(state, result, key=key)

    def encode_counted(
        self, state: PyTree, result: ClientResult, *, key: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        """Returns what `encode` does, and whether it is finite."""
        return self._mean.encode_counted(state, result, key=key)

    def release(
        self, state: PyTree, total: PyTree, *, key: jax.Array
    ) -> tuple[PyTree, Released]:
        """Returns the weighted mean of what the silos sent: post-processing."""
        return self._mean.release(state, total, key=key)

    def sensitivity(self, relation: str = "zero_out") -> float:
        """Returns the L2 distance by which one example can move a step's sum."""
        check.one_of(("zero_out", "replace_one"), relation=relation)
        return self.clipping.initial_norm * (2 if relation == "replace_one" else 1)

    def silo_event(self, silo: int, rounds: int) -> "DpEvent":
        """Returns the event of one silo's examples after `rounds` rounds."""
        from dp_accounting import SelfComposedDpEvent

        return SelfComposedDpEvent(
            self._step_event(self.sizes[silo]), rounds * self.steps
        )

    def event(self, rounds: int) -> "DpEvent":
        """Returns the event of the largest silo, whose batches are cut most often.

        All silos sample their examples at one rate; `silo_event` has each one's.
        """
        check.positive_integer(rounds=rounds)
        return self.silo_event(int(np.argmax(self.sizes)), rounds)

    def cost(self, rounds: int, *, relation: str = "zero_out") -> Cost:
        """Returns what a run of that many rounds costs an example, at most."""
        return super().cost(rounds, relation=relation)._replace(unit="example")

    def epsilons(
        self, *, rounds: int | None = None, delta: float | None = None
    ) -> np.ndarray:
        """Returns an upper bound of epsilon for each silo's examples, (silos,)."""
        rounds, delta = self._planned(rounds, delta)
        steps = rounds * self.steps
        found = {
            size: accounting.epsilon(
                self._step_event(size),
                steps,
                delta=delta,
                distance=RUN_DISTANCE,
            )
            for size in set(self.sizes)
        }
        return np.array([found[size] for size in self.sizes])

    def epsilon(
        self, *, rounds: int | None = None, delta: float | None = None
    ) -> float:
        """Returns the largest epsilon of any silo; see `epsilons`."""
        return float(self.epsilons(rounds=rounds, delta=delta).max())

    def epsilon_curve(self, rounds: int) -> np.ndarray | None:
        """Returns the largest epsilon after each of `rounds` rounds."""
        if self.delta is None:
            return None
        curves = [
            accounting.epsilon_curve(
                self._step_event(size),
                rounds * self.steps,
                delta=self.delta,
                distance=RUN_DISTANCE,
            )
            for size in set(self.sizes)
        ]
        return np.max(curves, axis=0)[self.steps - 1 :: self.steps]

    def calibrated(
        self, *, epsilon: float, delta: float, rounds: int
    ) -> "ExampleLevel":
        """Returns a copy with the least noise that keeps every silo in the budget."""
        delta = self._checked_delta(delta)
        check.positive_integer("pass how many rounds you will run", rounds=rounds)
        multiplier = max(
            accounting.calibrate_multiplier(
                functools.partial(self._event_of, size),
                rounds * self.steps,
                epsilon=epsilon,
                delta=delta,
                distance=RUN_DISTANCE,
            )
            for size in set(self.sizes)
        )
        return dataclasses.replace(
            self,
            noise=dataclasses.replace(self.noise, multiplier=multiplier),
            delta=delta,
            rounds=rounds,
        )

    def _statement(self, rounds: int | None) -> Statement:
        is_known = rounds is not None and self.delta is not None
        return _statement.example_level(
            epsilons=self.epsilons(rounds=rounds) if is_known else None,
            delta=self.delta,
            rounds=rounds,
            rate=self.rate,
            steps=self.steps,
            clip=self.clipping.describe().replace("each update", "each gradient"),
            multiplier=self.noise.multiplier,
        )

    @property
    def _cap(self) -> int:
        """The largest batch, at which the truncation costs little."""
        return Poisson(population=max(self.sizes), rate=self.rate).max_clients

    @property
    def _mean(self) -> NoPrivacy:
        return NoPrivacy(sampling=self.sampling, weighting=self.weighting)

    def _event_of(self, size: int, multiplier: float) -> "DpEvent":
        cap = min(size, self._cap)
        return Poisson(population=size, rate=self.rate, cap=cap).event(multiplier)

    def _step_event(self, size: int) -> "DpEvent":
        return self._event_of(size, self.noise.multiplier)

    def _joint(self, params: Params) -> _joint.Joint:
        return _joint.joint(
            self.clipping,
            self.noise.multiplier,
            params,
            max_contributions=self._cap,
            expected_contributions=self.rate * max(self.sizes),
        )

    def _exposures(self, unit: str, rounds: int) -> list[Exposure]:
        if unit == "client":
            return []  # nothing bounds what a whole silo changes
        steps = rounds * self.steps
        return [
            Exposure(self._step_event(size), steps, "zero_out")
            for size in sorted(set(self.sizes))
        ]

    def _checked_delta(self, delta: float) -> float:
        return checked_delta(delta, max(self.sizes), named="the largest silo")


def example_level(
    *,
    sampling: Sampler,
    sizes: Any,
    rate: float,
    steps: int,
    clipping: clipping.Clipping,
    noise: noise.Gaussian,
    weighting: str = "examples",
    delta: float | None = None,
) -> ExampleLevel:
    """Returns privacy for each example inside its silo; see `ExampleLevel`."""
    return ExampleLevel(
        sampling=sampling,
        sizes=sizes,
        rate=rate,
        steps=steps,
        clipping=clipping,
        noise=noise,
        weighting=weighting,
        delta=delta,
    )


def _whole(size: Any) -> Any:
    return int(size) if float(size) == int(size) else float(size)
