"""Arithmetic on pytrees of arrays: the few operations that federated methods need."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed.typing import PyTree

_BLOCK = 1024


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
    """Selects whole entries of axis 0 by a boolean vector `condition`."""

    def select(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(select, left, right)


def astype(tree: PyTree, dtype: Any) -> PyTree:
    """Returns `tree` with every leaf converted to `dtype`."""
    return jax.tree.map(lambda a: a.astype(dtype), tree)


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
    return jnp.max(jnp.stack(tops)) if tops else jnp.zeros((), jnp.float32)


def sum_of_squares(tree: PyTree) -> jax.Array:
    """Returns the sum of squares of all leaves in float32, with a proved error.

    Each level adds at most 1,024 terms, so that the relative error of the result is
    at most `1025 * levels * 2**-24` (Higham 2002, section 4.2: gamma_n for sums of
    non-negative terms in any order), whatever order the compiler picks within a
    block. Below 2**30 scalars there are at most three levels a leaf and one across
    leaves: at most 2**-11.9. A barrier between levels keeps the compiler from
    merging them into one long sum, which would void the bound.

    The caller keeps the terms in range: with the largest magnitude between 2**-40 and
    2**48, no sum overflows and what underflows is below the error.
    """
    parts = [_blocked_sum(jnp.square(_float32(a))) for a in jax.tree.leaves(tree)]
    return _blocked_sum(jnp.stack(parts)) if parts else jnp.zeros((), jnp.float32)


def _blocked_sum(values: jax.Array) -> jax.Array:
    values = values.reshape(-1)
    while values.size > _BLOCK:
        values = jnp.pad(values, (0, -values.size % _BLOCK)).reshape(-1, _BLOCK)
        values = lax.optimization_barrier(jnp.sum(values, axis=1))
    return lax.optimization_barrier(jnp.sum(values))


def _peak(leaf: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(_float32(leaf)), initial=0.0)


def _float32(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.float32)


def map_with_names(function: Callable[[str, jax.Array], object], tree: PyTree) -> None:
    """Calls `function(name, leaf)` for every leaf; names read `layer/kernel`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
