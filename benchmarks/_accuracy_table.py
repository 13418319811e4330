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


def merged(old, new, *, order):
    """Returns old rows with new ones in their place.

    Args:
        old: the rows of a file.
        new: rows that replace those of the same task and epsilon.
        order: names of all tasks; within one, epsilons rise and no privacy is last.
    """
    found = {(row["task"], row["epsilon"]): row for row in [*old, *new]}

    def place(key):
        name, epsilon = key
        return order.index(name), float("inf") if epsilon is None else epsilon

    return [found[key] for key in sorted(found, key=place)]


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
    spread, runs = row["standard deviation"], row["seeds"]
    deviation = "" if spread is None else f" ± {spread:.3f}"
    return f"{row['mean']:.3f}{deviation} ({runs} run{'s' if runs > 1 else ''})"
