"""Stochastic k-level quantisation: each value at random on one of few levels near it.

Suresh et al. 2017, arXiv:1611.00429, section 2.2, with the span from the least to the
greatest value. Gives no privacy by itself.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed import keys, tree
from jaxfed.typing import PyTree

_FLOAT = 32
_MOST_BITS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class StochasticQuantization:
    """Rounds each value at random to one of `2**bits` levels, so that its mean is kept.

    Every array has levels of its own, at equal distances from its least to its
    greatest value. The message holds these two as float32, and `bits` for each value;
    an array that would not get shorter by that is sent as it is.

    One value that is far from all others stretches the levels of its array;
    `Rotated(inner=StochasticQuantization(bits=...))` spreads it over all.

    Args:
        bits: for each value, 1 to 16.
    """

    bits: int

    def __post_init__(self) -> None:
        bits = check.positive_integer("pass for example bits=4", bits=self.bits)
        if bits > _MOST_BITS:
            raise ValueError(
                f"bits must be <= {_MOST_BITS}, got {bits}; float32 has few more, "
                "leave local work as it is."
            )
        object.__setattr__(self, "bits", bits)

    @property
    def is_unbiased(self) -> bool:
        """True, up to the rounding of float32."""
        return True

    @property
    def expands(self) -> bool:
        """True: values are as likely to be rounded away from zero."""
        return True

    def compress(self, update: PyTree, *, key: jax.Array) -> PyTree:
        """Returns float32 leaves like `update`, rounded with draws from `key`."""
        leaves, structure = jax.tree.flatten(update)
        found = [
            self._rounded(leaf.astype(jnp.float32), keys.for_leaf(key, i))
            if self._shortens(leaf.size)
            else leaf.astype(jnp.float32)
            for i, leaf in enumerate(leaves)
        ]
        return structure.unflatten(found)

    def num_bits(self, like: PyTree) -> int:
        """Returns the length of the message for an update like this one."""
        sizes = [tree.size(leaf) for leaf in jax.tree.leaves(like)]
        return sum(min(self._length(size), _FLOAT * size) for size in sizes)

    def _length(self, size: int) -> int:
        return 2 * _FLOAT + self.bits * size

    def _shortens(self, size: int) -> bool:
        return self._length(size) < _FLOAT * size

    def _rounded(self, values: jax.Array, key: jax.Array) -> jax.Array:
        top = 2**self.bits - 1
        low, high = jnp.min(values), jnp.max(values)
        span = high - low
        place = (values - low) / jnp.where(span > 0, span, 1.0) * top
        below = jnp.floor(place)
        draws = (jax.random.bits(key, values.shape, jnp.uint32) >> 8).astype(
            jnp.float32
        )
        up = draws < (place - below) * jnp.float32(2**24)
        level = jnp.minimum(below + up.astype(jnp.float32), top)
        return jnp.where(level == top, high, low + span * (level / top))
