"""Tables of exact integer noise, for NumPy and for JAX.

Alias tables in integers (Walker 1977; Vose 1991, "A linear algorithm for generating
random numbers with a given distribution"): one draw takes 96 uniform bits. The table of
a symmetric law holds |x|; a further bit is the sign. Its probabilities are whole
multiples of 2**-95 that sum to one, so that the law that is drawn is known exactly, and
`distance` bounds how far it is from the law it stands for: rounding to those multiples,
the cut of the tail, and the arithmetic of the weights.

A large scale is drawn as k X + Y from two small tables: Micciancio and Walter 2017,
with the smoothing bound of Peikert 2010; see `jaxfed.noise`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

from jaxfed.vault import _laws
from jaxfed.vault._numpy import np

WORDS = 3  # uint32 words that one draw takes
MOST_INDEX_BITS = 15
_MASS_BITS = 32 * WORDS - 1  # all but the sign
_WORD_MASK = (1 << 32) - 1
_LAPLACE_TABLE = 290  # the largest Laplace scale that 2**14 rows hold
_REACH = Fraction(107, 10)  # a Gaussian table ends before 10.7 of its scales
# tau**2 below: the smoothing error is 2 exp(-2 pi**2 tau**2) = 2**-81.6
_SMOOTHING = Fraction(29, 10)


class Rows(NamedTuple):
    """The table of one law."""

    index_bits: int
    """It has `2**index_bits` rows."""
    rows: np.ndarray
    """(3, 2**index_bits) uint32: the top of the threshold beside the alias, then its
    two lower words."""
    largest: int
    """|draw| is at most this."""
    distance: float
    """Bound of the total-variation distance from the ideal law."""


def gaussian(scale: float) -> tuple[list[tuple[int, Rows]], float]:
    """Returns the tables of a discrete Gaussian, and the error of adding them up.

    A draw is the sum of factor times a draw of each table.
    """
    steps = convolution(Fraction(scale) ** 2) if scale else []
    parts = [(k, build(_laws.gaussian(v))) for k, v, _ in steps]
    return parts, float(sum(error for _, _, error in steps))


def laplace(scale: float) -> list[tuple[int, Rows]]:
    """Returns the tables of a discrete Laplace, whose draws add up exactly.

    The difference of two geometric variables, each written as base * A + B with
    B < base: A and B are independent, and A is geometric again.
    """
    if not scale:
        return []
    base = math.ceil(scale / _LAPLACE_TABLE)
    laws = [(base, _laws.laplace(Fraction(scale) / base))]
    if base > 1:
        laws.append((1, _laws.laplace_digit(Fraction(scale), base)))
    return [(factor, build(law)) for factor, law in laws]


def build(law: _laws.SymmetricLaw) -> Rows:
    """Returns the table of a law, with its distance from the law."""
    masses = round_masses(law)
    largest = len(masses) - 1
    index_bits = max(1, largest.bit_length())
    assert index_bits <= MOST_INDEX_BITS
    thresholds, aliases = _alias(masses, index_bits)
    columns = [
        [t >> 64 << index_bits | a for t, a in zip(thresholds, aliases)],
        [t >> 32 & _WORD_MASK for t in thresholds],
        [t & _WORD_MASK for t in thresholds],
    ]
    rows = np.array(columns, np.uint32)
    rows.flags.writeable = False
    return Rows(
        index_bits=index_bits,
        rows=rows,
        largest=largest,
        distance=_distance(law, masses),
    )


def round_masses(law: _laws.SymmetricLaw) -> list[int]:
    """Returns P(|X| = x) in units of 2**-95 for x = 0, 1, ...; they sum to one.

    Rounded down, and the few units that are missing go to the largest remainders.
    Every x keeps at least one unit: there is no hole in the support.
    """
    total = law.total
    split = [divmod(w << _MASS_BITS, total) for w in _both_signs(law)]
    masses = [whole for whole, _ in split]
    missing = (1 << _MASS_BITS) - sum(masses)
    order = sorted(range(len(split)), key=lambda x: split[x][1], reverse=True)
    for x in order[:missing]:
        masses[x] += 1
    assert sum(masses) == 1 << _MASS_BITS
    assert min(masses) > 0
    return masses


def _both_signs(law: _laws.SymmetricLaw) -> list[int]:
    return [law.weights[0], *(2 * w for w in law.weights[1:])]


def _distance(law: _laws.SymmetricLaw, masses: list[int]) -> float:
    total = law.total
    errors = (
        abs(mass * total - (weight << _MASS_BITS))
        for mass, weight in zip(masses, _both_signs(law))
    )
    rounding = Fraction(sum(errors), total << _MASS_BITS + 1)
    exact = rounding + Fraction(law.outside, total)
    return math.nextafter(float(exact) + _laws.ARITHMETIC_ERROR, math.inf)


def _alias(masses: list[int], index_bits: int) -> tuple[list[int], list[int]]:
    """Vose's algorithm on integers, which makes it exact.

    A column holds `2**(95 - index_bits)` units. A full column is its own alias, so
    that its threshold does not matter.
    """
    size, capacity = 1 << index_bits, 1 << (_MASS_BITS - index_bits)
    left = masses + [0] * (size - len(masses))
    thresholds, aliases = [0] * size, list(range(size))
    small = [x for x in range(size) if left[x] < capacity]
    large = [x for x in range(size) if left[x] > capacity]
    while small:
        x, giver = small.pop(), large[-1]
        thresholds[x], aliases[x] = left[x], giver
        left[giver] -= capacity - left[x]
        if left[giver] <= capacity:
            large.pop()
            if left[giver] < capacity:
                small.append(giver)
    return thresholds, aliases


class Step(NamedTuple):
    """One draw of a convolution."""

    factor: int
    variance: Fraction
    error: float


def convolution(variance: Fraction) -> list[Step]:
    """Splits a discrete Gaussian into the fewest draws, then the smallest tables."""
    plans = [steps_of(variance, bits) for bits in range(8, MOST_INDEX_BITS + 1)]
    return min(plans, key=len)  # the first of the shortest


def steps_of(variance: Fraction, bits: int) -> list[Step]:
    """Writes X as k X' + Y until X' fits into a table of `2**bits` rows.

    With variances v = k**2 v' + w (the parameters sigma**2, exact rationals),
    P(k X' + Y = y) = exp(-y**2 / (2 v)) * sum_x exp(-(x - c)**2 / (2 tau**2)) up to a
    constant, where tau**2 = v' w / v and c depends on y. By Poisson summation the sum
    is constant in c up to a factor 1 +- 2 sum_j exp(-2 pi**2 tau**2 j**2).
    """
    most = ((1 << bits) - 2) ** 2 / _REACH**2
    factor, steps = 1, []
    while variance > most:
        own = min(most, variance / 2)
        rest = variance - own
        base = math.isqrt(int(rest * own / (variance * _SMOOTHING)))
        inner = rest / base**2
        steps.append(Step(factor, own, smoothing_error(inner * own / variance)))
        factor, variance = factor * base, inner
    return [*steps, Step(factor, variance, 0.0)]


def smoothing_error(tau_squared: Fraction) -> float:
    """Bounds the total-variation distance of a convolution from its ideal.

    A law whose weights are all within 1 +- e of the ideal ones is within e / (1 - e).
    """
    first = math.exp(-2 * math.pi**2 * float(tau_squared))
    variation = 2 * first / (1 - first)
    return variation / (1 - variation) * (1 + 1e-9)  # the rounding of these lines
