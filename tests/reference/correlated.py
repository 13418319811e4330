"""Slow twins of correlated noise: dense matrices, all patterns, exact rationals."""

import itertools
from fractions import Fraction

import numpy as np


def patterns(rounds, separation, most):
    """Returns all sets of rounds in which a client can take part."""
    for count in range(1, most + 1):
        for pattern in itertools.combinations(range(rounds), count):
            gaps = (b - a for a, b in itertools.pairwise(pattern))
            if all(gap >= separation for gap in gaps):
                yield list(pattern)


def toeplitz(coefficients, rounds):
    """Returns the lower-triangular Toeplitz matrix."""
    matrix = np.zeros((rounds, rounds))
    for lag, value in enumerate(coefficients[:rounds]):
        matrix += np.diag(np.full(rounds - lag, value), -lag)
    return matrix


def tree(rounds):
    """Returns the matrix of the complete nodes of a binary tree, one row a node."""
    rows, size = [], 1
    while size <= rounds:
        for start in range(0, rounds - size + 1, size):
            rows.append([start <= t < start + size for t in range(rounds)])
        size *= 2
    return np.array(rows, float)


def sensitivity(matrix, separation, most):
    """Returns the largest norm of the matrix on a pattern, whatever the directions.

    Contributions are vectors of norm at most 1, so that the squared norm is at most
    the sum of the magnitudes of the Gram matrix's entries; it is attained where these
    are non-negative, and where different columns are orthogonal.
    """
    gram = np.abs(matrix.T @ matrix)
    found = patterns(matrix.shape[1], separation, most)
    return max(np.sqrt(gram[np.ix_(p, p)].sum()) for p in found)


def filtered(coefficients, noise):
    """Returns C w in rationals; `noise` is a list of Python integers."""
    exact = [Fraction(c) for c in coefficients]
    return [
        sum(exact[j] * noise[t - j] for j in range(min(t + 1, len(exact))))
        for t in range(len(noise))
    ]


def buffered_coefficients(rates, scales, rounds):
    """Returns the coefficients of a BLT matrix in rationals."""
    rates, scales = [Fraction(r) for r in rates], [Fraction(s) for s in scales]
    found = [Fraction(1)]
    for j in range(rounds - 1):
        terms = zip(rates, scales, strict=True)
        found.append(sum(s * (1 - r) ** j for r, s in terms))
    return found


def tree_prefixes(release_of, rounds, weights, fraction_bits):
    """Returns the prefix sums that Honaker's estimates give from released nodes.

    Args:
        release_of: the release of the node `(level, end)`, `end` its last round.
        rounds: how many.
        weights: of a node's own release, by level.
        fraction_bits: to how many bits an estimate's correction is rounded.
    """
    unit = Fraction(1, 1 << fraction_bits)

    def nearest(value, step):
        return ((value / step + Fraction(1, 2)) // 1) * step

    def estimate(level, end):
        own = Fraction(release_of(level, end))
        halves = Fraction(0)
        if level:
            half = 1 << (level - 1)
            halves = estimate(level - 1, end - half) + estimate(level - 1, end)
        return halves + nearest(Fraction(weights[level]) * (own - halves), unit)

    found = []
    for end in range(1, rounds + 1):
        total, stop = Fraction(0), 0
        for level in reversed(range(end.bit_length())):
            if end >> level & 1:
                stop += 1 << level
                total += estimate(level, stop - 1)
        found.append(int(nearest(total, Fraction(1))))
    return found
