"""From the rows of the JSON to ratios, figures reached, a table."""

import statistics
from typing import Any, NamedTuple

QUIET = 0.08
"""A sample is quiet if others kept less than this share of the cores busy."""


class Goal(NamedTuple):
    """A ratio to be reached."""

    ratio: float
    by: str
    """`wall` or `cpu`."""
    ours: str = "ours"


# workload -> peer -> what is to be reached
GOALS: dict[tuple[str, str], list[Goal]] = {
    ("cnn-50", "fedjax"): [Goal(3, "wall"), Goal(1, "wall", "ours-stock")],
    ("mlp-100", "fedjax"): [Goal(3, "wall")],
    ("small-1000", "fedjax"): [Goal(10, "wall")],
    ("logistic-1000", "fedjax"): [Goal(4, "wall")],
    ("cnn-10", "pfl"): [Goal(1.2, "cpu")],
    ("cnn-50", "pfl"): [Goal(1.2, "cpu")],
    ("mlp-100", "pfl"): [Goal(3, "cpu")],
    ("small-1000", "pfl"): [Goal(25, "cpu")],
    ("logistic-1000", "pfl"): [Goal(6, "cpu")],
    ("lstm-10", "pfl"): [Goal(1.2, "cpu")],
    ("cnn-10", "flower"): [Goal(3, "wall")],
    ("cnn-50", "flower"): [Goal(3, "wall")],
    ("mlp-100", "flower"): [Goal(50, "wall")],
    ("small-1000", "flower"): [Goal(500, "wall")],
    ("cnn-10", "pytorch-2"): [Goal(1.15, "wall")],
    ("cnn-50", "pytorch-2"): [Goal(1.15, "wall")],
    ("mlp-100", "pytorch-2"): [Goal(2, "wall")],
    ("small-1000", "pytorch-2"): [Goal(8, "wall")],
    ("logistic-1000", "pytorch-2"): [Goal(2.5, "wall")],
    ("lstm-10", "pytorch-2"): [Goal(1.1, "wall")],
}
OURS = ("ours", "ours-stock")
START, END = "<!-- speed: from the results, by --table -->", "<!-- end of speed -->"
HEADER = ("workload", "ours", "peer", "wall", "processor", "to reach", "reached")


class Summary(NamedTuple):
    """One framework on one workload."""

    wall: float
    """Median seconds."""
    cpu: float
    """Median processor seconds."""
    quiet: int
    """How many samples others did not disturb."""
    samples: int


def summary(row: dict[str, Any]) -> Summary | None:
    """Returns medians, of the quiet samples if there are three, or None."""
    samples = row.get("samples")
    if row["error"] or not samples:
        return None
    quiet = [one for one in samples if one["other cpu"] < QUIET]
    chosen = quiet if len(quiet) >= 3 else samples
    wall = statistics.median(one["seconds"] for one in chosen)
    cpu = statistics.median(one["cpu seconds"] for one in chosen)
    return Summary(wall, cpu, len(quiet), len(samples))


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[Any]:
    """Returns old rows, and new ones in place of those of the same kind."""

    def kind(row: dict[str, Any]) -> tuple[str, str]:
        return row["workload"], row["framework"]

    return list(({kind(row): row for row in [*old, *new]}).values())


def lines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a line for each workload, each of ours and each peer."""
    found = {(row["workload"], row["framework"]): row for row in rows}
    result = []
    for (workload, ours), own in found.items():
        if ours not in OURS or summary(own) is None:
            continue
        for (other, peer), row in found.items():
            if other == workload and peer not in OURS:
                result.append(_line(workload, ours, peer, own, row))
    return result


def _line(workload, ours, peer, own, row):
    line = {"workload": workload, "ours": ours, "peer": peer, "error": row["error"]}
    goals = [g for g in GOALS.get((workload, peer), ()) if g.ours == ours]
    theirs, mine = summary(row), summary(own)
    line["goal"] = goals[0] if goals else None
    line["ratios"] = None
    if theirs is not None:
        line["ratios"] = {
            "wall": theirs.wall / mine.wall,
            "cpu": theirs.cpu / mine.cpu,
        }
    return line


def cells(line: dict[str, Any]) -> list[str]:
    """Returns the cells of one line."""
    goal, ratios = line["goal"], line["ratios"]
    shown = ["-", "-"]
    if ratios is not None:
        shown = [f"{ratios[by]:.2f}" for by in ("wall", "cpu")]
    wanted, reached = "-", "-"
    if goal is not None:
        wanted = f"{goal.ratio:g} {'processor' if goal.by == 'cpu' else 'wall'}"
        if ratios is not None:
            reached = "yes" if ratios[goal.by] >= goal.ratio else "no"
    return [line["workload"], line["ours"], line["peer"], *shown, wanted, reached]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns the table of ratios as Markdown, and why peers are missing."""
    table = [HEADER, ["---"] * len(HEADER), *(cells(line) for line in lines(rows))]
    text = "\n".join(f"| {' | '.join(line)} |" for line in table)
    missing = [row for row in rows if row["error"]]
    if missing:
        text += "\n\n" + "\n".join(
            f"- {row['workload']}, {row['framework']}: {row['error']}"
            for row in missing
        )
    return text


def compact(rows: list[dict[str, Any]]) -> str:
    """Returns one line a workload, in Markdown: a round's wall time over ours."""
    found = {(row["workload"], row["framework"]): summary(row) for row in rows}
    peers = list(dict.fromkeys(name for _, name in found if name not in OURS))
    header = ["a round of", "ours", *peers]
    table = [header, ["---"] * len(header)]
    for (workload, framework), own in found.items():
        if framework != "ours" or own is None:
            continue
        line = [workload, f"{1e3 * own.wall:.0f} ms"]
        for peer in peers:
            theirs = found.get((workload, peer))
            line.append("-" if theirs is None else _times(theirs.wall / own.wall))
        table.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def _times(ratio: float) -> str:
    return f"{ratio:.1f} x" if ratio < 10 else f"{ratio:.0f} x"


def between(page: str, rows: list[dict[str, Any]]) -> str:
    """Returns a page with `compact` between its two marks."""
    before, _, rest = page.partition(START)
    _, end, after = rest.partition(END)
    return f"{before}{START}\n\n{compact(rows)}\n\n{end}{after}"


def text(rows: list[dict[str, Any]]) -> str:
    """Returns medians and ratios for a terminal."""
    out = []
    for row in rows:
        found = summary(row)
        if found is None:
            out.append(f"  {row['framework']:12} {row['error']}")
            continue
        first = row["first round seconds"]
        out.append(
            f"  {row['framework']:12}{1e3 * found.wall:10.1f} ms"
            f"{1e3 * found.cpu:10.1f} CPU ms   first {first:6.2f} s"
            f"   {row['pss MB']:5d} MB   quiet {found.quiet} of {found.samples}"
        )
    widths = (15, 12, 12, 9, 11, 16, 8)
    for words in (HEADER, *(cells(line) for line in lines(rows))):
        out.append(
            "  " + "".join(f"{w:{n}}" for w, n in zip(words, widths, strict=True))
        )
    return "\n".join(out)


def validation_line(found: dict[str, Any]) -> str:
    """Returns one line on a comparison."""
    start = f"  {found['framework']:12}"
    if found["error"]:
        return start + found["error"]
    if "relative distance" not in found:
        return start + f"other arrays: {found['missing']}"
    verdict = "same" if found["same"] else "NOT THE SAME"
    return start + (
        f"{found['examples']} examples, {found['kind']}, relative distance "
        f"{found['relative distance']:.1e}: {verdict}"
    )
