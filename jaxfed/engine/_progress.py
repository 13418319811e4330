"""A progress bar with the time left, the epsilon spent and the latest evaluation."""

import contextlib
from collections.abc import Generator
from typing import Protocol

from jaxfed.engine._history import RoundRecord


class Report(Protocol):
    """Called after each round."""

    def __call__(self, record: RoundRecord) -> None:
        """Shows one more round."""
        ...


@contextlib.contextmanager
def bar(rounds: int, *, show: bool) -> Generator[Report]:
    """Shows a progress bar while the context lasts; silent if not `show`."""
    if not show:
        yield lambda record: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("rounds"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("rounds", total=rounds, facts="")
        latest: dict[str, float] = {}

        def report(record: RoundRecord) -> None:
            latest.update(record.evaluation)
            facts = [] if record.epsilon is None else [f"epsilon {record.epsilon:.3g}"]
            facts += [f"{name} {value:.4f}" for name, value in list(latest.items())[:3]]
            progress.update(task, advance=1, facts="  ".join(facts))

        yield report
