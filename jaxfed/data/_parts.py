"""Pieces that partitions share: draws, cuts, and the column made of parts."""

import numpy as np

from jaxfed import _check as check


def draw_classes(
    generator: np.random.Generator, wanted: np.ndarray, left: np.ndarray, size: int
) -> np.ndarray:
    """Counts `size` class draws, one by one in law, a full class being skipped.

    Draws come in batches: a draw of a class that has run out is dropped, which is
    the same as drawing from the classes that are left.
    """
    taken = np.zeros(len(left), np.int64)
    while taken.sum() < size:
        shares = wanted * (taken < left)
        if not shares.sum() > 0:
            shares = (left - taken).astype(np.float64)
        batch = generator.multinomial(int(size - taken.sum()), shares_of(shares))
        taken = np.minimum(taken + batch, left)
    return taken


def shares_of(weights: np.ndarray) -> np.ndarray:
    shares = weights / weights.sum()
    return shares / shares.sum()  # twice: NumPy refuses sums above 1 by rounding


def cut(rows: np.ndarray, shares: np.ndarray) -> list[np.ndarray]:
    """Cuts rows at the floors of the cumulative shares; shares of 0 get none."""
    cumulative = np.cumsum(shares)
    ends = cumulative / cumulative[-1] * len(rows)  # exactly all after the last share
    return np.split(rows, ends.astype(np.int64)[:-1])


def filled(parts: list[np.ndarray], min_examples: int) -> list[np.ndarray]:
    """Moves single last rows from the largest client to those below the minimum."""
    lists = [list(part) for part in parts]
    sizes = np.array([len(part) for part in lists])
    for client in range(len(lists)):
        while sizes[client] < min_examples:
            largest = int(np.argmax(sizes))
            lists[client].append(lists[largest].pop())
            sizes[client] += 1
            sizes[largest] -= 1
    return [np.array(part, np.int64) for part in lists]


def column(parts: list[np.ndarray], num_examples: int) -> np.ndarray:
    column = np.full(num_examples, -1)
    for client, part in enumerate(parts):
        column[part] = client
    return column


def even_sizes(num_examples: int, num_clients: int) -> list[int]:
    small, larger = divmod(num_examples, num_clients)
    return [small + (client < larger) for client in range(num_clients)]


def labelled(
    labels: np.ndarray, num_clients: int, seed: int
) -> tuple[np.ndarray, np.random.Generator]:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "biuUS":
        raise ValueError(
            f"labels must be one integer or string per row, got {labels.dtype} of "
            f"shape {labels.shape}; pass a one-dimensional array."
        )
    return labels, start(len(labels), num_clients, seed)


def start(num_examples: int, num_clients: int, seed: int) -> np.random.Generator:
    check.positive_integer(num_examples=num_examples)
    check.positive_integer(num_clients=num_clients)
    enough(num_examples, num_clients, 1)
    return np.random.default_rng(check.seed(seed=seed))


def enough(num_examples: int, num_clients: int, each: int) -> None:
    if num_examples < num_clients * each:
        raise ValueError(
            f"{num_examples} rows cannot give {num_clients} clients {each} each; use "
            "fewer clients or more rows."
        )
