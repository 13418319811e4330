"""Answers against the exact statistic, within their stated standard errors.

Random checks are seeded; where a false-alarm rate is stated, it is that of the check
under fresh seeds.
"""

import numpy as np
import pytest

import jaxfed as jf
from jaxfed import queries
from jaxfed.queries import _quantiles, _release
from tests.queries.common import LOWER, UPPER, clients, mechanism

QUIET = 1e-6  # a noise multiplier that leaves the arithmetic visible


def people(count=400, seed=0):
    return clients(np.random.default_rng(seed).integers(1, 6, count), seed)


def clipped(data):
    return np.clip(data.arrays["x"], LOWER, UPPER)


def owners(data):
    return np.repeat(np.arange(data.num_clients), data.client_sizes)


def weights(data, weighting):
    size = data.client_sizes[owners(data)]
    return 1 / size if weighting == "clients" else np.ones(len(size))


@pytest.mark.parametrize("weighting", ["examples", "clients"])
def test_with_hardly_any_noise_answers_are_the_statistics(weighting):
    data = people()
    privacy = mechanism(data.num_clients, norm=5.0, multiplier=QUIET)
    options = {
        "lower": LOWER,
        "upper": UPPER,
        "privacy": privacy,
        "key": jf.keys.simulated(0),
        "weighting": weighting,
    }
    x, w = clipped(data), weights(data, weighting)
    exact = np.average(x, axis=0, weights=w)
    deviation = np.sqrt(np.average((x - exact) ** 2, axis=0, weights=w))
    found = queries.mean(data, "x", **options)
    np.testing.assert_allclose(found.value, exact, atol=1e-4)
    found = queries.moments(data, "x", **options)
    np.testing.assert_allclose(found.value.mean, exact, atol=1e-4)
    np.testing.assert_allclose(found.value.standard_deviation, deviation, atol=1e-4)
    one = queries.mean(data, "x", columns=1, **options)
    assert one.value.shape == ()
    assert one.value == pytest.approx(exact[1], abs=1e-4)

    edges = np.linspace(-1, 2, 7)
    counted = queries.histogram(
        data, "x", edges=edges, privacy=privacy, key=options["key"], weighting=weighting
    )
    expected = [np.histogram(c, edges, weights=w)[0] for c in data.arrays["x"].T]
    np.testing.assert_allclose(counted.value, expected, rtol=1e-4, atol=0.05)

    probabilities = [0.1, 0.5, 0.9]
    found = queries.quantile(data, "x", probabilities, resolution=512, **options)
    assert found.value.shape == (2, 3)
    for column, values in zip(x.T, found.value, strict=True):
        order = np.argsort(column)
        shares = np.cumsum(w[order]) / w.sum()
        exact = column[order][np.searchsorted(shares, probabilities)]
        np.testing.assert_allclose(values, exact, atol=1.5 * (UPPER - LOWER) / 512)


def test_clipping_scales_a_client_s_sums_and_count_alike():
    """Against a loop over clients, as the docstring of `_means` writes the vector."""
    data = people(60)
    norm, share = 1.5, 1 / (1 + 2 * np.sqrt(2))
    total = np.zeros(3)
    for i in range(data.num_clients):
        own = slice(int(data.offsets[i]), int(data.offsets[i + 1]))
        vector = np.zeros(3)
        for row in clipped(data)[own]:
            u = (row - (LOWER + UPPER) / 2) / ((UPPER - LOWER) / 2)
            vector += np.concatenate([[np.sqrt(share)], np.sqrt((1 - share) / 2) * u])
        total += vector * min(1.0, norm / np.linalg.norm(vector))
    unit = total[1:] / np.sqrt((1 - share) / 2) / (total[0] / np.sqrt(share))
    exact = (LOWER + UPPER) / 2 + (UPPER - LOWER) / 2 * unit
    found = queries.mean(
        data,
        "x",
        lower=LOWER,
        upper=UPPER,
        privacy=mechanism(60, norm=norm, multiplier=QUIET),
        key=jf.keys.simulated(0),
    )
    np.testing.assert_allclose(found.value, exact, atol=1e-3)
    assert np.abs(exact - clipped(data).mean(axis=0)).max() > 0.01  # it did clip


def test_bins_are_those_of_numpy_and_categories_are_equal_values():
    values = np.array([-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.1, np.nextafter(2, 3)])
    data = jf.data.FederatedData.from_arrays({"v": values}, client=np.arange(8))
    options = {
        "privacy": mechanism(8, multiplier=QUIET),
        "key": jf.keys.simulated(0),
    }
    found = queries.histogram(data, "v", edges=[0, 1, 2], **options)
    np.testing.assert_allclose(found.value, [2, 3], atol=1e-4)
    found = queries.histogram(data, "v", categories=[2, 0.5, -1, 7], **options)
    np.testing.assert_allclose(found.value, [1, 1, 1, 0], atol=1e-4)


def test_clients_of_exactly_the_norm_are_not_clipped():
    """100 clients of one example each: a clip of 0.05 % would show as .05."""
    data = jf.data.FederatedData.from_arrays(
        {"v": np.zeros(100)}, client=np.arange(100)
    )
    found = queries.histogram(
        data,
        "v",
        categories=[0],
        privacy=mechanism(100, multiplier=QUIET),
        key=jf.keys.simulated(0),
    )
    assert found.value[0] == pytest.approx(100, abs=1e-3)


def residuals(ask, exact, repeats):
    """Errors in stated standard errors, (repeats, ...)."""
    found = [ask(jf.keys.simulated(seed)) for seed in range(repeats)]
    return np.array([(a.value - exact) / a.standard_error for a in found])


def assert_stated(scores, tolerance):
    """The mean square is 1 to within `tolerance`; bad standard errors would show."""
    assert abs(np.mean(scores**2) - 1) < tolerance
    for wrong in (0.7, 1.4):
        assert abs(np.mean((wrong * scores) ** 2) - 1) > tolerance


def test_the_stated_error_of_counts_is_that_of_the_noise():
    """4,000 counts: the mean square is off by .12 once in 1e7 times."""
    data = people()
    edges = np.linspace(-1.5, 2.5, 51)
    exact = [np.histogram(c, edges)[0] for c in data.arrays["x"].T]
    scores = residuals(
        lambda key: queries.histogram(
            data,
            "x",
            edges=edges,
            privacy=mechanism(400, norm=5.0, multiplier=3.0),
            key=key,
            non_negative=False,
        ),
        np.array(exact),
        repeats=40,
    )
    assert scores.size == 4000
    assert_stated(scores, 0.12)
    assert np.abs(scores).max() < 6


def test_the_stated_error_of_means_is_that_of_the_noise():
    """600 means of one column: the mean square is off by .3 once in 1e6 times."""
    data = people(3000)
    exact = clipped(data)[:, 0].mean()
    scores = residuals(
        lambda key: queries.mean(
            data,
            "x",
            columns=0,
            lower=LOWER,
            upper=UPPER,
            privacy=mechanism(3000, norm=5.0, multiplier=3.0),
            key=key,
        ),
        exact,
        repeats=600,
    )
    assert_stated(scores, 0.3)
    assert np.abs(scores).max() < 6


def test_the_stated_error_of_deviations_is_that_of_the_noise():
    """150 runs of two columns, first order: within a third either way."""
    data = people(3000)
    exact = clipped(data).std(axis=0)
    privacy = mechanism(3000, norm=5.0, multiplier=3.0)
    found = [
        queries.moments(
            data,
            "x",
            lower=LOWER,
            upper=UPPER,
            privacy=privacy,
            key=jf.keys.simulated(seed),
        )
        for seed in range(150)
    ]
    scores = np.array(
        [
            (a.value.standard_deviation - exact) / a.standard_error.standard_deviation
            for a in found
        ]
    )
    assert 0.67 < np.mean(scores**2) < 1.5
    for wrong in (0.6, 1.5):
        assert not 0.67 < np.mean((wrong * scores) ** 2) < 1.5


def test_ranks_of_quantiles_are_off_by_what_the_factorisation_says():
    """20,000 uniform values and a worst rank error of 2.96 s, s = 10 / 20,000.

    Pooling violators only helps: the root mean square over 40 x 9 ranks (about 100
    independent ones) is between half of it and 1.15 of it.
    """
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, 20_000)
    data = jf.data.FederatedData.from_arrays(
        {"v": values}, client=np.arange(len(values))
    )
    wanted = np.arange(1, 10) / 10
    found = [
        queries.quantile(
            data,
            "v",
            wanted,
            lower=0,
            upper=1,
            privacy=mechanism(len(values), multiplier=10.0),
            key=jf.keys.simulated(seed),
        )
        for seed in range(40)
    ]
    ordered = np.sort(values)
    ranks = [np.searchsorted(ordered, a.value) / len(values) for a in found]
    worst = 2.965 * 10 / len(values)
    off = np.sqrt(np.mean((np.array(ranks) - wanted) ** 2)) / worst
    assert 0.5 < off < 1.15
    stated = np.mean([a.standard_error for a in found]) / worst
    assert 0.7 < stated < 1.3  # the density is 1, so ranks are values


def rank_errors(queries_of_cells):
    """Worst standard deviation of a rank beside the noisy total, for unit noise."""
    size = queries_of_cells.shape[1]
    covariance = np.linalg.inv(queries_of_cells.T @ queries_of_cells)
    prefixes = np.tril(np.ones((size, size)))
    shares = np.arange(1, size + 1) / size
    ranks = prefixes - shares[:, None]
    return np.sqrt(np.sum(ranks @ covariance * ranks, axis=1).max())


def tree(size, branches):
    """Counts of all nodes; an example is in one node a level."""
    levels, width = [], size
    while True:
        levels.append(np.repeat(np.eye(size // width), width, axis=1))
        if width == 1:
            return np.concatenate(levels) / np.sqrt(len(levels))
        width //= branches


@pytest.mark.parametrize(
    ("size", "flat", "trees", "here"),
    [
        (256, 8.0, {2: 3.43, 4: 3.64, 16: 4.75}, 2.96),
        (1024, 16.0, {2: 4.10, 4: 4.37}, 3.55),
    ],
)
def test_the_table_of_factorisations(size, flat, trees, here):
    root = np.array(_quantiles._root(size))
    np.testing.assert_allclose(root @ root, np.tril(np.ones((size, size))), atol=1e-9)
    longest = np.linalg.norm(root, axis=0).max()
    assert longest == pytest.approx(np.linalg.norm(root[:, 0]), rel=1e-12)
    assert rank_errors(root / longest) == pytest.approx(here, abs=0.006)
    assert rank_errors(np.eye(size)) == pytest.approx(flat, abs=0.006)
    for branches, error in trees.items():
        assert rank_errors(tree(size, branches)) == pytest.approx(error, abs=0.006)


@pytest.mark.parametrize("multiplier", [1.0, 100.0, 1e5])
def test_quantiles_rise_and_stay_in_bounds_whatever_the_noise(multiplier):
    data = people(50)
    wanted = np.linspace(0.01, 0.99, 37)
    for seed in range(20):
        found = queries.quantile(
            data,
            "x",
            wanted,
            lower=[LOWER, 0],
            upper=[UPPER, 0.5],
            privacy=mechanism(50, multiplier=multiplier),
            key=jf.keys.simulated(seed),
            resolution=64,
        )
        assert (np.diff(found.value, axis=-1) >= 0).all()
        assert (found.value >= [[LOWER], [0]]).all()
        assert (found.value <= [[UPPER], [0.5]]).all()
        assert np.isfinite(found.standard_error).all()


def test_pooling_gives_the_nearest_rising_sequence():
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 8):
        values = rng.normal(size=size)
        rising = _quantiles._rising(values)
        assert (np.diff(rising) >= 0).all()
        best = np.sum((values - rising) ** 2)
        for _ in range(300):  # no rising sequence is nearer
            other = np.sort(rising + rng.normal(scale=0.3, size=size))
            assert np.sum((values - other) ** 2) >= best - 1e-12


def test_a_sampled_cohort_answers_for_the_population():
    """300 answers; the cohort's own error is added to the noise's."""
    data = jf.data.FederatedData.from_arrays(
        {"v": np.arange(2000) % 2}, client=np.arange(2000)
    )
    privacy = mechanism(2000, multiplier=2.0, rate=0.2)
    found = np.array(
        [
            queries.histogram(
                data,
                "v",
                categories=[0, 1],
                privacy=privacy,
                key=jf.keys.simulated(seed),
            ).value
            for seed in range(300)
        ]
    )
    sampling = np.sqrt(1000 * 0.2 * 0.8) / 0.2
    stddev = np.hypot(sampling, 2.0 / 0.2)
    # 600 counts: means are off by 5 standard errors once in 1e6 times
    assert np.abs(found.mean() - 1000) < 5 * stddev / np.sqrt(600)
    assert abs(np.mean(((found - 1000) / stddev) ** 2) - 1) < 5 * np.sqrt(2 / 600)


def test_the_share_of_the_count_is_near_the_best():
    """`ratio_weight`: at most a third above the least variance, for one column."""

    def variance(share, mean):
        return 1 / (1 - share) + mean**2 / share

    chosen = _release.ratio_weight(1)
    for mean in np.linspace(0.1, 1, 10):
        least = (1 + mean) ** 2
        ratio = variance(chosen, mean) / least
        assert 1 - 1e-12 <= ratio <= 4 / 3
    assert variance(chosen, 0.5) == pytest.approx(1.5**2)
