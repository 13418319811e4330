"""What holds for every draw, or for their mean: norms, and no bias."""

import functools
import math

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfed import keys
from jaxfed.compression import RandomK, Rotated, TopK
from tests.compression.test_compressors import (
    COMPRESSORS,
    NAMED,
    some_update,
    vector_of,
)

# ---- means


def deviation(compressor, draws, factor=1.0):
    """Returns the largest standardised distance of a mean over draws to the update."""
    update = some_update(3)
    compress = jax.jit(
        jax.vmap(lambda key: compressor.compress(update, key=key), in_axes=0)
    )
    sent = jax.vmap(jnp.ravel)
    found = compress(jax.random.split(keys.simulated(5), draws))
    rows = np.concatenate([np.asarray(sent(a)) for a in jax.tree.leaves(found)], axis=1)
    rows = factor * rows.astype(np.float64)
    wanted = vector_of(update)
    moves = rows.std(axis=0) > 1e-6
    error = np.abs(rows.mean(axis=0) - wanted)
    assert moves.any()
    assert (error[~moves] < 1e-5 + abs(factor - 1) * np.abs(wanted)[~moves]).all()
    scale = rows.std(axis=0) / math.sqrt(draws)
    return (error[moves] / scale[moves]).max()


UNBIASED = [name for name, one in COMPRESSORS.items() if one.is_unbiased]
# 80 values, 20,000 draws each: a false alarm above 5.8 standard errors has probability
# below 80 * 7e-9 = 6e-7 for each compressor, by the central limit theorem
LIMIT, DRAWS = 5.8, 20_000


@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_over_draws_is_the_update(name):
    assert deviation(COMPRESSORS[name], DRAWS) < LIMIT
    # and a scale that is wrong by a tenth is seen
    assert deviation(COMPRESSORS[name], DRAWS, factor=1.1) > LIMIT


def test_a_biased_compressor_is_seen_and_says_so():
    assert set(UNBIASED) == {
        *("random_k", "quantization", "one_bit"),
        *("rotated_quantization", "rotated_random_k"),
    }
    unscaled = COMPRESSORS["random_k_unscaled"]
    assert not unscaled.is_unbiased
    assert deviation(unscaled, DRAWS) > LIMIT
    rotated = Rotated(inner=TopK(fraction=0.1))
    assert not rotated.is_unbiased
    assert deviation(rotated, DRAWS) > LIMIT


def test_every_place_is_as_likely_as_any_other():
    """10 of 40 in 20,000 draws: beyond 5.5 standard errors, 40 * 4e-8."""
    compressor, update = RandomK(fraction=0.25, unbiased=False), jnp.ones(40)
    found = jax.jit(jax.vmap(lambda key: compressor.compress(update, key=key)))(
        jax.random.split(keys.simulated(1), DRAWS)
    )
    assert (np.asarray(found).sum(axis=1) == 10).all()
    error = np.abs(np.asarray(found).mean(axis=0) - 0.25)
    assert error.max() < 5.5 * math.sqrt(0.25 * 0.75 / DRAWS)


# ---- norms

VALUES = arrays.arrays(
    np.float32,
    st.sampled_from([1, 5, 32]),  # few shapes, few compilations
    elements=st.floats(-(2.0**60), 2.0**60, width=32),
)


@functools.partial(jax.jit, static_argnums=0)
def _jitted(compressor, update, key):
    return compressor.compress(update, key=key)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    values=VALUES, fraction=st.sampled_from([0.01, 0.4, 1.0]), seed=st.integers(0, 9)
)
def test_what_does_not_expand_never_does(values, fraction, seed):
    key, update = keys.simulated(seed), jnp.asarray(values)
    length = np.linalg.norm(values.astype(np.float64))
    for compressor, slack in (
        (TopK(fraction=fraction), 0.0),
        (RandomK(fraction=fraction, unbiased=False), 0.0),
        (Rotated(inner=TopK(fraction=fraction)), 1e-5),
    ):
        assert not compressor.expands
        sent = _jitted(compressor, update, jax.random.clone(key))
        found = np.linalg.norm(np.asarray(sent, np.float64))
        assert found <= length * (1 + slack) + 1e-30 * bool(slack)


@NAMED
def test_what_says_that_it_expands_does(name):
    compressor, update = COMPRESSORS[name], some_update(2)
    lengths = [
        np.linalg.norm(vector_of(compressor.compress(update, key=keys.simulated(seed))))
        for seed in range(10)
    ]
    ratio = max(lengths) / np.linalg.norm(vector_of(update))
    assert (ratio > 1.001) == compressor.expands
