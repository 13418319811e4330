"""A tree as one vector, and back."""

import math

import jax
import jax.numpy as jnp

from jaxfed import tree
from jaxfed.typing import PyTree


def flat(values: PyTree) -> jax.Array:
    """Returns all scalars of a tree, (size,) float32, leaf after leaf."""
    leaves = [leaf.astype(jnp.float32).reshape(-1) for leaf in jax.tree.leaves(values)]
    return jnp.concatenate(leaves)


def unflat(vector: jax.Array, like: PyTree) -> PyTree:
    """Returns float32 leaves with the shapes of `like`; the end may be left over."""
    leaves, structure = jax.tree.flatten(like)
    found, start = [], 0
    for leaf in leaves:
        stop = start + math.prod(leaf.shape)
        found.append(vector[start:stop].reshape(leaf.shape))
        start = stop
    return structure.unflatten(found)


def count(fraction: float, values: PyTree) -> int:
    """Returns how many scalars of a tree a fraction is, at least one."""
    return max(1, round(fraction * tree.size(values)))


def only(vector: jax.Array, places: jax.Array) -> jax.Array:
    """Returns a vector with zeros but at some places."""
    return jnp.zeros_like(vector).at[places].set(vector[places])
