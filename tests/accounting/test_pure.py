"""Pure reports compose exactly: between a bound by hand and other accountants."""

import math
from fractions import Fraction

import dp_accounting
import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import common
from dp_accounting.pld import privacy_loss_distribution as pld

from jaxfed import accounting


def exact_delta(ratio, rounds, value):
    """Theorem 3.3 in whole numbers: `ratio` is e**epsilon, `value` e**(epsilon')."""
    return sum(
        math.comb(rounds, i)
        * max(Fraction(0), ratio ** (rounds - i) - value * ratio**i)
        / (1 + ratio) ** rounds
        for i in range(rounds + 1)
    )


@pytest.mark.parametrize("ratio", [Fraction(11, 10), Fraction(3), Fraction(3000)])
@pytest.mark.parametrize("rounds", [1, 2, 17, 100])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
def test_equals_the_theorem(ratio, rounds, delta):
    epsilon = accounting.pure_epsilon(math.log(ratio), rounds, delta=delta)
    # the square of a root: e**800 is no float
    value = Fraction(math.exp(epsilon / 2)) ** 2 * (1 + Fraction(1, 10**9))
    assert exact_delta(ratio, rounds, value) <= delta
    if epsilon > 1e-6:
        less = Fraction(math.exp((epsilon - 1e-5 * (1 + epsilon)) / 2)) ** 2
        assert exact_delta(ratio, rounds, less) > delta


@pytest.mark.parametrize(("epsilon", "rounds"), [(0.1, 300), (1.0, 20), (8.0, 4)])
def test_second_opinions_are_close_and_above(epsilon, rounds):
    ours = accounting.pure_epsilon(epsilon, rounds, delta=1e-6)
    loss = pld.from_privacy_parameters(
        common.DifferentialPrivacyParameters(epsilon, 0.0), 1e-4
    ).self_compose(rounds)
    theirs = loss.get_epsilon_for_delta(1e-6)
    assert ours <= theirs * (1 + 1e-6)
    assert theirs <= ours + 2e-4 * rounds
    renyi = dp_accounting.rdp.RdpAccountant()
    renyi.compose(dp_accounting.ZCDpEvent(epsilon**2 / 2), rounds)
    assert ours <= renyi.get_epsilon(1e-6)


def test_delta_zero_adds_up():
    assert accounting.pure_epsilon(0.1, 7, delta=0) >= Fraction(0.1) * 7
    assert accounting.pure_epsilon(0.1, 7, delta=0) == pytest.approx(0.7)
    curve = accounting.pure_epsilon_curve(0.5, 4, delta=0)
    np.testing.assert_array_equal(curve, [0.5, 1.0, 1.5, 2.0])


def test_curve_is_never_below():
    curve = accounting.pure_epsilon_curve(0.2, 250, delta=1e-5)
    for rounds in (1, 5, 6, 101, 249, 250):
        exact = accounting.pure_epsilon(0.2, rounds, delta=1e-5)
        assert exact <= curve[rounds - 1] <= 1.3 * exact + 0.6
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] == accounting.pure_epsilon(0.2, 250, delta=1e-5)


@pytest.mark.parametrize("delta", [0.0, 1e-6])
@pytest.mark.parametrize("rounds", [1, 10, 1000])
def test_calibration_meets_the_budget_and_wastes_little(rounds, delta):
    single = accounting.calibrate_pure(rounds, epsilon=4.0, delta=delta)
    assert accounting.pure_epsilon(single, rounds, delta=delta) <= 4.0
    assert accounting.pure_epsilon(1.001 * single, rounds, delta=delta) > 4.0
    assert rounds < 1000 or delta == 0 or single > 2 * 4.0 / rounds


def test_wrong_arguments():
    for arguments in ((0.0, 1, 0), (1.0, 0, 0), (1.0, 10**7, 0), (1.0, 1, 1.0)):
        epsilon, rounds, delta = arguments
        with pytest.raises(ValueError, match="must be"):
            accounting.pure_epsilon(epsilon, rounds, delta=delta)


def test_dp_accounting_forgets_the_count_of_randomised_response():
    """Why `privacy.local` does not describe a pure report by that event."""
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL

    def epsilon(event, rounds):
        accountant = dp_accounting.pld.PLDAccountant(relation, 1e-3)
        accountant.compose(dp_accounting.SelfComposedDpEvent(event, rounds))
        return accountant.get_epsilon(1e-6)

    response = dp_accounting.RandomizedResponseDpEvent(0.5, 2)
    assert epsilon(response, 10) == epsilon(response, 1)  # true: 10 times as much
    laplace = dp_event.DiscreteLaplaceDpEvent(1.0, 1)
    ours = accounting.pure_epsilon(1.0, 10, delta=1e-6)
    assert epsilon(laplace, 10) == pytest.approx(ours, rel=2e-3)
