"""What a report says in numbers and sentences; rounded so that it never flatters."""

import math
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from jaxfed.privacy._statement import Statement, up

if TYPE_CHECKING:
    from jaxfed.engine._history import History

_NARROW = "\u202f"  # a space that does not break
_MOST_DIGITS = 6  # that `up` writes
_UNITS = {"client": "each client", "example": "each example", "none": "nobody"}
_ONE = {"client": "one client", "example": "one example"}
_RELATIONS = {
    "zero_out": "whose data may as well have been left out",
    "replace_one": "whose data may as well have been any other",
    "none": "no noise, no protection",
}


class Guarantee(NamedTuple):
    """The numbers of a page: the ledger's, or of a simulation as they would be."""

    epsilon: float | None
    delta: float | None
    budget: float | None
    unit: str
    relation: str
    rounds: int | None
    """Of a simulation, the rounds of the claim; they may be more than were run."""

    @property
    def is_finite(self) -> bool:
        """Whether there is a guarantee at all."""
        return self.epsilon is not None and math.isfinite(self.epsilon)

    @property
    def spent(self) -> str:
        """Epsilon rounded up, with so many digits that it tells whether it fits."""
        if self.epsilon is None or self.budget is None:
            return epsilon_words(self.epsilon)
        return next(
            (
                up(self.epsilon, digits)
                for digits in range(3, _MOST_DIGITS + 1)
                if float(up(self.epsilon, digits)) <= self.budget
            ),
            up(self.epsilon),
        )

    @property
    def share(self) -> str:
        """The part of the budget that is spent, in per cent, rounded up."""
        assert self.epsilon is not None
        assert self.budget is not None
        return f"{math.ceil(1000 * self.epsilon / self.budget) / 10:g}{_NARROW}%"


def guarantee_of(history: "History", claim: Statement) -> Guarantee:
    """Returns the numbers of a history."""
    facts = history.ledger
    if facts is None:  # a stop that depends on results gives no smaller epsilon
        delta = claim.delta
        if delta is None and claim.epsilon is not None and math.isfinite(claim.epsilon):
            delta = 0.0  # pure: none is needed
        return Guarantee(
            claim.epsilon, delta, None, claim.unit, claim.relation, claim.rounds
        )
    return Guarantee(
        facts.epsilon, facts.delta, facts.budget, facts.unit, facts.relation, None
    )


def kind(history: "History", guarantee: Guarantee) -> str:
    """Returns what the page is about, in a few words."""
    if history.hypothetical:
        return "Hypothetical simulation"
    if not history.private:
        return "Simulation"
    if is_over(guarantee):
        return "Released: over budget"
    return "Released with differential privacy"


def is_over(guarantee: Guarantee) -> bool:
    """Returns whether more was spent than there is."""
    spent, budget = guarantee.epsilon, guarantee.budget
    return spent is not None and budget is not None and spent > budget


def verdict(history: "History", guarantee: Guarantee) -> str:
    """Returns the one sentence to read."""
    terms = _terms(guarantee)
    if history.private:
        if guarantee.budget is None:
            return f"Released with privacy: epsilon {guarantee.spent}{terms}."
        place = "Over budget" if is_over(guarantee) else "Within budget"
        spent = f"{guarantee.spent} of {budget_words(guarantee.budget)}"
        return f"{place}: epsilon {spent} is spent{terms}."
    if not history.rounds:
        return "Nothing was run, so that there is nothing to claim."
    if guarantee.epsilon is None:
        return (
            "What a real run would spend is unknown, because no delta was named. "
            "Nothing here may be released."
        )
    if not guarantee.is_finite:
        return (
            "No privacy guarantee: epsilon is infinite. Nothing here may be released."
        )
    if history.hypothetical:
        return (
            "Only a real run with the larger cohort would spend the hypothetical "
            f"epsilon of {guarantee.spent}{terms}."
        )
    return f"A real run of this mechanism would spend epsilon {guarantee.spent}{terms}."


def in_plain_words(history: "History", guarantee: Guarantee) -> str | None:
    """Returns what epsilon and delta bound, as a game; None without a guarantee.

    Who guesses which of two neighbouring data sets was used, each as likely before, is
    right with probability at most `(e^epsilon + delta) / (1 + e^epsilon)` (Kairouz et
    al. 2015, arXiv:1311.0776, theorem 2.1).
    """
    epsilon, delta = guarantee.epsilon, guarantee.delta or 0.0
    if epsilon is not None and guarantee.budget is not None:
        # whoever stops because of results has the whole budget to claim, and no less
        epsilon = max(epsilon, guarantee.budget)
    if epsilon is None or not guarantee.is_finite or guarantee.unit not in _ONE:
        return None
    one = _ONE[guarantee.unit]
    question = f"whether the data of {one} were used"
    if guarantee.relation == "replace_one":
        question = f"which of two possible data sets of {one} was used"
    wrong = (1 - delta) / (1 + math.exp(min(epsilon, 700.0)))
    most = math.ceil(100 * (1 - wrong))
    seen = "all that it released"
    if history.private:
        seen = "all that " + (
            "the ledger's budget can pay for" if history.ledger else "was released"
        )
    start = "In words:" if history.private else "In words, of such a run:"
    return (
        f"{start} take somebody who knows everything but {question}, and holds both to "
        f"be equally likely. A blind guess is right 50{_NARROW}% of the time; the best "
        f"guess of one who has seen {seen}, at most {most}{_NARROW}%."
    )


def repeats(history: "History") -> int:
    """Returns how many releases a run made of rounds that it had released before."""
    return 0 if history.ledger is None else history.ledger.repeats


def epsilon_words(epsilon: float | None) -> str:
    """Writes an epsilon, never rounded down."""
    if epsilon is None or math.isnan(epsilon):
        return "unknown"
    return "infinite" if math.isinf(epsilon) else up(epsilon)


def number_words(value: float) -> str:
    """Writes a measured value."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    return f"{value:.4g}"


def delta_words(delta: float | None) -> str:
    """Writes a delta, never rounded down."""
    return "not named" if delta is None else up(delta, 6)


def budget_words(budget: float) -> str:
    """Writes a budget as it was named."""
    return f"{budget:.12g}"


def chance_words(delta: float | None) -> str | None:
    """Writes a delta as one in so many."""
    if delta is None or not 1e-30 < delta < 1:
        return None
    return f"1 in {math.floor(1 / Fraction(repr(delta))):,}"


def unit_words(unit: str) -> str:
    """Writes who is protected."""
    return _UNITS.get(unit, unit)


def relation_words(relation: str) -> str:
    """Writes what may change between neighbours."""
    return _RELATIONS.get(relation, relation)


def counted(count: int, noun: str) -> str:
    """Writes a count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _terms(guarantee: Guarantee) -> str:
    at = "" if guarantee.delta is None else f" at delta {delta_words(guarantee.delta)}"
    rounds = guarantee.rounds
    during = "" if rounds is None else f" in {counted(rounds, 'round')}"
    return f"{at}{during}, for {unit_words(guarantee.unit)}"
