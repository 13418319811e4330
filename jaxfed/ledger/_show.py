"""A ledger in words and tables."""

import math
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from jaxfed.ledger import _codec
from jaxfed.ledger._book import MANY, Book
from jaxfed.ledger._rows import Entry

_UNITS = {"client": "each client", "example": "each example"}
_RELATIONS = {
    "zero_out": "whose data may as well have been left out",
    "replace_one": "whose data may as well have been any other",
}


def show(book: Book, *, where: str, last: int | None, console: Console) -> None:
    """Prints a ledger.

    Args:
        book: what its entries add up to.
        where: the file.
        last: how many of the last entries to print; all if None.
        console: where to print.
    """
    terms = book.terms
    spent = book.budget.epsilon()
    kind = "adaptive" if terms.adaptive else "planned"
    lines = [
        f"Privacy ledger {where}" + (f": {terms.purpose}" if terms.purpose else ""),
        f"Budget    epsilon {terms.epsilon:g} at delta {terms.delta:g}, {kind}",
        f"Spent     epsilon {up(spent)} ({_share(spent, terms.epsilon)} %)",
        f"Protects  {_UNITS[terms.unit]}, {_RELATIONS[terms.relation]}",
        f"Created   {book.entries[0].time}",
        f"Entries   {len(book.entries)}",
        f"Head      {book.head}",
    ]
    text = [Text(printable(line), overflow="fold") for line in lines]
    tables = [mechanisms(book)] + ([entries(book, last)] if last != 0 else [])
    console.print(Group(*text, *tables))


def mechanisms(book: Book) -> Table:
    """Returns what the ledger pays for."""
    table = Table(box=SIMPLE_HEAD, title="Mechanisms", title_justify="left")
    table.add_column("name", overflow="fold")
    table.add_column("releases", justify="right")
    table.add_column("planned", justify="right")
    table.add_column("left", justify="right")
    table.add_column("one release", overflow="fold")
    for mechanism in book.mechanisms.values():
        cost = mechanism.cost
        is_open = cost.rounds >= MANY
        planned = "as it fits" if is_open else f"{cost.rounds:,}"
        left = "" if is_open else f"{max(0, mechanism.left):,}"
        words = in_words(_codec.to_values(cost.event))
        if not cost.may_repeat:
            words += "; all rounds together, charged at the first"
        elif cost.every > 1:
            words += f"; a client is in one of every {cost.every:,}"
        done = f"{mechanism.releases:,}"
        # as text, since names may hold what Rich takes for markup
        table.add_row(Text(printable(mechanism.name)), done, planned, left, Text(words))
    return table


def entries(book: Book, last: int | None) -> Table:
    """Returns the last entries."""
    chosen = book.entries if last is None else book.entries[-last:]
    title = "Entries" if len(chosen) == len(book.entries) else "Last entries"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("number", justify="right")
    table.add_column("time", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("hash", no_wrap=True)
    for entry in chosen:
        what = Text(printable(_what(entry, book)))
        table.add_row(str(entry.number), entry.time, what, entry.hash[:12])
    return table


def printable(text: str) -> str:
    """Returns text that cannot command a terminal, whoever wrote the ledger."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def in_words(values: dict[str, Any]) -> str:
    """Returns an event in words."""
    kind = str(values["kind"]).removesuffix("DpEvent")
    if kind == "TruncatedSubsampledGaussian":
        return (
            f"Gaussian noise of multiplier {values['noise_multiplier']:.4g} on a "
            f"Poisson sample at rate {values['sampling_probability']:g} of "
            f"{values['dataset_size']:,}, at most {values['truncated_batch_size']:,}"
        )
    if kind == "SampledWithoutReplacement":
        return (
            f"{in_words(values['event'])} on {values['sample_size']:,} of "
            f"{values['source_dataset_size']:,}"
        )
    if kind == "SelfComposed":
        return f"{values['count']:,} x {in_words(values['event'])}"
    if kind == "Composed":
        return " and ".join(in_words(event) for event in values["events"])
    if kind in ("Gaussian", "Laplace"):
        return f"{kind} noise of multiplier {values['noise_multiplier']:.4g}"
    rest = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
        if name != "kind"
    )
    return f"{kind}: {rest}" if rest else kind


def _share(spent: float, budget: float) -> str:
    """Returns a part in per cent, never rounded down."""
    return f"{math.ceil(1000 * spent / budget - 1e-9) / 10:g}"


def up(epsilon: float) -> str:
    """Returns epsilon, never rounded down."""
    if not math.isfinite(epsilon):
        return "infinity"
    return f"{math.ceil(epsilon * 1e4 - 1e-9) / 1e4:g}"


def _what(entry: Entry, book: Book) -> str:
    facts = entry.facts
    if entry.kind == "ledger":
        return "ledger created"
    if entry.kind == "mechanism":
        return f"{facts['name']!r} planned"
    if entry.kind == "model":
        return f"model {facts['sha256'][:12]} paid by entry {facts['charge']}"
    name = book.mechanisms[facts["mechanism"]].name
    if entry.kind == "run":
        return f"run of {name!r} begun, plan {facts['plan'][:12]}"
    again = f", attempt {facts['attempt'] + 1}" if facts["attempt"] else ""
    uses = facts["uses"]
    cost = "paid before" if not uses else "1 use" if uses == 1 else f"{uses} uses"
    return f"release {facts['round'] + 1} of {name!r}{again}: {cost}"
