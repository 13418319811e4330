"""Streamed noise of the binary tree, with Honaker's estimates, exact on the integers.

Kairouz et al. 2021, arXiv:2103.00039, tree aggregation; Honaker 2015 (from below).

Every complete node of the tree is released as the sum of its rounds plus discrete
Gaussian noise; sums of rounds are integers and so is the noise. What a round adds to
the prefix sum is post-processing of released nodes only, so that no rounding enters
the sensitivity: a node's estimate is S + a (N - S) for its own release N and its
halves' estimates S, the clients' part of N - S is zero, and that of N is an integer.
Rounding N - S to a step, and a prefix sum to an integer, therefore rounds the noise
alone, and the same arithmetic on noise without any sums gives the same release.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfed import keys
from jaxfed.noise import _int64, _tree_nodes
from jaxfed.noise._int64 import Int64
from jaxfed.noise._strategies import TreeStrategy
from jaxfed.noise._stream import ROUNDED_UP, Stream, draw_like
from jaxfed.typing import PyTree

_FRACTION_BITS = 8  # a step is far below the noise; 31 + 8 + 16 bits fit into 62


class TreeState(NamedTuple):
    """The estimates that the prefix sum consists of, as fixed-point noise. Secret."""

    high: PyTree
    """int32 leaves (levels, ...)."""
    low: PyTree
    """int32 leaves (levels, ...)."""
    prefix: PyTree
    """int32 leaves: the noise of the last prefix sum."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeStream(Stream):
    """Noise of the tree, kept in one buffer a level; r = 0."""

    strategy: TreeStrategy

    @functools.cached_property
    def _weights(self) -> tuple[int, ...]:
        return _tree_nodes.weight_numerators(self.strategy.rounds)

    @property
    def largest(self) -> int:
        """See `Stream`: twice the largest prefix noise, by the triangle inequality."""
        bound, total = 0.0, 0.0
        for numerator in self._weights:
            own = numerator / (1 << _tree_nodes.WEIGHT_BITS)
            bound = own * self.sampler.largest + (1 - own) * 2 * bound + 1
            total += bound
        return math.ceil(2 * (total + 1) * ROUNDED_UP)

    @property
    def rounding_error(self) -> float:
        """See `Stream`: none."""
        return 0.0

    def init(self, shapes: PyTree) -> TreeState:
        """See `Stream`."""
        levels = len(self._weights)

        def rows(leaf: jax.Array) -> jax.Array:
            return jnp.zeros((levels, *leaf.shape), jnp.int32)

        return TreeState(
            jax.tree.map(rows, shapes),
            jax.tree.map(rows, shapes),
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.int32), shapes),
        )

    def _next(
        self, state: TreeState, *, key: jax.Array, index: Any
    ) -> tuple[TreeState, PyTree]:
        prefix, structure = jax.tree.flatten(state.prefix)
        rows = list(map(Int64, jax.tree.leaves(state.high), jax.tree.leaves(state.low)))
        rows = self._completed(rows, key=key, index=jnp.asarray(index, jnp.int32))
        sums = [self._prefix(a) for a in rows]
        noise = [now - before for now, before in zip(sums, prefix, strict=True)]

        def tree_of(leaves: list[jax.Array]) -> PyTree:
            return jax.tree.unflatten(structure, leaves)

        state = TreeState(
            tree_of([a.high for a in rows]),
            tree_of([a.low for a in rows]),
            tree_of(sums),
        )
        return state, tree_of(noise)

    def _completed(
        self, rows: list[Int64], *, key: jax.Array, index: jax.Array
    ) -> list[Int64]:
        """Puts in the nodes that end with this round, from the leaf upwards.

        Like a binary counter: a node of level l + 1 ends here if one of level l does
        and the bit l of the round's number says that its sibling is waiting.
        """
        weights = jnp.asarray(self._weights, jnp.uint32)
        shapes = [a.high.shape[1:] for a in rows]

        def goes_on(carry: tuple) -> jax.Array:
            level = carry[0]
            bit = jax.lax.shift_right_logical(index, jnp.maximum(level - 1, 0)) & 1
            return (level == 0) | ((level < len(self._weights)) & (bit == 1))

        def one_level(carry: tuple) -> tuple:
            level, rights = carry
            drawn = draw_like(self.sampler, shapes, key=keys.for_leaf(key, level))
            estimates = []
            for z, row, right in zip(drawn, rows, rights, strict=True):
                left = _row(row, level - 1)
                halves = _int64.add(left, right)
                own = _int64.shifted_up(_int64.widened(z), _FRACTION_BITS)
                excess = _int64.times(_int64.subtract(own, halves), weights[level])
                excess = _int64.shifted_down(excess, _tree_nodes.WEIGHT_BITS)
                estimates.append(_int64.add(halves, excess))
            return level + 1, estimates

        start = (jnp.int32(0), [_int64.zeros(shape) for shape in shapes])
        count, estimates = jax.lax.while_loop(goes_on, one_level, start)
        return [
            Int64(*(_put(a, b, count - 1) for a, b in zip(row, estimate, strict=True)))
            for row, estimate in zip(rows, estimates, strict=True)
        ]

    def _prefix(self, rows: Int64) -> jax.Array:
        total = _int64.zeros(rows.high.shape[1:])
        for level in range(len(self._weights)):
            total = _int64.add(total, Int64(rows.high[level], rows.low[level]))
        return _int64.narrowed(_int64.shifted_down(total, _FRACTION_BITS))


def _row(rows: Int64, level: jax.Array) -> Int64:
    """Returns a row, or zero for the level below the leaves."""
    is_there = level >= 0
    level = jnp.maximum(level, 0)
    return Int64(*(jnp.where(is_there, a[level], 0) for a in rows))


def _put(words: jax.Array, estimate: jax.Array, level: jax.Array) -> jax.Array:
    """Sets a row, and clears those below it, which it replaces."""
    each = jnp.arange(len(words), dtype=jnp.int32).reshape(-1, *(1,) * estimate.ndim)
    words = jnp.where(each < level, 0, words)
    return words.at[level].set(estimate)
