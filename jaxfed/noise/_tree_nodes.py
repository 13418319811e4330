"""The binary tree over rounds: what a client moves, and how noise is combined.

Kairouz et al. 2021, arXiv:2103.00039 (tree aggregation, several participations);
Honaker 2015 (estimates from below).

The nodes are the complete ones: of 2^l consecutive rounds, starting at a multiple of
2^l, that all belong to the run. Each is released once, as the sum of its rounds plus
noise of its own. A prefix sum is a combination of released nodes.
"""

import functools

import numpy as np

from jaxfed.typing import Participation

WEIGHT_BITS = 16
_EXACT_PARTICIPATIONS = 16
_NO = np.int64(1 << 40)  # later than any round
# For a count of participations: values in decreasing order, and for each the earliest
# possible last participation if the first is at round x or later, x = 0 .. size.
_Table = dict[int, list[tuple[int, np.ndarray]]]


def levels(rounds: int) -> int:
    """Returns the number of sizes of complete nodes."""
    return rounds.bit_length()


def weight_numerators(rounds: int) -> tuple[int, ...]:
    """Returns what a node's own release weighs, in units of 2^-16, by level.

    A level-l node is estimated by its own release and by the sum of its two halves'
    estimates, in inverse proportion to their variances 1 and 2 v_(l-1). The weights
    are v_l = 1 / (1 + 1 / (2 v_(l-1))): 1, 2/3, 4/7, ...
    """
    best, found = 1.0, [1 << WEIGHT_BITS]
    for _ in range(levels(rounds) - 1):
        best = 1 / (1 + 1 / (2 * best))
        found.append(round(best * (1 << WEIGHT_BITS)))
    return tuple(found)


def node_variances(rounds: int) -> np.ndarray:
    """Returns the variance of a node's estimate, by level, for the weights that run."""
    found: list[float] = []
    for numerator in weight_numerators(rounds):
        own = numerator / (1 << WEIGHT_BITS)
        halves = 2 * found[-1] if found else 0.0
        found.append(own**2 + (1 - own) ** 2 * halves)
    return np.array(found)


def prefix_errors(rounds: int) -> np.ndarray:
    """Returns the variance of each prefix sum's noise, for node noise of variance 1."""
    ends = np.arange(1, rounds + 1)[:, None]
    is_used = (ends >> np.arange(levels(rounds))) & 1
    return is_used @ node_variances(rounds)


@functools.lru_cache(maxsize=256)
def squared_sensitivity(rounds: int, participation: Participation) -> int:
    """Returns the maximum over patterns of the sum over nodes of squared counts.

    Exact for at most 16 participations, otherwise an upper bound (`_bound`), which is
    attained when the separation is a power of two.
    """
    separation = min(participation.min_separation, rounds)
    most = min(participation.max_participations, -(-rounds // separation))
    if most > _EXACT_PARTICIPATIONS:
        return _bound(rounds, separation, most)
    return _exact(rounds, separation, most)


def _bound(rounds: int, separation: int, most: int) -> int:
    """Adds up each level's own maximum.

    A node of 2^l rounds holds at most ceil(2^l / separation) participations, the
    level at most `most`; squares are largest in as few nodes as possible.
    """
    total = 0
    for level in range(levels(rounds)):
        fits = -(-(1 << level) // separation)
        full, rest = divmod(min(most, fits * (rounds >> level)), fits)
        total += full * fits**2 + rest**2
    return total


def _exact(rounds: int, separation: int, most: int) -> int:
    """Joins subtrees from the leaves up.

    Complete subtrees of one size are alike, so that one table a level is enough, and
    within a table only patterns that no other beats in value, first and last
    participation at once.
    """
    tables: list[_Table] = [{1: [(1, np.array([0, _NO]))]}]
    while 1 << len(tables) <= rounds:
        half, size = tables[-1], 1 << (len(tables) - 1)
        joined = _joined(half, half, size, size, separation, most)
        tables.append(
            {n: [(v + n * n, last) for v, last in rows] for n, rows in joined.items()}
        )
    run, size = tables[-1], 1 << (len(tables) - 1)
    for level in reversed(range(len(tables) - 1)):
        if rounds >> level & 1:  # no complete node holds both parts
            run = _joined(run, tables[level], size, 1 << level, separation, most)
            size += 1 << level
    return max(value for rows in run.values() for value, _ in rows)


def _joined(
    left: _Table, right: _Table, left_size: int, right_size: int, gap: int, most: int
) -> _Table:
    """Returns the table of two adjacent stretches of rounds."""
    found: dict[int, list[tuple[int, np.ndarray]]] = {}
    for count, rows in left.items():
        for value, last in rows:
            alone = np.append(last[:-1], np.full(right_size + 1, _NO))
            found.setdefault(count, []).append((value, alone))
    for count, rows in right.items():
        for value, last in rows:
            alone = np.append(np.full(left_size, last[0]), last) + left_size
            found.setdefault(count, []).append((value, np.minimum(alone, _NO)))
    for count, rows in left.items():
        for value, last in rows:
            start = np.clip(last[:-1] + gap - left_size, 0, right_size)
            for more, others in right.items():
                if count + more > most:
                    continue
                for plus, end in others:
                    both = np.minimum(end[start] + left_size, _NO)
                    if both[0] < _NO:
                        whole = np.append(both, np.full(right_size + 1, _NO))
                        found.setdefault(count + more, []).append((value + plus, whole))
    return {count: _undominated(rows) for count, rows in found.items()}


def _undominated(rows: list[tuple[int, np.ndarray]]) -> list[tuple[int, np.ndarray]]:
    """Keeps a value only where it allows an earlier end than all higher values."""
    by_value: dict[int, np.ndarray] = {}
    for value, last in rows:
        by_value[value] = np.minimum(by_value.get(value, _NO), last)
    kept: list[tuple[int, np.ndarray]] = []
    for value in sorted(by_value, reverse=True):
        last = by_value[value]
        if not kept or (last < kept[-1][1]).any():
            earliest = np.minimum(last, kept[-1][1]) if kept else last
            kept.append((value, earliest))
    return kept
