"""Uniform words for noise: ChaCha20 from a secure key, threefry from a simulated one.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (threefry2x32, 20
rounds). The words of a simulated key are those of
`jax.random.bits(key, (pairs, lanes), "uint64")`, upper half first. They are computed
here because JAX carries the state of its own threefry through memory between rounds;
written as one elementwise expression for each half, XLA keeps it in registers, which
is about ten times faster on a CPU. The words of any other key are `jax.random.bits`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def words(key: jax.Array, count: int, lanes: int) -> list[jax.Array]:
    """Returns `count` independent vectors of `lanes` uniform uint32 words.

    Consumes the key, as every draw does.
    """
    if jax.random.key_impl(key) != "threefry2x32":
        bits = lax.optimization_barrier(
            jax.random.bits(key, (count, lanes), jnp.uint32)
        )
        return list(bits)
    data = jax.random.key_data(key)
    found = []
    for pair in range(-(-count // 2)):
        counter = lax.iota(jnp.uint32, lanes) + np.uint32(pair * lanes)
        # One result a fusion: with two, XLA goes through memory after all. The
        # second is computed anew, which costs less.
        for half in range(2):
            result = _threefry(data, jnp.zeros_like(counter), counter)[half]
            found.append(lax.optimization_barrier(result))
    return found[:count]


def _threefry(
    key: jax.Array, first: jax.Array, second: jax.Array
) -> tuple[jax.Array, jax.Array]:
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    first, second = first + schedule[0], second + schedule[1]
    for group in range(1, 6):
        for bits in _ROTATIONS[(group - 1) % 2]:
            first = first + second
            second = (second << np.uint32(bits)) | (second >> np.uint32(32 - bits))
            second = second ^ first
        first = first + schedule[group % 3]
        second = second + schedule[(group + 1) % 3] + np.uint32(group)
    return first, second
