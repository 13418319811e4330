"""Pooling against flax's, ties included."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxfed as jf
from tests.models import problems


def pooled(function, *arguments, **options):
    def layer(scale, x):
        return function(x * scale, *arguments, **options)

    return layer


def test_equals_flax_in_every_setting():
    rows = problems.normal((4, 4, 7, 3))
    scale = jnp.float32(1.5)
    ours, stock = (
        problems.settings(
            pooled(pool, (2, 3), strides=(2, 3)),
            scale,
            rows,
            without=["shared rows", "training"],
        )
        for pool in (jf.models.max_pool, nn.max_pool)
    )
    for name in stock:
        problems.assert_close(ours[name], stock[name])


@settings(max_examples=10)
@given(
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.one_of(
        st.none(), st.just("window"), st.tuples(st.integers(1, 3), st.integers(1, 3))
    ),
    padding=st.sampled_from(["VALID", "SAME", ((0, 0), (0, 0)), ((1, 0), (0, 1))]),
    batch=st.sampled_from([(), (2,), (2, 1)]),
    levels=st.sampled_from([1, 2, 1000]),
)
def test_equals_flax_for_any_window_and_ties(
    size, window, strides, padding, batch, levels
):
    if not isinstance(padding, str):
        batch = batch[:1]  # flax pads no more than one axis of batch
        window = tuple(max(n, 2) for n in window)  # none lies in the padding alone
    x = jnp.round(problems.normal((*batch, *size, 2)) * levels) / levels
    x = jnp.maximum(x, 0)  # rectified: whole windows of zeros
    strides = window if strides == "window" else strides

    def outcome(pool):
        layer = pooled(pool, window, strides=strides, padding=padding)
        slope = jax.grad(lambda x: problems.scalar(layer)(jnp.float32(1.5), x))
        return jax.jit(lambda x: (layer(jnp.float32(1.5), x), slope(x)))(x)

    problems.assert_close(outcome(jf.models.max_pool), outcome(nn.max_pool))


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_the_fast_path_is_taken(padding):
    x = jnp.zeros((1, 4, 6, 2))

    def program(x):
        return jf.models.max_pool(x, (2, 2), strides=(2, 2), padding=padding)

    assert "reduce_window" not in str(
        jax.make_jaxpr(jax.grad(lambda x: program(x).sum()))(x)
    )


def test_a_window_larger_than_the_image_is_left_to_flax():
    x = jnp.zeros((1, 1, 3, 2))
    outputs = jf.models.max_pool(x, (2, 2), strides=(2, 2))
    assert outputs.shape == nn.max_pool(x, (2, 2), strides=(2, 2)).shape == (1, 0, 1, 2)
