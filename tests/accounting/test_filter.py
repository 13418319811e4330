"""The filter: no adaptive sequence passes the budget, and one order is exact."""

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfed import accounting
from jaxfed.accounting import _rdp


def gaussian(multiplier):
    return dp_accounting.GaussianDpEvent(multiplier)


def poisson(rate, multiplier):
    return dp_accounting.PoissonSampledDpEvent(rate, gaussian(multiplier))


MENU = [
    gaussian(20.0),
    gaussian(60.0),
    poisson(0.01, 1.0),
    poisson(0.01, 0.7),
    poisson(0.001, 0.6),
    dp_accounting.LaplaceDpEvent(100.0),
]


@settings(max_examples=25)
@given(st.lists(st.integers(0, len(MENU) - 1), max_size=40), st.integers(1, 30))
def test_no_sequence_of_choices_passes_the_budget(choices, count):
    """Whatever is let through costs at most epsilon by the accountants, too."""
    budget = accounting.RenyiFilter(epsilon=1.0, delta=1e-6)
    released = []
    for choice in choices:
        fits = budget.fits(MENU[choice], count)
        try:
            budget.charge(MENU[choice], count)
        except accounting.BudgetExhausted:
            assert not fits
        else:
            assert fits
            released += [MENU[choice]] * count
        assert budget.spent <= 1
    if released:
        found = accounting.derive(released, 1, delta=1e-6)
        assert max(found.epsilon, found.renyi_epsilon) <= 1.0


def test_greedy_adversary_fills_the_budget_and_no_more():
    """Dearest first, then cheaper ones, until nothing fits at all."""
    budget, released = accounting.RenyiFilter(epsilon=1.0, delta=1e-6), []
    for event in (MENU[3], MENU[0], MENU[2], MENU[1], MENU[4]):
        count = budget.rounds_left(event)
        budget.charge(event, count) if count else None
        released += [event] * count
        assert budget.rounds_left(event) == 0
        assert not budget.fits(event)
    assert 0.9 < budget.spent <= 1
    assert accounting.derive(released, 1, delta=1e-6).renyi_epsilon <= 1.0


def test_one_order_is_exact():
    """The count is the one for which the conversion at that order meets epsilon."""
    event, order = poisson(0.01, 1.0), 8.0
    budget = accounting.RenyiFilter(epsilon=2.0, delta=1e-6, orders=(order,))
    count = budget.rounds_left(event)
    rdp = accounting.rdp(event, orders=(order,))

    def converted(rounds):
        return _rdp.epsilon_of(rounds * rdp, 1e-6, (order,))

    assert converted(count) <= 2.0 < converted(count + 1)


def test_best_order_permits_as_many_rounds_as_renyi_accounting():
    """q = 1 %, z = 1, epsilon 2, delta 1e-6: 531 rounds by Renyi bounds."""
    event = poisson(0.01, 1.0)
    order = accounting.best_order(event, epsilon=2.0, delta=1e-6)
    budget = accounting.RenyiFilter(epsilon=2.0, delta=1e-6, orders=(order,))
    assert budget.rounds_left(event) == 531
    several = accounting.RenyiFilter(epsilon=2.0, delta=1e-6)
    assert 0 < several.rounds_left(event) < 531


def test_several_orders_share_delta():
    """Which order survives depends on outputs: each has only its part of delta."""
    orders = (8.0, 16.0)
    both = accounting.RenyiFilter(epsilon=2.0, delta=1e-6, orders=orders)
    halves = [
        accounting.RenyiFilter(epsilon=2.0, delta=5e-7, orders=(o,)) for o in orders
    ]
    event = gaussian(50.0)
    most = max(one.rounds_left(event) for one in halves)
    assert both.rounds_left(event) == most


def test_what_does_not_fit_says_what_would():
    budget = accounting.RenyiFilter(epsilon=1.0, delta=1e-6)
    event = gaussian(20.0)
    left = budget.rounds_left(event)
    budget.charge(event)
    with pytest.raises(accounting.BudgetExhausted, match=rf"{left - 1} would"):
        budget.charge(event, left)
    budget.charge(event, left - 1)
    assert not budget.fits(event)


def test_what_is_not_private_never_fits_and_what_is_free_always_does():
    budget = accounting.RenyiFilter(epsilon=1.0, delta=1e-6)
    assert not budget.fits(dp_accounting.NonPrivateDpEvent())
    assert budget.rounds_left(gaussian(0.0)) == 0
    budget.charge(dp_accounting.NoOpDpEvent(), 10**9)
    assert budget.rounds_left(dp_accounting.NoOpDpEvent()) > 10**12
    assert budget.spent == 0


def test_an_impossible_budget_is_refused():
    with pytest.raises(ValueError, match="leaves no budget"):
        accounting.RenyiFilter(epsilon=0.01, delta=1e-9, orders=(2.0,))
    with pytest.raises(ValueError, match="leaves no budget"):
        accounting.RenyiFilter(epsilon=1.0, delta=1e-6, distance=1e-6)
    with pytest.raises(ValueError, match="orders must be"):
        accounting.RenyiFilter(epsilon=1.0, delta=1e-6, orders=())


def test_distance_makes_the_budget_smaller():
    ideal = accounting.RenyiFilter(epsilon=1.0, delta=1e-6)
    real = accounting.RenyiFilter(epsilon=1.0, delta=1e-6, distance=2e-7)
    event = gaussian(50.0)
    assert 0 < real.rounds_left(event) < ideal.rounds_left(event)


def test_relation_counts_twice():
    one = accounting.RenyiFilter(epsilon=1.0, delta=1e-6, relation="replace_one")
    zero = accounting.RenyiFilter(epsilon=1.0, delta=1e-6)
    assert one.rounds_left(gaussian(100.0)) == zero.rounds_left(gaussian(50.0))
    assert np.isfinite(one.epsilon)


def test_what_is_spent_is_a_fresh_accountants():
    """P6: charged one by one from a cache, equal to one composition to 1e-9."""
    budget = accounting.RenyiFilter(epsilon=8.0, delta=1e-6)
    events = [
        dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.0)),
        dp_accounting.GaussianDpEvent(20.0),
        dp_accounting.LaplaceDpEvent(30.0),
    ]
    for index in range(60):
        budget.charge(events[index % 3])
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    fresh = dp_accounting.rdp.RdpAccountant(budget.orders, relation)
    for event in events:
        fresh.compose(event, 20)
    whole = np.array([order == int(order) for order in budget.orders])
    np.testing.assert_allclose(budget._spent[whole], fresh.rdp[whole], rtol=1e-9)
