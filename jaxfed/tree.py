"""Arithmetic on pytrees of arrays: the few operations that federated methods need."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed.typing import PyTree

_INFINITY = 255 << 23  # the bits of float32
_LEAST = (127 - 63) << 23  # 2**-63: its square is a normal number
_LEAST_IN_PARTS = (127 - 51) << 23  # 2**-51: the product of its parts is one too
_LEAST_NORMAL = 1 << 23  # 2**-126
_FOLD = 8
_SMALL = 4096  # scalars; leaves with fewer are joined, for fewer loops


def add(left: PyTree, right: PyTree) -> PyTree:
    """Returns `left + right`, leaf by leaf."""
    return jax.tree.map(jnp.add, left, right)


def subtract(left: PyTree, right: PyTree) -> PyTree:
    """Returns `left - right`, leaf by leaf."""
    return jax.tree.map(jnp.subtract, left, right)


def scale(tree: PyTree, factor: jax.Array | float) -> PyTree:
    """Returns `tree * factor`, in each leaf's own dtype."""
    return jax.tree.map(lambda a: a * jnp.asarray(factor, a.dtype), tree)


def zeros_like(tree: PyTree) -> PyTree:
    """Returns zeros with the shapes and dtypes of `tree` (arrays or their specs)."""
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree)


def where(condition: jax.Array, left: PyTree, right: PyTree) -> PyTree:
    """Selects `left` where the scalar `condition` holds; NaN in the other is inert."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), left, right)


def where_rows(condition: jax.Array, left: PyTree, right: PyTree) -> PyTree:
    """Selects whole entries of axis 0 by a boolean vector `condition`.

    A condition of several axes selects entries of that many leading axes.
    """

    def select(a: jax.Array, b: jax.Array) -> jax.Array:
        trailing = (1,) * (a.ndim - condition.ndim)
        return jnp.where(condition.reshape(condition.shape + trailing), a, b)

    return jax.tree.map(select, left, right)


def astype(tree: PyTree, dtype: Any) -> PyTree:
    """Returns `tree` with every leaf converted to `dtype`."""
    return jax.tree.map(lambda a: a.astype(dtype), tree)


def zeros_float32(tree: PyTree) -> PyTree:
    """Returns float32 zeros with the shapes of `tree`: what small terms add up in."""
    return jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), tree)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Returns `tree` with the dtypes of `like`, leaf by leaf."""
    return jax.tree.map(lambda a, b: a.astype(b.dtype), tree, like)


def size(tree: PyTree) -> int:
    """Returns the number of scalars in `tree`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def is_finite(tree: PyTree) -> jax.Array:
    """Returns whether every scalar of every leaf is finite (a boolean scalar)."""
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(flags)) if flags else jnp.array(True)


def maximum_magnitude(tree: PyTree) -> jax.Array:
    """Returns the largest |x| over all leaves in float32; NaN if any is NaN."""
    tops = [_peak(leaf) for leaf in jax.tree.leaves(tree)]
    return _peak(jnp.stack(tops)) if tops else jnp.zeros((), jnp.float32)


def sum_of_squares(tree: PyTree) -> jax.Array:
    """Returns the sum of squares of all leaves in float32, the same however compiled.

    It has the same bits alone, inside a larger program, mapped over clients, and on
    any number of devices, which sums that a compiler lays out have not: it reorders
    them, and joins products with additions. Here additions are written out one by one
    (`_sum_in_order`), and what is added are products of 12 significant bits by 12,
    which are exact, so that joining changes nothing.

    Relative error: below 2**-22 for every square, and 2**-24 for each of at most 160
    additions on the way to the total (2**30 scalars): together below 2**-16; 2**-11 for
    the squares of magnitudes below 2**-51. Those below 2**-63 count as zero. NaN,
    infinity, and sums from 2**128 on give infinity.
    """
    return _sum_in_order([_square(_bits(a)) for a in jax.tree.leaves(tree)])


def sum_of_magnitudes(tree: PyTree) -> jax.Array:
    """Returns the sum of |x| over all leaves in float32, the same however compiled.

    Summed as `sum_of_squares` sums. Relative error: below 2**-16 for 2**30 scalars.
    NaN, infinity, and sums from 2**128 on give infinity. Magnitudes below 2**-126
    count as zero.
    """
    return _sum_in_order([_magnitude(_bits(a)) for a in jax.tree.leaves(tree)])


def _bits(leaf: jax.Array) -> jax.Array:
    """Returns the bits of all magnitudes in float32, (size,) int32; infinity for NaN.

    What integers pass through, no compiler joins to the additions that follow.
    """
    bits = lax.bitcast_convert_type(_float32(leaf).reshape(-1), jnp.int32)
    return jnp.minimum(bits & 0x7FFFFFFF, _INFINITY)


def _square(bits: jax.Array) -> jax.Array:
    """Returns (h + l)**2 without l**2, h the upper 12 bits and l the lower ones.

    Where the product of h and l could be subnormal, h is rounded and l is zero.
    """
    bits = jnp.where(bits < _LEAST, 0, jnp.minimum(bits, _INFINITY - 1))
    bits = jnp.where(bits < _LEAST_IN_PARTS, (bits + 0x800) & ~0xFFF, bits)
    upper = lax.bitcast_convert_type(bits & ~0xFFF, jnp.float32)
    lower = lax.bitcast_convert_type(bits, jnp.float32) - upper
    return upper * upper + upper * (2 * lower)


def _magnitude(bits: jax.Array) -> jax.Array:
    kept = jnp.where(bits < _LEAST_NORMAL, 0, bits & ~1)
    return lax.bitcast_convert_type(kept, jnp.float32)


def _sum_in_order(parts: list[jax.Array]) -> jax.Array:
    """Adds vectors of non-negative terms in an order that only their sizes decide."""
    small = [part for part in parts if part.size < _SMALL]
    joined = [jnp.concatenate(small)] if len(small) > 1 else small
    sums = [_total(part) for part in parts if part.size >= _SMALL]
    sums += [_total(part) for part in joined if part.size]
    return _total(jnp.stack(sums)) if sums else jnp.zeros((), jnp.float32)


def _total(terms: jax.Array) -> jax.Array:
    """Adds the `_FOLD` equal parts of a vector to each other, until one is left.

    Barriers keep each level a loop of its own, without which compilers compute terms
    again and again.
    """
    while terms.size > 1:
        length = terms.size // _FOLD
        if length < _FOLD:
            length = -(-terms.size // _FOLD)
            terms = jnp.pad(terms, (0, length * _FOLD - terms.size))
        rest = terms[length * _FOLD :]
        parts = terms[: length * _FOLD].reshape(_FOLD, length)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        if rest.size:
            padded = jnp.pad(rest, (0, length - rest.size))
            total = total + lax.optimization_barrier(padded)
        terms = lax.optimization_barrier(total)
    return terms.reshape(())


def _peak(leaf: jax.Array) -> jax.Array:
    values = _float32(leaf).reshape(-1)
    if values.size == 0:
        return jnp.zeros((), jnp.float32)
    return lax.bitcast_convert_type(_largest_bits(values), jnp.float32)


def _largest_bits(values: jax.Array) -> jax.Array:
    """Returns the bits of the largest magnitude down axis 0, NaN above all, as int32.

    Compared as integers: some releases of XLA drop NaN from a maximum of floats.
    """
    return jnp.max(lax.bitcast_convert_type(jnp.abs(values), jnp.int32), axis=0)


def _float32(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.float32)


def map_with_names(function: Callable[[str, jax.Array], object], tree: PyTree) -> None:
    """Calls `function(name, leaf)` for every leaf; names read `layer/kernel`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
