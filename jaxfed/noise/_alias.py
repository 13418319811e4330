"""Alias tables in integers: one draw takes 96 uniform bits and constant time.

Walker 1977; Vose 1991, "A linear algorithm for generating random numbers with a given
distribution". The table of a symmetric law holds |x|; a further bit is the sign. Its
probabilities are whole multiples of 2**-95 that sum to one, so that the law that is
drawn is known exactly, and `distance` bounds how far it is from the law it stands for:
rounding to those multiples, the cut of the tail, and the arithmetic of the weights.
"""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfed.noise import _laws

WORDS = 3  # uint32 words that one draw takes
MOST_INDEX_BITS = 15
_MASS_BITS = 32 * WORDS - 1  # all but the sign
_WORD_MASK = (1 << 32) - 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A symmetric law on the integers -largest, ..., largest.

    The first word of a draw is index | sign | top of u, the others are the rest of u.
    A draw is the index if u is below the index's threshold, otherwise its alias.

    Args:
        index_bits: the table has `2**index_bits` rows.
        rows: (3, 2**index_bits) uint32: the top of the threshold beside the alias,
            then its two lower words.
        largest: |draw| is at most this.
        distance: bound of the total-variation distance from the ideal law.
    """

    index_bits: int
    rows: np.ndarray
    largest: int
    distance: float

    def draw(self, words: Sequence[jax.Array]) -> jax.Array:
        """Turns three vectors of uniform words into one vector of draws (int32).

        No branch, loop or early exit depends on what is drawn.
        """
        first, *others = words
        row = (first >> np.uint32(32 - self.index_bits)).astype(jnp.int32)
        sign = (first >> np.uint32(31 - self.index_bits)) & np.uint32(1)
        top = first & np.uint32((1 << (31 - self.index_bits)) - 1)
        packed = _gather(self.rows[0], row)
        threshold = packed >> np.uint32(self.index_bits)
        alias = packed & np.uint32((1 << self.index_bits) - 1)
        below = jnp.zeros_like(sign, dtype=bool)
        for word, column in zip(others[::-1], self.rows[:0:-1], strict=True):
            limit = _gather(column, row)
            below = (word < limit) | ((word == limit) & below)
        below = (top < threshold) | ((top == threshold) & below)
        magnitude = jnp.where(below, row, alias.astype(jnp.int32))
        return jnp.where(sign == np.uint32(1), -magnitude, magnitude)


def _gather(column: np.ndarray, row: jax.Array) -> jax.Array:
    # held apart: fused with what follows, XLA's loop would not be vectorised
    found = jnp.asarray(column).at[row].get(mode="promise_in_bounds")
    return lax.optimization_barrier(found)


def build(law: _laws.SymmetricLaw) -> Table:
    """Returns the table of a law, with its distance from the law."""
    masses = round_masses(law)
    largest = len(masses) - 1
    index_bits = max(1, largest.bit_length())
    assert index_bits <= MOST_INDEX_BITS
    thresholds, aliases = _alias(masses, index_bits)
    columns = [
        [t >> 64 << index_bits | a for t, a in zip(thresholds, aliases, strict=True)],
        [t >> 32 & _WORD_MASK for t in thresholds],
        [t & _WORD_MASK for t in thresholds],
    ]
    rows = np.array(columns, np.uint32)
    rows.flags.writeable = False
    return Table(
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
        for mass, weight in zip(masses, _both_signs(law), strict=True)
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
