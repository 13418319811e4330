"""The odometer: a fresh accountant's number, at a constant cost per round."""

import math
import statistics
import time

import dp_accounting
import pytest

from jaxfed import accounting, sampling

POISSON = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.0))
TRUNCATED = sampling.Poisson(population=10_000, rate=0.01).event(1.0)
GAUSSIAN = dp_accounting.GaussianDpEvent(30.0)


def fresh(events, delta=1e-6):
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    accountant = dp_accounting.pld.PLDAccountant(relation, 1e-3)
    for event, count in events:
        accountant.compose(event, count)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize("event", [POISSON, TRUNCATED, GAUSSIAN], ids=str)
def test_equals_a_fresh_accountant(event):
    """P6: pessimistic, and within 2e-3 (twice the interval)."""
    odometer = accounting.Odometer(delta=1e-6)
    for count in (1, 2, 3, 60):
        while dict(odometer.events).get(event, 0) < count:
            odometer.add(event)
        exact = fresh([(event, count)])
        assert exact - 1e-9 <= odometer.epsilon() <= exact + 2e-3


def test_different_events_in_any_order():
    odometer, other = accounting.Odometer(delta=1e-6), accounting.Odometer(delta=1e-6)
    for _ in range(5):
        odometer.add(POISSON)
        odometer.add([GAUSSIAN, dp_accounting.LaplaceDpEvent(40.0)])
    other.add(dp_accounting.LaplaceDpEvent(40.0), 5)
    other.add(GAUSSIAN, 5)
    other.add(POISSON, 5)
    assert odometer.epsilon() == pytest.approx(other.epsilon(), rel=1e-4)
    assert {*odometer.events} == {*other.events}
    assert len(odometer.events) == 3


def test_what_one_more_would_cost_adds_nothing():
    odometer = accounting.Odometer(delta=1e-6)
    odometer.add(POISSON, 20)
    before = odometer.epsilon()
    expected = odometer.epsilon_if(GAUSSIAN, 3)
    assert odometer.epsilon() == before < expected
    odometer.add(GAUSSIAN, 3)
    assert odometer.epsilon() == expected


def test_an_event_without_loss_distribution_turns_the_total_to_renyi():
    odometer = accounting.Odometer(delta=1e-6)
    zcdp = dp_accounting.dp_event.ZCDpEvent(0.01)
    odometer.add(POISSON, 10)
    odometer.add(zcdp)
    both = accounting.epsilon([(POISSON,) * 10, zcdp], 1, delta=1e-6)
    assert odometer.epsilon() == pytest.approx(both)


def test_after_an_event_without_privacy_everything_is_infinite():
    odometer = accounting.Odometer(delta=1e-6)
    assert odometer.epsilon() == 0
    assert odometer.epsilon_if(dp_accounting.NonPrivateDpEvent()) == math.inf
    odometer.add(dp_accounting.GaussianDpEvent(0.0))
    odometer.add(GAUSSIAN)
    assert odometer.epsilon() == odometer.epsilon_if(GAUSSIAN) == math.inf
    assert odometer.events is None


def test_distance_is_charged():
    odometer = accounting.Odometer(delta=1e-6, distance=1e-7)
    odometer.add(POISSON, 50)
    ideal = accounting.Odometer(delta=1e-6)
    ideal.add(POISSON, 50)
    assert odometer.epsilon() > ideal.epsilon()


def test_large_totals_coarsen_and_stay_upper_bounds():
    odometer, event = accounting.Odometer(delta=1e-5), dp_accounting.GaussianDpEvent(1)
    for _ in range(40):
        odometer.add(event)
        odometer.epsilon()
    exact = dp_accounting.get_epsilon_gaussian(1 / math.sqrt(40), 1e-5)
    assert exact <= odometer.epsilon() <= 1.001 * exact


@pytest.mark.slow
def test_a_round_costs_the_same_after_many():
    """Medians; 3 ms on a quiet core, and here ten times that as an alarm."""
    odometer, costs = accounting.Odometer(delta=1e-6), []
    for _ in range(2000):
        start = time.perf_counter()
        odometer.add(POISSON)
        odometer.epsilon()
        costs.append(time.perf_counter() - start)
    early, late = map(statistics.median, (costs[50:250], costs[-200:]))
    assert late < 6 * early
    assert late < 0.03
