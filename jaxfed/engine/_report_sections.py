"""The sections of a report."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfed.engine import _report_charts as charts
from jaxfed.engine import _report_words as words
from jaxfed.engine._report_html import Html, definitions, element, items, prose
from jaxfed.privacy._statement import Statement

if TYPE_CHECKING:
    from jaxfed.engine._history import History, LedgerFacts

_DIGITS = 12  # of a hash, as `python -m jaxfed.ledger show` prints it


class Numbers:
    """Counts charts, so that every id of a page is another one."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """Returns a number that was not there before."""
        self._last += 1
        return self._last


def guarantee(history: "History", claim: Statement) -> Html:
    """Returns the statement, part by part."""
    could = None
    if history.ledger is not None:
        could = "Of this run alone; the next section counts all the ledger paid for."
    if not history.private:
        could = "A real run of the same mechanism could claim:"
        if history.hypothetical:
            could = "HYPOTHETICAL: only a real run with the larger cohort could claim:"
    parts = [(name, _phrases(texts)) for name, texts in claim.parts.items()]
    return section(
        "The guarantee",
        None if could is None else element("p", could, class_="note"),
        element("p", prose(claim.claim), class_="claim"),
        definitions(parts, class_="terms"),
    )


def _phrases(texts: Sequence[str]) -> Html:
    whole = [prose(f"{text[:1].upper()}{text[1:]}.") for text in texts]
    return whole[0] if len(whole) == 1 else items(whole)


def budget(
    history: "History", claim: Statement, guarantee: words.Guarantee, counter: Numbers
) -> Html:
    """Returns what was spent, and how it grew."""
    parts: list[Html] = []
    claimed = claim.rounds or 0
    if guarantee.budget is not None:
        parts += _bar(history, guarantee, guarantee.budget)
    known = [(r.round, r.epsilon) for r in history.rounds if r.epsilon is not None]
    if any(np.isfinite(epsilon) for _, epsilon in known):
        limit = None
        if guarantee.budget is not None:
            name = f"budget {words.budget_words(guarantee.budget)}"
            limit = (name, guarantee.budget)
        rounds, values = (np.array(part) for part in zip(*known, strict=True))
        name = "Hypothetical epsilon" if history.hypothetical else "Epsilon"
        ending = "" if history.private else ", as it would be"
        curve = charts.Curve(
            name=f"{name} after each round{ending}",
            rounds=rounds,
            values=values,
            last_round=history.rounds[-1].round,
            words=words.epsilon_words,
            limit=limit,
            from_zero=True,
            height=190,
        )
        parts.append(charts.chart(curve, counter.next()))
        if claimed > history.rounds[-1].round:
            planned = (
                f"Planned were {claimed:,} rounds. What is claimed is for all of them: "
                "a run that stops early because of its results has no less to claim."
            )
            parts.append(element("p", planned, class_="note"))
    elif history.rounds:
        why = "no delta was named" if not known else "epsilon is infinite"
        parts.append(element("p", f"There is no curve of epsilon: {why}."))
    if not parts:
        parts.append(element("p", "No round was run."))
    return section("The budget", *parts)


def _bar(history: "History", guarantee: words.Guarantee, budget: float) -> list[Html]:
    assert guarantee.epsilon is not None
    share = guarantee.share
    picture = charts.bar(guarantee.epsilon / budget, f"{share} of the budget is spent")
    ends = element(
        "div",
        element("span", f"{guarantee.spent} spent, {share}"),
        element("span", f"budget {words.budget_words(budget)}"),
        class_="ends",
    )
    note = (
        "Counted is all that the ledger has paid for: this run, and every other run, "
        "evaluation and query on the same clients' data that it knows of. What would "
        "exceed the budget is refused before it is released."
    )
    own = history.epsilon
    if own is not None and own < guarantee.epsilon:
        note += (
            f" This run alone: epsilon {words.epsilon_words(own)}. Epsilons of several "
            "releases are not simply added."
        )
    return [
        element("div", picture, ends),
        element("p", note, class_="note"),
    ]


def quality(history: "History", counter: Numbers) -> Html:
    """Returns the curves of all that was measured."""
    evaluated = [(r.round, r.evaluation) for r in history.rounds]
    released = [(r.round, r.released) for r in history.rounds]
    parts: list[Html] = []
    drawn = _charts(evaluated, history, counter)
    if drawn is None:
        parts.append(element("p", "No evaluation was recorded."))
    else:
        note = (
            "Each value is of examples that were declared public, or has noise that "
            "the ledger paid for."
            if history.private
            else "Exact values, or with noise that anybody can compute again."
        )
        parts += [element("p", note, class_="note"), drawn]
    drawn = _charts(released, history, counter)
    if drawn is not None:
        parts += [element("h3", "Set by the mechanism"), drawn]
    if not history.private:
        drawn = _charts(_local(history), history, counter)
        if drawn is not None:
            parts += [
                element("h3", "Measured by the clients themselves: exact and private"),
                drawn,
            ]
    return section("The model", *parts)


def _local(history: "History") -> list[tuple[int, dict[str, float]]]:
    """Returns a simulation's local metrics; counts of clients say little in curves."""
    return [
        (r.round, {n: v for n, v in r.private.items() if not n.startswith("num_")})
        for r in history.rounds
    ]


def _charts(
    records: Sequence[tuple[int, dict[str, float]]],
    history: "History",
    counter: Numbers,
) -> Html | None:
    """Returns one small chart for each name; None if there is none."""
    names = dict.fromkeys(name for _, values in records for name in values)
    drawn = []
    for name in names:
        found = [(number, values[name]) for number, values in records if name in values]
        rounds, values = (np.array(part) for part in zip(*found, strict=True))
        curve = charts.Curve(
            name=name,
            rounds=rounds,
            values=values.astype(float),
            last_round=history.rounds[-1].round,
            words=words.number_words,
        )
        drawn.append(charts.chart(curve, counter.next()))
    return element("div", *drawn, class_="charts") if drawn else None


def released(history: "History") -> Html:
    """Returns what is public now, and what is not."""
    rounds = len(history.rounds)
    start, no = "What is", "What is not"
    if not history.private:
        start, no = "What would be", "What would not be"
    after = f"after each of {rounds:,} rounds" if rounds != 1 else "after the one round"
    again = words.repeats(history)
    after += f", and {again:,} more of rounds that were released again" if again else ""
    public = [f"The model's parameters {after}"]
    for group, ending in (
        ([r.released for r in history.rounds], ""),
        (
            [r.evaluation for r in history.rounds],
            "" if history.private else ", if public or paid for",
        ),
    ):
        for name in dict.fromkeys(name for values in group for name in values):
            count = sum(name in values for values in group)
            public.append(f"{name}, after {words.counted(count, 'round')}{ending}")
    public.append(
        "The settings: algorithm, mechanism, how cohorts are chosen, how many clients "
        "there are, and whatever else is printed on this page"
    )
    if history.private:
        public.append("When each release was paid for, to the second: in the ledger")
    secret = [
        "Which clients took part in a round, beyond what the settings say of all",
        "Any client's examples or update, or a number of examples that the settings "
        "do not name",
        "The losses and metrics of local training",
        "Which clients failed, and how many",
    ]
    return section(
        "What was released" if history.private else "What a release would be",
        element(
            "div",
            element("div", element("h3", f"{start} released"), items(public)),
            element("div", element("h3", f"{no} released"), items(secret)),
            class_="pair",
        ),
    )


def ledger(history: "History") -> Html:
    """Returns what paid for it, and how to check that."""
    facts = history.ledger
    if facts is None:
        why = "None: a simulation spends nothing, and nothing was paid."
        if history.private:
            why = "Not noted yet: the run had not ended when this page was written."
        return section("The ledger", element("p", why))
    terms = definitions(
        [
            ("File", element("code", facts.name)),
            ("Head", element("code", facts.head)),
            ("Entries", f"{facts.entries:,}"),
            (
                "Budget",
                f"epsilon {words.budget_words(facts.budget)} at delta {facts.delta:g}",
            ),
            ("Unit", words.unit_words(facts.unit)),
            ("Relation", words.relation_words(facts.relation)),
        ],
        class_="terms",
    )
    return section(
        "The ledger",
        element(
            "p",
            "Every release was written into this file, and paid for, before it was "
            "made. The head is the hash of its last entry, which names the hash of the "
            "entry before, and so on: who knows the head can tell whether any entry "
            "was changed, removed or added before it.",
        ),
        terms,
        element("h3", "How to check it"),
        _how_to_check(facts),
    )


def _how_to_check(facts: "LedgerFacts") -> Html:
    file = shlex.quote(facts.name)

    def command(text: str) -> Html:
        return element("code", text, class_="command")

    return element(
        "ol",
        element(
            "li",
            "Where the ledger is, let every entry be computed again:",
            command(f"python -m jaxfed.ledger verify {file}"),
        ),
        element(
            "li",
            "Compare the head that it prints with the one above. If they are equal, "
            "the ledger is as it was when this run ended.",
        ),
        element(
            "li",
            f"If it has grown since, look at its entry {facts.entries - 1:,}, whose "
            f"hash has to begin with {facts.head[:_DIGITS]}:",
            command(f"python -m jaxfed.ledger show --all {file}"),
        ),
        element("li", "Anything else is another ledger, or one that was changed."),
    )


def section(title: str, *body: Any) -> Html:
    """Returns a section under its heading."""
    return element(
        "section", element("h2", title), element("div", *body, class_="body")
    )
