"""The results of `accuracy_at_epsilon.py` as the Markdown table of the docs."""

HEADER = (
    "data, metric",
    "unit; who is trusted",
    "relation",
    "epsilon, delta",
    "rounds",
    "result",
    "without privacy",
    "published",
)


def markdown(rows):
    """Returns a table with a line for each private row.

    Args:
        rows: those of the JSON, with one without privacy for each task.
    """
    without = {row["task"]: row for row in rows if row["epsilon"] is None}
    lines = [HEADER, ["---"] * len(HEADER)]
    lines += [
        cells(row, without[row["task"]]) for row in rows if row["epsilon"] is not None
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row, without):
    """Returns the cells of one line."""
    published = "-"
    if row["published"] is not None:
        published = f"{row['published']:.3f} ({row['source']})"
    return [
        f"{row['data']}, {row['metric']}",
        f"{row['unit of privacy']}; {row['trusted']}",
        row["relation"],
        f"{row['epsilon']:g}, {power(row['delta'])}",
        f"{row['rounds']}",
        number(row),
        number(without),
        published,
    ]


def power(delta):
    """Returns 1e-05 as 1e-5."""
    digits, exponent = f"{delta:e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def number(row):
    """Returns a mean, its standard deviation over seeds, and how many there were."""
    spread = row["standard deviation"]
    return f"{row['mean']:.3f}" + (
        " (1 run)" if spread is None else f" ± {spread:.3f} ({row['seeds']} runs)"
    )
