"""A progress bar with the time left, the epsilon spent and the latest evaluation."""

import contextlib
from collections.abc import Generator
from typing import Protocol

import jax

from jaxfed.engine._history import RoundRecord
from jaxfed.privacy._statement import up


class Report(Protocol):
    """Called after each round."""

    def __call__(self, record: RoundRecord) -> None:
        """Shows one more round."""
        ...


@contextlib.contextmanager
def bar(rounds: int, *, show: bool) -> Generator[Report]:
    """Shows a progress bar while the context lasts; silent if not `show`.

    Of several hosts, the first one shows it.
    """
    if not show or jax.process_index() > 0:
        yield lambda record: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    whole = Column(no_wrap=True, overflow="ignore")  # fits 80 characters
    columns = (
        BarColumn(bar_width=12),
        MofNCompleteColumn(table_column=whole),
        TextColumn("rounds, left", table_column=whole),
        TimeRemainingColumn(table_column=whole),
        TextColumn("{task.fields[facts]}", table_column=whole),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("rounds", total=rounds, facts="")
        latest: dict[str, float] = {}

        def report(record: RoundRecord) -> None:
            latest.update(record.evaluation)
            name = "hypothetical epsilon" if record.hypothetical else "epsilon"
            facts = [] if record.epsilon is None else [f"{name} {up(record.epsilon)}"]
            facts += [f"{name} {value:.4f}" for name, value in list(latest.items())[:1]]
            progress.update(task, advance=1, facts="  ".join(facts))

        yield report
