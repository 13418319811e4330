"""PrivUnit is private, unbiased, and as accurate as its paper says or better."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

import jaxfed as jf
from jaxfed.noise._privunit import _log_density

SETTINGS = [(4.0, 1000), (8.0, 1000), (8.0, 10_000), (0.1, 300), (32.0, 256), (1.0, 3)]


@functools.cache
def compiled(noise):
    return jax.jit(jax.vmap(lambda v, k: noise.direct(v, key=k), (None, 0)))


def reports(noise, vector, count, seed=0):
    keys = jax.random.split(jf.keys.simulated(seed), count)
    return np.asarray(compiled(noise)(jnp.asarray(vector), keys), np.float64)


def direction(size, seed=0):
    vector = np.random.default_rng(seed).normal(size=size)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def exact_cap(threshold, dimension):
    """Returns P(t < threshold), P(t >= threshold) and E[t; t >= threshold]."""
    half = (dimension - 1) / 2
    below = special.betainc(half, half, (1 + threshold) / 2)
    above = special.betainc(half, half, (1 - threshold) / 2)
    first = half * math.log1p(-(threshold**2)) - math.log(dimension - 1)
    return below, above, math.exp(first - special.betaln(0.5, half))


def squared_error(probability, threshold, dimension):
    below, above, first = exact_cap(threshold, dimension)
    mean = first * (probability / above - (1 - probability) / below)
    return 1 / mean**2 - 1


def paper_error(epsilon, dimension):
    """Returns the least error under the paper's own conditions (16a) and (16b)."""

    def threshold(cap_epsilon):
        small = math.tanh(cap_epsilon / 2) * math.sqrt(math.pi / (2 * (dimension - 1)))

        def excess(g):  # (16b), valid from sqrt(2 / d)
            tail = -(dimension - 1) / 2 * math.log1p(-(g**2)) + math.log(g)
            return math.log(dimension) / 2 + math.log(6) + tail - cap_epsilon

        low = math.sqrt(2 / dimension)
        if excess(low) >= 0:
            return small
        return max(small, optimize.brentq(excess, low, 0.999))

    splits = np.linspace(0.01, epsilon - 0.01, 500)
    return min(
        squared_error(special.expit(epsilon - s), threshold(s), dimension)
        for s in splits
    )


@pytest.mark.parametrize(
    ("epsilon", "dimension", "published"),
    [(4.0, 1000, 614), (8.0, 1000, 156), (8.0, 10_000, 1569)],
)
def test_error_is_the_papers_or_smaller(epsilon, dimension, published):
    """Bhowmick et al. 2018 with the best split of epsilon (measured references).

    The exact condition on cap and probability buys 15 to 29 % over (16a) and (16b).
    """
    assert paper_error(epsilon, dimension) == pytest.approx(published, rel=0.007)
    cap = jf.noise.PrivUnit(epsilon=epsilon).cap(dimension)
    ours = 1 / cap.mean**2 - 1
    assert 0.7 * published < ours < 0.86 * published
    assert ours == pytest.approx(
        squared_error(cap.probability, cap.threshold, dimension), rel=1e-5
    )


@pytest.mark.parametrize(("epsilon", "dimension"), SETTINGS)
def test_no_other_cap_of_that_epsilon_is_better(epsilon, dimension):
    dimension = max(dimension, 256)
    best = np.inf
    for scaled in np.linspace(0, 9, 400):
        below, above, first = exact_cap(scaled / math.sqrt(dimension), dimension)
        probability = special.expit(epsilon - math.log(below / above))
        mean = first * (probability / above - (1 - probability) / below)
        best = min(best, 1 / mean**2 - 1)
    cap = jf.noise.PrivUnit(epsilon=epsilon).cap(dimension)
    assert 1 / cap.mean**2 - 1 <= best * (1 + 1e-3 + 5e-4 / min(epsilon, 1))


@pytest.mark.parametrize(("epsilon", "dimension"), SETTINGS)
def test_ratio_of_densities_is_at_most_the_epsilon(epsilon, dimension):
    """Of the law that is drawn: hats on the table's nodes, masses of 2**-128."""
    cap = jf.noise.PrivUnit(epsilon=epsilon).cap(dimension)
    dimension = max(dimension, 256)
    drawn = drawn_masses(cap)
    edge = cap.first_in_cap
    logs = []
    for part in (slice(0, edge), slice(edge, None)):
        nodes, mass = cap.nodes[part], drawn[part].copy()
        mass[-1 if part.start == 0 else 0] *= 2  # a half hat has twice the height
        for share in (0.0, 0.25, 0.5, 0.75):  # points of each cell
            at = nodes[:-1] + share * cap.step
            height = (1 - share) * mass[:-1] + share * mass[1:]
            logs.append(np.log(height) - _log_density(at, dimension))
    ratio = max(x.max() for x in logs) - min(x.min() for x in logs)
    assert ratio <= cap.epsilon <= epsilon * (1 + 1e-12)
    assert ratio >= epsilon - 2e-3  # and none of it is wasted
    assert cap.delta < 2.0**-45


def test_ratio_between_cap_and_complement_is_exact():
    """The paper's own terms, by the incomplete beta function: a second derivation."""
    for epsilon, dimension in SETTINGS:
        dimension = max(dimension, 256)
        cap = jf.noise.PrivUnit(epsilon=epsilon).cap(dimension)
        below, above, _ = exact_cap(cap.threshold, dimension)
        odds = cap.probability / (1 - cap.probability) * below / above
        assert epsilon - 1e-3 < math.log(odds) <= epsilon
        assert cap.probability >= 0.5


def drawn_masses(cap):
    """Returns the probabilities with which the integer table draws its nodes."""
    places = (96, 64, 32, 0)
    passed = [
        sum(int(word) << place for word, place in zip(column, places, strict=True))
        for column in cap.words.T
    ]
    passed = [0, *passed[:-1], 2**128]
    return np.array([(b - a) / 2**128 for a, b in itertools.pairwise(passed)])


@pytest.mark.parametrize(("epsilon", "dimension"), SETTINGS)
def test_the_table_draws_the_masses(epsilon, dimension):
    cap = jf.noise.PrivUnit(epsilon=epsilon).cap(dimension)
    drawn = drawn_masses(cap)
    np.testing.assert_allclose(drawn, cap.masses, rtol=2**-16)
    assert drawn.min() > 0
    assert drawn.sum() == pytest.approx(1, abs=1e-12)


def test_law_of_the_reports():
    # 20,000 reports. Each statistic is compared at 5.1 standard errors, a false alarm
    # of 3.5e-7; the lines after show that a threshold of another epsilon (5 % more),
    # a 6 % shorter mean and 2 % longer reports are caught.
    noise, vector, count = jf.noise.PrivUnit(epsilon=4.0), direction(400), 20_000
    cap = noise.cap(400)
    drawn = reports(noise, vector, count)
    unit = vector.astype(np.float64)
    unit /= np.linalg.norm(unit)

    def passes(values, law):
        along = values @ unit
        inside = np.mean(along >= law.threshold)
        spread = math.sqrt(law.probability * (1 - law.probability) / count)
        error = along.mean() - law.mean
        length = np.linalg.norm(values, axis=1)
        return (
            abs(inside - law.probability) < 5.1 * spread
            and abs(error) < 5.1 * along.std() / math.sqrt(count)
            and np.abs(length - 1).max() < 1e-5
        )

    assert passes(drawn, cap)
    other = jf.noise.PrivUnit(epsilon=4.2).cap(400)
    assert not passes(drawn, other._replace(mean=cap.mean))
    assert not passes(drawn, cap._replace(mean=0.94 * cap.mean))
    assert not passes(1.02 * drawn, cap)
    # what lies across the input has no direction: 400 coordinates, one bound for all
    across = (drawn - np.outer(drawn @ unit, unit)).mean(axis=0)
    assert np.abs(across).max() < 5.6 / math.sqrt(400 * count)  # 400 x 2.1e-8


def test_error_of_reports_is_the_computed_one():
    # 4,000 reports: the error has a relative standard deviation below 1 / sqrt(4000)
    # = 1.6 %; 5.1 of these, a false alarm below 3.5e-7. The power: the published
    # error of the paper's own conditions (41 % larger) is refused.
    noise, vector = jf.noise.PrivUnit(epsilon=4.0), direction(1000)
    cap = noise.cap(1000)
    errors = np.square(reports(noise, vector, 4000) / cap.mean - vector).sum(axis=1)
    spread = errors.std() / math.sqrt(len(errors))
    expected = 1 / cap.mean**2 - 1
    assert abs(errors.mean() - expected) < max(5.1 * spread, 1e-4 * expected)
    assert abs(errors.mean() - 614) > 5.1 * spread


@pytest.mark.parametrize("size", [1, 3, 255, 256, 300])
def test_every_size_is_unbiased(size):
    # 20,000 reports, each coordinate's mean at 5.6 standard errors: below 300 x 2.1e-8.
    noise, count = jf.noise.PrivUnit(epsilon=8.0), 20_000
    vector = 0.6 * direction(size)
    drawn = reports(noise, vector, count) / noise.cap(size).mean
    spread = drawn.std(axis=0) / math.sqrt(count)
    assert (np.abs(drawn.mean(axis=0) - vector) < 5.6 * spread).all()
    # the power: as a whole, the stretched vector is far from the mean
    stretched = vector / 0.6
    along = (drawn - stretched) @ stretched
    assert abs(along.mean()) > 5.6 * along.std() / math.sqrt(count)


@pytest.mark.parametrize(
    "values", [[0.0] * 4, [np.nan, 0, 0, 1], [np.inf, 0, 0, 0], [1e-45, 0, 0, 0]]
)
def test_without_a_direction_the_report_is_uniform(values):
    vector = np.array(values, np.float32)
    noise = jf.noise.PrivUnit(epsilon=8.0)
    zero = reports(noise, np.zeros(4, np.float32), 200)
    np.testing.assert_array_equal(reports(noise, vector, 200), zero)
    # 200 x 4 numbers of standard deviation 1 / 16, 5.6 standard errors of the mean
    assert np.abs(zero.mean(axis=0)).max() < 5.6 / 16 / math.sqrt(200)
    assert np.square(zero).mean() == pytest.approx(1 / 256, rel=0.3)


@pytest.mark.parametrize("size", [1e-25, 3e-13, 1.0, 3.4e38])
def test_huge_and_tiny_vectors_stay_bounded(size):
    vector = (size * np.array([0.6, -0.8, 0.0])).astype(np.float32)
    drawn = reports(jf.noise.PrivUnit(epsilon=8.0), vector, 500)
    assert np.isfinite(drawn).all()
    assert np.linalg.norm(drawn, axis=1).max() <= 1 + 1e-6


def test_only_a_typed_key_and_an_epsilon_in_range():
    with pytest.raises(TypeError, match="typed PRNG key"):
        jf.noise.PrivUnit(epsilon=1.0).direct(jnp.ones(3), key=0)
    for epsilon in (0.0, -1.0, np.nan, 1e-3, 33.0):
        with pytest.raises(ValueError, match="epsilon must be"):
            jf.noise.PrivUnit(epsilon=epsilon)
