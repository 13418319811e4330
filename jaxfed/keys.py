"""The one place where random keys are made and derived.

Who draws what is a tree that anybody can recompute: a root key, then the purpose,
then the round, then the client, then the leaf. A client's key depends on its
number alone, never on who else was sampled or on padding. Every step of the tree
folds in a tagged number, so that round 3 and client 3 are different branches.

Keys are typed JAX keys (`jax.random.key`); there is no default key. There are two
kinds, made by two functions and told apart by their type: `simulated` (threefry, from
an integer seed, reproducible, for research) and `secure` (ChaCha20, from 256 secret
bits, for releases). Everything that follows from a key works on both, except
`host_generator`, which is for simulations only.
"""

import enum
import functools
import operator
import secrets

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxfed import _check as check
from jaxfed import _hkdf
from jaxfed._chacha import CHACHA20
from jaxfed.typing import PyTree

_INDEX_BITS = 30  # two bits of the folded word say which step of the tree it is
_PURPOSE, _ROUND, _CLIENT, _LEAF = range(4)
_SECRET_BYTES = 32
_SALT = b"jaxfed secure key, version 1"  # a change would change every derived key


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


def new_secret() -> bytes:
    """Returns 32 bytes of the operating system's entropy: the secret of one run.

    Whoever holds them can compute the noise and take it off every release: keep them
    where the keys of the server are kept, and out of published checkpoints.
    """
    return secrets.token_bytes(_SECRET_BYTES)


def secure(secret: bytes, *, context: bytes) -> jax.Array:
    """Returns the root key of a release: ChaCha20, keyed by HKDF-SHA256.

    The same secret and context give the same key, so that a crashed release repeats
    bit by bit. Different contexts give independent keys. One key must never noise two
    inputs: the context has to name all that the release depends on (the ledger entry,
    the hash of the aggregate, the plan).

    Args:
        secret: 32 bytes from `new_secret`; secret, and never a password or a seed.
        context: what this key is for; public, not empty.

    Raises:
        TypeError: one of them is not bytes.
        ValueError: the secret is not of 32 bytes, or the context is empty.
    """
    remedy = "make a secret with jaxfed.keys.new_secret()"
    check.instance(bytes, remedy, secret=secret)
    check.instance(bytes, "name the release, for example b'round 3'", context=context)
    if len(secret) != _SECRET_BYTES:
        raise ValueError(
            f"secret must be {_SECRET_BYTES} bytes, got {len(secret)} bytes; {remedy}."
        )
    if not context:
        raise ValueError(
            "context must not be empty, got b''; name all that the release depends "
            "on, so that no key noises two inputs."
        )
    derived = _hkdf.derive(secret, salt=_SALT, context=context, length=_SECRET_BYTES)
    words = np.frombuffer(derived, "<u4").astype(np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(words), impl=CHACHA20)


def is_secure(key: jax.Array) -> bool:
    """Returns whether a key descends from `secure`; known inside `jit` too."""
    check.key(key=key)
    return jax.random.key_impl(key) == CHACHA20


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
    """Draws `count` uint64 words from `key` for use by NumPy.

    As good as the key: from a secure key nobody can tell them from uniform words.
    Sampling on the host for a release builds on these words (`host_coins`,
    `host_order`).
    """
    check.key(key=key)
    bits = np.asarray(_bits(key, count)).astype(np.uint64)
    return (bits[:, 0] << np.uint64(32)) | bits[:, 1]


def host_coins(key: jax.Array, probability: float, count: int) -> np.ndarray:
    """Flips `count` independent coins on the host: a boolean vector.

    Each is true with a probability of `ceil(probability * 2**64) / 2**64`, the float
    taken exactly: at most 2**-64 above `probability`. Works with either kind of key.
    """
    check.probability(probability=probability)
    numerator, denominator = float(probability).as_integer_ratio()
    threshold = -(-(numerator << 64) // denominator)
    return host_words(key, count) <= np.uint64(threshold - 1)


def host_order(key: jax.Array, count: int) -> np.ndarray:
    """Puts 0, ..., count - 1 in random order on the host (int64).

    Sorts by 128 random bits each: the order is uniform up to the probability of a
    tie, below `count**2 * 2**-129`. Works with either kind of key.
    """
    words = host_words(key, 2 * count)
    return np.lexsort((words[:count], words[count:]))


def host_generator(key: jax.Array) -> np.random.Generator:
    """Returns a NumPy generator for host-side sampling, seeded with 128 bits of `key`.

    Philox is counter-based and not cryptographic: for simulations only.

    Raises:
        ValueError: the key is secure, so that the draw may be part of a release.
    """
    if is_secure(key):
        raise ValueError(
            "host_generator is for simulations, got a secure key; a release draws on "
            "the host with keys.host_coins, keys.host_order or keys.host_words."
        )
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
