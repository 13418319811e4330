"""Central differential privacy for clients: sample, clip, sum, add noise, divide.

McMahan et al. 2018, arXiv:1710.06963, algorithm 1 with the fixed-denominator
estimator: the sum of clipped updates has sensitivity `clipping.norm`, whoever takes
part, and is divided by a public constant.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, final

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed import accounting, clipping, noise
from jaxfed.privacy import _joint, _statement
from jaxfed.privacy._base import RUN_DISTANCE, Cost, Exposure, Privacy, interval
from jaxfed.privacy._statement import Statement
from jaxfed.sampling import FixedSize, Sampler
from jaxfed.typing import ClientResult, LocalWork, Params, PyTree, Released

if TYPE_CHECKING:
    from dp_accounting import DpEvent

RELATIONS = ("zero_out", "replace_one")
_CLIPPINGS = (clipping.Fixed, clipping.Adaptive, clipping.PerLayer, clipping.Scaled)
_FIRST_ROUNDS = 1 << 14  # after which what a sampler promises is known
_LAWS: dict[type, str] = {
    noise.Gaussian: "discrete Gaussian noise",
    noise.Skellam: "Skellam noise",
}


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Central(Privacy):
    """Client-level privacy with a trusted server.

    Formal guarantee: over `rounds` rounds, the sequence of releases is
    (epsilon, delta)-differentially private for
    `epsilon = self.epsilon(rounds=rounds, delta=delta)` when one client's whole data
    is left out (zero-out relation, public population), or is any other where
    `sampling.relation` says "replace_one". The claim is about the
    arithmetic that runs: contributions are integers of exactly bounded norm, their
    sum is exact, the noise is a discrete Gaussian, and what its finite tables differ
    from the ideal is part of delta (at most 2**-46 a run, in total variation). It
    needs noise from `keys.secure`; a simulation's can be recomputed from its seed.
    Nothing else that leaves a round is covered.

    With `noise.Skellam` the noise is Skellam's, accounted by its own Renyi bounds, and
    no sampling amplifies: a mixture over cohorts that are drawn without looking at
    data is no less private than the worst cohort (divergences are jointly convex).

    Args:
        sampling: any of `jaxfed.sampling`; only `Poisson` and `FixedSize` amplify.
        clipping: `clipping.Fixed`, `Adaptive`, `PerLayer` or `Scaled`.
        noise: `noise.Gaussian`, or with `clipping.Fixed` also `noise.Skellam`.
        delta: the delta at which epsilon is reported; set by `calibrated`.
        rounds: the planned number of rounds; set by `calibrated`.
    """

    sampling: Sampler
    clipping: clipping.Clipping
    noise: noise.Gaussian | noise.Skellam
    delta: float | None = None
    rounds: int | None = None

    def __post_init__(self) -> None:
        check.instance(
            Sampler,
            "pass for example sampling.Poisson(population=..., rate=0.1)",
            sampling=self.sampling,
        )
        check.instance(
            clipping.Clipping, "pass clipping.Fixed(norm=...)", clipping=self.clipping
        )
        check.instance(
            (noise.Gaussian, noise.Skellam),
            "pass noise.Gaussian(multiplier=...)",
            noise=self.noise,
        )
        if self.delta is not None:
            object.__setattr__(self, "delta", self._checked_delta(self.delta))
        if self.rounds is not None:
            check.positive_integer(rounds=self.rounds)
        _joint.check_own_sampler(self.sampling)
        if type(self.clipping) not in _CLIPPINGS:
            raise TypeError(
                "clipping must be one of jaxfed's own rules, got "
                f"{type(self.clipping).__name__}; their bounds are proved and tested, "
                "use clipping.Fixed, Adaptive, PerLayer or Scaled."
            )
        if isinstance(self.noise, noise.Skellam):
            check.instance(
                clipping.Fixed,
                "Skellam noise covers one norm; pass clipping.Fixed(norm=...)",
                clipping=self.clipping,
            )

    def validate(
        self,
        *,
        params: Params,
        rounds: int,
        local: LocalWork,
        client_sizes: np.ndarray,
    ) -> None:
        """Checks that sums over this model cannot overflow, and the noise's accuracy.

        Raises:
            ValueError: the round cannot be built; or so many noise draws would differ
                from the ideal law by more than 2**-46 in all; or clients keep a state
                and cohorts of a fixed size are counted as amplifying.
        """
        del client_sizes
        self._check_states(params, local)
        sent = local.sends(params)
        _joint.check_distance(self._joint(sent).distance, rounds, sent)

    def _check_states(self, params: Params, local: LocalWork) -> None:
        """Refuses client states where participations depend on each other.

        With Poisson cohorts, given all coins of the others, a client's coin of this
        round is independent of its state and of all before: each release is the
        amplified one, whatever the state, and compositions of these cover the run.
        Where a cohort is cut to its cap, coins depend on each other; the event of the
        truncated law was computed to cover that too, others' participation known, in
        every setting tried, which is no proof. In a cohort of fixed size others' coins
        tell a client's own, and their states remember it.
        """
        keeps = jax.tree.leaves(jax.eval_shape(local.init_client, params))
        if keeps and isinstance(self.sampling, FixedSize):
            raise ValueError(
                f"clients of {local!r} keep a state, and no amplification is known "
                f"then for cohorts of a fixed size, got {self.sampling!r}; pass "
                "sampling.Poisson(...), or a sampler that does not amplify, such as "
                "sampling.Cyclic(...)."
            )

    def init(self, params: Params) -> PyTree:
        """Returns the clipping rule's state: `()` or the current norm."""
        self._joint(params)  # refuses a round that could overflow, here and now
        return self.clipping.init(params)

    def encode(
        self, state: PyTree, result: ClientResult, *, key: jax.Array
    ) -> _joint.Encoded:
        """Returns the clipped update as integers. The client's weight is ignored."""
        return self.encode_counted(state, result, key=key)[0]

    def encode_counted(
        self, state: PyTree, result: ClientResult, *, key: jax.Array
    ) -> tuple[_joint.Encoded, jax.Array]:
        """Returns what `encode` does, and whether the update counts."""
        layout = self._joint(result.update)
        return _joint.encode_counted(layout, state, result.update, key=key)

    def release(
        self, state: PyTree, total: _joint.Encoded, *, key: jax.Array
    ) -> tuple[PyTree, Released]:
        """Adds noise to the sum, then divides by the expected number of clients."""
        layout = self._joint(total.update)
        divisor = self.sampling.expected_clients
        return _joint.release(layout, state, total, divisor, key=key)

    def public(self, state: PyTree) -> dict[str, jax.Array]:
        """Returns the clip norm where it changes from round to round."""
        if not isinstance(self.clipping, clipping.Adaptive):
            return {}
        return {"clip_norm": self.clipping.norms_of(state)[0]}

    def sensitivity(self, relation: str = "zero_out") -> float:
        """Returns the L2 distance by which one client can move the sum of updates.

        Adaptive and scaled clipping start there and move on; the noise moves along.

        Args:
            relation: `"zero_out"`, one client's data left out: `norm`;
                `"replace_one"`, replaced by other data: twice that.
        """
        check.one_of(RELATIONS, relation=relation)
        return self.clipping.initial_norm * (2 if relation == "replace_one" else 1)

    def event(self, rounds: int) -> "DpEvent":
        """Returns the event of `rounds` rounds under `sampling.relation`.

        A round's event, as often as the sampler lets a client take part.
        """
        from dp_accounting import SelfComposedDpEvent

        check.positive_integer(rounds=rounds)
        return SelfComposedDpEvent(self._round_event(), self._uses(rounds))

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
        rounds, delta = self._planned(rounds, delta)
        return accounting.epsilon(
            self._round_event(),
            self._uses(rounds),
            delta=delta,
            relation=self.sampling.relation,
            distance=RUN_DISTANCE,
        )

    def epsilon_curve(self, rounds: int) -> np.ndarray | None:
        """Returns epsilon after each of `rounds` rounds, or None without a delta."""
        if self.delta is None:
            return None
        uses = np.array([self._uses(count + 1) for count in range(rounds)])
        curve = accounting.epsilon_curve(
            self._round_event(),
            int(uses[-1]),
            delta=self.delta,
            relation=self.sampling.relation,
            distance=RUN_DISTANCE,
        )
        return curve[uses - 1]

    def calibrated(self, *, epsilon: float, delta: float, rounds: int) -> "Central":
        """Returns a copy with the least noise that meets a budget.

        Args:
            epsilon: the budget after `rounds` rounds, > 0.
            delta: strictly between 0 and 1; below 1 / population, or the guarantee
                allows a few clients to be published.
            rounds: how many rounds will be run.

        Raises:
            ValueError: no noise that this object can add meets the budget.
        """
        delta = self._checked_delta(delta)
        check.positive_integer("pass how many rounds you will run", rounds=rounds)
        multiplier = accounting.calibrate_multiplier(
            self._event_at,
            self._uses(rounds),
            epsilon=epsilon,
            delta=delta,
            relation=self.sampling.relation,
            distance=RUN_DISTANCE,
            most=self.noise.MOST_MULTIPLIER,
        )
        self.clipping.check_noise(self.sampling.expected_clients, multiplier)
        return dataclasses.replace(
            self,
            noise=dataclasses.replace(self.noise, multiplier=multiplier),
            delta=delta,
            rounds=rounds,
        )

    def cost(self, rounds: int, *, relation: str = "zero_out") -> Cost:
        """Returns what a run of that many rounds costs a client."""
        found = super().cost(rounds, relation=relation)
        first = min(rounds, _FIRST_ROUNDS)  # what samplers promise repeats itself
        every = interval([self._uses(count + 1) for count in range(first)])
        if self._uses(rounds) > -(-rounds // every):
            every = 1
        return found._replace(event=self._round_event(), every=every)

    def _statement(self, rounds: int | None) -> Statement:
        is_known = rounds is not None and self.delta is not None
        return _statement.central(
            epsilon=self.epsilon(rounds=rounds) if is_known else None,
            delta=self.delta,
            rounds=rounds,
            participation=self.sampling.describe(),
            clip=self.clipping.describe(),
            multiplier=self.noise.multiplier,
            relation=self.sampling.relation,
            law=_LAWS[type(self.noise)],
        )

    def _uses(self, rounds: int) -> int:
        """Returns how many of `rounds` rounds one client takes part in, at most."""
        return self.sampling.participation(rounds).max_participations

    def _exposures(self, unit: str, rounds: int) -> list[Exposure]:
        # examples of a client can change its contribution to any other, no further
        relation = "replace_one" if unit == "example" else self.sampling.relation
        return [Exposure(self._round_event(), self._uses(rounds), relation)]

    def _joint(self, params: Params) -> _joint.Joint:
        most = self.sampling.max_clients
        if isinstance(self.noise, noise.Skellam):
            assert isinstance(self.clipping, clipping.Fixed)  # as it was checked
            return _joint.with_skellam(
                self.clipping, self.noise, params, max_contributions=most
            )
        return _joint.joint(
            self.clipping,
            self.noise.multiplier,
            params,
            max_contributions=most,
            expected_contributions=self.sampling.expected_clients,
        )

    def _round_event(self) -> "DpEvent":
        return self._event_at(self.noise.multiplier)

    def _event_at(self, multiplier: float) -> Any:
        if isinstance(self.noise, noise.Skellam):
            other = noise.Skellam(multiplier=multiplier)
            return accounting.Skellam(
                l1_sensitivity=other.levels**2,  # of integers with that L2 norm
                l2_sensitivity=other.levels,
                variance=other.variance(other.levels),
            )
        # all parts of a round together are one Gaussian of this multiplier: `_joint`
        return self.sampling.event(multiplier)
