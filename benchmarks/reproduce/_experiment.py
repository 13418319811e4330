"""What an experiment is, and its results as JSON and as a table."""

import dataclasses
import json
import pathlib
import platform
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax

RESULTS = pathlib.Path(__file__).parent.parent / "results"
HEADER = ("setting", "method", "published", "ours", "difference", "runs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One number that was published, or that orders others, and ours.

    Args:
        setting: what was trained on.
        method: what was trained with.
        values: ours, one per seed.
        published: None where only an order was.
        published_stddev: over the published runs; None where it was not given.
        curve: the mean over seeds after each round, where it is of interest.
    """

    setting: str
    method: str
    values: Sequence[float]
    published: float | None = None
    published_stddev: float | None = None
    curve: Sequence[float] | None = None

    @property
    def mean(self) -> float:
        """Of the values."""
        return statistics.mean(self.values)

    @property
    def stddev(self) -> float:
        """Of the values; 0 for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A published result.

    Args:
        name: of its module and file.
        title: for people.
        metric: what the numbers are.
        source: where they were published.
        recipe: what is run.
        differs: where that is not what was published.
        run: `(seeds, short, data) -> rows`; `data` is a folder or None.
        check: `(rows, short) -> None`; raises AssertionError where rows are not what
            the page says.
        seeds: how many a full run has.
        short_seeds: and a short one; 0 for none.
        needs_data: whether it reads files of another package.
    """

    name: str
    title: str
    metric: str
    source: str
    recipe: str
    differs: Sequence[str]
    run: Callable[[Sequence[int], bool, Any], list[Row]]
    check: Callable[[Sequence[Row], bool], None]
    seeds: int
    short_seeds: int
    needs_data: bool = False


def by_name(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    """Returns rows by setting and method."""
    return {(row.setting, row.method): row for row in rows}


def document(experiment: Experiment, rows: Sequence[Row], seconds: float) -> dict:
    """Returns the JSON of a run."""
    words = ("name", "title", "metric", "source", "recipe", "differs")
    return {
        **{word: getattr(experiment, word) for word in words},
        "rows": [
            dataclasses.asdict(row) | {"mean": row.mean, "stddev": row.stddev}
            for row in rows
        ],
        "seconds": round(seconds, 1),
        "machine": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "cores": jax.device_count(),
        },
    }


def saved(folder: pathlib.Path = RESULTS) -> list[dict]:
    """Returns the JSON of all experiments that were run, by title."""
    found = sorted(folder.glob("reproduce_*.json"))
    return sorted(
        (json.loads(file.read_text("utf-8")) for file in found),
        key=lambda one: one["title"],
    )


def markdown(documents: Sequence[dict]) -> str:
    """Returns a section for each experiment, with its table."""
    return "\n\n".join(_section(one) for one in documents)


def _section(one: dict) -> str:
    lines = [HEADER, ("---",) * len(HEADER)]
    lines += [_cells(row) for row in one["rows"]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    differs = "\n".join(f"- {sentence}" for sentence in one["differs"])
    minutes = max(1, round(one["seconds"] / 60))
    return (
        f"## {one['title']}\n\n{one['metric']}. Published: {one['source']}\n\n"
        f"{table}\n\n{one['recipe']}\n\nWhat differs:\n\n{differs}\n\n"
        f"`python -m benchmarks.reproduce {one['name']}`: {minutes} min on two cores "
        "that other work shared."
    )


def _cells(row: dict) -> tuple[str, ...]:
    ours = _number(row["mean"], row["stddev"] if len(row["values"]) > 1 else None)
    published, difference = "-", "-"
    if row["published"] is not None:
        published = _number(row["published"], row["published_stddev"])
        difference = f"{row['mean'] - row['published']:+.3f}"
    return (
        row["setting"],
        row["method"],
        published,
        ours,
        difference,
        str(len(row["values"])),
    )


def _number(mean: float, stddev: float | None) -> str:
    return f"{mean:.3f}" if stddev is None else f"{mean:.3f} ± {stddev:.3f}"
