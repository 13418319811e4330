"""Every event is derived twice, under every relation; contradictions are refused."""

import logging
import math
import warnings

import dp_accounting
import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy import stats

from jaxfed import accounting, sampling
from jaxfed.accounting import _attack, _epsilon, _events, _pld

RELATION = dp_accounting.NeighboringRelation
DELTA = 1e-6


def gaussian(multiplier):
    return dp_accounting.GaussianDpEvent(multiplier)


def poisson(rate, multiplier):
    return dp_accounting.PoissonSampledDpEvent(rate, gaussian(multiplier))


def without_replacement(population, size, multiplier):
    return dp_accounting.SampledWithoutReplacementDpEvent(
        population, size, gaussian(multiplier)
    )


BOTH, ALL = ("zero_out", "replace_one"), _events.RELATIONS
CASES = [
    (gaussian(4.0), ALL),
    (gaussian(0.3), ALL),
    (poisson(0.01, 1.0), ALL),
    (poisson(0.2, 0.6), ALL),
    (poisson(1.0, 3.0), ALL),
    (poisson(1e-6, 1.0), ALL),
    (dp_accounting.LaplaceDpEvent(10.0), ALL),
    (
        dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.LaplaceDpEvent(1.0)),
        ("zero_out", "add_remove"),
    ),
    (dp_event.DiscreteLaplaceDpEvent(0.2, 2), ALL),
    (dp_event.RandomizedResponseDpEvent(0.9, 5), BOTH),
    (
        dp_event.MixtureOfGaussiansDpEvent(2.0, [0.0, 1.0, 2.0], [0.8, 0.1, 0.1]),
        ("zero_out", "add_remove"),
    ),
    (dp_event.ZCDpEvent(0.01), ALL),
    (sampling.Poisson(population=10_000, rate=0.01).event(1.0), BOTH),
    (sampling.Poisson(population=300, rate=0.1, cap=30).event(3.0), BOTH),
    (without_replacement(1_000, 10, 2.0), ("replace_one",)),
    (dp_accounting.SingleEpochTreeAggregationDpEvent(8.83, 1600), BOTH),
    (accounting.PureEpsilon(epsilon=0.1), BOTH),
    (accounting.PureEpsilon(epsilon=0.1, relation="zero_out"), BOTH),
    (accounting.Skellam(l1_sensitivity=90, l2_sensitivity=9, variance=1e4), BOTH),
]
PAIRS = [(event, relation) for event, relations in CASES for relation in relations]
REFUSED = [
    (event, relation)
    for event, relations in CASES
    for relation in ALL
    if relation not in relations
]


@pytest.mark.parametrize(("event", "relation"), PAIRS, ids=str)
def test_accountants_and_attack_agree(event, relation):
    """P4: attack <= PLD <= Renyi, for every mechanism and relation."""
    found = accounting.derive(event, 20, delta=DELTA, relation=relation)
    assert 0 <= found.attack_epsilon <= found.epsilon * (1 + 1e-6) + 1e-6
    assert found.epsilon <= found.renyi_epsilon * 1.02 + 0.02
    assert math.isfinite(found.renyi_epsilon)


@pytest.mark.parametrize(("event", "relation"), PAIRS, ids=str)
def test_counts_multiply(event, relation):
    """P5, H20: n uses cost what one event of n uses does, however it is written.

    In 0.6.0 of dp-accounting the loss of randomised response forgets its count.
    """
    composed = dp_accounting.SelfComposedDpEvent
    written = [
        (composed(event, 6), 1),
        (composed(composed(event, 2), 3), 1),
        (dp_accounting.ComposedDpEvent([event] * 6), 1),
        ([event, composed(event, 2)], 2),
        (event, 6),
    ]
    found = [
        accounting.epsilon(tree, count, delta=DELTA, relation=relation)
        for tree, count in written
    ]
    assert found == [found[0]] * len(found)
    one = accounting.rdp(event, relation=relation)
    six = accounting.rdp(event, 6, relation=relation)
    np.testing.assert_allclose(six, 6 * one)
    once = accounting.epsilon(event, 1, delta=DELTA, relation=relation)
    assert found[0] > once or found[0] == 0


def test_upstream_forgets_the_count_of_randomised_response():
    event = dp_event.RandomizedResponseDpEvent(0.9, 5)
    accountant = dp_accounting.pld.PLDAccountant(RELATION.REPLACE_SPECIAL, 1e-3)
    theirs = accountant.compose(event, 20).get_epsilon(DELTA)
    assert theirs < 0.5
    assert accounting.epsilon(event, 20, delta=DELTA) > 4


@pytest.mark.parametrize(("event", "relation"), REFUSED, ids=str)
def test_pairs_without_a_proof_are_refused(event, relation):
    with pytest.raises(ValueError, match="relation must be"):
        accounting.epsilon(event, 2, delta=DELTA, relation=relation)


@pytest.mark.parametrize(
    "event",
    [
        dp_accounting.UnsupportedDpEvent(),
        dp_event.SampledWithReplacementDpEvent(10, 2, gaussian(1.0)),
        dp_event.RepeatAndSelectDpEvent(gaussian(1.0), 3.0, 1.0),
        dp_accounting.PoissonSampledDpEvent(0.1, dp_event.ZCDpEvent(1.0)),
        dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.NoOpDpEvent()),
        "Gaussian",
    ],
    ids=str,
)
def test_events_that_nobody_can_account_are_refused_by_name(event):
    with pytest.raises(ValueError, match=r"event.*must be.*privacy\.event"):
        accounting.epsilon([gaussian(1.0), event], 2, delta=DELTA)


def test_different_events_compose():
    """Two Gaussians are one, and a Laplace can only add."""
    pair = [gaussian(3.0), gaussian(4.0)]
    exact = dp_accounting.get_epsilon_gaussian(12 / 5, DELTA)
    found = accounting.epsilon(pair, 1, delta=DELTA)
    assert exact <= found <= 1.002 * exact
    more = [*pair, dp_accounting.LaplaceDpEvent(30.0)]
    assert found < accounting.epsilon(more, 1, delta=DELTA)
    assert accounting.epsilon([], 5, delta=DELTA) == 0
    several = dp_accounting.PoissonSampledDpEvent(
        0.01, dp_accounting.ComposedDpEvent(pair)
    )
    one = accounting.epsilon(poisson(0.01, 12 / 5), 9, delta=DELTA)
    assert accounting.epsilon(several, 9, delta=DELTA) == pytest.approx(one)


@pytest.mark.parametrize(("event", "relation"), PAIRS, ids=str)
def test_the_attack_is_below_the_optimistic_distribution(event, relation):
    """The attack is a true lower bound: it never beats a loss rounded downwards."""
    ((leaf, count),) = _events.parts(event, 8, relation)
    name = type(leaf).__name__
    if name not in ("GaussianDpEvent", "PoissonSampledDpEvent"):
        return
    noise = getattr(leaf, "event", leaf)
    if type(noise).__name__ != "GaussianDpEvent":
        return
    interval = 1e-4 if noise.noise_multiplier >= 1 else 1e-3
    lower = pld.from_gaussian_mechanism(
        noise.noise_multiplier,
        pessimistic_estimate=False,
        value_discretization_interval=interval,
        sampling_prob=getattr(leaf, "sampling_probability", 1.0),
        use_connect_dots=False,
        neighboring_relation=_events.upstream(relation),
    ).self_compose(count)
    lower = lower.get_epsilon_for_delta(DELTA)
    attack = _attack.epsilon(((leaf, count),), relation, DELTA)
    assert attack <= lower + count * interval + 1e-3 * lower
    found = accounting.derive(event, 8, delta=DELTA, relation=relation)
    assert lower <= found.epsilon <= found.renyi_epsilon * 1.02 + 0.02


@pytest.mark.parametrize(
    ("event", "rounds", "least"),
    [
        (gaussian(4.0), 10, 0.999),
        (poisson(0.01, 1.0), 1000, 0.6),
        (sampling.Poisson(population=10_000, rate=0.01).event(1.0), 1000, 0.6),
        (dp_event.RandomizedResponseDpEvent(0.9, 5), 100, 0.6),
    ],
)
def test_the_attack_has_power(event, rounds, least):
    found = accounting.derive(event, rounds, delta=DELTA)
    assert found.attack_epsilon >= least * found.epsilon


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_a_wrong_loss_distribution_is_refused(monkeypatch, share):
    """Half and twice the noise, as a wrong relation would have it (H3)."""
    real = _pld._gaussian
    event = gaussian(3.21 + share)

    def wrong(multiplier, relation, interval, rate=1.0):
        return real(multiplier * share, relation, interval, rate)

    monkeypatch.setattr(_pld, "_gaussian", wrong)
    _pld.base.cache_clear()
    with pytest.raises(accounting.AccountingError, match="must be the same by two"):
        accounting.epsilon(event, 10, delta=DELTA)
    _pld.finest.cache_clear()
    _pld.base.cache_clear()


def test_a_wrong_renyi_bound_is_refused():
    parts = ((poisson(0.01, 1.0), 1000),)
    found = _epsilon.Derivation(2.12, "PLD", 1.9, 1.4)
    with pytest.raises(accounting.AccountingError, match="above the Renyi bound"):
        _epsilon.agreed(found, parts, "zero_out")
    with pytest.raises(accounting.AccountingError, match="an attack reaches more"):
        _epsilon.agreed(found._replace(epsilon=1.3), parts, "zero_out")


def test_the_method_is_said():
    def method(event, delta=DELTA, relation="zero_out"):
        return accounting.derive(event, 3, delta=delta, relation=relation).method

    assert method(gaussian(4.0)) == "PLD"
    assert method(without_replacement(100, 5, 4.0), relation="replace_one") == "RDP"
    assert method(gaussian(4.0), delta=1e-20) == "RDP"  # below what a grid resolves
    assert math.isfinite(accounting.epsilon(gaussian(4.0), 3, delta=1e-20))


@pytest.mark.parametrize("distance", [1e-9, 1e-7, 4e-7])
def test_distance_is_charged_to_delta(distance):
    """Gaussian: the hockey-stick divergence in closed form, inverted by bisection."""
    mu = 0.8

    def real_delta(epsilon):
        upper = stats.norm.cdf(mu / 2 - epsilon / mu)
        ideal = upper - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)
        return ideal + (1 + math.exp(epsilon)) * distance

    least = (
        next(e for e in np.linspace(0, 20, 40_001) if real_delta(e) <= DELTA)
        if distance < 1e-8
        else None
    )
    found = accounting.epsilon(gaussian(1 / mu), 1, delta=DELTA, distance=distance)
    if least is not None:
        assert least - 5e-4 <= found <= 1.003 * least
    else:  # exp(epsilon) is beyond 20: the charge alone passes delta
        assert found == math.inf


def test_distance_against_two_points():
    """Brute force: an ideal pair, and every real pair at the corners of its ball."""
    epsilon, distance = 1.2, 3e-4
    hit = 1 / (1 + math.exp(-epsilon))
    event = accounting.PureEpsilon(epsilon=epsilon)
    real = (hit + distance, 1 - hit - distance), (1 - hit - distance, hit + distance)
    for delta in (1.6e-3, 5e-3, 0.05):
        found = accounting.epsilon(event, 1, delta=delta, distance=distance)
        worst = max(
            sum(max(0.0, p - math.exp(found) * q) for p, q in zip(*pair, strict=True))
            for pair in (real, real[::-1])
        )
        assert worst <= delta * (1 + 1e-9)
    # tight: at a delta where only the first answer counts, no smaller epsilon will do
    delta = 5e-3
    found = accounting.epsilon(event, 1, delta=delta, distance=distance)
    exact = math.log((real[0][0] - delta) / real[1][0])
    assert exact <= found <= exact + 1e-3


def test_distance_that_uses_up_delta_is_infinite():
    for distance in (DELTA / 2, DELTA, 1.0):
        assert (
            accounting.epsilon(gaussian(4.0), 1, delta=DELTA, distance=distance)
            == math.inf
        )
    curve = accounting.epsilon_curve(gaussian(4.0), 3, delta=DELTA, distance=DELTA)
    assert np.isinf(curve).all()


def test_distance_in_a_curve_is_charged_at_every_round():
    ideal = accounting.epsilon_curve(poisson(0.01, 1.0), 5, delta=DELTA)
    real = accounting.epsilon_curve(
        poisson(0.01, 1.0), 5, delta=DELTA, distance=DELTA / 8
    )
    assert (real > ideal).all()


def test_a_curve_without_loss_distributions_is_renyis():
    event = without_replacement(1000, 10, 2.0)
    curve = accounting.epsilon_curve(event, 4, delta=DELTA, relation="replace_one")
    each = [
        accounting.epsilon(event, t, delta=DELTA, relation="replace_one")
        for t in (1, 2, 3, 4)
    ]
    np.testing.assert_allclose(curve, each)


def test_accounting_warns_of_nothing_and_hides_nothing(caplog):
    """Its own Renyi bounds replace the code that logs a line for every order."""
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        for event, relation in PAIRS:
            accounting.epsilon(event, 7, delta=1e-5, relation=relation)
    assert not caplog.records


def test_a_warning_from_upstream_gets_through(monkeypatch):
    real = _pld._gaussian

    def warning(*arguments):
        warnings.warn("something new", RuntimeWarning, stacklevel=1)
        return real(*arguments)

    monkeypatch.setattr(_pld, "_gaussian", warning)
    with pytest.warns(RuntimeWarning, match="something new"):
        accounting.epsilon(gaussian(5.4321), 3, delta=DELTA)


@pytest.mark.parametrize(
    ("event", "match"),
    [
        (gaussian(-1.0), "noise_multiplier must be >= 0"),
        (gaussian(math.nan), "noise_multiplier must be a finite"),
        (poisson(1.5, 1.0), r"sampling_probability must be in \[0, 1\]"),
        (without_replacement(5, 6, 1.0), "sample_size must be <="),
        (dp_accounting.SelfComposedDpEvent(gaussian(1.0), 0), "must be an integer"),
        (dp_event.MixtureOfGaussiansDpEvent(1.0, [0.0, 1.0], [0.5]), "sum 1"),
    ],
    ids=str,
)
def test_wrong_parameters_are_refused(event, match):
    with pytest.raises(ValueError, match=match):
        accounting.epsilon(event, 1, delta=DELTA, relation="replace_one")


@pytest.mark.parametrize(
    "event",
    [
        gaussian(0.0),
        poisson(0.5, 0.0),
        dp_accounting.LaplaceDpEvent(0.0),
        dp_event.RandomizedResponseDpEvent(0.0, 3),
        dp_accounting.NonPrivateDpEvent(),
        dp_accounting.SingleEpochTreeAggregationDpEvent(0.0, 8),
        accounting.Skellam(l1_sensitivity=1, l2_sensitivity=1, variance=0),
    ],
    ids=str,
)
def test_no_noise_is_infinite_and_no_sampling_is_free(event):
    assert accounting.epsilon([gaussian(1.0), event], 2, delta=DELTA) == math.inf
    assert np.isinf(accounting.rdp(event)).all()
    assert accounting.epsilon(poisson(0.0, 0.0), 2, delta=DELTA) == 0


LITTLE = [1e-300, 1e-9, 1e-4, 1e-2, 0.03, 0.045]


@pytest.mark.parametrize("noise", LITTLE)
@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
@pytest.mark.parametrize(
    "event",
    [
        gaussian,
        lambda noise: dp_accounting.LaplaceDpEvent(noise / 10),
        lambda noise: accounting.PureEpsilon(epsilon=min(1e300, 3 / noise)),
        lambda noise: poisson(0.01, noise),
        lambda noise: without_replacement(1000, 50, noise),
        lambda noise: dp_event.TruncatedSubsampledGaussianDpEvent(900, 0.1, 99, noise),
        lambda noise: dp_accounting.SelfComposedDpEvent(gaussian(9 * noise), 10**9),
    ],
    ids=["gaussian", "laplace", "pure", "poisson", "fixed", "truncated", "many"],
)
def test_far_too_little_noise_is_a_large_number_and_no_error(event, relation, noise):
    if "Replacement" in type(event(noise)).__name__ and relation == "zero_out":
        pytest.skip("no bound is proved for that pair")
    found = accounting.derive(event(noise), 1, delta=DELTA, relation=relation)
    assert found.epsilon > 30
    assert found.epsilon >= found.attack_epsilon * (1 - 1e-6)
    odometer = accounting.Odometer(delta=DELTA, relation=relation)
    odometer.add(event(noise))
    odometer.add(event(noise))
    assert odometer.epsilon() >= found.epsilon * (1 - 1e-3)
    curve = accounting.epsilon_curve(event(noise), 3, delta=DELTA, relation=relation)
    assert (curve > 30).all()


@pytest.mark.parametrize(
    ("epsilon", "uses"),
    [(1e-4, 100_000), (1e-4, 300_000), (1e-3, 123_457), (1e-3, 1000), (0.3, 9)],
)
def test_many_small_pure_reports_are_as_exact_as_the_binomial(epsilon, uses):
    many = dp_accounting.SelfComposedDpEvent(
        accounting.PureEpsilon(epsilon=epsilon), uses
    )
    found = accounting.derive(many, 1, delta=DELTA)
    exact = accounting.pure_epsilon(epsilon, uses, delta=DELTA)
    assert found.method == "PLD"
    assert exact * (1 - 1e-6) <= found.epsilon <= exact * 1.005
    # what rounding in many logarithms loses is not an infinite loss
    for delta in (1e-8, 1e-12):
        exact = accounting.pure_epsilon(epsilon, uses, delta=delta)
        assert accounting.epsilon(many, 1, delta=delta) <= exact * 1.005


@pytest.mark.parametrize("epsilon", [0.5, 30.0, 40.0, 1000.0])
def test_renyi_bounds_of_one_pure_report_reach_its_epsilon_and_no_more(epsilon):
    bound = accounting.rdp(accounting.PureEpsilon(epsilon=epsilon))
    assert (bound <= epsilon * (1 + 1e-12)).all()
    assert bound[-1] > epsilon * 0.99 or epsilon == 0.5
