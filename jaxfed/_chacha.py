"""ChaCha20 as a JAX random generator: the words behind every secure key.

Nir and Langley 2018, RFC 8439, section 2.3. Under a secret 256-bit key, distinct
(counter, nonce) inputs give words that nobody can tell from uniform ones (ChaCha20 is
a pseudorandom function), so that bits and derived keys are as good as fresh ones
while the key stays secret. This module only expands keys; it makes none.

The last three words of the state, the nonce, keep the uses of one key apart:

    counter    nonce
    block      (0, 0, 0)    bits: block 0, 1, ... of a stream
    number     (0, 0, 1)    fold_in: the child of that number
    number     (0, 0, 2)    split: the child of that number

A child key is the first 256 bits of its block. No input serves two purposes, so the
stream, the children of `fold_in` and those of `split` are independent (a key is still
drawn from once: two draws from one key read the same stream).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl

KEY_WORDS = 8
_BLOCK_WORDS = 16
_BITS, _FOLD_IN, _SPLIT = range(3)
_CONSTANTS = np.frombuffer(b"expand 32-byte k", "<u4").astype(np.uint32)
_DOUBLE_ROUNDS = 10
# On CPU the 16 words of 256 lanes, and what a round needs beside them, stay in the
# first-level cache: several times faster than a pass through memory a step.
_LANES = 256


def blocks(
    key: jax.Array, counter: jax.Array, nonce: tuple[int, int, int]
) -> jax.Array:
    """Returns the block of each counter (RFC 8439, section 2.3).

    Args:
        key: (8,) uint32; the 32 bytes read as little-endian words.
        counter: uint32, any shape.
        nonce: three words, the same for all.

    Returns:
        (16, *counter.shape) uint32, the words of a block on axis 0.
    """
    zeros = jnp.zeros((4, *counter.shape), jnp.uint32)

    def row(words: jax.Array | np.ndarray) -> jax.Array:
        return zeros + jnp.asarray(words).reshape(4, *[1] * counter.ndim)

    others = row(np.array([0, *nonce], np.uint32))[1:]
    last = jnp.concatenate([counter[None], others])
    state = (row(_CONSTANTS), row(key[:4]), row(key[4:]), last)
    mixed = lax.fori_loop(0, _DOUBLE_ROUNDS, lambda _, s: _double_round(*s), state)
    return jnp.concatenate([a + b for a, b in zip(mixed, state, strict=True)])


def _double_round(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple:
    """Mixes the columns of the 4 x 4 state, then its diagonals, four at once."""
    a, b, c, d = _quarter_round(a, b, c, d)
    # held apart: merged, XLA computes most of the columns again for the diagonals
    b, c, d = lax.optimization_barrier((_up(b, 1), _up(c, 2), _up(d, 3)))
    a, b, c, d = _quarter_round(a, b, c, d)
    return a, _up(b, 3), _up(c, 2), _up(d, 1)


def _quarter_round(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple:
    a = a + b
    d = _rotated(d ^ a, 16)
    c = c + d
    b = _rotated(b ^ c, 12)
    a = a + b
    d = _rotated(d ^ a, 8)
    c = c + d
    b = _rotated(b ^ c, 7)
    return a, b, c, d


def _up(row: jax.Array, by: int) -> jax.Array:
    return jnp.concatenate([row[by:], row[:by]])


def _rotated(word: jax.Array, bits: int) -> jax.Array:
    return (word << np.uint32(bits)) | (word >> np.uint32(32 - bits))


def _words(key: jax.Array, size: int) -> jax.Array:
    """Returns `size` words of the stream, tile by tile.

    Within a tile the words lie word-major: first word 0 of all its blocks, then word
    1. The order is fixed by `size` and is the same on every device.
    """
    count = -(-size // _BLOCK_WORDS)
    if count > 1 << 32:
        raise ValueError(
            f"one secure key gives 2**36 words, got a request for {size}; derive a key "
            "for each part with jaxfed.keys.for_leaf."
        )
    tiles = max(1, -(-count // _LANES))
    lanes = -(-count // tiles)

    def tile(first: jax.Array) -> jax.Array:
        counter = first + lax.iota(jnp.uint32, lanes)
        return blocks(key, counter, (0, 0, _BITS))

    first = lax.iota(jnp.uint32, tiles) * np.uint32(lanes)
    words = lax.platform_dependent(
        first, cpu=lambda f: lax.map(tile, f), default=jax.vmap(tile)
    )
    return words.reshape(-1)[:size]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    size = math.prod(shape)
    if bit_width == 64:
        pairs = _words(key, 2 * size).reshape(*shape, 2)
        return lax.bitcast_convert_type(pairs, jnp.uint64)
    words = _words(key, size).reshape(shape)
    return words if bit_width == 32 else words.astype(f"uint{bit_width}")


@functools.partial(jax.jit, static_argnums=2)
def _children(key: jax.Array, number: jax.Array, domain: int) -> jax.Array:
    return jnp.moveaxis(blocks(key, number, (0, 0, domain))[:KEY_WORDS], 0, -1)


def _fold_in(key: jax.Array, data: jax.Array | int) -> jax.Array:
    return _children(key, jnp.asarray(data, jnp.uint32), _FOLD_IN)


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    number = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return _children(key, number, _SPLIT)


def _seed(seed: jax.Array) -> jax.Array:
    del seed
    raise ValueError(
        "a secure key must come from 256 secret bits, got an integer seed; make one "
        "with jaxfed.keys.secure(jaxfed.keys.new_secret(), context=...)."
    )


CHACHA20 = define_prng_impl(
    key_shape=(KEY_WORDS,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="chacha20",
    tag="cc20",
)
