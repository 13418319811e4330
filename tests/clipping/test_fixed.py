"""The clip's bound holds in exact arithmetic, for every floating-point input."""

import math
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfed import clipping

SIZE = 6
floats = st.floats(width=32, allow_nan=True, allow_infinity=True)
vectors = st.lists(floats, min_size=SIZE, max_size=SIZE)
compiled = jax.jit(clipping.Fixed(norm=1.0).clip)


def clip(values, bound=None):
    update = {"a": jnp.array(values[:2], jnp.float32), "b": jnp.array(values[2:])}
    clipped = (
        compiled(update) if bound is None else clipping.Fixed(norm=bound).clip(update)
    )
    value = np.concatenate([np.asarray(a) for a in jax.tree.leaves(clipped.value)])
    return value, bool(clipped.is_finite)


def exact_square(values):
    return sum(Fraction(float(v)) ** 2 for v in values)


@hypothesis.settings(max_examples=500)
@hypothesis.given(vectors)
def test_norm_is_at_most_the_bound_exactly(values):
    value, is_finite = clip(np.array(values, np.float32))
    assert np.isfinite(value).all()
    assert exact_square(value) <= 1
    assert is_finite == bool(np.isfinite(np.array(values, np.float32)).all())


@hypothesis.given(vectors, st.floats(1e-12, 1e12))
def test_clipping_keeps_direction_and_only_shrinks(values, bound):
    values = np.nan_to_num(np.array(values, np.float32)).astype(np.float64)
    norm = math.sqrt(exact_square(values))
    fits = norm <= bound * (1 - 2**-10)
    value, _ = clip(values.astype(np.float32), bound)
    if fits:
        np.testing.assert_array_equal(value, values.astype(np.float32))
    elif norm > bound:
        expected = values / norm * bound * (1 - 2**-11)
        tolerance = 1e-5 * bound + 2.0**-126  # subnormal coordinates may flush
        np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance)


def test_largest_floats_are_clipped():
    """Their reciprocals are subnormal, which compilers flush to zero."""
    for magnitude in (8.4e37, 8.6e37, 1.7e38, 3.4028235e38):
        for bound in (1e-12, 1.0, 1e12):
            values = np.array([0, 0, 0, 0, 0, magnitude], np.float32)
            value, _ = clip(values, bound)
            assert exact_square(value) <= Fraction(bound) ** 2
            assert value[5] == pytest.approx(bound, rel=1e-3)


def test_overflowing_norm_is_scaled_not_dropped():
    value, is_finite = clip(np.full(SIZE, 3e38, np.float32))
    assert is_finite
    assert 0.999 < math.sqrt(exact_square(value)) <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 5])
def test_one_bad_value_zeroes_the_whole_update(bad, position):
    values = np.ones(SIZE, np.float32)
    values[position] = bad
    value, is_finite = clip(values)
    assert not is_finite
    np.testing.assert_array_equal(value, 0)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_bad_value_among_many_zeroes_the_whole_update(bad):
    """A maximum of floats that drops NaN would let it pass (XLA since jax 0.10)."""
    rows = np.ones((3, 100_000), np.float32)
    rows[1, 50_000] = bad
    clipped = jax.jit(jax.vmap(clipping.Fixed(norm=1.0).clip))(rows)
    np.testing.assert_array_equal(clipped.is_finite, [True, False, True])
    np.testing.assert_array_equal(clipped.value[1], 0)
    alone = jax.jit(clipping.Fixed(norm=1.0).clip)(rows[1])
    np.testing.assert_array_equal(alone.value, 0)


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 70_000, 3_000_000])
@pytest.mark.parametrize("kind", ["equal", "one large", "alternating", "normal"])
def test_bound_holds_at_every_size(size, kind):
    values = {
        "equal": np.full(size, 0.1),
        "one large": np.r_[1e6, np.full(size - 1, 1.0)],
        "alternating": np.resize([1e-3, 1e3, 1e-20], size),
        "normal": np.random.default_rng(size).normal(size=size),
    }[kind].astype(np.float32)
    bound = 0.01 * float(np.linalg.norm(values.astype(np.float64)))
    clipped = np.asarray(clipping.Fixed(norm=bound).clip(values).value, np.float64)
    norm = math.sqrt(math.fsum(clipped**2))
    assert bound * (1 - 2**-10) <= norm <= bound


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_inputs_obey_the_bound(dtype):
    """A sum of squares in the input's own dtype would read 0 here (1e-8 underflows)."""
    update = jnp.full(1_000_000, 1e-4, dtype)
    clipped = clipping.Fixed(norm=0.05).clip(update)
    assert clipped.value.dtype == jnp.float32
    norm = math.sqrt(math.fsum(np.asarray(clipped.value, np.float64) ** 2))
    assert 0.0499 < norm <= 0.05


def test_leaves_are_clipped_together():
    update = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    value = clipping.Fixed(norm=1.0).clip(update).value
    np.testing.assert_allclose([value["a"][0], value["b"][0]], [0.6, 0.8], rtol=1e-3)


def test_vmapped_rows_do_not_touch_one_another():
    rows = jnp.array([[3.0, 4.0], [jnp.nan, 1.0], [0.0, 0.0], [0.1, 0.0]])
    clipped = jax.jit(jax.vmap(clipping.Fixed(norm=1.0).clip))(rows)
    np.testing.assert_array_equal(clipped.is_finite, [True, False, True, True])
    np.testing.assert_array_equal(clipped.value[1:], [[0, 0], [0, 0], rows[3]])


@pytest.mark.parametrize(("peak", "bound"), [(2.0**-40, 1e-12), (2.0**40, 1e12)])
def test_many_scalars_far_below_the_largest_count(peak, bound):
    """Each is next to nothing beside the largest; together they exceed it."""
    values = np.full(2**23, peak * 2.0**-11.01, np.float32)
    values[0] = peak
    value, _ = clip(values, bound)
    norm = np.linalg.norm(np.asarray(value, np.float64))
    assert 0.999 * bound < norm <= bound
