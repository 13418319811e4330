"""The L1 clip's bound holds in exact arithmetic, for every floating-point input."""

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
compiled = jax.jit(clipping.FixedL1(norm=1.0).clip)


def clip(values, bound=None):
    update = {"a": jnp.array(values[:2], jnp.float32), "b": jnp.array(values[2:])}
    clip_one = compiled if bound is None else clipping.FixedL1(norm=bound).clip
    clipped = clip_one(update)
    value = np.concatenate([np.asarray(a) for a in jax.tree.leaves(clipped.value)])
    return value, bool(clipped.is_finite)


def exact_norm(values):
    return sum(abs(Fraction(float(v))) for v in values)


@hypothesis.settings(max_examples=500)
@hypothesis.given(vectors)
def test_norm_is_at_most_the_bound_exactly(values):
    value, is_finite = clip(np.array(values, np.float32))
    assert np.isfinite(value).all()
    assert exact_norm(value) <= 1
    assert is_finite == bool(np.isfinite(np.array(values, np.float32)).all())


@hypothesis.given(vectors, st.floats(1e-12, 1e12))
def test_clipping_keeps_direction_and_only_shrinks(values, bound):
    values = np.nan_to_num(np.array(values, np.float32)).astype(np.float64)
    norm = float(exact_norm(values))
    value, _ = clip(values.astype(np.float32), bound)
    if norm <= bound * 0.998:
        np.testing.assert_array_equal(value, values.astype(np.float32))
    elif norm > bound:
        expected = values / norm * bound * (1 - 2**-10)
        tolerance = 1e-5 * bound + 2.0**-126  # subnormal coordinates may flush
        np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("magnitude", [1e-38, 8.4e37, 1.7e38, 3.4028235e38])
@pytest.mark.parametrize("bound", [1e-12, 1.0, 1e12])
def test_largest_and_smallest_floats(magnitude, bound):
    value, _ = clip(np.full(SIZE, magnitude, np.float32), bound)
    assert exact_norm(value) <= Fraction(bound)
    if magnitude > 1:
        assert float(exact_norm(value)) == pytest.approx(bound, rel=2e-3)


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 70_000, 3_000_000])
@pytest.mark.parametrize("kind", ["equal", "one large", "alternating", "normal"])
def test_bound_holds_at_every_size(size, kind):
    values = {
        "equal": np.full(size, 0.1),
        "one large": np.r_[1e6, np.full(size - 1, 1.0)],
        "alternating": np.resize([1e-3, 1e3, 1e-20], size),
        "normal": np.random.default_rng(size).normal(size=size),
    }[kind].astype(np.float32)
    bound = 0.01 * float(np.abs(values.astype(np.float64)).sum())
    clipped = clipping.FixedL1(norm=bound).clip(values).value
    # float64 adds 3e6 float32 magnitudes with a relative error below 1e-9
    norm = float(np.abs(np.asarray(clipped, np.float64)).sum())
    assert bound * (1 - 2**-9) <= norm <= bound * (1 - 1e-9)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_inputs_obey_the_bound(dtype):
    """A sum in the input's own dtype would stop growing at 0.03 to 0.5 here."""
    clipped = clipping.FixedL1(norm=5.0).clip(jnp.full(100_000, 1e-4, dtype))
    assert clipped.value.dtype == jnp.float32
    norm = float(np.abs(np.asarray(clipped.value, np.float64)).sum())
    assert 4.98 < norm <= 5.0


def test_vmapped_rows_do_not_touch_one_another():
    rows = jnp.array([[3.0, 4.0], [jnp.nan, 1.0], [0.0, 0.0], [0.1, 0.0]])
    clipped = jax.jit(jax.vmap(clipping.FixedL1(norm=1.0).clip))(rows)
    np.testing.assert_array_equal(clipped.is_finite, [True, False, True, True])
    np.testing.assert_array_equal(clipped.value[1:], [[0, 0], [0, 0], rows[3]])


@pytest.mark.parametrize("norm", [0.0, -1.0, 1e13, np.inf])
def test_a_bound_out_of_range_is_refused(norm):
    with pytest.raises(ValueError, match="norm must be"):
        clipping.FixedL1(norm=norm)
