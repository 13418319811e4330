"""What the entries of a ledger add up to."""

import importlib.metadata
import platform
import sqlite3
import warnings
from typing import Any, NamedTuple

from jaxfed import _check as check
from jaxfed.accounting import BudgetExhausted
from jaxfed.accounting._filter import FILTER_ORDERS
from jaxfed.ledger import _codec, _mechanism, _rows
from jaxfed.ledger._budget import Adaptive, Budget, Planned
from jaxfed.ledger._errors import LedgerError
from jaxfed.ledger._mechanism import Mechanism
from jaxfed.ledger._rows import Entry
from jaxfed.privacy import Cost, Privacy

FORMAT = 1
MANY = 1 << 30  # releases of an event that is charged as often as it fits
# what entries raise that no ledger writes
_UNFIT = (ArithmeticError, LookupError, TypeError, ValueError, BudgetExhausted)
# from here on a budget promises next to nothing
_NO_DELTA, _NO_EPSILON = 0.05, 50.0
_UNITS = ("client", "example")
_RELATIONS = ("zero_out", "replace_one")


class Terms(NamedTuple):
    """What was agreed when the ledger was made; it never changes."""

    epsilon: float
    delta: float
    unit: str
    relation: str
    adaptive: bool
    anchored: bool
    purpose: str

    def facts(self) -> dict[str, Any]:
        """Returns what the first entry holds."""
        versions = {
            name: importlib.metadata.version(name)
            for name in ("dp-accounting", "jax", "jaxfed", "numpy")
        }
        versions |= {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
        }
        orders = list(FILTER_ORDERS) if self.adaptive else []
        return {
            "format": FORMAT,
            **self._asdict(),
            "orders": orders,
            "versions": versions,
        }


def checked_terms(
    *,
    epsilon: float,
    delta: float,
    unit: str,
    relation: str,
    adaptive: bool,
    anchored: bool,
    purpose: str,
) -> Terms:
    """Returns the terms of a new ledger."""
    check.instance(bool, "pass True or False", adaptive=adaptive)
    check.instance(str, "say in a few words what it is for", purpose=purpose)
    if purpose:
        check.name("say in a few words what it is for", purpose=purpose)
    terms = Terms(
        epsilon=check.positive("pass for example epsilon=1.0", epsilon=epsilon),
        delta=check.open_probability("pass for example delta=1e-5", delta=delta),
        unit=check.one_of(_UNITS, unit=unit),
        relation=check.one_of(_RELATIONS, relation=relation),
        adaptive=adaptive,
        anchored=anchored,
        purpose=purpose,
    )
    _budget_of(terms, list(FILTER_ORDERS))  # refuses a budget that holds nothing
    _warn_of_nothing(terms)
    return terms


def _warn_of_nothing(terms: Terms) -> None:
    """Warns of budgets that promise people next to nothing."""
    if terms.delta >= _NO_DELTA:
        warnings.warn(
            f"delta={terms.delta:g} lets the whole of a {terms.unit}'s data out with "
            "that probability; choose one far below 1 over their number, such as 1e-6.",
            stacklevel=4,
        )
    if terms.epsilon >= _NO_EPSILON:
        warnings.warn(
            f"epsilon={terms.epsilon:g} lets the odds of a guess about a "
            f"{terms.unit}'s data grow by e**{terms.epsilon:g}, which is no protection "
            "that can be explained to people; usual budgets are 0.5 to 10.",
            stacklevel=4,
        )


class Book:
    """A ledger's mechanisms, its budget, and the models it paid for.

    Args:
        entries: all of them, in order.
        where: the file, for messages.
    """

    def __init__(self, entries: list[Entry], *, where: str):
        self._where = where
        facts = entries[0].facts
        if facts.get("format") != FORMAT:
            raise self._unknown(f"format {facts.get('format')!r}")
        self.identity = entries[0].hash
        self.entries: list[Entry] = []
        self.mechanisms: dict[int, Mechanism] = {}
        self.models: dict[int, str] = {}
        try:
            self.terms = Terms(**{name: facts[name] for name in Terms._fields})
            self.budget = _budget_of(self.terms, facts["orders"])
            for entry in entries:
                self.take(entry)
        except _UNFIT as error:
            what = "does not follow from what is before it"
            raise _rows.changed(where, len(self.entries), what) from error

    @property
    def head(self) -> str:
        """The hash of the last entry."""
        return self.entries[-1].hash

    @property
    def has_releases(self) -> bool:
        """Whether anything was spent."""
        return any(m.releases for m in self.mechanisms.values())

    def named(self, name: str) -> Mechanism | None:
        """Returns the mechanism with a name."""
        return next((m for m in self.mechanisms.values() if m.name == name), None)

    def cost_of(self, what: Any, rounds: int) -> Cost:
        """Returns what a mechanism costs in this ledger's terms."""
        terms = self.terms
        if not isinstance(what, Privacy):
            _codec.to_values(what)  # refuses what is no event
            return Cost(what, rounds, 1, terms.unit, terms.relation, 0.0, True)
        if what.is_hypothetical:
            raise ValueError(
                f"privacy must be of a run that is made, got {what!r}; nothing can be "
                "released with a hypothetical cohort."
            )
        cost = what.cost(rounds, relation=terms.relation)
        _codec.to_values(cost.event)
        if cost.unit != terms.unit:
            raise ValueError(
                f"the mechanism must protect each {terms.unit}, as this ledger does, "
                f"got one that protects each {cost.unit}; keep a ledger for each unit."
            )
        return cost

    def like(self, what: Any) -> list[Mechanism]:
        """Returns the mechanisms that are `what`, under all the same terms."""
        values = _codec.to_values(self.cost_of(what, 1).event)
        found = []
        for mechanism in self.mechanisms.values():
            cost = mechanism.cost
            if _codec.to_values(cost.event) != values:
                continue
            if isinstance(what, Privacy) and cost.rounds >= MANY:
                continue  # that was planned for events
            same = self.cost_of(what, cost.rounds)
            if same._replace(event=cost.event) == cost:
                found.append(mechanism)
        return found

    def remaining(self, mechanism: Mechanism) -> int:
        """Returns how many more releases of a mechanism will be paid for."""
        left = max(0, mechanism.left)
        if self.terms.adaptive:
            left = min(left, self.budget.rounds_left(mechanism.cost))
        return left

    def take(self, entry: Entry) -> None:
        """Takes account of one more entry."""
        facts, kind = entry.facts, entry.kind
        if kind == "mechanism":
            terms = self.terms
            new = _mechanism.mechanism_of(
                entry, unit=terms.unit, relation=terms.relation
            )
            if self.named(new.name) is not None:
                raise ValueError("two mechanisms have one name")
            if self.has_releases and not self.terms.adaptive:
                raise ValueError("a plan cannot grow after the first release")
            self.mechanisms[entry.number] = new
            self.budget.add(new)
        elif kind == "run":
            mechanism = self.mechanisms[facts["mechanism"]]
            if mechanism.run is None and mechanism.releases:
                raise ValueError("a run begins before its releases")
            if mechanism.run is not None:
                mechanism.go_on(facts)
            mechanism.run, mechanism.moved = facts, None
        elif kind == "charge":
            charge = _mechanism.charge_of(entry)
            mechanism = self.mechanisms[facts["mechanism"]]
            mechanism.check_follows(charge)
            self.budget.check(mechanism, charge.uses)
            self.budget.spend(mechanism, charge.uses)
            mechanism.add(charge)
        elif kind == "model":
            paid_by = self.entries[-1]
            if paid_by.kind != "charge" or facts["charge"] != paid_by.number:
                raise ValueError("a model follows the charge that paid for it")
            self.models[paid_by.number] = facts["sha256"]
        elif kind != "ledger":
            raise self._unknown(f"an entry of kind {kind!r}")
        self.entries.append(entry)

    def check_budget(self) -> None:
        """Checks that all that was spent, and all that was planned, is in the budget.

        Raises:
            LedgerError: it is more.
        """
        budget = self.budget
        total = budget.epsilon()
        if isinstance(budget, Planned):
            total = max(total, budget.planned_epsilon())
        if not total <= self.terms.epsilon * (1 + 1e-6):  # of other versions' grids
            raise LedgerError(
                f"{self._where} must keep to its budget of epsilon "
                f"{self.terms.epsilon:g}, got plans or releases of {total:.6g}; "
                "whoever wrote it had the secret and did not use this library."
            )

    def _unknown(self, what: str) -> LedgerError:
        return LedgerError(
            f"{self._where} must be of format {FORMAT}, got {what}; it was written by "
            "a newer version of jaxfed: install that one."
        )


def _budget_of(terms: Terms, orders: list[float]) -> Budget:
    if terms.adaptive:
        return Adaptive(
            epsilon=terms.epsilon,
            delta=terms.delta,
            relation=terms.relation,
            orders=orders,
        )
    return Planned(epsilon=terms.epsilon, delta=terms.delta, relation=terms.relation)
