"""Our Renyi bounds: exact where they can be, and dp-accounting's where both exist."""

import dp_accounting
import mpmath
import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import rdp_privacy_accountant
from scipy import integrate, stats

from jaxfed import accounting
from jaxfed.accounting import _rdp

RELATION = dp_accounting.NeighboringRelation
WHOLE = tuple(order for order in accounting.ORDERS if order == int(order))
UNUSUAL = [(1e-6, 1.0), (1e-6, 100.0), (0.01, 1.0), (0.2, 0.5), (1e-3, 0.3), (0.5, 0.3)]
UNUSUAL += [(0.5, 100.0), (0.999, 1.0), (1.0, 1.0), (1.0, 0.3), (1.0, 100.0)]


def gaussian(multiplier):
    return dp_accounting.GaussianDpEvent(multiplier)


def poisson(rate, multiplier):
    return dp_accounting.PoissonSampledDpEvent(rate, gaussian(multiplier))


def upstream(event, relation, orders=accounting.ORDERS):
    accountant = dp_accounting.rdp.RdpAccountant(orders, relation)
    accountant.compose(event)
    return accountant.rdp


@pytest.mark.parametrize(("rate", "multiplier"), UNUSUAL)
def test_poisson_sampled_gaussian_equals_dp_accounting_at_whole_orders(
    rate, multiplier
):
    event = poisson(rate, multiplier)
    ours = accounting.rdp(event, orders=WHOLE)
    theirs = upstream(event, RELATION.REPLACE_SPECIAL, WHOLE)
    # theirs adds terms to one before it takes the log: 1e-13 absolute in log A
    logs = 1e-13 / (np.array(WHOLE) - 1)
    assert (np.abs(ours - theirs) <= 1e-9 * theirs + logs).all()


@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
@pytest.mark.parametrize(
    ("rate", "multiplier", "order"),
    [(0.01, 1.0, 1.1), (1e-6, 1.0, 3.3), (0.2, 0.5, 10.9), (1e-6, 100.0, 2.0)],
)
def test_poisson_sampled_gaussian_is_exact(rate, multiplier, order, relation):
    """Against 40-digit quadrature of the definition: 1e-9 relative, measured 2e-12."""
    found = accounting.rdp(
        poisson(rate, multiplier), relation=relation, orders=(order,)
    )
    with mpmath.workdps(40):
        q, z, a = map(mpmath.mpf, (rate, multiplier, order))

        def integrand(x):
            top = (1 - q) * mpmath.npdf(x, 0, z) + q * mpmath.npdf(x, 1, z)
            low = mpmath.npdf(x, 0, z)
            if relation == "replace_one":
                low = (1 - q) * low + q * mpmath.npdf(x, -1, z)
            ratio = top / low
            return low * (ratio**a - 1 - a * (ratio - 1))

        ends = mpmath.linspace(-15 * z - a, 15 * z + a, 25)
        excess = mpmath.quad(integrand, ends, maxdegree=5)
        assert found[0] == pytest.approx(
            float(mpmath.log1p(excess) / (a - 1)), rel=1e-9
        )


def test_fractional_orders_are_at_most_dp_accountings():
    """Its series adds the absolute values of an alternating tail: 7 % too much."""
    event = poisson(0.01, 1.0)
    ours, theirs = accounting.rdp(event), upstream(event, RELATION.REPLACE_SPECIAL)
    assert (ours <= theirs * (1 + 1e-9)).all()
    assert ours[0] < 0.95 * theirs[0]


@pytest.mark.parametrize(
    ("population", "size", "multiplier"),
    [(1000, 10, 0.5), (1000, 10, 0.3), (100, 50, 1.0), (10**6, 1, 0.5), (99, 98, 4.5)],
)
def test_sampling_without_replacement_is_accounted_as_upstream(
    population, size, multiplier
):
    def event(z):
        return dp_accounting.SampledWithoutReplacementDpEvent(
            population, size, gaussian(z)
        )

    ours = accounting.rdp(event(multiplier), relation="replace_one")
    theirs = upstream(event(multiplier), RELATION.REPLACE_ONE)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


OTHERS = [
    gaussian(0.3),
    gaussian(100.0),
    dp_accounting.LaplaceDpEvent(0.1),
    dp_accounting.LaplaceDpEvent(100.0),
    dp_event.ZCDpEvent(0.1, 0.2),
    dp_event.RandomizedResponseDpEvent(0.1, 2),
    dp_event.RandomizedResponseDpEvent(0.9, 5),
    dp_accounting.SingleEpochTreeAggregationDpEvent(1.13, 1600),
    dp_accounting.SingleEpochTreeAggregationDpEvent(1.13, [3, 4, 1]),
    dp_accounting.NoOpDpEvent(),
]


@pytest.mark.parametrize("event", OTHERS, ids=str)
def test_other_events_equal_dp_accounting(event):
    theirs = upstream(event, RELATION.REPLACE_SPECIAL)
    np.testing.assert_allclose(accounting.rdp(event), theirs, rtol=1e-9)


def test_randomised_response_under_replace_one_equals_dp_accounting():
    event = dp_event.RandomizedResponseDpEvent(0.3, 7)
    theirs = upstream(event, RELATION.REPLACE_ONE)
    ours = accounting.rdp(event, relation="replace_one")
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize(("rate", "scale", "order"), [(0.1, 1, 2), (0.1, 0.2, 10)])
def test_sampled_laplace_is_the_integral(rate, scale, order):
    def density(x):
        return np.exp(-abs(x) / scale) / (2 * scale)

    def mixture(x):
        return (1 - rate) * density(x) + rate * density(x - 1)

    def divergence(p, q):
        integral, _ = integrate.quad(
            lambda x: p(x) * (p(x) / q(x)) ** (order - 1),
            -60 * scale,
            60 * scale + 1,
            points=[0, 1],
            limit=500,
        )
        return np.log(integral) / (order - 1)

    event = dp_accounting.PoissonSampledDpEvent(
        rate, dp_accounting.LaplaceDpEvent(scale)
    )
    both = max(divergence(mixture, density), divergence(density, mixture))
    assert accounting.rdp(event, orders=(order,))[0] == pytest.approx(both, rel=1e-9)


def test_discrete_laplace_is_the_sum():
    x, parameter, shift, order = np.arange(-400, 401), 0.2, 3, 4.5
    top = np.exp(-parameter * abs(x - shift)) * np.tanh(parameter / 2)
    low = np.exp(-parameter * abs(x)) * np.tanh(parameter / 2)
    exact = np.log((top**order * low ** (1 - order)).sum()) / (order - 1)
    event = dp_event.DiscreteLaplaceDpEvent(parameter, shift)
    assert accounting.rdp(event, orders=(order,))[0] == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("variance", [8.0, 50.0, 1e4])
def test_skellam_bounds_the_exact_divergence(variance):
    for shift in (1, 4):
        event = accounting.Skellam(
            l1_sensitivity=shift, l2_sensitivity=shift, variance=variance
        )
        bound = accounting.rdp(event, orders=(2.0, 3.0, 8.0))
        span = int(14 * np.sqrt(variance)) + 60
        x = np.arange(-span, span)
        low = stats.skellam.logpmf(x, variance / 2, variance / 2)
        top = stats.skellam.logpmf(x - shift, variance / 2, variance / 2)
        for order, most in zip((2.0, 3.0, 8.0), bound, strict=True):
            terms = order * top + (1 - order) * low
            terms = terms[np.isfinite(terms) & (low > -300)]
            exact = np.logaddexp.reduce(terms) / (order - 1)
            assert exact <= most
            if variance == 1e4:  # nearly the Gaussian
                assert most <= 1.02 * exact


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 5.0])
def test_pure_epsilon_is_randomised_response(epsilon):
    """The bound of Bun and Steinke 2016, proposition 3.3, and its closed form."""
    orders = np.array([1.5, 2.0, 8.0, 64.0])
    found = accounting.rdp(
        accounting.PureEpsilon(epsilon=epsilon), orders=tuple(orders)
    )
    closed = np.sinh(orders * epsilon) - np.sinh((orders - 1) * epsilon)
    closed = np.log(closed / np.sinh(epsilon)) / (orders - 1)
    np.testing.assert_allclose(found, closed, rtol=1e-9)
    assert (found <= np.minimum(epsilon, orders * epsilon**2 / 2)).all()


def test_conversions_equal_dp_accounting():
    rdp = accounting.rdp(poisson(0.01, 1.0), 300)
    for delta in (1e-12, 1e-5, 0.3):
        theirs = rdp_privacy_accountant.compute_epsilon(accounting.ORDERS, rdp, delta)[
            0
        ]
        assert _rdp.epsilon_of(rdp, delta) == pytest.approx(theirs, rel=1e-12)
    for epsilon in (0.0, 1.0, 5.0):
        theirs = rdp_privacy_accountant.compute_delta(accounting.ORDERS, rdp, epsilon)[
            0
        ]
        assert _rdp.delta_of(rdp, epsilon) == pytest.approx(theirs, rel=1e-12)
    assert _rdp.epsilon_of(np.zeros(len(accounting.ORDERS)), 1e-5) == 0


def test_replace_one_is_the_gaussian_at_half_the_multiplier():
    """H3: dp-accounting's Renyi accountant ignores the relation (its issue 378)."""
    np.testing.assert_allclose(
        accounting.rdp(gaussian(4.0), relation="replace_one"),
        accounting.rdp(gaussian(2.0)),
    )
    event = dp_accounting.SelfComposedDpEvent(gaussian(4.0), 10)
    renyi = dp_accounting.rdp.RdpAccountant(neighboring_relation=RELATION.REPLACE_ONE)
    loss = dp_accounting.pld.PLDAccountant(RELATION.REPLACE_ONE, 1e-3)
    numbers = [a.compose(event).get_epsilon(1e-5) for a in (renyi, loss)]
    assert numbers == pytest.approx([3.617, 7.511], abs=1e-3)  # upstream contradicts
    ours = accounting.derive(gaussian(4.0), 10, delta=1e-5, relation="replace_one")
    assert ours.epsilon == pytest.approx(7.511, abs=2e-3)
    assert ours.renyi_epsilon > ours.epsilon


def test_orders_at_or_below_one_are_refused():
    with pytest.raises(ValueError, match="orders must be > 1"):
        accounting.rdp(gaussian(1.0), orders=(1.0, 2.0))
