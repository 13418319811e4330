"""Rules equal their slow twins, whatever padding holds; hostile reports are held."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed.robust import GeometricMedian, Krum, Median, NormBounded, TrimmedMean
from tests.reference import robust as twin

SLOTS, SIZE = 16, 11
RULES = {
    "median": (Median(), twin.median),
    "trimmed": (
        TrimmedMean(fraction=0.2),
        functools.partial(twin.trimmed_mean, fraction=0.2),
    ),
    "untrimmed": (
        TrimmedMean(fraction=0.0),
        functools.partial(twin.trimmed_mean, fraction=0.0),
    ),
    "krum": (Krum(attackers=2), functools.partial(twin.krum, attackers=2)),
    "multi_krum": (
        Krum(attackers=2, selected=5),
        functools.partial(twin.krum, attackers=2, selected=5),
    ),
    "geometric": (
        GeometricMedian(iterations=7),
        functools.partial(twin.geometric_median, iterations=7),
    ),
    "bounded": (
        NormBounded(norm=2.5),
        functools.partial(twin.norm_bounded, norm=2.5),
    ),
}
EXACT = ("median", "trimmed", "untrimmed")
names = pytest.mark.parametrize("name", RULES)


@functools.partial(jax.jit, static_argnums=0)
def combined(rule, reports, is_real):
    return rule.combine(reports, is_real)


def split(matrix):
    """Returns (slots, SIZE) as a tree of leaves of several ranks."""
    matrix = jnp.asarray(matrix, jnp.float32)
    slots = len(matrix)
    return {
        "w": matrix[:, :6].reshape(slots, 2, 3),
        "b": matrix[:, 6],
        "c": matrix[:, 7:],
    }


def joined(value):
    parts = (value["w"], value["b"], value["c"])
    return np.concatenate([np.ravel(np.asarray(part)) for part in parts])


def of(rule, matrix, is_real):
    return joined(combined(rule, split(matrix), jnp.asarray(is_real)))


def draw(seed, count, slots=SLOTS, rest=np.nan):
    """Returns reports in random slots, with `rest` everywhere else, and where."""
    random = np.random.default_rng(seed)
    is_real = np.zeros(slots, bool)
    is_real[random.permutation(slots)[:count]] = True
    matrix = np.full((slots, SIZE), rest, np.float32)
    matrix[is_real] = 0.3 + random.normal(size=(count, SIZE))
    return matrix, is_real


@names
@pytest.mark.parametrize("count", [1, 2, 6, 7, 13, 16])
def test_a_rule_equals_its_slow_twin(name, count):
    rule, slow = RULES[name]
    matrix, is_real = draw(count, count)
    found = of(rule, matrix, is_real)
    wanted = slow(matrix[is_real].astype(np.float64))
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)


@names
@pytest.mark.parametrize("slots", [1, 7, 9, 33])
def test_any_number_of_slots(name, slots):
    rule, slow = RULES[name]
    matrix, is_real = draw(slots, slots, slots=slots)
    if name.endswith("krum") and slots < 7:
        with pytest.raises(ValueError, match="at least 2 \\* attackers \\+ 3 = 7"):
            of(rule, matrix, is_real)
        return
    found = of(rule, matrix, is_real)
    wanted = slow(matrix.astype(np.float64))
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)


@names
def test_what_does_not_count_changes_nothing(name):
    rule, _ = RULES[name]
    matrix, is_real = draw(3, 9, rest=0.0)
    wanted = of(rule, matrix, is_real)
    for rest in (np.nan, np.inf, -3e38, 1.0):
        matrix[~is_real] = rest
        assert (of(rule, matrix, is_real) == wanted).all()
    matrix[~is_real] = 0.5
    matrix[~is_real, 3] = np.nan  # a client whose report is not finite
    assert (of(rule, matrix, np.ones(SLOTS, bool)) == wanted).all()


@names
def test_nobody_gives_zeros(name):
    rule, _ = RULES[name]
    matrix, is_real = draw(0, 0)
    assert (of(rule, matrix, is_real) == 0).all()
    matrix[:] = np.inf
    assert (of(rule, matrix, ~is_real) == 0).all()


@names
def test_the_order_of_reports_does_not_matter(name):
    rule, _ = RULES[name]
    tolerance = 0.0 if name in EXACT else 1e-6
    matrix, is_real = draw(5, 12)
    wanted = of(rule, matrix, is_real)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(SLOTS)
        found = of(rule, matrix[order], is_real[order])
        np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=0)


@names
def test_a_rule_compiles_once_and_takes_any_dtype(name):
    rule, _ = RULES[name]
    traces = []

    @jax.jit
    def run(reports, is_real):
        traces.append(1)
        return rule.combine(reports, is_real)

    for count in (0, 3, 9, 16):
        matrix, is_real = draw(count, count)
        run(split(matrix), jnp.asarray(is_real))
    assert len(traces) == 1
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), split(matrix))
    value = run(half, jnp.asarray(is_real))
    assert {leaf.dtype for leaf in jax.tree.leaves(value)} == {jnp.dtype("float32")}


@names
def test_a_rule_is_a_value(name):
    rule, _ = RULES[name]
    again = jf.robust.Rule.from_json(rule.to_json())
    assert again == rule
    assert hash(again) == hash(rule)
    assert repr(again) == repr(rule)
    assert repr(rule).startswith(type(rule).__name__ + "(")
    assert rule.describe()
    assert all(rule != other for key, (other, _) in RULES.items() if key != name)


huge = st.floats(width=32, allow_nan=False, allow_infinity=False)
HONEST = 8


@st.composite
def with_attackers(draw_, most):
    """Reports of which up to `most` are any float32 values; who is honest."""
    count = draw_(st.integers(1, most))
    hostile = draw_(st.lists(huge, min_size=count * SIZE, max_size=count * SIZE))
    matrix, is_real = draw(draw_(st.integers(0, 20)), HONEST + count)
    attackers = np.flatnonzero(is_real)[:count]
    matrix[attackers] = np.array(hostile, np.float32).reshape(count, SIZE)
    is_honest = is_real.copy()
    is_honest[attackers] = False
    return matrix, is_real, is_honest


def is_within(found, honest, slack=1e-5):
    return (found >= honest.min(axis=0) - slack).all() and (
        found <= honest.max(axis=0) + slack
    ).all()


@hypothesis.settings(max_examples=40)
@hypothesis.given(with_attackers(most=7))
def test_fewer_than_half_cannot_move_a_median_out_of_the_honest_range(case):
    matrix, is_real, is_honest = case
    assert is_within(of(Median(), matrix, is_real), matrix[is_honest])


@hypothesis.settings(max_examples=40)
@hypothesis.given(with_attackers(most=4))
def test_a_trimmed_fraction_cannot_leave_the_honest_range(case):
    matrix, is_real, is_honest = case
    rule = TrimmedMean(fraction=1 / 3)
    assert is_within(of(rule, matrix, is_real), matrix[is_honest])


@hypothesis.settings(max_examples=40)
@hypothesis.given(with_attackers(most=3))
@pytest.mark.parametrize("selected", [1, 5, 100])
def test_krum_selects_whom_honest_reports_surround(selected, case):
    """What is selected has the score of an honest report at most.

    That is at most n - f - 2 squared distances among the honest, and a neighbour of
    every report is honest.
    """
    matrix, is_real, is_honest = case
    honest = matrix[is_honest].astype(np.float64)
    attackers = int(is_real.sum() - is_honest.sum())
    rule = Krum(attackers=attackers, selected=selected)
    found = of(rule, matrix, is_real)
    apart = max(np.linalg.norm(a - b) for a in honest for b in honest)
    furthest = max(np.linalg.norm(found - one) for one in honest)
    assert furthest <= apart * (1 + np.sqrt(HONEST - 2))


@hypothesis.settings(max_examples=40)
@hypothesis.given(with_attackers(most=4))
def test_the_geometric_median_stays_within_its_bound(case):
    matrix, is_real, is_honest = case
    honest, f = matrix[is_honest].astype(np.float64), is_real.sum() - HONEST
    centre = honest.mean(axis=0)
    radius = max(np.linalg.norm(one - centre) for one in honest)
    found = of(GeometricMedian(), matrix, is_real)
    bound = 2 * HONEST / (HONEST - f) * radius
    assert np.linalg.norm(found - centre) <= bound


@hypothesis.settings(max_examples=40)
@hypothesis.given(with_attackers(most=7))
def test_a_bounded_mean_is_moved_by_norms_alone(case):
    matrix, is_real, is_honest = case
    found = of(NormBounded(norm=2.5), matrix, is_real)
    n, f = is_real.sum(), is_real.sum() - HONEST
    without = twin.norm_bounded(matrix[is_honest].astype(np.float64), 2.5)
    assert np.linalg.norm(found - without * HONEST / n) <= 2.5 * f / n + 1e-5


def test_one_client_breaks_the_mean_and_none_of_the_rules():
    matrix, is_real = draw(1, 12)
    honest = is_real.copy()
    honest[np.flatnonzero(is_real)[0]] = False
    matrix[is_real & ~honest] = 1e9
    mean = of(TrimmedMean(fraction=0.0), matrix, is_real)
    assert mean.min() > 1e7
    for name, (rule, _) in RULES.items():
        if name != "untrimmed":
            assert np.abs(of(rule, matrix, is_real)).max() < 4, name


def test_more_attackers_than_a_rule_bears_break_it():
    """What the other tests call held is not held by accident."""
    matrix, is_real = draw(1, 12)
    matrix[np.flatnonzero(is_real)[:7]] = 1e9
    for name, (rule, _) in RULES.items():
        if name != "bounded":
            assert np.abs(of(rule, matrix, is_real)).max() > 1e6, name
    matrix, is_real = draw(1, 12)
    matrix[np.flatnonzero(is_real)[:3]] = 1e9
    assert np.abs(of(RULES["trimmed"][0], matrix, is_real)).max() > 1e6


@names
def test_the_value_is_finite_even_if_all_are_hostile(name):
    rule, _ = RULES[name]
    matrix = np.full((SLOTS, SIZE), 3e38, np.float32)
    everybody = np.ones(SLOTS, bool)
    assert np.isfinite(of(rule, matrix, everybody)).all()
    matrix[::2] *= -1
    assert np.isfinite(of(rule, matrix, everybody)).all()


def test_weiszfeld_has_converged_after_the_usual_number_of_steps():
    """To a thousandth of the honest reports' spread, with a fifth far away."""
    matrix, is_real = draw(2, 15)
    matrix[np.flatnonzero(is_real)[:3]] = 1e6
    usual = of(GeometricMedian(), matrix, is_real)
    long = twin.geometric_median(matrix[is_real].astype(np.float64), 10_000)
    assert np.linalg.norm(usual - long) < 1e-3 * np.sqrt(SIZE)


def test_a_report_at_the_start_does_not_hold_the_geometric_median():
    """The median of every coordinate is one report; the sum of distances is not least.

    One of 31 reports is zero, the others are the unit vectors: the least sum is that of
    equal coordinates, 1 / (1 + sqrt(31 - 1)) of the way and more from zero.
    """
    matrix = np.concatenate([np.zeros((1, 30)), np.eye(30)]).astype(np.float32)
    everybody = np.ones(31, bool)
    found = of(GeometricMedian(iterations=3), matrix, everybody)
    long = twin.geometric_median(matrix.astype(np.float64), 1_000)

    def distances(point):
        return np.linalg.norm(matrix - point, axis=1).sum()

    assert np.linalg.norm(long) > 0.1
    assert distances(found) < distances(long) * (1 + 1e-4)
    assert distances(np.zeros(30)) > distances(long) * 1.01


def test_krum_tells_close_reports_apart_far_from_zero():
    """Distances by products of matrices would cancel: 1e4 squared is 1e8."""
    random = np.random.default_rng(0)
    matrix = 1e4 + random.integers(-8, 9, (SLOTS, SIZE)) / 64
    everybody = np.ones(SLOTS, bool)
    found = of(Krum(attackers=3), matrix, everybody)
    np.testing.assert_array_equal(found, twin.krum(matrix, 3))


@pytest.mark.parametrize("slots", [2, 12, 100])
@pytest.mark.parametrize("size", [1, 512, 1030])
def test_wide_reports_are_sorted_in_blocks(slots, size):
    matrix = np.random.default_rng(size).normal(size=(slots, size)).astype(np.float32)
    is_real = np.arange(slots) % 3 != 1
    found = combined(Median(), {"a": jnp.asarray(matrix)}, jnp.asarray(is_real))["a"]
    kept = matrix[is_real].astype(np.float64)
    np.testing.assert_allclose(found, np.median(kept, axis=0), atol=1e-6)
    rule = TrimmedMean(fraction=0.25)
    found = combined(rule, {"a": jnp.asarray(matrix)}, jnp.asarray(is_real))["a"]
    np.testing.assert_allclose(found, twin.trimmed_mean(kept, 0.25), atol=1e-5)


def test_tied_reports_share_the_last_places():
    """Two pairs, equally close: whichever slots they lie in."""
    matrix = np.zeros((4, SIZE))
    matrix[:, 0] = [0.0, 1.0, 10.0, 11.0]
    for order in ([0, 1, 2, 3], [3, 0, 2, 1]):
        found = of(Krum(attackers=0, selected=2), matrix[order], np.ones(4, bool))
        assert found[0] == pytest.approx(5.5)
        found = of(Krum(attackers=0, selected=3), matrix[order], np.ones(4, bool))
        assert found[0] == pytest.approx((1 + 10 + (0 + 11) / 2) / 3)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: TrimmedMean(fraction=0.5), ValueError, "fraction must be < 0.5"),
        (lambda: TrimmedMean(fraction=-0.1), ValueError, "fraction must be >= 0"),
        (lambda: Krum(attackers=-1), ValueError, "attackers must be an integer >= 0"),
        (lambda: Krum(attackers=1, selected=0), ValueError, "selected must be"),
        (lambda: GeometricMedian(iterations=0), ValueError, "iterations must be"),
        (lambda: GeometricMedian(smoothing=0.0), ValueError, "smoothing must be > 0"),
        (lambda: GeometricMedian(smoothing=1e-30), ValueError, "smoothing must be >="),
        (lambda: NormBounded(norm=0.0), ValueError, "norm must be > 0"),
        (
            lambda: Median().combine({}, jnp.ones(3, bool)),
            ValueError,
            r"leaves \(slots, ...\)",
        ),
        (
            lambda: Median().combine({"a": jnp.ones((2, 3))}, jnp.ones(3, bool)),
            ValueError,
            r"got first axes \[\(2,\)\] and \(3,\)",
        ),
        (
            lambda: Median().combine({"a": jnp.ones((3, 3))}, jnp.ones(3)),
            TypeError,
            "is_real must be boolean",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(
    ("fraction", "count", "trimmed"),
    [(0.29, 100, 29), (0.1, 30, 3), (0.2, 4, 0), (0.2, 5, 1), (0.4999999999, 2, 0)],
)
def test_the_fraction_is_rounded_down(fraction, count, trimmed):
    matrix = np.zeros((count, SIZE), np.float32)
    matrix[:, 0] = np.arange(count) ** 2
    kept = np.arange(trimmed, count - trimmed) ** 2
    found = of(TrimmedMean(fraction=fraction), matrix, np.ones(count, bool))
    assert found[0] == pytest.approx(kept.mean())
