"""Skew measures: closed forms, metric laws, SciPy and slow loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance as scipy_distance

from jaxfed.data import FederatedData, partition, skew

DISTANCES = {
    "jensen_shannon": skew.jensen_shannon_distance,
    "hellinger": skew.hellinger_distance,
    "earth_movers": skew.earth_movers_distance,
}
COUNTS = st.integers(1, 5).flatmap(
    lambda k: st.lists(
        st.lists(st.integers(0, 50), min_size=k, max_size=k).filter(any),
        min_size=3,
        max_size=3,
    )
)


def slow(name, p, q):
    p, q = ([v / sum(w) for v in w] for w in (p, q))
    if name == "jensen_shannon":
        total = 0.0
        for a, b in zip(p, q, strict=True):
            for v in (a, b):
                if v > 0:
                    total += v / 2 * math.log2(2 * v / (a + b))
        return math.sqrt(max(total, 0.0))
    if name == "hellinger":
        affinity = sum(math.sqrt(a * b) for a, b in zip(p, q, strict=True))
        return math.sqrt(max(1 - affinity, 0.0))
    return sum(max(a - b, 0.0) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("name", DISTANCES)
@given(weights=COUNTS)
def test_distances_are_metrics_and_equal_a_slow_loop(name, weights):
    f = DISTANCES[name]
    p, q, r = (np.array(w) for w in weights)
    # square roots magnify rounding near 0, hence the loose absolute tolerance
    assert f(p, q) == pytest.approx(slow(name, *weights[:2]), abs=1e-7)
    assert 0 <= f(p, q) <= 1
    assert f(p, q) == f(q, p)
    assert f(p, 7 * p) == pytest.approx(0, abs=1e-7)
    assert f(p, r) <= f(p, q) + f(q, r) + 1e-7


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_are_0_for_equal_and_1_for_disjoint(name):
    assert DISTANCES[name]([1, 3, 0], [2, 6, 0]) == 0
    assert DISTANCES[name]([5, 0, 0], [0, 1, 2]) == pytest.approx(1, abs=1e-12)


def test_values_that_can_be_checked_by_hand():
    p, q = [1, 0], [1, 1]
    assert skew.jensen_shannon_divergence(p, q) == pytest.approx(
        0.5 * math.log2(4 / 3) + 0.25 * math.log2(2 / 3) + 0.25
    )
    assert skew.hellinger_distance(p, q) == pytest.approx(math.sqrt(1 - math.sqrt(0.5)))
    assert skew.earth_movers_distance(p, q) == 0.5


@given(weights=COUNTS)
def test_jensen_shannon_agrees_with_scipy(weights):
    p, q = (np.array(w, float) for w in weights[:2])
    expected = scipy_distance.jensenshannon(p, q, base=2)
    found = skew.jensen_shannon_distance(p, q)
    assert found == pytest.approx(0 if np.isnan(expected) else expected, abs=1e-7)


@given(weights=COUNTS, data=st.data())
def test_earth_movers_on_a_line_agrees_with_scipy(weights, data):
    p, q = (np.array(w, float) for w in weights[:2])
    gaps = data.draw(
        st.lists(st.floats(0.1, 5), min_size=len(p), max_size=len(p)), "gaps"
    )
    at = np.cumsum(gaps)
    expected = stats.wasserstein_distance(at, at, p, q)
    found = skew.earth_movers_distance(p, q, positions=at)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("positions", [[0, 1], [0, 2, 2], [0, 2, np.nan]])
def test_positions_must_rise(positions):
    with pytest.raises(ValueError, match="positions must be 3 rising numbers"):
        skew.earth_movers_distance([1, 2, 3], [3, 2, 1], positions=positions)


@pytest.mark.parametrize("name", DISTANCES)
def test_to_pool_pairwise_and_summary_equal_loops(name, monkeypatch):
    counts = np.random.default_rng(0).integers(0, 30, (11, 4)) + np.eye(
        11, 4, dtype=int
    )
    counts[2] *= 100  # the pool counts rows, not clients
    f = DISTANCES[name]
    pool = counts.sum(0).tolist()
    to_pool = [slow(name, row.tolist(), pool) for row in counts]
    pairs = [[slow(name, a.tolist(), b.tolist()) for b in counts] for a in counts]
    assert skew.to_pool(counts, f) == pytest.approx(to_pool, abs=1e-7)
    assert skew.pairwise(counts, f) == pytest.approx(np.array(pairs), abs=1e-7)
    assert not np.diag(skew.pairwise(counts, f)).any()
    facts = skew.summary(counts)
    off_diagonal = [pairs[i][j] for i in range(11) for j in range(11) if i != j]
    assert getattr(facts, name + "_to_pool") == pytest.approx(np.mean(to_pool))
    assert getattr(facts, name + "_pairwise") == pytest.approx(np.mean(off_diagonal))
    monkeypatch.setattr(skew, "_PAIR_BLOCK_VALUES", 100)
    assert skew.pairwise(counts, f) == pytest.approx(np.array(pairs), abs=1e-7)
    assert skew.summary(counts) == pytest.approx(facts)


def test_summary_of_equal_disjoint_and_single_clients():
    assert skew.summary([[2, 4], [1, 2], [30, 60]]) == pytest.approx([0] * 6, abs=1e-12)
    apart = skew.summary(np.eye(4))
    assert apart.earth_movers_to_pool == pytest.approx(0.75)
    assert apart[1::2] == pytest.approx([1, 1, 1])
    assert skew.summary([[3, 4]]) == pytest.approx([0] * 6)


def test_more_concentration_is_less_skew():
    y = np.arange(6000) % 10
    found = []
    for concentration in (0.05, 0.5, 5.0, 500.0):
        column = partition.dirichlet_over_classes(
            y, num_clients=20, concentration=concentration, seed=0
        )
        d = FederatedData.from_arrays({"y": y}, client=column)
        found.append(skew.summary(d.statistics()["label_counts"]))
    for field in zip(*found, strict=True):
        assert list(field) == sorted(field, reverse=True)


def test_huge_and_tiny_weights_do_not_break():
    for scale in (1e-308, 1e308):
        for f in DISTANCES.values():
            near = np.array([1.0, 1.0]) * scale
            assert f(near, [1, 0]) == pytest.approx(f([1, 1], [1, 0]), abs=1e-9)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1, 2], r"label_counts must be \(num_clients, num_labels\), got shape \(2,\)"),
        ([[1, 2], [0, 0]], "without any weight; drop clients without rows"),
        ([[1, -2]], "must hold finite weights >= 0"),
        ([[1, np.nan]], "must hold finite weights >= 0"),
    ],
)
def test_bad_counts_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        skew.summary(counts)
