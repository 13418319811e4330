"""Contributions are integers whose exact norm is bounded, and whose sum is exact."""

import functools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed.clipping import _lattice
from jaxfed.clipping._lattice import Lattice
from tests.reference import lattice as reference

TRUNCATING = Lattice(levels=2**20, target=2**20, is_random=False)
SIZE = 6
floats = st.floats(width=32, allow_nan=True, allow_infinity=True)
vectors = st.lists(floats, min_size=SIZE, max_size=SIZE)


def randomised(levels, dimension):
    room = math.ceil(math.sqrt(dimension))
    return Lattice(levels=levels, target=levels - room, is_random=True)


@functools.lru_cache
def compiled(lattice):
    def run(leaves, norm, key):
        return _lattice.encode(leaves, norm, lattice, key=key)

    return jax.jit(run)


def key(seed=0):
    return jf.keys.simulated(seed)


def encode(leaves, norm=1.0, lattice=TRUNCATING):
    encoded = compiled(lattice)(leaves, jnp.float32(norm), key())
    parts = [np.asarray(a).astype(object).ravel() for a in encoded.value]
    return np.concatenate(parts), bool(encoded.is_finite), bool(encoded.fits)


def exact_square(integers):
    return sum(int(i) ** 2 for i in integers)


@hypothesis.settings(max_examples=500)
@hypothesis.given(vectors, st.sampled_from(["truncating", "random"]))
def test_exact_norm_is_at_most_the_levels(values, kind):
    lattice = TRUNCATING if kind == "truncating" else randomised(2**10, SIZE)
    values = np.array(values, np.float32)
    integers, is_finite, _ = encode([values[:2], values[2:]], lattice=lattice)
    assert exact_square(integers) <= lattice.levels**2
    if not np.isfinite(values).all():
        assert not is_finite
    if not is_finite:
        assert not integers.any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("kind", ["truncating", "random"])
def test_a_third_of_a_million_cases(dtype, kind):
    """Norms from far below to far above the bound, most of them just around it."""
    rng = np.random.default_rng(7)
    lattice = TRUNCATING if kind == "truncating" else randomised(2**12, 16)
    rows = rng.normal(size=(170_000, 16))
    rows *= rng.random((170_000, 16)) ** rng.integers(0, 20, (170_000, 1))
    near = 1 + rng.choice([-1, 1], (170_000, 1)) * 2.0 ** -rng.uniform(
        3, 30, (170_000, 1)
    )
    size = np.where(rng.random((170_000, 1)) < 0.2, 2.0 ** rng.uniform(-30, 12), near)
    rows *= size / np.linalg.norm(rows, axis=1, keepdims=True)

    def run(row, row_key):
        return _lattice.encode([row], jnp.float32(1), lattice, key=row_key).value[0]

    keys = jax.random.split(key(), len(rows))
    encoded = jax.jit(jax.vmap(run))(jnp.asarray(rows, dtype), keys)
    integers = np.asarray(encoded).astype(np.int64)  # squares below 2**44: exact
    squares = (integers**2).sum(axis=1)
    assert squares.max() <= lattice.levels**2
    assert squares.max() > (0.995 * lattice.target) ** 2


@pytest.mark.parametrize("size", [1, 1023, 1025, 70_000, 3_000_000])
@pytest.mark.parametrize("kind", ["equal", "one large", "alternating", "normal"])
def test_bound_holds_at_every_size(size, kind):
    values = {
        "equal": np.full(size, 0.1),
        "one large": np.r_[1e6, np.full(size - 1, 1.0)],
        "alternating": np.resize([1e-3, 1e3, 1e-20], size),
        "normal": np.random.default_rng(size).normal(size=size),
    }[kind].astype(np.float32)
    norm = 0.01 * float(np.linalg.norm(values.astype(np.float64)))
    encoded = compiled(TRUNCATING)([values], jnp.float32(norm), key()).value[0]
    integers = np.asarray(encoded).astype(np.int64)
    length = math.sqrt(float((integers**2).sum()))
    # truncation loses up to one step a coordinate
    assert 2**20 * (1 - 2**-10) - math.sqrt(size) <= length <= 2**20


@pytest.mark.parametrize("norm", [1e-12, 1e-3, 1.0, 1e12])
def test_what_fits_is_kept_to_a_step(norm):
    values = np.array([0.3, -0.2, 0.7, 1e-9, 0.0, -0.5], np.float32) * np.float32(norm)
    integers, is_finite, fits = encode([values], norm)
    assert is_finite
    assert fits
    error = integers.astype(np.float64) / 2**20 - values.astype(np.float64) / norm
    assert np.abs(error).max() <= 2**-20 + 2**-22
    assert (
        np.abs(integers.astype(np.float64)) <= np.abs(values / norm) * 2**20 + 1
    ).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, -1e30])
@pytest.mark.parametrize("position", [0, 5])
def test_what_is_not_finite_or_beyond_measure_is_zero(bad, position):
    values = np.ones(SIZE, np.float32)
    values[position] = bad
    integers, is_finite, fits = encode([values])
    assert not is_finite
    assert not fits
    assert not integers.any()


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, 1e25])
def test_one_bad_value_among_many(bad):
    rows = np.ones((3, 100_000), np.float32)
    rows[1, 50_000] = bad

    def run(row):
        return _lattice.encode([row], jnp.float32(1), TRUNCATING, key=key())

    encoded = jax.jit(jax.vmap(run))(rows)
    np.testing.assert_array_equal(encoded.is_finite, [True, False, True])
    np.testing.assert_array_equal(encoded.value[0][1], 0)


def test_large_but_measurable_updates_are_scaled():
    values = np.zeros(SIZE, np.float32)
    values[2] = 1e17
    integers, is_finite, fits = encode([values])
    assert is_finite
    assert not fits
    assert 0.999 * 2**20 < integers[2] <= 2**20


def test_random_rounding_is_unbiased():
    # 1e6 draws of each: standard error at most 0.0005 steps, so 5.1 of them is a
    # false alarm of 3.5e-7 a case; truncation would be off by the fraction itself.
    lattice = randomised(2**10, 4)
    values = np.array([0.4, 1.75, -0.01, -3.5], np.float32) / lattice.target

    def run(one):
        return _lattice.encode([values], jnp.float32(1), lattice, key=one).value[0]

    drawn = jax.jit(jax.vmap(run))(jax.random.split(key(), 1_000_000))
    mean = np.asarray(drawn).mean(axis=0, dtype=np.float64)
    wanted = values.astype(np.float64) * lattice.target
    assert np.abs(mean - wanted).max() < 5.1 * 0.0005
    assert np.abs(np.trunc(wanted) - wanted).max() > 5.1 * 0.0005


@pytest.mark.parametrize("max_clients", [1, 16, 1160, 10_000])
@pytest.mark.parametrize("dimension", [10, 10_000, 1_000_000])
@pytest.mark.parametrize("multiplier", [0.0, 0.3, 1.0, 50.0])
def test_rounding_adds_less_than_one_per_cent_at_every_supported_cohort(
    max_clients, dimension, multiplier
):
    lattice = _lattice.choose(
        dimension=dimension, max_clients=max_clients, multiplier=multiplier
    )
    stddev = multiplier * lattice.levels
    if lattice.is_random:  # independent errors of at most half a step, and lost norm
        assert lattice.target >= 0.99 * lattice.levels - 1
        assert math.sqrt(max_clients) / 2 <= 0.01 * max_clients * lattice.target
    else:
        assert math.hypot(stddev, max_clients) <= 1.01 * stddev
    assert max_clients * lattice.levels + 16 * stddev < 2**31


def test_overflow_is_impossible_and_refused_when_the_round_is_built():
    values = [jnp.full(1, 3.0)]
    for max_clients in (1, 2000, 10_000):
        lattice = _lattice.choose(dimension=1, max_clients=max_clients, multiplier=1.0)
        one = int(compiled(lattice)(values, jnp.float32(1), key()).value[0][0])
        assert max_clients * one + 16 * lattice.levels < 2**31
    with pytest.raises(ValueError, match=r"100,000 clients of 1,000,000 parameters"):
        _lattice.choose(dimension=1_000_000, max_clients=100_000, multiplier=0.1)
    with pytest.raises(ValueError, match="take fewer clients a round"):
        jf.privacy.central(
            sampling=jf.sampling.Full(population=2**31),
            clipping=jf.clipping.Fixed(norm=1.0),
            noise=jf.noise.Gaussian(multiplier=1.0),
        ).init({"w": jnp.zeros(3)})


def cases_of_every_size():
    rng = np.random.default_rng(11)
    for size in (1, 2, 63, 64, 65, 513, 4000, 12_287, 12_289, 65_537, 300_000):
        for scale in (1e-30, 1e-4, 1.0, 1e3, 1e15):
            values = rng.normal(size=size) * 10.0 ** rng.uniform(-3, 3, size)
            yield (scale * values / np.linalg.norm(values)).astype(np.float32)


def test_compiled_programs_and_numpy_give_the_same_integers():
    """Whatever the compiler reorders or fuses."""
    for values in cases_of_every_size():
        cut = -(-len(values) // 3)
        leaves = [values[:cut], values[cut:]] if cut < len(values) else [values]
        wanted = reference.encode(leaves, 0.37, target=2**20)
        found = compiled(TRUNCATING)(leaves, jnp.float32(0.37), key()).value
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def test_alone_mapped_and_in_a_loop_give_the_same_integers():
    """An ordinary norm differs by an ulp here and there, and with it the integers."""

    def run(row):
        return _lattice.encode([row], jnp.float32(1), TRUNCATING, key=key()).value[0]

    for size in (500, 9610, 400_000):
        rows = np.random.default_rng(size).normal(size=(6, size)).astype(np.float32)
        alone = np.stack([jax.jit(run)(row) for row in rows])
        np.testing.assert_array_equal(jax.jit(jax.vmap(run))(rows), alone)
        np.testing.assert_array_equal(
            jax.jit(lambda r: jax.lax.map(run, r))(rows), alone
        )
        np.testing.assert_array_equal(run(jnp.asarray(rows[0])), alone[0])


def test_the_compiled_program_leaves_no_float_sum_to_the_compiler():
    """The bits need it: what is not written out, a compiler adds in its own order."""
    values = [jnp.zeros(1_000_000), jnp.zeros((30, 7))]
    text = compiled(TRUNCATING).lower(values, jnp.float32(1), key()).as_text()
    assert "stablehlo.add" in text
    for summing in ("stablehlo.reduce", "stablehlo.dot", "stablehlo.convolution"):
        assert summing not in text


def test_sums_are_the_same_in_every_order_and_chunking():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(4096, 50)).astype(np.float32)

    def run(row):
        return _lattice.encode([row], jnp.float32(1), TRUNCATING, key=key()).value[0]

    encoded = np.asarray(jax.jit(jax.vmap(run))(rows))
    encoded = np.clip(encoded, -(2**18), 2**18)  # 4,096 of them fit 32 bits
    whole = jnp.sum(jnp.asarray(encoded), axis=0, dtype=jnp.int32)
    for seed in range(5):
        shuffled = jnp.asarray(np.random.default_rng(seed).permutation(encoded))
        total = jnp.zeros(50, jnp.int32)
        for part in np.split(shuffled, [1, 10, 700, 703, 4000]):
            total = total + jnp.sum(part, axis=0, dtype=jnp.int32)
        np.testing.assert_array_equal(total, whole)
    floats = [np.float32(0)] * 2
    for row in rows[:, :1]:
        floats[0] = floats[0] + row[0]
    for row in rows[::-1, :1]:
        floats[1] = floats[1] + row[0]
    assert floats[0] != floats[1]  # what the integers avoid


@pytest.mark.parametrize("multiplier", [1e-3, 0.05, 1.0, 60.0, 250.0, 3e3, 1e5])
def test_every_usual_budget_can_be_built(multiplier):
    for population in (10, 1000):
        for rule in (
            jf.clipping.Fixed(norm=1.0),
            jf.clipping.Adaptive(quantile=0.5, initial=1.0),
        ):
            jf.privacy.central(
                sampling=jf.sampling.Full(population=population),
                clipping=rule,
                noise=jf.noise.Gaussian(multiplier=multiplier),
            ).init({"w": jnp.zeros(100)})


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64])
def test_what_is_not_floating_point_is_refused(dtype):
    with pytest.raises(TypeError, match="floating-point arrays, got"):
        _lattice.encode([jnp.zeros(3, dtype)], jnp.float32(1), TRUNCATING, key=key())


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("lattice", [TRUNCATING, randomised(2**12, 6000)])
@pytest.mark.parametrize("norm", [1.0, 1e-6])
def test_what_is_measured_is_what_is_scaled(lattice, norm, lanes):
    """An update that one program computes and clips, of products that cancel.

    A compiler joins the product to the difference where nothing else needs it, and
    not where a second leaf does. Computed twice, the update is about zero where it is
    measured and large where it is scaled, or the other way round.
    """
    a, b = 1e4 * np.random.default_rng(5).normal(size=(2, lanes, 3000))
    a, b = a.astype(np.float32), b.astype(np.float32)

    def contribution(a, b, product):
        update = [a * b - product, jnp.where(a * b > 1e30, 1.0, 0.0)]
        tiny = [jnp.tanh(update[0]) + a * b * 1e-25, update[0]]
        return [
            _lattice.encode(leaves, jnp.float32(norm), lattice, key=key()).value
            for leaves in (update, tiny)
        ]

    run = jax.jit(jax.vmap(contribution) if lanes > 1 else contribution)
    arrays = (a, b, a * b) if lanes > 1 else (a[0], b[0], (a * b)[0])
    for value in run(*arrays):
        rows = np.concatenate([np.reshape(leaf, (lanes, -1)) for leaf in value], axis=1)
        for row in rows:
            assert exact_square(row) <= lattice.levels**2
