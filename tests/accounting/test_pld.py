"""Epsilon over rounds: monotone, an upper bound between points, equal at the end."""

import dp_accounting
import numpy as np
import pytest

from jaxfed import accounting, sampling

POISSON = sampling.Poisson(population=2_000, rate=0.05)
FULL = sampling.Full(population=10)


@pytest.mark.parametrize("sampler", [POISSON, FULL])
def test_curve_is_epsilon_at_every_round(sampler):
    event = sampler.event(2.0)
    curve = accounting.epsilon_curve(event, 12, delta=1e-5)
    each = [accounting.epsilon(event, t, delta=1e-5) for t in range(1, 13)]
    np.testing.assert_allclose(curve, each, rtol=5e-3)
    assert (np.diff(curve) > 0).all()
    assert curve[-1] == each[-1]


def test_long_curves_round_up_between_points():
    event = POISSON.event(3.0)
    curve = accounting.epsilon_curve(event, 450, delta=1e-5)
    for rounds in (1, 2, 3, 4, 200, 449, 450):
        exact = accounting.epsilon(event, rounds, delta=1e-5)
        assert exact * (1 - 1e-6) <= curve[rounds - 1]
    assert curve[-1] == accounting.epsilon(event, 450, delta=1e-5)
    assert (np.diff(curve) >= 0).all()


def test_equals_dp_accountings_own_composition():
    event = POISSON.event(1.3)
    accountant = dp_accounting.pld.PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_SPECIAL, 1e-3
    )
    accountant.compose(event, 30)
    assert accounting.epsilon(event, 30, delta=1e-6) == pytest.approx(
        accountant.get_epsilon(1e-6),
        rel=1e-4,  # another grid of losses
    )


def test_little_noise_is_answered_quickly_and_from_above():
    """The coarser grid for small noise stays an upper bound of the finer one."""
    event = FULL.event(0.1)
    fine = dp_accounting.get_epsilon_gaussian(0.1, 1e-5)
    assert fine <= accounting.epsilon(event, 1, delta=1e-5) <= 1.01 * fine


def test_no_noise_is_infinite():
    assert np.isinf(accounting.epsilon(POISSON.event(0.0), 5, delta=1e-5))
    assert np.isinf(accounting.epsilon_curve(FULL.event(0.0), 5, delta=1e-5)).all()


def test_curve_cannot_be_changed_through_its_copy():
    event = FULL.event(2.0)
    accounting.epsilon_curve(event, 3, delta=1e-5)[:] = 0
    assert (accounting.epsilon_curve(event, 3, delta=1e-5) > 0).all()
