"""Compressors: their twins, their bytes, their means and their norms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfed import compression, keys
from jaxfed.compression import RandomK, Rotated, StochasticQuantization, TopK, _rotated
from tests.compression import wire
from tests.reference import compression as twin

QUANTIZED = StochasticQuantization(bits=3)
COMPRESSORS = {
    "top_k": TopK(fraction=0.1),
    "top_k_many": TopK(fraction=0.5),
    "random_k": RandomK(fraction=0.2),
    "random_k_unscaled": RandomK(fraction=0.2, unbiased=False),
    "quantization": QUANTIZED,
    "one_bit": StochasticQuantization(bits=1),
    "rotated_quantization": Rotated(inner=QUANTIZED),
    "rotated_top_k": Rotated(inner=TopK(fraction=0.1)),
    "rotated_random_k": Rotated(inner=RandomK(fraction=0.2)),
}
NAMED = pytest.mark.parametrize("name", COMPRESSORS)


def some_update(seed=0, scale=1.0):
    """Arrays of several sizes, of which two are too short to be quantised."""
    draw = np.random.default_rng(seed)
    shapes = {"a": (7, 5), "b": (), "c": (2,), "d": (40,)}
    return {
        name: jnp.asarray(scale * draw.standard_t(2, shape), jnp.float32)
        for name, shape in shapes.items()
    }


def vector_of(update):
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(update)]
    return np.concatenate([leaf.reshape(-1) for leaf in leaves])


def draws_of(key, shape):
    return (np.asarray(jax.random.bits(key, shape, jnp.uint32)) >> 8) / 2**24


def signs_of(key, length):
    words = np.asarray(jax.random.bits(key, (-(-length // 32),), jnp.uint32))
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    return 1.0 - 2.0 * bits[:length]


def slowly(compressor, leaves, key):
    """Returns what the twin makes of vectors, one for each array."""
    if isinstance(compressor, StochasticQuantization):
        found = []
        for i, leaf in enumerate(leaves):
            draws = draws_of(keys.for_leaf(key, i), leaf.shape)
            few = 64 + compressor.bits * leaf.size >= 32 * leaf.size
            found.append(leaf if few else twin.quantize(leaf, compressor.bits, draws))
        return np.concatenate(found)
    vector = np.concatenate(leaves)
    if isinstance(compressor, Rotated):
        first, second = jax.random.split(key)
        length = 1 << (vector.size - 1).bit_length()
        return twin.rotated(
            vector,
            signs_of(first, length),
            lambda turned: slowly(compressor.inner, [turned], second),
        )
    kept = max(1, round(compressor.fraction * vector.size))
    if isinstance(compressor, TopK):
        return twin.top_k(vector, kept)
    factor = vector.size / kept if compressor.unbiased else 1.0
    return twin.random_k(vector, twin.places_of(key, vector.size, kept), factor)


@NAMED
@pytest.mark.parametrize("seed", [0, 1])
def test_a_compressor_equals_its_slow_twin(name, seed):
    compressor, update = COMPRESSORS[name], some_update(seed)
    compress = jax.jit(lambda update, key: compressor.compress(update, key=key))
    found = compress(update, keys.simulated(seed))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, update)
    leaves = [np.asarray(a, np.float64).reshape(-1) for a in jax.tree.leaves(update)]
    wanted = slowly(compressor, leaves, keys.simulated(seed))
    np.testing.assert_allclose(vector_of(found), wanted, atol=1e-5, rtol=0)
    assert np.abs(wanted - vector_of(update)).max() > 1e-2


@NAMED
@pytest.mark.parametrize("seed", [0, 1])
def test_a_message_has_the_bytes_that_are_claimed(name, seed):
    compressor, update = COMPRESSORS[name], some_update(seed)
    message = wire.encode(compressor, update, keys.simulated(seed))
    like = jax.eval_shape(lambda: update)
    assert len(message) == math.ceil(compressor.num_bits(like) / 8)
    assert len(message) < 4 * vector_of(update).size
    read = wire.decode(compressor, message, like)
    sent = compressor.compress(update, key=keys.simulated(seed))
    tolerance = 1e-5 if isinstance(compressor, Rotated) else 1e-6
    if isinstance(compressor, TopK | RandomK):
        tolerance = 0
    np.testing.assert_allclose(
        vector_of(read), vector_of(sent), atol=tolerance * 10, rtol=0
    )


def test_the_shorter_way_to_name_places_is_counted():
    """Of 80 values: numbers of 7 bits for few of them, a bit for each of 80 if many."""
    like = jnp.zeros(80)
    assert TopK(fraction=0.1).num_bits(like) == 8 * 32 + 8 * 7
    assert TopK(fraction=0.5).num_bits(like) == 40 * 32 + 80
    assert RandomK(fraction=0.1).num_bits(like) == 8 * 32 + 64
    assert QUANTIZED.num_bits(like) == 80 * 3 + 64
    assert QUANTIZED.num_bits([jnp.zeros(2), jnp.zeros(())]) == 3 * 32  # as they are
    assert Rotated(inner=QUANTIZED).num_bits(like) == 128 * 3 + 64 + 64


def test_of_equals_exactly_k_stay():
    sent = TopK(fraction=0.3).compress(jnp.ones(10), key=keys.simulated(0))
    assert np.asarray(sent).tolist() == [1.0] * 3 + [0.0] * 7


def test_levels_hold_the_ends_and_what_is_constant():
    values = jnp.asarray(np.random.default_rng(0).normal(size=50), jnp.float32)
    for bits in (1, 4, 16):
        compressor = StochasticQuantization(bits=bits)
        sent = compressor.compress(values, key=keys.simulated(1))
        assert (sent.min(), sent.max()) == (values.min(), values.max())
        assert len(np.unique(np.asarray(sent))) <= 2**bits
        step = float(values.max() - values.min()) / (2**bits - 1)
        assert float(jnp.abs(sent - values).max()) <= step * (1 + 1e-3)
        same = compressor.compress(jnp.full(50, 0.3), key=keys.simulated(1))
        np.testing.assert_array_equal(same, np.full(50, 0.3, np.float32))


@pytest.mark.parametrize("length", [1, 2, 8, 32, 64, 2048])
def test_the_transform_is_the_matrix_and_its_own_inverse(length):
    values = np.random.default_rng(0).normal(size=length).astype(np.float32)
    turned = jax.jit(_rotated._hadamard)(jnp.asarray(values))
    if length <= 64:
        wanted = twin.hadamard(length) @ values.astype(np.float64)
        np.testing.assert_allclose(turned, wanted, atol=1e-5)
    back = _rotated._hadamard(turned)
    np.testing.assert_allclose(back, values, atol=1e-5)


def test_a_rotation_spreads_what_stands_out():
    """One large value among 512: quantised alone, and after a rotation.

    Suresh et al. 2017, theorems 2 and 3: the error is d against log d.
    """
    draw = np.random.default_rng(0)
    values = 0.01 * draw.normal(size=512)
    values[7] = 10.0
    update = jnp.asarray(values, jnp.float32)

    def error(compressor):
        compress = jax.vmap(lambda key: compressor.compress(update, key=key))
        sent = compress(jax.random.split(keys.simulated(1), 20))
        return float(jnp.sum((sent - update[None]) ** 2))

    plain = StochasticQuantization(bits=4)
    assert error(Rotated(inner=plain)) < error(plain) / 2


# ---- arguments


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: TopK(fraction=0.0), ValueError, r"fraction must be in \(0, 1\]"),
        (lambda: RandomK(fraction=1.5), ValueError, r"fraction must be in \(0, 1\]"),
        (
            lambda: RandomK(fraction=0.5, unbiased=1),
            TypeError,
            "unbiased must be a bool",
        ),
        (lambda: StochasticQuantization(bits=0), ValueError, "bits must be an integer"),
        (lambda: StochasticQuantization(bits=17), ValueError, "bits must be <= 16"),
        (lambda: Rotated(inner=3), TypeError, "inner must be a compressor"),
        (lambda: Rotated(inner=TopK), TypeError, "inner must be a compressor"),
        (
            lambda: Rotated(inner=Rotated(inner=QUANTIZED)),
            TypeError,
            "that does not rotate",
        ),
    ],
)
def test_settings_are_checked(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_compressors_print_compare_and_hash():
    assert repr(Rotated(inner=QUANTIZED)) == (
        "Rotated(inner=StochasticQuantization(bits=3))"
    )
    assert len({TopK(fraction=0.1), TopK(fraction=0.1), RandomK(fraction=0.1)}) == 2
    assert compression.TopK is TopK
