"""Calibration of noise, rate and rounds, and the statement about groups."""

import math

import dp_accounting
import pytest

from jaxfed import accounting, sampling

DELTA = 1e-6


def gaussian(multiplier):
    return dp_accounting.GaussianDpEvent(multiplier)


def poisson(rate, multiplier):
    return dp_accounting.PoissonSampledDpEvent(rate, gaussian(multiplier))


@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_multiplier_is_the_least(relation):
    found = accounting.calibrate_multiplier(
        gaussian, 10, epsilon=1.0, delta=DELTA, relation=relation
    )
    exact = dp_accounting.get_sigma_gaussian(1.0, DELTA) * math.sqrt(10)
    exact *= 2 if relation == "replace_one" else 1
    assert exact <= found <= 1.002 * exact


def test_multiplier_pays_for_distance():
    ideal = accounting.calibrate_multiplier(gaussian, 10, epsilon=1.0, delta=DELTA)
    real = accounting.calibrate_multiplier(
        gaussian, 10, epsilon=1.0, delta=DELTA, distance=1e-7
    )
    smaller = DELTA - (1 + math.e) * 1e-7
    exact = dp_accounting.get_sigma_gaussian(1.0, smaller) * math.sqrt(10)
    assert ideal < exact <= real <= 1.002 * exact
    with pytest.raises(ValueError, match="ask for a larger epsilon"):
        accounting.calibrate_multiplier(
            gaussian, 10, epsilon=1.0, delta=DELTA, distance=DELTA
        )


def test_rate_is_the_largest():
    def event(rate):
        return poisson(rate, 1.0)

    found = accounting.calibrate_rate(event, 100, epsilon=1.0, delta=DELTA)
    assert accounting.epsilon(event(found), 100, delta=DELTA) <= 1.0
    assert accounting.epsilon(event(found * 1.005), 100, delta=DELTA) > 1.0


def test_rate_with_noise_that_grows_with_the_cohort():
    """A fixed noise of 0.1 per client: more clients are more noise on the sum."""

    def event(rate):
        return poisson(rate, max(0.3, 0.1 * rate * 10_000))

    found = accounting.calibrate_rate(event, 10, epsilon=1.0, delta=DELTA)
    assert found == 1.0  # everybody: the most private choice of all


def test_rate_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="permits no sampling rate"):
        accounting.calibrate_rate(
            lambda rate: gaussian(0.5), 10, epsilon=1.0, delta=DELTA
        )


@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_rounds_of_a_gaussian(epsilon):
    """Exact: T rounds are one Gaussian with z / sqrt(T)."""
    found = accounting.calibrate_rounds(gaussian(40.0), epsilon=epsilon, delta=DELTA)
    exact = (40.0 / dp_accounting.get_sigma_gaussian(epsilon, DELTA)) ** 2
    assert 0.998 * exact - 1 <= found <= exact


def test_rounds_by_renyi_bounds_and_none_at_all():
    event = dp_accounting.SampledWithoutReplacementDpEvent(1000, 10, gaussian(3.0))
    found = accounting.calibrate_rounds(
        event, epsilon=3.0, delta=DELTA, relation="replace_one"
    )

    def epsilon(rounds):
        return accounting.epsilon(event, rounds, delta=DELTA, relation="replace_one")

    assert epsilon(found) <= 3.0 < epsilon(found + 1)
    assert accounting.calibrate_rounds(gaussian(0.2), epsilon=1.0, delta=DELTA) == 0
    none = dp_accounting.NonPrivateDpEvent()
    assert accounting.calibrate_rounds(none, epsilon=1.0, delta=DELTA) == 0
    with pytest.raises(ValueError, match="never spends"):
        accounting.calibrate_rounds(
            dp_accounting.NoOpDpEvent(), epsilon=1.0, delta=DELTA
        )


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_group_of_a_gaussian_is_exact(size, relation):
    found = accounting.group_epsilon(
        gaussian(30.0), 10, delta=DELTA, size=size, relation=relation
    )
    times = size * (2 if relation == "replace_one" else 1)
    exact = dp_accounting.get_epsilon_gaussian(30 / math.sqrt(10) / times, DELTA)
    assert exact <= found <= 1.002 * exact


TRUNCATED = sampling.Poisson(population=10_000, rate=0.01, cap=200).event(2.0)


@pytest.mark.parametrize("event", [poisson(0.01, 2.0), TRUNCATED], ids=str)
def test_group_in_a_sampled_cohort(event):
    """Above what a member alone spends, below what the group spends unsampled."""
    found = [
        accounting.group_epsilon(event, 100, delta=DELTA, size=k) for k in (1, 2, 3)
    ]
    assert found[0] == accounting.epsilon(event, 100, delta=DELTA)
    assert found[0] < found[1] < found[2]
    unsampled = accounting.epsilon(gaussian(2.0 / 3), 100, delta=DELTA)
    assert found[2] < 0.2 * unsampled
    # at least the group whose members all lie at the same point and join alike
    assert found[1] >= accounting.epsilon(poisson(0.01, 1.0), 100, delta=DELTA) / 2


def test_group_without_a_direct_bound_uses_the_generic_one():
    """Randomised response: size times epsilon, at a delta that is far smaller."""
    event = dp_accounting.dp_event.RandomizedResponseDpEvent(0.95, 4)
    pair = accounting.group_epsilon(event, 3, delta=1e-3, size=2)
    once = accounting.epsilon(event, 3, delta=5e-4)
    assert 2 * once <= pair <= 2.5 * once


def test_group_of_pure_and_of_zero_concentrated_mechanisms():
    pure = accounting.PureEpsilon(epsilon=0.1)
    found = accounting.group_epsilon(pure, 1, delta=DELTA, size=3)
    assert 0.29 < found <= 0.301
    zcdp = dp_accounting.dp_event.ZCDpEvent(0.01)
    four = accounting.epsilon(dp_accounting.dp_event.ZCDpEvent(0.04), 1, delta=DELTA)
    group = accounting.group_epsilon(zcdp, 1, delta=DELTA, size=2)
    assert group == pytest.approx(four)
    none = dp_accounting.NonPrivateDpEvent()
    assert accounting.group_epsilon(none, 1, delta=DELTA, size=2) == math.inf
