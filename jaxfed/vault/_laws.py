"""Exact weights of symmetric integer laws: what the tables of noise are made from.

Canonne, Kamath and Steinke 2020, arXiv:2004.00010, definition 1 (discrete Gaussian)
and definition 20 (discrete Laplace); Agarwal et al. 2021, arXiv:2110.04995 (Skellam).
Everything is integer arithmetic on rationals, so that no rounding goes uncounted:
each weight is right to a relative error below `2**-100` (`ARITHMETIC_ERROR`), which
is charged. A law is cut where what lies outside has probability at most `2**-80`,
and a bound of that is returned to be charged too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

_BITS = 400  # fixed point; a tail of 2**-90 after 2**15 steps keeps over 250 of them
_ONE = 1 << _BITS
_TAIL_BITS = 80
ARITHMETIC_ERROR = 2.0**-100


class SymmetricLaw(NamedTuple):
    """A law with P(x) = P(-x), as integers proportional to its probabilities."""

    weights: list[int]  # of 0, 1, ..., largest: each for one of the two signs
    outside: int  # at least the weight of all |x| > largest, both signs

    @property
    def total(self) -> int:
        """The weight of all integers from -largest to largest."""
        return 2 * sum(self.weights) - self.weights[0]


def gaussian(variance: Fraction) -> SymmetricLaw:
    """P(x) proportional to exp(-x**2 / (2 variance)); `variance` is sigma squared."""
    # w(x + 1) / w(x) = q**(2 x + 1)
    ratio = _exponential(1 / (2 * variance))
    square = _times(ratio, ratio)
    return _cut(_chain(ratio, square))


def laplace(scale: Fraction) -> SymmetricLaw:
    """P(x) proportional to exp(-|x| / scale)."""
    return _cut(_chain(_exponential(1 / scale), _ONE))


def laplace_digit(scale: Fraction, base: int) -> SymmetricLaw:
    """The law of B - B' for independent B, B' in [0, base), P(b) ~ exp(-b / scale).

    The last digit, to `base`, of a geometric variable: it is independent of the other
    digits. P(d) = sum_b p(b) p(b + d), proportional to r**d (1 - r**(2 (base - d))).
    """
    ratio = _exponential(1 / scale)
    powers = list(itertools.islice(_chain(ratio, _ONE), 2 * base + 1))
    weights = [_times(powers[d], _ONE - powers[2 * (base - d)]) for d in range(base)]
    return SymmetricLaw(weights, 0)


def skellam(variance: Fraction) -> SymmetricLaw:
    """The difference of two Poisson variables of mean `variance / 2`.

    P(x) = exp(-variance) I_x(variance), by the backward recurrence
    I_{x-1} = I_{x+1} + (2 x / variance) I_x (DLMF 10.29.1; Miller's algorithm), all
    of whose terms are positive. Starting it with I = 0 at a `start` beyond the cut
    adds to each I_x a multiple of K_x, relatively less than I_start / I_x.
    """
    reach = 2 * _TAIL_BITS + 64
    start = 16 + math.isqrt(int(2 * reach * variance)) + reach
    above, here = 0, _ONE
    weights = [here]
    for x in range(start, 0, -1):
        factor = 2 * x * variance.denominator
        above, here = here, above + factor * here // variance.numerator
        weights.append(here)
    weights.reverse()
    # scaled to _BITS below the top, as the other laws are
    shift = max(0, weights[0].bit_length() - _BITS)
    return _cut(iter([weight >> shift for weight in weights]))


def _chain(ratio: int, factor: int) -> Iterator[int]:
    """Yields 1, r, r * (r f), ...: each ratio is `factor` times the one before."""
    weight = _ONE
    while True:
        yield weight
        weight, ratio = _times(weight, ratio), _times(ratio, factor)


def _cut(weights: Iterator[int]) -> SymmetricLaw:
    """Stops where the rest weighs at most 2**-80 of the whole.

    The laws are log-concave: beyond x, weights fall at least as fast as from x to
    x + 1, so that a geometric series bounds the rest.
    """
    kept, total = [next(weights)], 0
    following = next(weights)
    while True:
        total += kept[-1] * (1 if len(kept) == 1 else 2)
        after = next(weights)
        # 2 * following / (1 - after / following), with one unit for each rounding
        rest = 2 * (following + 1) ** 2 // max(following - after - 1, 1) + 1
        if following - after > 1 and rest << _TAIL_BITS <= total:
            return SymmetricLaw(kept, rest)
        kept.append(following)
        following = after


def _times(left: int, right: int) -> int:
    return left * right >> _BITS


def _exponential(x: Fraction) -> int:
    """Returns exp(-x) for 0 < x <= 100: one over a series of positive terms."""
    series = term = _ONE
    for n in itertools.count(1):
        term = term * x.numerator // (x.denominator * n)
        series += term
        if term == 0:
            return _ONE * _ONE // series
    raise AssertionError("unreachable")
