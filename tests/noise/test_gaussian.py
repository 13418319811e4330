"""Noise has the law that is accounted, and only a bounded sum can be noised."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfed import keys, noise
from jaxfed.typing import ClippedSum, Released

LEVELS = 2**20


def clipped_sum(total=None, levels=LEVELS, step=1 / LEVELS):
    if total is None:
        total = {"a": jnp.arange(3, dtype=jnp.int32), "b": jnp.ones((2, 2), jnp.int32)}
    return ClippedSum(total=total, step=jnp.float32(step), levels=levels)


def test_law_of_the_noise():
    # 200,000 draws. The mean's standard error is 0.0022 stddev, the variance ratio's
    # 0.0032: 5.1 of them each, a false alarm of 3.5e-7. The lines after show that a
    # 2 % wrong scale, a shift of 0.02 and a bounded tail are caught.
    clipped = clipped_sum(jnp.zeros(200_000, jnp.int32), step=2 / LEVELS)
    released = noise.Gaussian(multiplier=1.5).release(clipped, key=keys.simulated(0))
    draws = np.asarray(released.value, np.float64) / 3.0
    error = 5.1 / np.sqrt(len(draws))

    def passes(x):
        within = np.abs(x.mean()) < error and abs(x.var() - 1) < error * np.sqrt(2)
        share = np.mean(np.abs(x) > 2.0)  # 0.0455 with standard error 0.00047
        return within and abs(share - 0.0455) < 5.1 * 0.00047

    assert passes(draws)
    assert not passes(1.02 * draws)
    assert not passes(draws + 0.02)
    assert not passes(np.clip(draws, -2, 2) * 1.02)


def test_leaves_and_keys_get_different_noise():
    mechanism = noise.Gaussian(multiplier=1.0)
    same = clipped_sum([jnp.zeros(5, jnp.int32), jnp.zeros(5, jnp.int32)])
    first = mechanism.release(same, key=keys.simulated(1)).value
    second = mechanism.release(same, key=keys.simulated(2)).value
    assert (first[0] != first[1]).all()
    assert (first[0] != second[0]).all()


@pytest.mark.parametrize("multiplier", [0.3, 1.0, 40.0])
@pytest.mark.parametrize("levels", [2**8, 2**14, 2**20])
def test_noise_is_integers_on_the_grid_of_the_sum(multiplier, levels):
    """No output is impossible under a neighbour: the support is the grid, shifted."""
    mechanism = noise.Gaussian(multiplier=multiplier)
    zero = clipped_sum(jnp.zeros(20_000, jnp.int32), levels, step=1.0)
    moved = clipped_sum(jnp.full(20_000, levels, jnp.int32), levels, step=1.0)
    key = keys.simulated(4)
    first = np.asarray(mechanism.release(zero, key=key).value, np.float64)
    second = np.asarray(mechanism.release(moved, key=key).value, np.float64)
    # whole numbers, but for float32's own spacing above 2**24
    assert (first == np.round(first)).all()
    assert np.abs(second - first - levels).max() <= np.abs(second).max() * 2**-23
    assert np.abs(first).max() <= mechanism.largest(levels)


def test_a_support_attack_finds_nothing():
    """With float noise, 88 % of single outputs exclude one of the two inputs."""
    mechanism, size = noise.Gaussian(multiplier=1e-3), 100_000
    key = keys.simulated(5)
    releases = []
    for sign in (-1, 1):
        total = jnp.full(size, sign, jnp.int32)
        clipped = clipped_sum(total, levels=2**14, step=1.0)
        releases.append(np.asarray(mechanism.release(clipped, key=key).value))
    # every value that either input gave is reached from the other as well: its noise
    # would be 2 steps away, within the table of the noise
    scale = math.sqrt((1e-3 * 2**14) ** 2 + 4)
    for values, sign in zip(releases, (-1, 1), strict=True):
        needed = np.abs(values + sign)  # the noise that the other input would need
        assert (values == np.round(values)).all()
        assert needed.max() <= mechanism.largest(2**14)
        assert needed.max() < 8 * scale


def test_variance_covers_the_smoothing():
    """The theorem's `scale**2 = stddev**2 + 4`, seen where it matters: stddev 1."""
    clipped = clipped_sum(jnp.zeros(200_000, jnp.int32), levels=8, step=1.0)
    released = noise.Gaussian(multiplier=1 / 8).release(clipped, key=keys.simulated(6))
    variance = np.asarray(released.value, np.float64).var()
    # standard error of the variance 0.32 %: false alarm 3.5e-7 at 5.1 of them
    assert abs(variance / 5 - 1) < 5.1 * math.sqrt(2 / 200_000)


def test_dividing_the_sum_by_hand_cannot_be_noised():
    """Issue 383 of jax_privacy: noise of the sum's scale on a mean, silently."""
    mechanism = noise.Gaussian(multiplier=1.0)
    mean = jax.tree.map(lambda a: a / 4, clipped_sum().total)
    with pytest.raises(TypeError, match="clipped must be a ClippedSum"):
        mechanism.release(mean, key=keys.simulated(0))
    with pytest.raises(TypeError, match="int32 leaves, got float32"):
        mechanism.release(clipped_sum(mean), key=keys.simulated(0))
    quarter = jax.tree.map(lambda a: a / 4, clipped_sum())
    with pytest.raises(TypeError, match="int32 leaves, got float32"):
        mechanism.release(quarter, key=keys.simulated(0))


def test_only_released_has_a_mean():
    assert not hasattr(clipped_sum(), "mean_over")
    released = Released(value=jnp.array([2.0, 4.0]))
    np.testing.assert_array_equal(released.mean_over(2).value, [1.0, 2.0])


def test_no_noise_is_exact():
    released = noise.Gaussian(multiplier=0.0).release(
        clipped_sum(step=1.0), key=keys.simulated(0)
    )
    np.testing.assert_array_equal(released.value["a"], [0, 1, 2])


def test_distance_is_far_below_a_runs_allowance():
    for multiplier in (0.1, 1.0, 30.0):
        for levels in (2**10, 2**20):
            distance = noise.Gaussian(multiplier=multiplier).distance(levels)
            assert 0 < distance * 2**20 * 2**12 < 2**-46
