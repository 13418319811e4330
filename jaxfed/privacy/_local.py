"""Local differential privacy: each client noises its own report.

Kasiviswanathan et al. 2011, arXiv:0803.0924 (the local model); the mechanisms are
those of `noise.Gaussian`, `noise.Laplace` and `noise.PrivUnit`. Two inputs of one
client can be anything, so that what is clipped to C moves a report by up to 2 C.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import accounting, clipping, noise, tree
from jaxfed.privacy import _local_statement, _reports
from jaxfed.privacy._base import UNITS, Charged, Cost, Privacy, checked_delta
from jaxfed.privacy._statement import Statement
from jaxfed.sampling import Sampler
from jaxfed.typing import ClientResult, LocalWork, Params, PyTree, Released

if TYPE_CHECKING:
    from dp_accounting import DpEvent

RELATIONS = ("replace_one", "zero_out")
_CLIPS: dict[type, type] = {
    noise.Gaussian: clipping.Fixed,
    noise.Laplace: clipping.FixedL1,
    noise.PrivUnit: clipping.Fixed,
}
_MOST_DISTANCE = 2.0**-54  # of a report: a few million scalars; charged to delta
_MOST_REPORTS = 1_000_000  # of as many clients as change together


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Local(Privacy):
    """Client-level privacy that trusts nobody but the client.

    Formal guarantee: for a client that takes part in up to `rounds` rounds, all of
    its reports together are (epsilon, delta)-differentially private for
    `epsilon = self.epsilon(rounds=rounds, delta=delta)` when its whole data is
    replaced by any other (replace-one relation). It holds against the server and
    everybody who reads reports. Sampling is never counted in its favour: every round
    is charged as one in which the client took part.

    | noise | clip | one report | in finite precision |
    | --- | --- | --- | --- |
    | `noise.Gaussian` | `clipping.Fixed` | Gaussian, multiplier / 2 | integers |
    | `noise.Laplace` | `clipping.FixedL1` | 2 / multiplier, delta 0 | integers |
    | `noise.PrivUnit` | `clipping.Fixed` | its epsilon, delta 0 | see `PrivUnit` |

    Delta 0 is that of the ideal law: the finite tables of Laplace noise end some 55
    scales out, and the tail beyond, about `exp(epsilon) * 2**-80` of delta a report, is
    not charged. With the first two, a report is a whole number of grid steps at every
    stage, and the clip's bound is exact. A report always has the same form: a
    client whose update is zero or not finite sends noise (with PrivUnit: a uniformly
    random direction), and nobody can tell. With PrivUnit a shorter update is not
    stretched: its direction is reversed so often that the mean report is the clipped
    update.

    Args:
        sampling: which clients take part in a round; any sampler.
        clipping: what fits the noise, see the table.
        noise: `noise.Gaussian`, `noise.Laplace` or `noise.PrivUnit`.
        delta: the delta at which epsilon is reported; set by `calibrated`. May be 0
            with `Laplace` and `PrivUnit`.
        rounds: the planned number of rounds; set by `calibrated`.
    """

    sampling: Sampler
    clipping: clipping.Fixed | clipping.FixedL1
    noise: noise.Gaussian | noise.Laplace | noise.PrivUnit
    delta: float | None = None
    rounds: int | None = None

    def __post_init__(self) -> None:
        check.instance(
            Sampler,
            "pass for example sampling.Poisson(population=..., rate=0.1)",
            sampling=self.sampling,
        )
        check.instance(
            tuple(_CLIPS),
            "pass for example noise.PrivUnit(epsilon=8.0)",
            noise=self.noise,
        )
        wanted = _CLIPS[type(self.noise)]
        check.instance(
            wanted,
            f"{type(self.noise).__name__} needs clipping.{wanted.__name__}(norm=...)",
            clipping=self.clipping,
        )
        self._report()  # refuses a cohort whose sum would not fit, here and now
        if self.delta is not None:
            object.__setattr__(self, "delta", self._checked_delta(self.delta))
        if self.rounds is not None:
            check.positive_integer(rounds=self.rounds)

    def validate(
        self,
        *,
        params: Params,
        rounds: int,
        local: LocalWork,
        client_sizes: np.ndarray,
    ) -> None:
        """Checks that clients do not compress what then gets noise in every value.

        Raises:
            ValueError: they do.
        """
        del params, rounds, client_sizes
        if local.compression is not None:
            raise ValueError(
                f"local must not be compressed with privacy.local, got {local!r}: a "
                "report has noise in every value, so that it would be less accurate "
                "and no shorter; pass the local work inside."
            )

    def init(self, params: Params) -> PyTree:
        """Returns `()`: there is no state.

        Raises:
            ValueError: the model is so large that the noise sampler's distance from
                its ideal law would count.
        """
        distance = tree.size(params) * self._report().distance
        if distance > _MOST_DISTANCE:
            raise ValueError(
                f"params must be few enough for the noise sampler, got "
                f"{tree.size(params):,} scalars: a report's noise is {distance:.1e} "
                f"from its ideal law, above {_MOST_DISTANCE:.1e}."
            )
        return ()

    def encode(self, state: PyTree, result: ClientResult, *, key: jax.Array) -> PyTree:
        """Returns the client's private report, int32. The client's weight is ignored.

        Args:
            state: from `init`.
            result: the client's result; anything, also NaN.
            key: the client's own; a report is only as private as its key is secret.
        """
        del state
        return self._report().encode(result.update, key=check.key(key=key))

    def release(
        self, state: PyTree, total: PyTree, *, key: jax.Array
    ) -> tuple[PyTree, Released]:
        """Divides the sum by the expected number of clients; adds nothing."""
        check.key(key=key)
        unit = np.float32(self._report().unit(tree.size(total)))
        value = jax.tree.map(lambda a: a.astype(jnp.float32) * unit, total)
        return state, Released(value=value).mean_over(self.sampling.expected_clients)

    def sensitivity(self, relation: str = "replace_one") -> float:
        """Returns how far other data can move a client's clipped update.

        In the norm of the clip: L2, or L1 with `clipping.FixedL1`.

        Args:
            relation: `"replace_one"`, any other data: twice the norm; `"zero_out"`,
                none: the norm.
        """
        check.one_of(RELATIONS, relation=relation)
        return self.clipping.norm * (2 if relation == "replace_one" else 1)

    def event(self, rounds: int) -> "DpEvent":
        """Returns the event of one client's reports in that many rounds.

        A pure report is described by the randomised response of its epsilon, which
        is the least private mechanism with that epsilon.
        """
        from dp_accounting import SelfComposedDpEvent

        check.positive_integer(rounds=rounds)
        return SelfComposedDpEvent(self._report_event(), rounds)

    def cost(self, rounds: int, *, relation: str = "zero_out") -> Cost:
        """Returns what a run of that many rounds costs a client that is in all.

        A report hides any two inputs from each other. A pure event says so by itself;
        a Gaussian one is half as much where replacing will be counted again.
        """
        found = super().cost(rounds, relation=relation)
        pure = self._pure_epsilon()
        if pure is not None:
            event: Any = accounting.PureEpsilon(epsilon=pure, relation="replace_one")
        else:
            assert isinstance(self.noise, noise.Gaussian)
            share = 2 if relation == "replace_one" else 1
            event = _gaussian_event(self.noise.multiplier, share)
        return found._replace(event=event, distance=rounds * _MOST_DISTANCE)

    def epsilon(
        self, *, rounds: int | None = None, delta: float | None = None
    ) -> float:
        """Returns an upper bound of epsilon for one client's reports in all rounds.

        Args:
            rounds: how many; the planned number if this object was calibrated.
            delta: the calibrated one if there is one. With `Laplace` and `PrivUnit`
                it may be 0, and is if not given.

        Raises:
            ValueError: neither given nor calibrated, or out of range.
        """
        rounds, delta = self._planned(rounds, delta)
        pure = self._pure_epsilon()
        if pure is not None:
            return accounting.pure_epsilon(pure, rounds, delta=delta)
        return accounting.epsilon(
            self._report_event(), rounds, delta=delta, distance=rounds * _MOST_DISTANCE
        )

    def epsilon_of(
        self,
        unit: str,
        *,
        count: int = 1,
        rounds: int | None = None,
        delta: float | None = None,
    ) -> float:
        """Returns an upper bound of epsilon for another unit than a client.

        A report hides all of a client's examples together, so that one has the same
        epsilon; clients report independently, so that `count` of them are as one that
        reports `count` times as often.

        Args:
            unit: `"client"` or `"example"`.
            count: how many clients, or examples of as many clients, change together.
            rounds: as in `epsilon`.
            delta: as in `epsilon`.
        """
        check.one_of(UNITS, unit=unit)
        check.positive_integer("pass how many change together", count=count)
        rounds, delta = self._planned(rounds, delta)
        if rounds * count > _MOST_REPORTS:
            raise ValueError(
                f"rounds * count must be <= {_MOST_REPORTS:,}, got {rounds:,} * "
                f"{count:,}; so many reports together have no useful epsilon."
            )
        return self.epsilon(rounds=rounds * count, delta=delta)

    def epsilon_of_charged(self, unit: str, count: int, charged: Charged) -> float:
        """Returns what `epsilon_of` does, for what a ledger charged."""
        rounds, delta = charged.rounds + charged.more_uses, charged.delta
        return self.epsilon_of(unit, count=count, rounds=rounds, delta=delta)

    def epsilon_curve(self, rounds: int) -> np.ndarray | None:
        """Returns epsilon after each of `rounds` rounds, or None without a delta."""
        delta, pure = self._delta(), self._pure_epsilon()
        if delta is None:
            return None
        if pure is not None:
            return accounting.pure_epsilon_curve(pure, rounds, delta=delta)
        return accounting.epsilon_curve(
            self._report_event(), rounds, delta=delta, distance=rounds * _MOST_DISTANCE
        )

    def calibrated(self, *, epsilon: float, delta: float, rounds: int) -> "Local":
        """Returns a copy with the least noise that meets a budget.

        Args:
            epsilon: the budget of a client that takes part in all `rounds`, > 0.
            delta: below 1 / population; 0 is allowed with `Laplace` and `PrivUnit`.
            rounds: how many rounds will be run.
        """
        delta = self._checked_delta(delta)
        check.positive_integer("pass how many rounds you will run", rounds=rounds)
        if isinstance(self.noise, noise.Gaussian):
            changes: dict[str, Any] = {
                "multiplier": accounting.calibrate_multiplier(
                    _gaussian_event,
                    rounds,
                    epsilon=epsilon,
                    delta=delta,
                    distance=rounds * _MOST_DISTANCE,
                )
            }
        else:
            single = accounting.calibrate_pure(rounds, epsilon=epsilon, delta=delta)
            if isinstance(self.noise, noise.Laplace):
                changes = {"multiplier": math.nextafter(2 / single, math.inf)}
            else:
                changes = {"epsilon": single}
        return dataclasses.replace(
            self,
            noise=dataclasses.replace(self.noise, **changes),
            delta=delta,
            rounds=rounds,
        )

    def _statement(self, rounds: int | None) -> Statement:
        delta = self._delta()
        is_known = rounds is not None and delta is not None
        return _local_statement.local(
            per_report=self.epsilon(rounds=1) if delta is not None else None,
            epsilon=self.epsilon(rounds=rounds) if is_known else None,
            delta=delta,
            rounds=rounds,
            participation=self.sampling.describe(),
            mechanism=self._report().describe(),
            precision=self._report().describe_precision(),
        )

    def _report(self) -> _reports.Report:
        return _reports.report_of(self.clipping, self.noise, self.sampling.max_clients)

    def _report_event(self) -> "DpEvent":
        from dp_accounting import dp_event

        pure = self._pure_epsilon()
        if pure is None and isinstance(self.noise, noise.Gaussian):
            return _gaussian_event(self.noise.multiplier)
        assert pure is not None  # of all other noise
        # With sensitivity 1 its privacy loss is epsilon or minus epsilon and nothing
        # between: randomised response, which every pure report is at most as bad as.
        # (RandomizedResponseDpEvent is counted once by dp-accounting 0.6, however
        # often it is composed.)
        return dp_event.DiscreteLaplaceDpEvent(noise_parameter=pure, sensitivity=1)

    def _planned(self, rounds: int | None, delta: float | None) -> tuple[int, float]:
        return super()._planned(rounds, self._delta() if delta is None else delta)

    def _delta(self) -> float | None:
        is_pure = self._pure_epsilon() is not None
        return 0.0 if self.delta is None and is_pure else self.delta

    def _pure_epsilon(self) -> float | None:
        """Returns the epsilon of one report at delta 0, or None where there is none."""
        return self._report().pure_epsilon()

    def _checked_delta(self, delta: float) -> float:
        if self._pure_epsilon() is not None and check.real(delta=delta) == 0:
            return 0.0
        remedy = "pass for example delta=1e-5"
        if self._pure_epsilon() is None:
            remedy += "; delta=0 needs noise.Laplace or noise.PrivUnit"
        return checked_delta(delta, self.sampling.population, remedy=remedy)


def _gaussian_event(multiplier: float, share: int = 1) -> "DpEvent":
    """Returns the event of a report, or of one `share`-th of its distance."""
    from dp_accounting import GaussianDpEvent

    return GaussianDpEvent(share * _reports.gaussian_over_distance(multiplier))


def local(
    *,
    sampling: Sampler,
    clipping: clipping.Fixed | clipping.FixedL1,
    noise: noise.Gaussian | noise.Laplace | noise.PrivUnit,
    delta: float | None = None,
) -> Local:
    """Returns client-level privacy that trusts nobody but the client; see `Local`."""
    return Local(sampling=sampling, clipping=clipping, noise=noise, delta=delta)
