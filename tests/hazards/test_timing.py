"""How long a draw takes says nothing about what was drawn.

Jin et al. 2022, arXiv:2112.05307, read discrete Laplace noise off the running time of
its rejection loop. The test is that of Reparaz et al. 2017 (dudect): Welch's t between
the times of small and of large draws, slow outliers cut.
"""

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed.noise import _discrete

SCALE = 50.0


def statistic(draw, count):
    """Welch's t of the times of draws below and above the median magnitude."""
    several = jax.random.split(jf.keys.secure(bytes(32), context=b"time"), count)
    compiled = jax.jit(lambda keys, index: draw(keys[index]))
    with jax.debug_key_reuse(False):  # each key is used once, their array often
        return _welch(*_timed(compiled, several, count))


def _timed(compiled, several, count):
    jax.block_until_ready(compiled(several, np.int32(0)))
    seconds, magnitude = np.zeros(count), np.zeros(count)
    for index in range(count):
        number = np.int32(index)
        start = time.perf_counter()
        drawn = jax.block_until_ready(compiled(several, number))
        seconds[index] = time.perf_counter() - start
        magnitude[index] = abs(int(drawn))
    return seconds, magnitude


def _welch(seconds, magnitude):
    kept = seconds < np.quantile(seconds, 0.9)
    seconds, magnitude = seconds[kept], magnitude[kept]
    is_large = magnitude > np.median(magnitude)
    large, small = seconds[is_large], seconds[~is_large]
    error = math.sqrt(large.var() / len(large) + small.var() / len(small))
    return abs(large.mean() - small.mean()) / error


def constant(key):
    return _discrete.gaussian(SCALE).draw((), key=key)


def counting(key):
    """A geometric variable by counting coins until one falls: what the attack reads."""

    def falls(carry):
        index, _ = carry
        bits = jax.random.bits(jax.random.fold_in(key, index), (), jnp.uint32)
        return index + 1, bits < jnp.uint32(2**32 / SCALE)

    start = jnp.uint32(0), jnp.bool_(False)
    return jax.lax.while_loop(lambda carry: ~carry[1], falls, start)[0].astype(int)


def test_time_does_not_depend_on_the_draw():
    """|t| < 4.5, a false alarm of 7e-6, whatever else the machine does meanwhile."""
    assert statistic(constant, 10_000) < 4.5
    assert statistic(counting, 1_000) > 4.5  # the power


@pytest.mark.slow
def test_time_of_100_000_draws():
    assert statistic(constant, 100_000) < 4.5
