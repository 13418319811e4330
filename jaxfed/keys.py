"""The one place where random keys are made and derived.

Who draws what is a tree that anybody can recompute: a root key, then the purpose,
then the round, then the client, then the leaf. A client's key depends on its
number alone, never on who else was sampled or on padding. Every step of the tree
folds in a tagged number, so that round 3 and client 3 are different branches.

Keys are typed JAX keys (`jax.random.key`); there is no default key.
"""

import enum
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxfed import _check as check
from jaxfed.typing import PyTree

_INDEX_BITS = 30  # two bits of the folded word say which step of the tree it is
_PURPOSE, _ROUND, _CLIENT, _LEAF = range(4)


class Purpose(enum.IntEnum):
    """What a key is for. Numbers are never reused or renumbered."""

    SAMPLING = 1
    """Which clients form a round's cohort."""
    SHUFFLING = 2
    """The order of each client's examples."""
    TRAINING = 3
    """Randomness inside local training, such as dropout."""
    ENCODING = 4
    """Randomised rounding of a client's contribution."""
    NOISE = 5
    """Noise added to a sum before its release."""


def simulated(seed: int) -> jax.Array:
    """Returns the root key of a reproducible simulation; never of a release.

    All 64 bits of the seed count, with or without 64-bit JAX. (`jax.random.key`
    drops the upper 32 bits in JAX's default mode, so that seeds 5 and 2**40 + 5
    give it the same key.)

    Args:
        seed: an integer, 0 <= seed < 2**64.

    Raises:
        ValueError: the seed is not such an integer.
    """
    seed = check.seed(seed=seed)
    words = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


def for_purpose(key: jax.Array, purpose: Purpose) -> jax.Array:
    """Returns the branch of `key` for one purpose."""
    return _fold(key, _PURPOSE, int(purpose))


def for_round(key: jax.Array, round_index: jax.Array | int) -> jax.Array:
    """Returns the branch of `key` for one round (0, 1, ...)."""
    return _fold(key, _ROUND, round_index)


def for_client(key: jax.Array, client: jax.Array | int) -> jax.Array:
    """Returns the branch of `key` for one client, by its number in the population."""
    return _fold(key, _CLIENT, client)


def for_leaf(key: jax.Array, leaf: jax.Array | int) -> jax.Array:
    """Returns the branch of `key` for one leaf, step or part (0, 1, ...)."""
    return _fold(key, _LEAF, leaf)


def tree_like(key: jax.Array, tree: PyTree) -> PyTree:
    """Returns a tree of keys with the structure of `tree`, one key a leaf."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([for_leaf(key, i) for i in range(len(leaves))])


def host_words(key: jax.Array, count: int) -> np.ndarray:
    """Draws `count` uint64 words from `key` for use by NumPy."""
    check.key(key=key)
    bits = np.asarray(_bits(key, count)).astype(np.uint64)
    return (bits[:, 0] << np.uint64(32)) | bits[:, 1]


def host_generator(key: jax.Array) -> np.random.Generator:
    """Returns a NumPy generator for host-side sampling, seeded with 128 bits of `key`.

    Philox is counter-based and not cryptographic: for simulations only.
    """
    return np.random.Generator(np.random.Philox(key=host_words(key, 2)))


@functools.partial(jax.jit, static_argnums=1)
def _bits(key: jax.Array, count: int) -> jax.Array:
    return jax.random.bits(key, (count, 2), jnp.uint32)


def _fold(key: jax.Array, step: int, index: jax.Array | int) -> jax.Array:
    check.key(key=key)
    if not _is_index(index):
        raise ValueError(
            "a round, client or leaf number must be an integer in [0, 2**30), got "
            f"{index}; number clients from 0."
        )
    tag = np.uint32(step << _INDEX_BITS)
    return jax.random.fold_in(key, jnp.asarray(index).astype(jnp.uint32) | tag)


def _is_index(index: jax.Array | int) -> bool:
    """Checks the range of a number that is known now, and the type of any other."""
    if isinstance(index, Tracer):
        return jnp.issubdtype(index.dtype, jnp.integer)
    try:
        return 0 <= operator.index(index) < 1 << _INDEX_BITS
    except TypeError:
        return False
