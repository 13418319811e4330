"""Measures of label skew: how far clients' label distributions lie apart.

Every measure takes `label_counts`, (num_clients, num_labels), as
`data.statistics()["label_counts"]` gives it. `to_pool` compares each client with the
pooled rows of all clients, `pairwise` each client with each other one; `summary`
gives the means of both for every distance. They are exact facts about private
records: for simulations only.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]

_PAIR_BLOCK_VALUES = 1 << 22


class Skew(NamedTuple):
    """Mean distances over a set of clients; all lie in [0, 1]."""

    jensen_shannon_to_pool: float
    jensen_shannon_pairwise: float
    hellinger_to_pool: float
    hellinger_pairwise: float
    earth_movers_to_pool: float
    earth_movers_pairwise: float


def jensen_shannon_divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns the Jensen-Shannon divergence in bits, in [0, 1].

    Half the Kullback-Leibler divergences of p and of q to their mean; base-2
    logarithms. Lin 1991, IEEE Transactions on Information Theory 37(1).

    Args:
        p: (..., num_labels) weights >= 0, normalised here.
        q: the same, of a shape that broadcasts with `p`.

    Returns:
        (...) float64.
    """
    p, q = _distribution(p, "p"), _distribution(q, "q")
    middle = (p + q) / 2
    value = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return np.clip(value, 0.0, 1.0)  # rounding alone can leave the range


def jensen_shannon_distance(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns the square root of the divergence, which is a metric, in [0, 1].

    Endres and Schindelin 2003, IEEE Transactions on Information Theory 49(7).
    Arguments and result as in `jensen_shannon_divergence`.
    """
    return np.sqrt(jensen_shannon_divergence(p, q))


def hellinger_distance(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns the Hellinger distance, |sqrt(p) - sqrt(q)|_2 / sqrt(2), in [0, 1].

    Arguments and result as in `jensen_shannon_divergence`.
    """
    p, q = _distribution(p, "p"), _distribution(q, "q")
    squares = (np.sqrt(p) - np.sqrt(q)) ** 2
    return np.sqrt(np.minimum(squares.sum(-1) / 2, 1.0))


def earth_movers_distance(
    p: np.ndarray, q: np.ndarray, *, positions: np.ndarray | None = None
) -> np.ndarray:
    """Returns the earth mover's (first Wasserstein) distance of label histograms.

    The ground metric is 1 between any two labels, which makes it the total variation
    distance |p - q|_1 / 2, in [0, 1]. With `positions` it is the distance on the
    line, for labels with an order. Zhao et al. 2018, arXiv:1806.00582, give |p - q|_1
    of a client and the population by this name: twice the first form.

    Args:
        p: (..., num_labels) weights >= 0, normalised here.
        q: the same, of a shape that broadcasts with `p`.
        positions: (num_labels,) where each label lies, rising.

    Returns:
        (...) float64, in the units of `positions` if given.

    Raises:
        ValueError: `positions` does not rise or has another length.
    """
    p, q = _distribution(p, "p"), _distribution(q, "q")
    if positions is None:
        return np.minimum(np.abs(p - q).sum(-1) / 2, 1.0)
    positions = np.asarray(positions, np.float64)
    gaps = np.diff(positions)
    if positions.shape != p.shape[-1:] or not (gaps > 0).all():
        raise ValueError(
            f"positions must be {p.shape[-1]} rising numbers, got {positions}; give "
            "one per label, in the order of the labels."
        )
    moved = np.abs(np.cumsum(p - q, axis=-1))[..., :-1]
    return (moved * gaps).sum(-1)


def to_pool(label_counts: np.ndarray, distance: Distance) -> np.ndarray:
    """Returns each client's distance to the pooled rows of all clients.

    Args:
        label_counts: (num_clients, num_labels), each client has at least one row.
        distance: one of this module's distances.

    Returns:
        (num_clients,) float64.
    """
    counts = _counts(label_counts)
    return distance(counts, counts.sum(0))


def pairwise(label_counts: np.ndarray, distance: Distance) -> np.ndarray:
    """Returns the distance of every two clients; as `to_pool`.

    Returns:
        (num_clients, num_clients) float64, symmetric with zeros on the diagonal.
    """
    counts = _counts(label_counts)
    return np.concatenate(list(_blocks(counts, distance)))


def summary(label_counts: np.ndarray) -> Skew:
    """Returns the mean of each distance, over clients and over pairs of clients.

    Every client counts the same. The Jensen-Shannon one is the distance, not the
    divergence; the earth mover's has ground metric 1. Pairs are of two different
    clients, and a single client has pairwise distance 0.

    Args:
        label_counts: (num_clients, num_labels), each client has at least one row.
    """
    counts = _counts(label_counts)
    means = []
    for distance in (
        jensen_shannon_distance,
        hellinger_distance,
        earth_movers_distance,
    ):
        pairs = max(len(counts) * (len(counts) - 1), 1)
        total = sum(float(block.sum()) for block in _blocks(counts, distance))
        means += [float(to_pool(counts, distance).mean()), total / pairs]
    return Skew(*means)


def _blocks(counts: np.ndarray, distance: Distance) -> Iterator[np.ndarray]:
    """Yields rows of the pairwise matrix, few enough at a time to fit in memory."""
    step = max(_PAIR_BLOCK_VALUES // counts.size, 1)
    for start in range(0, len(counts), step):
        yield distance(counts[start : start + step, None], counts[None])


def _counts(label_counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(label_counts, np.float64)
    if counts.ndim != 2 or counts.size == 0:
        raise ValueError(
            f"label_counts must be (num_clients, num_labels), got shape "
            f'{counts.shape}; pass data.statistics()["label_counts"].'
        )
    return counts


def _distribution(weights: np.ndarray, name: str) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    if weights.ndim == 0 or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(
            f"{name} must hold finite weights >= 0, one per label; pass counts or "
            "probabilities."
        )
    largest = weights.max(-1, keepdims=True, initial=0.0)
    if not (largest > 0).all():
        raise ValueError(
            f"{name} has a distribution without any weight; drop clients without rows."
        )
    scaled = weights / largest  # so that no sum overflows
    return scaled / scaled.sum(-1, keepdims=True)


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) in bits, where q > 0 wherever p > 0."""
    positive = (p > 0) & (q > 0)
    ratio = np.divide(p, q, out=np.ones(np.broadcast(p, q).shape), where=positive)
    return (p * np.log2(ratio)).sum(-1)
