"""Dropout: its switches, and whether its masks look independent."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxfed as jf
from tests.models import problems

UNITS, KEYS = 2**14, 64
LIMIT = 5.4  # standard errors; each of some 15 comparisons is beyond by chance in 7e-8


def masks(rate, root=0):
    """Which units remain, for many keys: `(KEYS, UNITS)`."""
    keys = jax.random.split(jax.random.key(root), KEYS)
    kept = jax.vmap(lambda k: jf.models.dropout(jnp.ones(UNITS), rate, key=k))(keys)
    return np.asarray(kept) > 0


def standard_errors(one, other, rate):
    """How far the agreement of two masks is from that of independent ones."""
    centred = (one - (1 - rate)) * (other - (1 - rate))
    return float(centred.mean() / (rate * (1 - rate)) * math.sqrt(centred.size))


def rate_errors(kept, rate):
    spread = math.sqrt(rate * (1 - rate) / kept.size)
    return float((kept.mean() - (1 - rate)) / spread)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_masks_look_independent(rate):
    """A million units: false alarm 1e-6 for each rate; the next test is the power."""
    kept = masks(rate)
    assert abs(rate_errors(kept, rate)) < LIMIT
    for lag in (1, 2, 3, 4, 32, 64, 128, 1024):
        neighbours = standard_errors(kept[:, lag:], kept[:, :-lag], rate)
        assert abs(neighbours) < LIMIT
    assert abs(standard_errors(kept[1:], kept[:-1], rate)) < LIMIT  # other keys
    per_unit = kept.mean(axis=0) - (1 - rate)  # no unit is favoured: chi-square
    chi_square = float(np.sum(per_unit**2) / (rate * (1 - rate) / KEYS))
    assert abs(chi_square - UNITS) / math.sqrt(2 * UNITS) < LIMIT


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_the_test_of_masks_sees_small_defects(rate):
    """A rate 3 % off, and 1 % of units that copy their neighbour."""
    kept = masks(rate)
    assert abs(rate_errors(masks(rate * 1.03), rate)) > LIMIT
    copied = np.random.default_rng(0).random(kept[:, 1:].shape) < 0.01
    tied = np.where(copied, kept[:, :-1], kept[:, 1:])
    assert abs(standard_errors(tied, kept[:, :-1], rate)) > LIMIT


def test_gradient_and_scale():
    x = problems.normal((50, 40)) + 3
    key = jax.random.key(1)

    def layer(x):
        return jf.models.dropout(x, 0.25, key=key)

    y, slope = jax.vjp(layer, x)
    assert set(np.unique(np.round(np.asarray(y / x), 5))) == {0.0, np.float32(1.33333)}
    problems.assert_close(slope(jnp.ones_like(x))[0], y / x)


def test_edges_of_the_rate():
    x = problems.normal((3, 4))
    assert jf.models.dropout(x, 0.0, key=jax.random.key(0)) is x
    assert not jnp.any(jf.models.dropout(x, 1.0, key=jax.random.key(0)))
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 1.5; pass"):
        jf.models.dropout(x, 1.5, key=jax.random.key(0))


def test_shared_axes_share_their_fate():
    y = jf.models.dropout(
        jnp.ones((4, 5, 6)), 0.5, key=jax.random.key(0), broadcast_dims=(-2,)
    )
    assert jnp.all(y == y[:, :1])
    assert jnp.unique(y[:, 0]).size == 2


def test_works_with_secure_keys():
    key = jf.keys.secure(bytes(32), context=b"test")
    y = jf.models.dropout(jnp.ones(1000), 0.5, key=key)
    assert 400 < int(jnp.sum(y > 0)) < 600


def test_linen_switches():
    x = jnp.ones((20, 30))
    layer = jf.models.Dropout(0.5)
    assert jnp.all(layer.apply({}, x, deterministic=True) == x)
    streams = {"dropout": jax.random.key(0)}
    y = layer.apply({}, x, deterministic=False, rngs=streams)
    assert set(np.unique(y)) == {0.0, 2.0}
    fixed = jf.models.Dropout(0.5, deterministic=True)
    assert jnp.all(fixed.apply({}, x) == x)
    with pytest.raises(ValueError, match="deterministic"):
        layer.apply({}, x)
    assert isinstance(layer, nn.Dropout)


def test_nnx_switches():
    x = jnp.ones((20, 30))
    layer = jf.models.NnxDropout(0.5, rngs=nnx.Rngs(0))
    first, second = layer(x), layer(x)
    assert set(np.unique(first)) == {0.0, 2.0}
    assert jnp.any(first != second)
    layer.eval()
    assert jnp.all(layer(x) == x)
    layer.train()
    assert jnp.any(layer(x) != x)
    assert jnp.all(layer(x, deterministic=True) == x)
    assert jnp.any(layer(x, rngs=jax.random.key(0)) != x)
    with pytest.raises(ValueError, match="no random stream, got rngs=None; pass rngs="):
        jf.models.NnxDropout(0.5)(x)
