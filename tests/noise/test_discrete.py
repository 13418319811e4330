"""Integer noise: the law of the tables, exactly, and of the draws, statistically."""

import functools
import math
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.errors import KeyReuseError
from scipy import stats

from jaxfed import keys
from jaxfed.noise import _alias, _discrete
from jaxfed.noise._words import words
from jaxfed.vault import _laws, _tables

UNIT = 1 << 95
SECRET = bytes(range(32))
MAKERS = {
    "simulated": lambda: keys.simulated(7),
    "secure": lambda: keys.secure(SECRET, context=b"test"),
}
both_kinds = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@pytest.fixture(autouse=True)
def _precision():
    with mpmath.workdps(60):
        yield


# --- the law of a table, in exact arithmetic ---------------------------------------


def unpacked(table):
    """The thresholds and aliases that the rows hold, as Python integers."""
    bits = table.index_bits
    top, middle, low = (column.tolist() for column in table.rows)
    thresholds = [
        (t >> bits) << 64 | m << 32 | w
        for t, m, w in zip(top, middle, low, strict=True)
    ]
    return thresholds, [t & ((1 << bits) - 1) for t in top]


def masses_of(table):
    """P(|X| = x) in units of 2**-95, by summing what every row gives."""
    capacity = 1 << (95 - table.index_bits)
    masses = [0] * (1 << table.index_bits)
    for row, (threshold, alias) in enumerate(zip(*unpacked(table), strict=True)):
        assert 0 <= threshold < capacity
        masses[row] += threshold
        masses[alias] += capacity - threshold
    assert sum(masses) == UNIT
    return masses


def law_of(table):
    """P(X = x) in units of 2**-96 for x = -largest, ..., largest."""
    masses = masses_of(table)
    assert not any(masses[table.largest + 1 :])
    positive = masses[1 : table.largest + 1]
    return np.array([*positive[::-1], 2 * masses[0], *positive], object)


def ideal(weight, largest):
    """Normalised probabilities of -largest..largest, and what is left outside."""
    far = int(1.3 * largest) + 10
    weights = [weight(x) for x in range(far + 1)]
    total = weights[0] + 2 * mpmath.fsum(weights[1:])
    positive = [w / total for w in weights[1 : largest + 1]]
    outside = 2 * mpmath.fsum(weights[largest + 1 :]) / total
    return [*positive[::-1], weights[0] / total, *positive], outside


def distance_between(law, unit, weight):
    largest = len(law) // 2
    expected, outside = ideal(weight, largest)
    return (
        mpmath.fsum(
            abs(mpmath.mpf(int(p)) / unit - q)
            for p, q in zip(law, expected, strict=True)
        )
        + outside
    ) / 2


def gaussian_weight(scale):
    variance = mpmath.mpf(scale) ** 2
    return lambda x: mpmath.exp(-(x**2) / (2 * variance))


def laplace_weight(scale):
    return lambda x: mpmath.exp(-x / mpmath.mpf(scale))


def skellam_weight(variance):
    return lambda x: mpmath.besseli(x, mpmath.mpf(variance))


SINGLE_TABLES = [
    (_discrete.gaussian, gaussian_weight, (0.5, 1.0, 3.7, 50.1, 1000.0)),
    (_discrete.laplace, laplace_weight, (0.5, 1.0, 20.3, 290.0)),
    (_discrete.skellam, skellam_weight, (0.5, 1.0, 10.3, 2000.0)),
]


@pytest.mark.parametrize(
    ("make", "weight", "scale"),
    [(make, weight, s) for make, weight, scales in SINGLE_TABLES for s in scales],
)
def test_the_law_of_a_table_is_as_close_as_it_says(make, weight, scale):
    sampler = make(scale)
    ((factor, table),) = sampler.parts
    assert factor == 1
    distance = distance_between(law_of(table), 2 * UNIT, weight(scale))
    assert distance <= sampler.distance <= 2.0**-79
    assert sampler.distance < 8 * distance + 2 * _laws.ARITHMETIC_ERROR  # no slack
    # the comparison would notice 2**-60: a scale that is off by that much
    off = distance_between(law_of(table), 2 * UNIT, weight(scale * (1 + 2.0**-50)))
    assert off > sampler.distance


@pytest.mark.parametrize(
    ("law", "weight", "scale"),
    [
        (_laws.gaussian, lambda v: gaussian_weight(mpmath.sqrt(v)), 0.25),
        (_laws.gaussian, lambda v: gaussian_weight(mpmath.sqrt(v)), 1e6),
        (_laws.laplace, laplace_weight, 0.5),
        (_laws.laplace, laplace_weight, 290.0),
        (_laws.skellam, skellam_weight, 0.5),
        (_laws.skellam, skellam_weight, 1000.0),
    ],
)
def test_every_weight_is_right_to_what_is_charged(law, weight, scale):
    found = law(Fraction(scale))
    exact = weight(mpmath.mpf(scale))
    largest = len(found.weights) - 1
    for x in {*range(0, largest, max(1, largest // 30)), largest}:
        ratio = mpmath.mpf(found.weights[x]) / found.weights[0]
        error = abs(ratio * exact(0) / exact(x) - 1)
        assert error < _laws.ARITHMETIC_ERROR
    far = 2 * mpmath.fsum(
        exact(x) for x in range(largest + 1, largest + 1 + largest // 3)
    )
    assert far / exact(0) <= mpmath.mpf(found.outside) / found.weights[0] or far == 0


@pytest.mark.parametrize(("scale", "bits"), [(60.0, 8), (100.0, 8), (24.0, 8)])
def test_the_law_of_two_draws_is_as_close_as_it_says(scale, bits):
    """k X + Y convolved in integers, against the discrete Gaussian in mpmath."""
    (own, rest) = _tables.steps_of(Fraction(scale) ** 2, bits)
    assert (own.factor, rest.error) == (1, 0.0)
    variance = rest.factor**2 * rest.variance + own.variance
    assert variance == Fraction(scale) ** 2  # exactly
    inner = _alias.build(_laws.gaussian(rest.variance))
    outer = _alias.build(_laws.gaussian(own.variance))
    spread = np.zeros(2 * rest.factor * inner.largest + 1, object)
    spread[:: rest.factor] = law_of(inner)
    law = np.convolve(spread, law_of(outer))
    assert law.min() > 0 or rest.factor == 1  # no holes
    distance = distance_between(law, (2 * UNIT) ** 2, gaussian_weight(scale))
    claimed = own.error + inner.distance + outer.distance
    assert distance <= claimed <= 2.0**-77


@pytest.mark.parametrize("tau_squared", [Fraction(1, 4), Fraction(1), Fraction(29, 10)])
def test_the_smoothing_error_is_a_bound_and_tight(tau_squared):
    tau = mpmath.sqrt(mpmath.mpf(tau_squared.numerator) / tau_squared.denominator)

    def theta(c):
        return mpmath.fsum(
            mpmath.exp(-((x - c) ** 2) / (2 * tau**2)) for x in range(-60, 61)
        )

    sums = [theta(mpmath.mpf(i) / 16) for i in range(16)]
    mean = tau * mpmath.sqrt(2 * mpmath.pi)
    variation = max(abs(s / mean - 1) for s in sums)
    claimed = _tables.smoothing_error(tau_squared)
    assert 0.9 * variation / (1 - variation) < claimed
    assert variation / (1 - variation) <= claimed


@pytest.mark.parametrize(("scale", "base"), [(5.0, 4), (7.3, 2), (20.0, 16)])
def test_two_draws_of_laplace_are_exact(scale, base):
    whole = _alias.build(_laws.laplace(Fraction(scale) / base))
    digit = _alias.build(_laws.laplace_digit(Fraction(scale), base))
    assert digit.largest == base - 1
    spread = np.zeros(2 * base * whole.largest + 1, object)
    spread[::base] = law_of(whole)
    law = np.convolve(spread, law_of(digit))
    distance = distance_between(law, (2 * UNIT) ** 2, laplace_weight(scale))
    assert distance <= whole.distance + digit.distance <= 2.0**-78


LARGE = [
    *(_discrete.gaussian(s) for s in (3100.0, 2.0**16, 2.0**20, 2.0**21, 2.0**25)),
    _discrete.gaussian(2**30 / 12),
    *(_discrete.laplace(s) for s in (291.0, 2.0**20, 2.0**23)),
    _discrete.skellam(2.0**23),
]


@pytest.mark.parametrize("sampler", LARGE, ids=str)
def test_large_scales_keep_the_budget(sampler):
    assert sampler.distance <= 2.0**-75  # 2**30 draws of it: 2**-45
    tables = math.fsum(table.distance for _, table in sampler.parts)
    assert sampler.distance >= tables + sampler.convolution_error
    assert sum(table.rows.nbytes for _, table in sampler.parts) <= 800_000
    assert sampler.largest < 2**30


@pytest.mark.parametrize("scale", [3100.0, 2.0**20, 2.0**22, 2.0**25, 2**30 / 12])
def test_steps_compose_to_the_scale_exactly(scale):
    steps = _tables.convolution(Fraction(scale) ** 2)
    assert sum(k**2 * v for k, v, _ in steps) == Fraction(scale) ** 2
    tables = [t for _, t in _discrete.gaussian(scale).parts]
    for (k, _, _), (following, _, _), table in zip(
        steps[:-1], steps[1:], tables, strict=False
    ):
        # between two multiples of the next factor every integer can be drawn
        assert k * table.largest >= following
    assert len(steps) <= (3 if scale > 2**22.5 else 2)


@pytest.mark.parametrize("sampler", [*LARGE, _discrete.gaussian(2.0)], ids=str)
def test_every_integer_of_a_table_can_be_drawn_and_none_beyond(sampler):
    for _, table in sampler.parts:
        masses = masses_of(table)
        assert min(masses[: table.largest + 1]) > 0
        assert not any(masses[table.largest + 1 :])
    assert sampler.largest == sum(k * t.largest for k, t in sampler.parts)


# --- a draw, word by word ----------------------------------------------------------


def reference_draw(table, first, second, third):
    """One draw in Python integers, as the module docstring of `_alias` says."""
    uniform = first << 64 | second << 32 | third
    row = uniform >> (96 - table.index_bits)
    negative = uniform >> (95 - table.index_bits) & 1
    rest = uniform & ((1 << (95 - table.index_bits)) - 1)
    thresholds, aliases = unpacked(table)
    magnitude = row if rest < thresholds[row] else aliases[row]
    return -magnitude if negative else magnitude


def edges(table):
    """96-bit inputs just at, below and above thresholds, in each of the words."""
    bits = table.index_bits
    thresholds, _ = unpacked(table)
    for row in {0, 1, 2, table.largest // 2, table.largest, (1 << bits) - 1}:
        for step in (0, 1, -1, 1 << 32, -(1 << 32), 1 << 64, -(1 << 64)):
            rest = thresholds[row] + step
            if 0 <= rest < 1 << (95 - bits):
                for sign in (0, 1):
                    yield (row << 1 | sign) << (95 - bits) | rest


@pytest.mark.parametrize("scale", [0.5, 2.0, 100.0])
def test_a_draw_decides_on_all_96_bits(scale):
    ((_, table),) = _discrete.gaussian(scale).parts
    generator = np.random.Generator(np.random.PCG64(0))
    uniform = [*edges(table), *(int.from_bytes(generator.bytes(12)) for _ in range(50))]
    split = [(u >> 64, u >> 32 & (2**32 - 1), u & (2**32 - 1)) for u in uniform]
    drawn = table.draw([jnp.array(column, jnp.uint32) for column in zip(*split)])  # noqa: B905
    assert drawn.dtype == jnp.int32
    expected = [reference_draw(table, *row) for row in split]
    np.testing.assert_array_equal(drawn, expected)


@both_kinds
def test_a_draw_is_the_tables_applied_to_the_words(make):
    sampler = _discrete.gaussian(5000.0)
    (_, outer), (factor, inner) = sampler.parts
    drawn = sampler.draw((4,), key=make())
    (key,) = jax.random.split(make(), 1)
    uniform = np.stack(words(key, 6, 4)).T.tolist()
    expected = [
        reference_draw(outer, *row[:3]) + factor * reference_draw(inner, *row[3:])
        for row in uniform
    ]
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(("count", "lanes"), [(1, 3), (3, 5), (6, 1000)])
def test_simulated_words_are_those_of_jax(count, lanes):
    found = np.stack(words(keys.simulated(2**40 + 3), count, lanes))
    assert found.dtype == np.uint32
    with jax.enable_x64(True):
        key = keys.simulated(2**40 + 3)
        bits = jax.random.bits(key, (-(-count // 2), lanes), "uint64")
        bits = np.asarray(bits)
    halves = np.stack([bits >> np.uint64(32), bits & np.uint64(2**32 - 1)], axis=1)
    np.testing.assert_array_equal(found, halves.reshape(-1, lanes)[:count])


def test_secure_words_are_the_stream():
    found = np.stack(words(MAKERS["secure"](), 6, 100))
    expected = jax.random.bits(MAKERS["secure"](), (6, 100))
    np.testing.assert_array_equal(found, expected)


# --- the call ----------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("shape", [(), (5, 3), (4097,), (3, 5000)])
def test_the_same_bits_inside_and_outside_jit(make, shape):
    sampler = _discrete.gaussian(2.0**20)
    outside = sampler.draw(shape, key=make())
    assert outside.shape == shape
    assert outside.dtype == jnp.int32
    inside = jax.jit(lambda key: sampler.draw(shape, key=key))(make())
    np.testing.assert_array_equal(inside, outside)


@both_kinds
@pytest.mark.parametrize("scale", [1.0, 2.0**20])
def test_64_bit_jax_changes_no_bit(make, scale):
    """Numbers without a width of their own become 64 bits wide there."""
    expected = np.asarray(_discrete.gaussian(scale).draw((5000,), key=make()))
    with jax.enable_x64(True):
        found = np.asarray(_discrete.gaussian(scale).draw((5000,), key=make()))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


@both_kinds
def test_blocks_leaves_and_keys_differ(make):
    draw = jax.jit(lambda key: _discrete.gaussian(2.0**20).draw((4 * 4096,), key=key))
    found = np.stack([draw(make()), *(draw(keys.for_leaf(make(), i)) for i in (0, 1))])
    blocks = found.reshape(12, 4096)
    # 66 pairs of 4,096: two equal entries in one place have probability 2.7e-7 each
    # (1 / (2 sqrt(pi) 2**20)), so 0.07 are expected and 6 have probability below 1e-9
    equal = sum((blocks[i] == blocks[j]).sum() for i in range(12) for j in range(i))
    assert equal < 6
    # correlations of 66 pairs: 0.1 is 6.4 standard errors each
    assert np.abs(np.corrcoef(blocks) - np.eye(12)).max() < 0.1


@both_kinds
@pytest.mark.parametrize(("size", "parts"), [(5, 3), (20_000, 2), (20_000, 8)])
def test_parts_are_the_bits_of_the_whole(make, size, parts):
    sampler = _discrete.gaussian(100.0)
    whole = sampler.draw((size,), key=make())
    draw = jax.jit(
        lambda key, part: sampler.draw_part(size, part=part, parts=parts, key=key)
    )
    found = [draw(make(), np.int32(part)) for part in range(parts)]
    assert len({part.shape for part in found}) == 1
    np.testing.assert_array_equal(np.concatenate(found)[:size], whole)
    first = sampler.draw_part(size, part=0, parts=parts, key=make())
    np.testing.assert_array_equal(first, found[0])


@both_kinds
def test_an_accelerator_draws_the_same_bits(make, monkeypatch):
    """The path of other platforms, run here."""
    sampler = _discrete.gaussian(5000.0)
    expected = sampler.draw((20_000,), key=make())

    def other_platform(*operands, cpu, default):
        del cpu
        return default(*operands)

    jax.clear_caches()
    monkeypatch.setattr(jax.lax, "platform_dependent", other_platform)
    monkeypatch.setattr(_discrete, "_BLOCKS_AT_ONCE", 3)
    found = jax.jit(lambda key: sampler.draw((20_000,), key=key))(make())
    jax.clear_caches()
    np.testing.assert_array_equal(found, expected)


def test_a_key_is_drawn_from_once():
    key = keys.simulated(1)
    _discrete.gaussian(3.0).draw((2,), key=key)
    with pytest.raises(KeyReuseError):
        _discrete.gaussian(3.0).draw((2,), key=key)


def test_an_integer_is_no_key():
    with pytest.raises(TypeError, match="must be one typed PRNG key, got 0"):
        _discrete.gaussian(3.0).draw((2,), key=0)


@pytest.mark.parametrize(
    "make", [_discrete.gaussian, _discrete.laplace, _discrete.skellam]
)
def test_scale_zero_is_no_noise(make):
    sampler = make(0)
    assert (sampler.distance, sampler.scale, sampler.largest) == (0.0, 0.0, 0)
    drawn = sampler.draw((3,), key=keys.simulated(0))
    assert drawn.dtype == jnp.int32
    np.testing.assert_array_equal(drawn, 0)
    assert _discrete.gaussian(3.0).draw((0, 4), key=keys.simulated(0)).shape == (0, 4)


@pytest.mark.parametrize(
    ("make", "name", "most"),
    [
        (_discrete.gaussian, "scale", 2**30 / 12),
        (_discrete.laplace, "scale", 2**23),
        (_discrete.skellam, "variance", 2**23),
    ],
)
def test_a_scale_out_of_range_is_refused(make, name, most):
    for bad in (-1.0, 0.25, 5e-324, most * 1.001, 1e300):
        with pytest.raises(
            ValueError, match=rf"{name} must be 0 or in \[0\.5, .*grid\."
        ):
            make(bad)
    for bad in (math.nan, math.inf, "1", None, True):
        with pytest.raises(ValueError, match=f"{name} must be a finite number, got"):
            make(bad)


def test_samplers_are_cached_and_hashable():
    assert _discrete.gaussian(3) is _discrete.gaussian(np.float32(3.0))
    assert len({_discrete.gaussian(3.0), _discrete.gaussian(4.0)}) == 2
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def draw(sampler, key):
        traces.append(sampler)
        return sampler.draw((2,), key=key)

    for seed in range(3):
        draw(_discrete.laplace(4.0), keys.simulated(seed))
    assert traces == [_discrete.laplace(4.0)]


@both_kinds
def test_no_loop_ends_on_what_was_drawn(make):
    text = str(
        jax.make_jaxpr(lambda k: _discrete.gaussian(2.0**20).draw((9000,), key=k))(
            make()
        )
    )
    assert "scan[" in text
    assert "while[" not in text
    # the one choice is of the platform, made when the program is compiled
    assert text.count("cond[") == text.count("platform_index[")


def loops_and_branches(function, key):
    """Returns how many loops of unknown length, and branches, the program has."""
    text = jax.jit(function).lower(key).compile().as_text()
    loops = [line for line in text.splitlines() if re.search(r"[ )]while\(", line)]
    unknown = [line for line in loops if "known_trip_count" not in line]
    return len(loops), len(unknown), len(re.findall(r" conditional\(", text))


@both_kinds
def test_the_compiled_program_has_no_loop_or_branch_on_what_was_drawn(make):
    """Row 4 of the threats, in structure: what XLA made of it, not what was asked."""
    sampler = _discrete.gaussian(2.0**20)
    loops, unknown, branches = loops_and_branches(
        lambda k: sampler.draw((9000,), key=k), make()
    )
    assert loops > 0
    assert (unknown, branches) == (0, 0)


def test_a_rejection_sampler_would_be_seen():
    def rejecting(key):
        def trial(state):
            key, own = jax.random.split(state[0])
            return key, jax.random.uniform(own, (2,))

        start = (key, jnp.ones(2))
        return jax.lax.while_loop(lambda s: s[1][0] > s[1][1], trial, start)[1]

    assert loops_and_branches(rejecting, keys.simulated(0))[1] == 1

    def branching(key):
        x = jax.random.normal(key, (100,))
        return jax.lax.cond(x[0] > 0, lambda: jnp.sort(x), lambda: x)

    assert loops_and_branches(branching, keys.simulated(0))[2] == 1


# --- the law of the draws ----------------------------------------------------------


def cdf_and_scale(kind, scale):
    """The ideal distribution function at integers, by scipy; and its stddev."""
    if kind == "gaussian" and scale > 100:
        # the sum over integers and the integral differ by exp(-2 pi**2 scale**2);
        # the trapezoid at x + 1/2 by less than 1 / (24 scale**2)
        return lambda x: stats.norm.cdf((x + 0.5) / scale), scale
    if kind == "gaussian":
        support = np.arange(-int(12 * scale) - 9, int(12 * scale) + 10)
        weights = np.exp(-(support**2) / (2 * scale**2))
    elif kind == "laplace":
        support = np.arange(-int(50 * scale) - 9, int(50 * scale) + 10)
        weights = np.exp(-np.abs(support) / scale)
    else:
        law = stats.skellam(scale / 2, scale / 2)
        return law.cdf, math.sqrt(scale)
    sums = np.cumsum(weights / weights.sum())
    variance = (support**2 * weights).sum() / weights.sum()
    return lambda x: np.interp(x, support, sums), math.sqrt(variance)


def chi_square(draws, cdf, width):
    """The p-value over about 100 cells of the ideal law."""
    inner = np.unique(np.round(width * stats.norm.ppf(np.arange(1, 100) / 100)))
    probabilities = np.diff(np.concatenate([[0.0], cdf(inner), [1.0]]))
    cells = np.searchsorted(inner, draws)
    counts = np.bincount(cells, minlength=len(probabilities))
    expected = probabilities * len(draws)
    kept = expected > 10
    counts = np.append(counts[kept], counts[~kept].sum())
    expected = np.append(expected[kept], expected[~kept].sum())
    statistic = ((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    return stats.chi2.sf(statistic, kept.sum() - 1)


def moments_pass(draws, width, kurtosis):
    """Mean and variance within 4.9 standard errors: 1e-6 each."""
    n = len(draws)
    mean_error = abs(draws.mean()) / width * math.sqrt(n)
    variance_error = abs(draws.var() / width**2 - 1) * math.sqrt(n / (kurtosis - 1))
    return mean_error < 4.9 and variance_error < 4.9


def kolmogorov(draws, cdf):
    """The p-value's bound of Dvoretzky, Kiefer and Wolfowitz, for any law."""
    values, counts = np.unique(draws, return_counts=True)
    after = np.cumsum(counts) / len(draws)
    before = after - counts / len(draws)
    distance = max(
        np.abs(after - cdf(values)).max(), np.abs(before - cdf(values - 1)).max()
    )
    return 2 * math.exp(-2 * len(draws) * distance**2)


def many(sampler, count, make):
    draw = jax.jit(lambda key: sampler.draw((count // 10,), key=key))
    parts = [draw(keys.for_leaf(make(), i)) for i in range(10)]
    return np.concatenate([np.asarray(part, np.float64) for part in parts])


LAWS = [
    ("gaussian", 1.0),
    ("gaussian", 50.0),
    ("gaussian", 5000.0),
    ("gaussian", 2.0**20),
    ("laplace", 3.0),
    ("laplace", 1000.0),
    ("skellam", 40.0),
]


@both_kinds
@pytest.mark.parametrize(("kind", "scale"), LAWS)
def test_a_million_draws_have_the_law(kind, scale, make):
    """False alarm 1e-6 a check; a 1 % wrong scale and a shift of 0.01 are caught."""
    draws = many(getattr(_discrete, kind)(scale), 10**6, make)
    check_law(draws, kind, scale, wrong_scale=1.01, shift=0.01)


@pytest.mark.slow
@both_kinds
@pytest.mark.parametrize("scale", [1.0, 50.0, 5000.0, 2.0**20])
def test_ten_million_draws_have_the_law(scale, make):
    """Chi-square, Kolmogorov-Smirnov and moments, each with a false alarm of 1e-6.

    The moments see a 0.2 % wrong scale (8.9 standard errors, so that the power is above
    0.999) and a shift of 0.0025 (7.9). Distribution functions see 0.6 %.
    """
    draws = many(_discrete.gaussian(scale), 10**7, make)
    check_law(draws, "gaussian", scale, wrong_scale=1.002, shift=0.0025)
    assert kolmogorov(draws, cdf_and_scale("gaussian", scale)[0]) > 1e-6
    for factor in (1.006, 1 / 1.006):
        wrong, _ = cdf_and_scale("gaussian", scale * factor)
        assert kolmogorov(draws, wrong) < 1e-6


def check_law(draws, kind, scale, *, wrong_scale, shift):
    cdf, width = cdf_and_scale(kind, scale)
    kurtosis = 6.0 if kind == "laplace" else 3.0 + (kind == "skellam") / scale
    assert chi_square(draws, cdf, width) > 1e-6
    assert moments_pass(draws, width, kurtosis)
    power = 1 if kind != "laplace" else 2  # heavier tails hide a wrong scale better
    assert not moments_pass(draws * wrong_scale**power, width, kurtosis)
    assert not moments_pass(draws / wrong_scale**power, width, kurtosis)
    assert not moments_pass(draws + shift * width, width, kurtosis)
    if scale > 1000:  # where a wrong scale moves integers into other cells
        off = draws * (1 + 5 * (wrong_scale - 1))
        assert chi_square(off, cdf, width) < 1e-6
