"""Arithmetic on pytrees against NumPy, and the error bound of the sum of squares."""

import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxfed import tree

UNIT = 2.0**-24  # the rounding error of float32
SUM_OF_SQUARES = jax.jit(tree.sum_of_squares)
MAXIMUM = jax.jit(tree.maximum_magnitude)
WHERE_ROWS = jax.jit(tree.where_rows)
IS_FINITE = jax.jit(tree.is_finite)


def example(seed):
    rng = np.random.default_rng(seed)
    return {
        "dense": {"kernel": rng.normal(size=(3, 2)).astype(np.float32)},
        "scale": (rng.normal(size=()).astype(np.float32), np.float32([1e30, -0.0])),
        "small": rng.normal(size=4).astype(ml_dtypes.bfloat16),
    }


def assert_trees_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_sums_and_differences_are_those_of_the_leaves():
    left, right = example(0), example(1)
    plus = jax.tree.map(lambda a, b: np.asarray(a + b), left, right)
    minus = jax.tree.map(lambda a, b: np.asarray(a - b), left, right)
    assert_trees_equal(tree.add(left, right), plus)
    assert_trees_equal(tree.subtract(left, right), minus)


def test_scaling_keeps_each_leafs_dtype():
    values = example(0)
    expected = jax.tree.map(lambda a: np.asarray(a * a.dtype.type(0.3)), values)
    assert_trees_equal(tree.scale(values, 0.3), expected)
    assert_trees_equal(tree.scale(values, jnp.float32(0.3)), expected)


def test_conversions():
    values = example(0)
    as_half = jax.tree.map(lambda a: np.asarray(a).astype(np.float16), values["dense"])
    assert_trees_equal(tree.astype(values["dense"], jnp.float16), as_half)
    assert_trees_equal(
        tree.cast_like(as_half, values["dense"]),
        jax.tree.map(lambda a: a.astype(np.float32), as_half),
    )
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), values)
    assert_trees_equal(tree.zeros_like(values), zeros)
    assert_trees_equal(tree.zeros_like(jax.eval_shape(lambda: values)), zeros)
    assert tree.size(values) == 3 * 2 + 1 + 2 + 4
    assert tree.size(()) == 0


def test_names_say_where_a_leaf_is():
    found = {}
    tree.map_with_names(found.__setitem__, example(0))
    assert list(found) == ["dense/kernel", "scale/0", "scale/1", "small"]
    np.testing.assert_array_equal(found["scale/1"], np.float32([1e30, -0.0]))


@pytest.mark.parametrize("condition", [True, False])
def test_selection_ignores_nan_in_the_other(condition):
    good, bad = example(0), jax.tree.map(lambda a: np.full_like(a, np.nan), example(0))
    pair = (good, bad) if condition else (bad, good)
    assert_trees_equal(tree.where(jnp.array(condition), *pair), good)

    def total(values):  # a gradient through the branch that is not taken is zero
        pair = (values, bad) if condition else (bad, values)
        chosen = tree.where(jnp.array(condition), *pair)
        return sum(jnp.sum(a).astype(jnp.float32) for a in jax.tree.leaves(chosen))

    ones = jax.tree.map(np.ones_like, good)
    assert_trees_equal(jax.grad(total)(good), ones)


@given(
    hnp.arrays(bool, 4),
    hnp.arrays(np.float32, (4, 2, 3), elements=st.floats(width=32)),
    hnp.arrays(np.float32, 4, elements=st.floats(width=32)),
)
def test_rows_are_selected_whole(condition, block, vector):
    left = {"block": block, "vector": vector}
    right = {"block": np.full_like(block, 7.0), "vector": np.full_like(vector, 7.0)}
    found = WHERE_ROWS(condition, left, right)
    for name, rows in left.items():
        for i, is_left in enumerate(condition):
            expected = rows[i] if is_left else np.full_like(rows[i], 7.0)
            np.testing.assert_array_equal(np.asarray(found[name][i]), expected)


BAD = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_one_bad_scalar_anywhere_is_found(bad, dtype):
    values = {"a": np.ones((5, 3), dtype), "b": (np.ones((), dtype), np.ones(2, dtype))}
    assert bool(IS_FINITE(values))
    assert float(MAXIMUM(values)) == 1.0
    for leaf in jax.tree.leaves(values):
        for index in np.ndindex(leaf.shape):
            kept, leaf[index] = leaf[index], bad
            assert not bool(IS_FINITE(values))
            peak = float(MAXIMUM(values))
            assert math.isnan(peak) if math.isnan(bad) else peak == math.inf
            leaf[index] = kept
    assert bool(IS_FINITE(values))


def test_empty_trees_are_finite_and_zero():
    for empty in ((), {"a": np.zeros((0, 3), np.float32)}):
        assert bool(tree.is_finite(empty))
        assert float(tree.maximum_magnitude(empty)) == 0.0
        assert float(tree.sum_of_squares(empty)) == 0.0


@given(
    hnp.arrays(
        np.float32,
        16,
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_the_largest_magnitude_is_exact(values):
    assert float(MAXIMUM({"a": values})) == np.abs(values).max()


@pytest.mark.parametrize("size", [1, 6, 300, 70_000])
@pytest.mark.parametrize("bad", [np.nan, -np.nan])
def test_a_nan_is_the_largest_magnitude_at_every_size(size, bad):
    """XLA's own maximum of floats drops NaN in large arrays since jax 0.10."""
    values = np.full(size, 3.0, np.float32)
    values[size // 2] = bad
    assert np.isnan(float(MAXIMUM({"a": values, "b": np.ones(3, np.float32)})))
    rows = np.stack([values, np.full(size, 2.0, np.float32)])
    mapped = jax.jit(jax.vmap(tree.maximum_magnitude))(rows)
    np.testing.assert_array_equal(np.isnan(mapped), [True, False])


def exact(leaves):
    """The sum of squares, rounded once: squares of float32 are exact in float64."""
    return math.fsum(
        math.fsum(np.square(np.asarray(leaf, np.float64)).ravel()) for leaf in leaves
    )


BOUND = 2.0**-16  # as documented


def keeps_the_bound(found, leaves):
    return abs(float(found) / exact(leaves) - 1) <= BOUND


def equal(size):
    return np.full(size, 0.1, np.float32)


def alternating(size):
    """Ones between values whose squares vanish when they are added to a one."""
    return np.where(np.arange(size) % 2 == 0, 1.0, 2.0**-13).astype(np.float32)


def one_before_many_tiny(size):
    """A running float32 sum stays at 1 for ever."""
    values = np.full(size, 2.0**-12.5, np.float32)
    values[0] = 1.0
    return values


def spread(size):
    """Magnitudes over 60 binary orders, both signs."""
    rng = np.random.default_rng(size)
    return (rng.choice([-1, 1], size) * 2.0 ** rng.uniform(-60, 0, size)).astype(
        np.float32
    )


ADVERSARIES = [equal, alternating, one_before_many_tiny, spread]


@pytest.mark.parametrize("size", [1, 2, 1023, 1024, 1025, 2**20, 2**20 + 1, 3_000_000])
def test_the_sum_of_squares_keeps_its_bound(size):
    for make in ADVERSARIES:
        values = make(size)
        assert keeps_the_bound(SUM_OF_SQUARES(values), [values]), make.__name__


def test_a_running_sum_would_not_keep_it():
    """The adversaries have power: these break the bound of a plain float32 loop."""
    size = 3_000_000
    for make in (equal, one_before_many_tiny):
        values = make(size)
        running = np.cumsum(np.square(values), dtype=np.float32)[-1]
        assert not keeps_the_bound(running, [values])


@pytest.mark.parametrize("count", [1, 3, pytest.param(1030, marks=pytest.mark.slow)])
def test_the_bound_holds_across_leaves(count):
    rng = np.random.default_rng(count)
    leaves = [
        spread(3) * rng.choice([1.0, 0.5]).astype(np.float32) for _ in range(count)
    ]
    leaves[0] = one_before_many_tiny(5000).reshape(50, 100)
    assert keeps_the_bound(tree.sum_of_squares(leaves), leaves)


def test_small_magnitudes_keep_their_bound():
    """2**-11 below 2**-51, nothing lost above 2**-63."""
    for power in (-50.99, -51.01, -55.3, -62.9):
        values = np.full(5000, 2.0**power, np.float32)
        error = abs(float(SUM_OF_SQUARES(values)) / exact([values]) - 1)
        assert error <= (2.0**-16 if power > -51 else 2.0**-11 + 2.0**-16)
    assert float(SUM_OF_SQUARES(np.full(5000, 2.0**-63.01, np.float32))) == 0.0


def test_low_precision_leaves_are_squared_in_float32():
    values = np.full(4096, 0.1, ml_dtypes.bfloat16)
    assert keeps_the_bound(SUM_OF_SQUARES(values), [values])


def test_what_cannot_be_squared_is_infinite():
    for bad in (np.nan, -np.nan, np.inf, -np.inf, 3e38, -1e30, 2.0**64):
        for size in (1, 2, 300, 70_000):
            values = np.full(size, 3.0, np.float32)
            values[size // 2] = bad
            assert float(SUM_OF_SQUARES(values)) == np.inf
            assert float(SUM_OF_SQUARES([values, np.ones(5, np.float32)])) == np.inf


@pytest.mark.parametrize("size", [300, 5000, 9610, 210_000])
def test_every_way_of_compiling_gives_the_same_bits(size):
    """A sum of floats differs by an ulp here and there, in this very comparison."""
    rows = np.random.default_rng(size).normal(size=(6, size)).astype(np.float32)

    def bits(function):
        alone = np.array([jax.jit(function)(row) for row in rows])
        mapped = np.array(jax.jit(jax.vmap(function))(rows))
        looped = np.array(jax.jit(lambda r: jax.lax.map(function, r))(rows))
        eager = np.array([function(jnp.asarray(row)) for row in rows])
        return {a.tobytes() for a in (alone, mapped, looped, eager)}

    assert len(bits(tree.sum_of_squares)) == 1
