"""Noise has the law that is accounted, and only a bounded sum can be noised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfed import keys, noise
from jaxfed.typing import ClippedSum, Released


def clipped_sum(size=3, bound=2.0):
    total = {"a": jnp.arange(float(size)), "b": jnp.ones((2, 2))}
    return ClippedSum(total=total, l2_bound=jnp.float32(bound))


def test_law_of_the_noise():
    # 200,000 draws. The mean's standard error is 0.0022 stddev, the variance ratio's
    # 0.0032: 5.1 of them each, a false alarm of 3.5e-7. The lines after show that a
    # 2 % wrong scale, a shift of 0.02 and a bounded tail are caught.
    clipped = ClippedSum(total=jnp.zeros(200_000), l2_bound=jnp.float32(2.0))
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
    same = ClippedSum(total=[jnp.zeros(5), jnp.zeros(5)], l2_bound=jnp.float32(1))
    first = mechanism.release(same, key=keys.simulated(1)).value
    second = mechanism.release(same, key=keys.simulated(2)).value
    assert (first[0] != first[1]).all()
    assert (first[0] != second[0]).all()


def test_bound_travels_with_a_linear_map():
    """Dividing sum and bound together divides the noise too."""
    mechanism = noise.Gaussian(multiplier=1.0)
    whole = clipped_sum()
    quarter = jax.tree.map(lambda a: a / 4, whole)
    assert float(quarter.l2_bound) == 0.5
    big = mechanism.release(whole, key=keys.simulated(3)).value
    small = mechanism.release(quarter, key=keys.simulated(3)).value
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a / 4, b, rtol=1e-5), big, small
    )


def test_dividing_the_sum_by_hand_cannot_be_noised():
    """Issue 383 of jax_privacy: noise of the sum's scale on a mean, silently."""
    mean = jax.tree.map(lambda a: a / 4, clipped_sum().total)
    with pytest.raises(TypeError, match="clipped must be a ClippedSum"):
        noise.Gaussian(multiplier=1.0).release(mean, key=keys.simulated(0))


def test_only_released_has_a_mean():
    assert not hasattr(clipped_sum(), "mean_over")
    released = Released(value=jnp.array([2.0, 4.0]))
    np.testing.assert_array_equal(released.mean_over(2).value, [1.0, 2.0])


def test_no_noise_is_exact():
    released = noise.Gaussian(multiplier=0.0).release(
        clipped_sum(), key=keys.simulated(0)
    )
    np.testing.assert_array_equal(released.value["a"], [0, 1, 2])
