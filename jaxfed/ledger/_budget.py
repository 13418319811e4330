"""What fits into a budget: plans that are fixed, or choices made on the way.

`Planned`: all mechanisms are named before the first release, and their composition, as
privacy loss distributions, is within the budget. Then a release is a comparison of two
integers. Which of them comes next, and when to stop, may depend on everything seen:
each release is computed from one sample of its own dominating pair, and all samples
could be drawn beforehand. Interactive mechanisms compose as non-interactive ones do,
however they are interleaved (Vadhan and Zhang 2023, arXiv:2207.08335).

`Adaptive`: mechanisms may be chosen after looking at earlier releases. Then only a
filter is valid (`accounting.RenyiFilter`), and it costs a little more.
"""

import math
from collections.abc import Iterable
from typing import Any, Protocol

from jaxfed import accounting
from jaxfed.accounting import BudgetExhausted
from jaxfed.ledger._mechanism import Mechanism
from jaxfed.privacy import Cost
from jaxfed.privacy._base import RUN_DISTANCE

# What an adaptive ledger sets aside, for as many mechanisms: its budget is fixed when
# nobody knows yet how many there will be.
ADAPTIVE_MECHANISMS = 64
_MOST_ROUNDS = 1 << 30


class Budget(Protocol):
    """Decides what still fits."""

    def admit(self, new: Cost, name: str) -> None:
        """Refuses a mechanism that can have no place.

        Raises:
            BudgetExhausted: it does not fit.
        """
        ...

    def add(self, new: Mechanism) -> None:
        """Takes note of a mechanism that was admitted."""
        ...

    def check(self, mechanism: Mechanism, uses: int) -> None:
        """Refuses a release that does not fit.

        Raises:
            BudgetExhausted: it does not fit.
        """
        ...

    def spend(self, mechanism: Mechanism, uses: int) -> None:
        """Takes note of a release that was checked."""
        ...

    def epsilon(self) -> float:
        """Returns what was spent."""
        ...

    def rounds_left(self, cost: Cost) -> int:
        """Returns how many rounds of a mechanism that is not named yet would fit."""
        ...


class Planned:
    """A budget for mechanisms that are all named before the first release."""

    def __init__(self, *, epsilon: float, delta: float, relation: str):
        self._epsilon, self._delta, self._relation = epsilon, delta, relation
        self._mechanisms: list[Mechanism] = []
        self._reserved: dict[int, float] = {}

    def admit(self, new: Cost, name: str) -> None:
        """Refuses a mechanism that is late or too much."""
        if self._has_begun:
            raise BudgetExhausted(
                f"{name} must be planned before the first release of this "
                "ledger, which has been made: what is chosen after looking at releases "
                f"is not covered by a plan. Left here: {self._unused()}. Plan all with "
                "ledger.plan(...) at the start, or create a ledger with adaptive=True."
            )
        total = self._total([*self._costs(), (new, new.uses(new.rounds))])
        if total <= self._epsilon:
            return
        fits = self.rounds_left(new)
        raise BudgetExhausted(
            f"{new.rounds:,} rounds of {name} bring the plan to epsilon "
            f"{shown(total)}, above the budget {self._epsilon:g} at delta "
            f"{self._delta:g}; epsilon {self._left()} is not planned yet, and {fits:,} "
            "rounds would fit. Run fewer, or use more noise: "
            "privacy.calibrated(epsilon=..., delta=..., rounds=...)."
        )

    def add(self, new: Mechanism) -> None:
        """Takes note of a plan."""
        self._mechanisms.append(new)

    def check(self, mechanism: Mechanism, uses: int) -> None:
        """Compares integers: releases, and uses of the event, with what was planned."""
        reserved = mechanism.cost.uses(mechanism.cost.rounds)
        if mechanism.left >= 1 and mechanism.uses + uses <= reserved:
            return
        made, planned = mechanism.releases, mechanism.cost.rounds
        repeats = made - mechanism.rounds
        done = f"{made:,} of {planned:,}" if made < planned else f"all {planned:,}"
        done = "the one" if planned == 1 else done
        again = f", {repeats:,} of them repeated" if repeats else ""
        few = "no more are"
        if mechanism.left >= 1:
            wanted = mechanism.uses + uses
            few = f"{wanted:,} uses of its event would be more than the {reserved:,}"
        raise BudgetExhausted(
            f"{done} planned release{'s' * (planned > 1)} of {mechanism.name!r} "
            f"{'were' if planned > 1 else 'was'} made{again}: {few} "
            "planned, and a plan cannot grow after the first release of its ledger. "
            f"Left in this ledger: {self._unused()}. For more, create another ledger, "
            "whose budget adds to this one's."
        )

    def spend(self, mechanism: Mechanism, uses: int) -> None:
        """Nothing to note: the mechanism counts itself."""

    def epsilon(self) -> float:
        """Returns epsilon of all releases so far."""
        used = [(m.cost, m.uses) for m in self._mechanisms if m.uses]
        return self._total(used) if used else 0.0

    def planned_epsilon(self) -> float:
        """Returns epsilon of everything that was planned."""
        costs = self._costs()
        return self._total(costs) if costs else 0.0

    def rounds_left(self, cost: Cost) -> int:
        """Returns how many rounds can still be planned."""
        if self._has_begun:
            return 0
        others = self._costs()

        def fits(rounds: int) -> bool:
            own = (cost, cost.uses(rounds))
            return self._total([*others, own]) <= self._epsilon

        return largest(fits)

    @property
    def _has_begun(self) -> bool:
        return any(m.releases for m in self._mechanisms)

    def _costs(self) -> list[tuple[Cost, int]]:
        return [(m.cost, m.cost.uses(m.cost.rounds)) for m in self._mechanisms]

    def _unused(self) -> str:
        left = [f"{m.left} of {m.name!r}" for m in self._mechanisms if m.left > 0]
        return ", ".join(left) or "nothing"

    def _left(self) -> str:
        return shown(max(0.0, self._epsilon - self.planned_epsilon()))

    def _total(self, costs: Iterable[tuple[Cost, int]]) -> float:
        from dp_accounting import SelfComposedDpEvent

        costs = list(costs)
        return accounting.epsilon(
            [SelfComposedDpEvent(cost.event, uses) for cost, uses in costs],
            1,
            delta=self._delta,
            relation=self._relation,
            distance=sum(cost.distance for cost, _ in costs),
        )


class Adaptive:
    """A budget for mechanisms that are chosen on the way."""

    def __init__(
        self, *, epsilon: float, delta: float, relation: str, orders: Iterable[float]
    ):
        self._limit = ADAPTIVE_MECHANISMS * RUN_DISTANCE
        self._filter = accounting.RenyiFilter(
            epsilon=epsilon,
            delta=delta,
            relation=relation,
            orders=tuple(orders),
            distance=self._limit,
        )
        self._distance, self._count = 0.0, 0
        self._is_used = False

    def admit(self, new: Cost, name: str) -> None:
        """Refuses one mechanism too many, or one of which not even one round fits."""
        if self._distance + new.distance > self._limit:
            raise BudgetExhausted(
                f"{name} would be one too many: an adaptive ledger holds "
                f"{ADAPTIVE_MECHANISMS}, for what their noise may differ from its law; "
                "create another ledger, whose budget adds to this one's."
            )
        if not self._filter.fits(new.event):
            self._filter.charge(new.event)  # which raises, and says how much is left

    def add(self, new: Mechanism) -> None:
        """Takes note of a mechanism."""
        self._distance += new.cost.distance

    def check(self, mechanism: Mechanism, uses: int) -> None:
        """Asks the filter."""
        if mechanism.left < 1:
            raise BudgetExhausted(
                f"all {mechanism.cost.rounds:,} planned releases of "
                f"{mechanism.name!r} were made; plan another mechanism for more."
            )
        if uses and not self._filter.fits(mechanism.cost.event, uses):
            self._filter.charge(mechanism.cost.event, uses)

    def spend(self, mechanism: Mechanism, uses: int) -> None:
        """Charges the filter."""
        if uses:
            self._filter.charge(mechanism.cost.event, uses)
            self._is_used = True

    def epsilon(self) -> float:
        """Returns what the filter counts as spent; never above the budget."""
        return self._filter.epsilon_spent if self._is_used else 0.0

    def rounds_left(self, cost: Cost) -> int:
        """Returns how many rounds the filter lets through."""
        return min(_MOST_ROUNDS, self._filter.rounds_left(cost.event) * cost.every)


def largest(fits: Any) -> int:
    """Returns the largest number of rounds that fits; fitting must be monotone."""
    low, high = 0, 1
    while high < _MOST_ROUNDS and fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def shown(epsilon: float) -> str:
    """Rounds up for people."""
    if not math.isfinite(epsilon):
        return "infinity"
    return f"{math.ceil(epsilon * 1e4) / 1e4:g}"
