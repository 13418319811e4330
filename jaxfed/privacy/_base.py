"""What every privacy object can be asked."""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed import accounting, tree
from jaxfed._config import Configuration
from jaxfed.privacy._statement import Statement, checked_units
from jaxfed.sampling import Sampler
from jaxfed.typing import ClientResult, LocalWork, Params, PyTree, Released

if TYPE_CHECKING:
    from dp_accounting import DpEvent


UNITS = ("client", "example")
# What is set aside of delta, in total variation, for finite tables of noise: enough for
# 2**32 draws in a run. Less would admit fewer; more would show in a large epsilon, by
# whose exponential it is multiplied.
RUN_DISTANCE = 2.0**-46


class Exposure(NamedTuple):
    """What a run shows of one unit."""

    event: Any
    """The event of one use."""
    uses: int
    relation: str


class Cost(NamedTuple):
    """What a run costs one unit of privacy, as a ledger keeps it; public.

    After r of its rounds a unit was in at most `ceil(r / every)` uses of `event`.
    """

    event: Any
    """The event of one use."""
    rounds: int
    every: int
    unit: str
    """`"client"` or `"example"`."""
    relation: str
    distance: float
    """Of the whole run's noise from its ideal law, in total variation."""
    may_repeat: bool
    """Whether a round can be released again, with other noise, at the cost of one
    more use; correlated noise covers every round once."""

    def uses(self, rounds: int) -> int:
        """Returns how many uses the first `rounds` rounds are, at most."""
        return -(-rounds // self.every)


class Charged(NamedTuple):
    """What a ledger charged for a run, under its own relation and delta."""

    cost: Cost
    rounds: int
    """The rounds of the claim."""
    more_uses: int
    """Uses of the event beyond those of these rounds: of rounds released again."""
    delta: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Privacy(Configuration, abc.ABC):
    """An `Aggregator` that says what it guarantees.

    Subclasses are frozen keyword-only dataclasses with a `sampling` field.
    """

    keeps_reports: ClassVar[bool] = False
    """Whether `release` gets every report by itself, leaves (clients, ...), instead of
    their sum; such an object has no guarantee."""

    sampling: Sampler
    delta: float | None = None

    @property
    def is_hypothetical(self) -> bool:
        """Whether epsilon is that of a run which nobody makes; see `hypothetical`.

        Nothing can be released with such an object.
        """
        return False

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

    def at_rest(self, state: PyTree) -> PyTree:
        """Returns what of the state may be written to a disk: nothing secret."""
        return state

    def resumed(
        self,
        params: Params,
        kept: PyTree,
        *,
        rounds: int,
        noise_key: Callable[[int], jax.Array],
    ) -> PyTree:
        """Returns the state after some rounds from what `at_rest` returned.

        Args:
            params: of the same shapes as those of the run.
            kept: what was written.
            rounds: how many rounds were released.
            noise_key: the key that `release` got in round 0, 1, ...
        """
        del params, rounds, noise_key
        return kept

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

    def epsilon_of(
        self,
        unit: str,
        *,
        count: int = 1,
        rounds: int | None = None,
        delta: float | None = None,
    ) -> float:
        """Returns an upper bound of epsilon for another unit than the object's own.

        A silo is a client; so is a person where every person is a client. A person
        who is three clients is `epsilon_of("client", count=3)`.

        Args:
            unit: `"client"`, or `"example"`: an example of a client, changed at will
                where the object protects clients, removed where it protects examples.
            count: how many clients, or examples of different clients, change together;
                of one silo's examples where the object protects these.
            rounds: as in `epsilon`.
            delta: as in `epsilon`; the group's.

        Returns:
            Epsilon; infinity where there is no claim for that unit.
        """
        check.one_of(UNITS, unit=unit)
        check.positive_integer("pass how many change together", count=count)
        rounds, delta = self._planned(rounds, delta)
        found = [
            accounting.group_epsilon(
                exposure.event,
                exposure.uses,
                delta=delta,
                size=count,
                relation=exposure.relation,
                distance=RUN_DISTANCE,
            )
            for exposure in self._exposures(unit, rounds)
        ]
        return max(found, default=math.inf)

    def epsilon_of_charged(self, unit: str, count: int, charged: Charged) -> float:
        """Returns what `epsilon_of` does, for what a ledger charged.

        Args:
            unit: as in `epsilon_of`.
            count: as in `epsilon_of`.
            charged: what it charged, whose relation counts if it is the stronger one.
        """
        check.one_of(UNITS, unit=unit)
        check.positive_integer("pass how many change together", count=count)
        is_replaced = charged.cost.relation == "replace_one"
        runs = self._exposures(unit, charged.rounds)
        found = [
            accounting.group_epsilon(
                run.event,
                run.uses + charged.more_uses * one.uses,
                delta=charged.delta,
                size=count,
                relation="replace_one" if is_replaced else run.relation,
                distance=charged.cost.distance,
            )
            for run, one in zip(runs, self._exposures(unit, 1), strict=True)
        ]
        return max(found, default=math.inf)

    def _exposures(self, unit: str, rounds: int) -> list[Exposure]:
        """Returns what a run shows of a unit, of each kind; [] for everything."""
        del unit, rounds
        return []

    def _planned(self, rounds: int | None, delta: float | None) -> tuple[int, float]:
        """Returns rounds and delta as given, or as calibrated."""
        rounds = getattr(self, "rounds", None) if rounds is None else rounds
        delta = self.delta if delta is None else delta
        if rounds is None or delta is None:
            missing = "rounds" if rounds is None else "delta"
            raise ValueError(
                f"epsilon needs {missing}, got None; call "
                "privacy.epsilon(rounds=100, delta=1e-5), or calibrate first."
            )
        return check.positive_integer(rounds=rounds), self._checked_delta(delta)

    def _checked_delta(self, delta: float) -> float:
        """Checks for a delta that does not permit publishing a client."""
        return checked_delta(delta, self.sampling.population)

    def cost(self, rounds: int, *, relation: str = "zero_out") -> Cost:
        """Returns what a run of that many rounds costs the unit that is protected.

        Args:
            rounds: how many, >= 1.
            relation: under which the event will be accounted.
        """
        return Cost(
            event=self.event(1),
            rounds=check.positive_integer(rounds=rounds),
            every=1,
            unit="client",
            relation=relation,
            distance=RUN_DISTANCE,
            may_repeat=True,
        )

    def statement(
        self,
        *,
        rounds: int | None = None,
        units: Sequence[tuple[str, int]] = (),
    ) -> Statement:
        """Returns the guarantee, with what it does not cover; print it to read it.

        Args:
            rounds: how many are run; the planned number if not given.
            units: of what else to state epsilon, as in `epsilon_of`:
                `[("example", 1), ("client", 3)]`.
        """
        rounds = getattr(self, "rounds", None) if rounds is None else rounds
        others = tuple(
            (unit, count, self.epsilon_of(unit, count=count, rounds=rounds))
            for unit, count in checked_units(units)
        )
        return dataclasses.replace(self._statement(rounds), units=others)

    @abc.abstractmethod
    def _statement(self, rounds: int | None) -> Statement: ...

    def plot_tradeoff(self, **options: Any) -> Any:
        """Draws epsilon against rounds and noise; needs the extra `plot`."""
        from jaxfed.privacy import _plot

        return _plot.tradeoff(self, **options)


def interval(uses: Sequence[int]) -> int:
    """Returns the largest `every` for which `ceil(r / every)` is at least `uses[r-1]`.

    Args:
        uses: after 1, 2, ... rounds; rising.
    """
    counts = np.asarray(uses)
    rounds = np.arange(1, len(counts) + 1)
    # a later use comes at round r, so that every must be <= (r - 1) / (uses before)
    later = counts > 1
    if not later.any():
        return len(counts)
    return max(1, int(((rounds[later] - 1) // (counts[later] - 1)).min()))


def checked_delta(
    delta: float,
    units: int,
    *,
    named: str = "population",
    remedy: str = "pass for example delta=1e-5",
) -> float:
    """Checks for a delta that does not permit publishing a unit; returns a float."""
    check.open_probability(remedy, delta=delta)
    if delta >= 1 / units:
        raise ValueError(
            f"delta must be < 1 / {named} = {1 / units:.3g}, got {delta}; a larger one "
            "would permit publishing a client or an example outright."
        )
    return float(delta)
