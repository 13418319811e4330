"""The one place where random keys are made and derived.

Who draws what is a tree that anybody can recompute: a root key, then the purpose,
then the round, then the client, then the leaf. A client's key depends on its
number alone, never on who else was sampled or on padding. Every step of the tree
folds in a tagged number, so that round 3 and client 3 are different branches.

Keys are typed JAX keys (`jax.random.key`); there is no default key. There are two
kinds, made by two functions and told apart by their type: `simulated` (threefry, from
an integer seed, reproducible, for research) and `secure` (ChaCha20, from 256 secret
bits, for releases). Everything that follows from a key works on both.
"""

import enum
import functools
import itertools
import operator
import secrets

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxfed import _check as check
from jaxfed import _coins, _hkdf
from jaxfed._chacha import CHACHA20
from jaxfed.typing import PyTree

_INDEX_BITS = 30  # two bits of the folded word say which step of the tree it is
_MOST_INDEX = (1 << _INDEX_BITS) - 1
_UNNUMBERED = 1 << (_INDEX_BITS - 1)  # no purpose has such a number
_PURPOSE, _ROUND, _CLIENT, _LEAF = range(4)
_LEAST_WORDS = 16
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
    Sampling on the host builds on these words (`host_coins`, `host_integers`,
    `host_order`, `host_subset`).
    """
    check.key(key=key)
    bits = np.asarray(_bits(key, count)).astype(np.uint64)
    return (bits[:, 0] << np.uint64(32)) | bits[:, 1]


def host_coins(key: jax.Array, probability: float, count: int) -> np.ndarray:
    """Flips `count` independent coins on the host: a boolean vector.

    Each is true with `probability`, the float taken exactly: exactly so from 2**-44
    on, and at most 2**-96 more often below. Works with either kind of key.
    """
    check.probability(probability=probability)
    whole, part = _coins.threshold(probability)
    first = _some_words(key, -(-count // 2)).view(np.uint32)[:count]
    coins, on_the_edge = first < whole, first == whole
    if part and on_the_edge.any():  # hardly ever: 64 further bits decide
        further = _some_words(for_leaf(key, 0), count)
        coins |= on_the_edge & (further <= np.uint64(part - 1))
    return coins


def host_integers(key: jax.Array, bound: int, count: int) -> np.ndarray:
    """Draws `count` independent integers 0, ..., bound - 1 on the host (int64).

    Each value has a probability within 2**-128 of 1 / bound: 128 random bits times
    `bound`, shifted down. Works with either kind of key.

    Args:
        key: consumed.
        bound: 1 <= bound < 2**32.
        count: how many.
    """
    if check.positive_integer(bound=bound) >= 1 << 32:
        raise ValueError(
            f"bound must be < 2**32, got {bound}; draw larger numbers in parts."
        )
    factor, carry = np.uint64(bound), np.zeros(count, np.uint64)
    for word in _some_words(key, 2 * count).reshape(2, count):
        for limb in (word & np.uint64(0xFFFFFFFF), word >> np.uint64(32)):
            carry = (limb * factor + carry) >> np.uint64(32)
    return carry.astype(np.int64)


def host_order(key: jax.Array, count: int) -> np.ndarray:
    """Puts 0, ..., count - 1 in random order on the host (int64).

    Sorts by 128 random bits each: the order is uniform up to the probability of a
    tie, below `count**2 * 2**-129`. Works with either kind of key.
    """
    upper = _some_words(key, count)
    order = np.argsort(upper)
    ranked = upper[order]
    if (ranked[1:] == ranked[:-1]).any():  # hardly ever: 64 further bits decide
        order = np.lexsort((_some_words(for_leaf(key, 0), count), upper))
    return order


def host_subset(key: jax.Array, count: int, size: int) -> np.ndarray:
    """Draws `size` of the numbers 0, ..., count - 1 on the host: ascending, int64.

    The first `size` distinct values of a sequence of `host_integers`, so that the work
    follows the size, or the first of `host_order` where that is no more work. The
    subset is uniform up to a total-variation distance of `(count + 16)**2 * 2**-128`.
    Works with either kind of key.

    Args:
        key: consumed.
        count: 1 <= count < 2**32.
        size: 0 <= size <= count.
    """
    if not 0 <= size <= count:
        raise ValueError(f"size must be in [0, {count}], got {size}; draw fewer.")
    if size > count // 8:
        return np.sort(host_order(key, count)[:size])
    drawn = first = np.empty(0, np.int64)
    for attempt in itertools.count():
        own = for_leaf(key, attempt) if attempt else key
        drawn = np.append(drawn, host_integers(own, count, 2 * size + 16))
        first = np.sort(np.unique(drawn, return_index=True)[1])
        if len(first) >= size:  # nearly always at once
            break
    return np.sort(drawn[first[:size]])


def _some_words(key: jax.Array, count: int) -> np.ndarray:
    """Returns `count` of the words of a longer draw: few lengths, few compilations."""
    step = max(_LEAST_WORDS, 1 << max(0, count.bit_length() - 4))
    return host_words(key, -(-count // step) * step)[:count]


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
    if isinstance(index, Tracer):
        return _fold_unknown(key, step, index)
    return _tagged(key, step, jnp.asarray(index))


def _tagged(key: jax.Array, step: int, index: jax.Array) -> jax.Array:
    tag = np.uint32(step << _INDEX_BITS)
    return jax.random.fold_in(key, index.astype(jnp.uint32) | tag)


def _fold_unknown(key: jax.Array, step: int, index: jax.Array) -> jax.Array:
    """Folds in a number that is known only when the program runs.

    Nobody can refuse one outside [0, 2**30) then, and its upper bits would make it the
    key of another step of the tree, or wrapped around that of an earlier round. It
    gets a key of its own: below a purpose beyond all that are ever numbered.
    """
    if index.dtype.itemsize < 4:
        index = index.astype(jnp.int32)
    child = _tagged(key, step, index & index.dtype.type(_MOST_INDEX))
    beyond = index >> index.dtype.type(_INDEX_BITS)
    low = (beyond & index.dtype.type(_UNNUMBERED - 1)).astype(jnp.uint32)
    apart = _tagged(child, _PURPOSE, low | np.uint32(_UNNUMBERED))
    data = jnp.where(
        beyond == 0, jax.random.key_data(child), jax.random.key_data(apart)
    )
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def _is_index(index: jax.Array | int) -> bool:
    """Checks the range of a number that is known now, and the type of any other."""
    if isinstance(index, Tracer):
        return jnp.issubdtype(index.dtype, jnp.integer)
    try:
        return 0 <= operator.index(index) < 1 << _INDEX_BITS
    except TypeError:
        return False
