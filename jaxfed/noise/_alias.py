"""Alias tables in integers: one draw takes 96 uniform bits and constant time.

Walker 1977. How tables are made, and how far they are from their laws, is in
`jaxfed.vault._tables`, since vaults draw from the same ones.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfed.vault import _laws, _tables

WORDS, MOST_INDEX_BITS = _tables.WORDS, _tables.MOST_INDEX_BITS


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
    return of(_tables.build(law))


def of(rows: _tables.Rows) -> Table:
    """Returns the table of some rows."""
    return Table(**rows._asdict())
