"""Bounds at their edges: a million clips in every dtype, the last cohort that fits."""

import math
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed.clipping import _lattice
from jaxfed.typing import ClientResult
from tests.reference import lattice as twin

DTYPES = ("float32", "bfloat16", "float16", "float64")
SIZE, BLOCK = 16, 100_000


def rows_around_the_bound(count, seed):
    """Rows of norm 1 within 2**-3 to 2**-40, or far off, or with extreme entries."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, SIZE)) ** rng.choice([1, 3, 9], (count, 1))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near = 1 + rng.choice([-1, 1], (count, 1)) * 2.0 ** -rng.uniform(3, 40, (count, 1))
    rows *= np.where(rng.random((count, 1)) < 0.2, 2.0 ** rng.uniform(-30, 12), near)
    extreme = [1e-45, 1e-38, 3.4e38, -1e20, 65504.0, 1e300, math.inf, math.nan]
    places = rng.integers(0, SIZE, count // 50)
    rows[: count // 50][np.arange(count // 50), places] = rng.choice(
        extreme, count // 50
    )
    return rows


def clips(dtype, clients, multiplier, blocks, block):
    """Returns the largest exact squared norm over the bound, and how many cases."""
    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=clients),
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )
    (part,) = privacy._joint({"w": jnp.zeros(SIZE)}).parts

    def encode(row, key):
        result = ClientResult({"w": row}, jnp.float32(1), ())
        return privacy.encode((), result, key=key).update["w"]

    run, largest = jax.jit(jax.vmap(encode)), 0
    for index in range(blocks):
        with np.errstate(over="ignore"), jax.enable_x64(dtype == "float64"):
            rows = rows_around_the_bound(block, index).astype(jnp.dtype(dtype))
            keys = jax.random.split(jf.keys.simulated(index), block)
            integers = np.asarray(run(rows, keys))
        assert integers.dtype == np.int32
        squares = (integers.astype(np.int64) ** 2).sum(axis=1)  # below 2**44: exact
        largest = max(largest, int(squares.max()))
    levels = part.lattice.levels
    assert largest >= (0.99 * part.lattice.target) ** 2  # the bound is used up
    return largest / levels**2 if largest > levels**2 else 0.0


KINDS = {"truncating": (4, 40.0), "random": (1000, 1e-3)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_clip_is_over_the_bound(dtype):
    """50,000 cases a dtype; `test_a_million_clips_in_every_dtype` runs 1e6."""
    assert clips(dtype, *KINDS["truncating"], blocks=1, block=50_000) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_million_clips_in_every_dtype(dtype, kind):
    """500,000 of each kind of rounding, in exact arithmetic: 0 over, by any amount."""
    assert clips(dtype, *KINDS[kind], blocks=5, block=BLOCK) == 0


LEVELS = 2**10  # a coarse grid, where rounding shows


def mutants(exact):
    """Encodings with one known defect each; `exact` is the right one."""

    def each_leaf_alone(leaves, weight):
        del weight
        return [exact([leaf])[0] for leaf in leaves]

    def one_leaf_forgotten(leaves, weight):
        del weight
        return [*exact(leaves[:1]), np.rint(leaves[1] * LEVELS)]

    def times_its_weight(leaves, weight):
        return [a * weight for a in exact(leaves)]

    def norm_in_bfloat16(leaves, weight):
        del weight
        narrow = [a.astype(jnp.bfloat16) for a in leaves]
        length = np.sqrt(sum((a * a).sum(dtype=jnp.bfloat16) for a in narrow))
        factor = min(1.0, 1 / max(float(length), 1e-30))
        return [np.trunc(a * factor * LEVELS) for a in leaves]

    def rounded_away_from_zero(leaves, weight):
        del weight
        return [
            a + np.sign(leaf) for a, leaf in zip(exact(leaves), leaves, strict=True)
        ]

    def float_norm_without_headroom(leaves, weight):
        del weight
        length = np.float32(math.sqrt(sum(float((a * a).sum()) for a in leaves)))
        return [np.rint(a / max(length, np.float32(1)) * LEVELS) for a in leaves]

    def counted_twice(leaves, weight):
        del weight
        return [2 * a for a in exact(leaves)]

    def nan_passes(leaves, weight):
        bad = any(not np.isfinite(a).all() for a in leaves)
        if not bad:
            return exact(leaves)
        return [np.nan_to_num(a, nan=2.0**31, posinf=2.0**31) for a in leaves]

    return {
        f.__name__: f
        for f in (
            each_leaf_alone,
            one_leaf_forgotten,
            times_its_weight,
            norm_in_bfloat16,
            rounded_away_from_zero,
            float_norm_without_headroom,
            counted_twice,
            nan_passes,
        )
    }


def worst_replay(encode):
    """The largest exact shift of the sum in 50 pairs of neighbours, over the bound."""
    worst, rng = Fraction(0), np.random.default_rng(5)
    for pair in range(50):
        scale = 10.0 ** rng.uniform(-3, 3)
        leaves = [(scale * rng.normal(size=n)).astype(np.float32) for n in (7, 40)]
        if pair % 10 == 9:
            leaves[0][3] = rng.choice([np.nan, np.inf])
        # all others cancel in the integers: the shift is the contribution itself
        parts = [np.nan_to_num(a, nan=0.0) for a in encode(leaves, 1 + pair)]
        moved = [int(x) for a in parts for x in np.ravel(a)]
        worst = max(worst, Fraction(sum(x**2 for x in moved), LEVELS**2))
    return worst


def exact(leaves, weight=1):
    """What runs, in NumPy; see `tests/clipping/test_lattice.py` for the same bits."""
    del weight
    if any(not np.isfinite(a).all() for a in leaves):
        return [np.zeros(a.shape, np.int32) for a in leaves]
    return twin.encode(leaves, 1.0, target=LEVELS)


def test_the_replay_catches_every_known_defect():
    """Record and replay with eight encodings that are wrong in one place each."""
    assert Fraction(99, 100) < worst_replay(exact) <= 1
    with np.errstate(all="ignore"):
        caught = {n: worst_replay(f) > 1 for n, f in mutants(exact).items()}
    assert caught == dict.fromkeys(caught, True)
    assert len(caught) == 8


@pytest.mark.parametrize(
    ("multiplier", "dimension"), [(0.0, 10), (0.5, 10_000), (1.0, 100_000)]
)
def test_one_client_more_than_fits_is_refused(multiplier, dimension):
    """The largest cohort whose sum cannot overflow is built, the next one is not."""
    params = {"w": jax.ShapeDtypeStruct((dimension,), jnp.float32)}

    def fits(clients):
        try:
            _lattice.choose(
                dimension=dimension, max_clients=clients, multiplier=multiplier
            )
        except ValueError:
            return False
        return True

    low, high = 1, 2**31
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)

    def privacy(clients):
        return jf.privacy.central(
            sampling=jf.sampling.Full(population=clients),
            clipping=jf.clipping.Fixed(norm=1.0),
            noise=jf.noise.Gaussian(multiplier=multiplier),
        )

    privacy(low).init(params)
    (part,) = privacy(low)._joint(params).parts
    levels = part.lattice.levels
    assert low * levels + part.noise.largest(levels) < 2**31
    with pytest.raises(ValueError, match="must fit 32-bit integers"):
        privacy(low + 1).init(params)


settings = st.tuples(
    st.integers(500, 5000),
    st.floats(0.01, 0.5),
    st.integers(2600, 5000),
    st.floats(0.5, 20.0),
    st.floats(1e-3, 1e3),
)


@hypothesis.settings(max_examples=50)
@hypothesis.given(settings, st.integers(0, 4), settings)
def test_any_other_setting_is_another_event(one, changed, other):
    """Population, rate, cap and multiplier are in the event, the norm in the bound."""
    hypothesis.assume(one[changed] != other[changed])

    def build(values):
        population, rate, cap, multiplier, norm = values
        return jf.privacy.central(
            sampling=jf.sampling.Poisson(
                population=population, rate=rate, cap=min(cap, population)
            ),
            clipping=jf.clipping.Fixed(norm=norm),
            noise=jf.noise.Gaussian(multiplier=multiplier),
        )

    before = build(one)
    after = build([*one[:changed], other[changed], *one[changed + 1 :]])
    is_capped = changed == 2 and min(one[2], one[0]) == min(other[2], one[0])
    if changed == 4:
        assert after.sensitivity() != before.sensitivity()
        assert after.event(rounds=3) == before.event(rounds=3)
    else:
        assert (after.event(rounds=3) == before.event(rounds=3)) == is_capped
    assert (after.to_json() == before.to_json()) == is_capped
