"""Published numbers, each with its source, and the peers' defects as named tests."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import dp_event
from scipy import stats

import jaxfed
from jaxfed import accounting
from jaxfed.accounting import _pld, _rdp

MOMENTS = tuple(float(order) for order in range(2, 33))
TENTHS = (*(1 + x / 10 for x in range(1, 100)), *(float(x) for x in range(11, 64)))


def gaussian(multiplier):
    return dp_accounting.GaussianDpEvent(multiplier)


def poisson(rate, multiplier):
    return dp_accounting.PoissonSampledDpEvent(rate, gaussian(multiplier))


def renyi(event, rounds, delta, orders=TENTHS):
    rdp = accounting.rdp(event, rounds, orders=orders)
    return _rdp.epsilon_of(rdp, delta, orders)


def classic(event, rounds, delta):
    """Mironov 2017, proposition 3: the conversion of the first papers."""
    rdp = accounting.rdp(event, rounds, orders=MOMENTS)
    return float((rdp - math.log(delta) / (np.array(MOMENTS) - 1)).min())


@pytest.mark.parametrize(
    ("multiplier", "square", "published"),
    [(8.35, 2.0, 0.99355009505391), (1.411, 0.6, 3.42400740943)],
)
def test_gboard_matrix_factorisation(multiplier, square, published):
    """google-research/federated, mf_dpftrl_matrices notebook: delta 1e-10.

    Theirs is a loss distribution too, on a grid that costs them 1.4e-7 of epsilon.
    """
    event = gaussian(multiplier / math.sqrt(square))
    exact = dp_accounting.get_epsilon_gaussian(event.noise_multiplier, 1e-10)
    found = accounting.epsilon(event, 1, delta=1e-10)
    assert found == pytest.approx(published, rel=2e-6)
    assert exact <= found


def test_gboard_tree():
    """google-research/federated, dp_ftrl notebook: z 7, zeta^2 79, eps 8.90."""
    event = gaussian(7 / math.sqrt(79))
    assert renyi(event, 1, 1e-10) == pytest.approx(8.8986, abs=5e-5)
    assert accounting.epsilon(event, 1, delta=1e-10) == pytest.approx(8.526, abs=1e-3)


@pytest.mark.parametrize(
    ("population", "cohort", "published"),
    [
        (1e5, 1e2, "0.97 0.98 1.00 1.07 1.18 2.21 7.50"),
        (1e6, 1e3, "1.17 1.17 1.20 1.28 1.39 2.44 8.13"),
        (1e6, 1e1, "0.68 0.69 0.69 0.69 0.69 0.72 0.73"),
        (1e6, 1e4, "1.73 1.92 2.08 3.06 8.49 32.38 187.01"),
        (1e9, 1e3, "0.84 0.84 0.84 0.85 0.88 0.88 0.88"),
    ],
)
def test_mcmahan_table_1(population, cohort, published):
    """McMahan et al. 2018, arXiv:1710.06963: 10^0 to 10^6 rounds, delta K^-1.1."""
    event, delta = poisson(cohort / population, 1.0), population**-1.1
    found = [classic(event, 10**power, delta) for power in range(7)]
    assert [f"{epsilon:.2f}" for epsilon in found] == published.split()


def test_abadi():
    """Abadi et al. 2016, arXiv:1607.00133, section 3.2: 1.26; to four digits since."""
    event = poisson(0.01, 4.0)
    assert classic(event, 10_000, 1e-5) == pytest.approx(1.2586, abs=1e-4)
    assert renyi(event, 10_000, 1e-5) == pytest.approx(1.0355, abs=1e-4)
    loss = _pld.composed(((event, 10_000),), "zero_out", 1e-4)
    assert loss.get_epsilon_for_delta(1e-5) == pytest.approx(0.9470, abs=1e-4)
    found = accounting.epsilon(event, 10_000, delta=1e-5)
    assert 0.9469 <= found <= 1.01 * 0.9469


def central_limit(rate, multiplier, rounds, delta):
    """Bu et al. 2020, arXiv:1911.11607: mu = q sqrt(T (exp(1 / z^2) - 1))."""
    mu = rate * math.sqrt(rounds * math.expm1(multiplier**-2))
    grid = np.linspace(0, 20, 200_001)
    above = stats.norm.cdf(mu / 2 - grid / mu)
    deltas = above - np.exp(grid) * stats.norm.cdf(-mu / 2 - grid / mu)
    return grid[np.argmax(deltas <= delta)]


def test_bu_and_why_it_is_no_guarantee():
    """Their MNIST row: 1.34 after 20 epochs; elsewhere the theorem's limit is far."""
    rate, rounds = 256 / 60_000, round(20 * 60_000 / 256)
    assert central_limit(rate, 1.06, rounds, 1e-5) == pytest.approx(1.341, abs=2e-2)
    limit = central_limit(0.01, 0.6, 100, 1e-6)
    found = accounting.derive(poisson(0.01, 0.6), 100, delta=1e-6)
    assert limit == pytest.approx(1.71, abs=0.01)
    assert limit < 0.5 * found.attack_epsilon < found.epsilon
    assert 4.70 <= found.epsilon <= 4.76


def test_opacus():
    """Opacus 1.6 accountant tests: z 1.5, q 0.04, delta 1e-5, 2250 steps (PRV 2249)."""
    event = poisson(0.04, 1.5)
    assert renyi(event, 2250, 1e-5) == pytest.approx(7.32911117143, rel=1e-9)
    found = accounting.epsilon(event, 2249, delta=1e-5)
    assert found == pytest.approx(6.7773957, rel=1.5e-3)  # PRV, with its own error
    loss = _pld.composed(((event, 2249),), "zero_out", 1e-4)
    assert loss.get_epsilon_for_delta(1e-5) == pytest.approx(6.7671, abs=1e-3)


@pytest.mark.parametrize(
    ("multiplier", "published", "now"), [(1.13, 19.74, 18.71), (8.83, 2.04, 1.773)]
)
def test_dp_ftrl(multiplier, published, now):
    """Kairouz et al. 2021, arXiv:2103.00039: 1600 steps, delta 1e-6."""
    event = dp_accounting.SingleEpochTreeAggregationDpEvent(multiplier, 1600)
    assert classic(event, 1, 1e-6) == pytest.approx(published, rel=0.02)
    found = accounting.derive(event, 1, delta=1e-6)
    assert found.renyi_epsilon == pytest.approx(now, abs=5e-3)
    exact = dp_accounting.get_epsilon_gaussian(multiplier / math.sqrt(11), 1e-6)
    assert exact <= found.epsilon <= 1.001 * exact


def test_truncated_poisson():
    """dp-accounting 0.6.0, pld_privacy_accountant_test: 17.904330."""

    def event(size):
        return dp_event.TruncatedSubsampledGaussianDpEvent(size, 0.5, 2, 1.0)

    both = [dp_accounting.SelfComposedDpEvent(event(4), 3), event(3), event(3)]
    found = accounting.epsilon(both, 1, delta=1e-6)
    assert found == pytest.approx(17.904330, rel=1e-5)


def test_dp_accounting_constants():
    """Its own regression constants, privacy loss and Renyi."""
    loss = _pld.composed(((poisson(0.2, 0.5), 3),), "zero_out", 1e-4)
    assert loss.get_delta_for_epsilon(1.0) == pytest.approx(0.15594, abs=2e-5)
    constant = np.full(len(MOMENTS), 1.1)
    found = _rdp.epsilon_of(constant, 1e-5, MOMENTS)
    assert found == pytest.approx(1.32783806176, rel=1e-9)


def test_h3_fixed_size_cohorts_at_the_wrong_relation():
    """z 1, q 1 %, 1000 rounds, delta 1e-6: 4.02 where nobody doubles, 23.3 in truth."""
    event = dp_accounting.SampledWithoutReplacementDpEvent(10_000, 100, gaussian(1.0))
    accountant = dp_accounting.rdp.RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
    )
    wrong = accountant.compose(event, 1000).get_epsilon(1e-6)
    assert wrong == pytest.approx(4.02, abs=0.01)
    true = dp_accounting.SampledWithoutReplacementDpEvent(10_000, 100, gaussian(0.5))
    assert jaxfed.sampling.FixedSize(population=10_000, size=100).event(1.0) == true
    found = accounting.derive(true, 1000, delta=1e-6, relation="replace_one")
    assert found.epsilon == pytest.approx(23.3, abs=0.05)
    assert found.attack_epsilon > wrong  # the wrong claim is broken by an attack


def test_h9_client_and_batch_rates_do_not_multiply():
    """One round, q 0.1 of clients, 200 steps at q 0.1 of examples, z 1, delta 1e-6.

    The example's client joins or not once for all 200 steps: exactly the mixture
    (1 - q) Q + q P, whose divergence at 1 + q (exp(e) - 1) is q times that of P.
    """
    product = renyi(poisson(0.1 * 0.1, 1.0), 200, 1e-6)
    assert product == pytest.approx(1.64, abs=0.01)
    inside = accounting.epsilon(poisson(0.1, 1.0), 200, delta=1e-6 / 0.1)
    exact = math.log1p(0.1 * math.expm1(inside))
    assert exact == pytest.approx(7.67, abs=0.01)
    # the same event within the library: no rate of clients in it, so no less than that
    safe = accounting.epsilon(poisson(0.1, 1.0), 200, delta=1e-6)
    assert product < exact < safe


@pytest.mark.parametrize(
    ("multiplier", "sampled", "shuffled"), [(0.6, 4.75, 8.84), (1.0, 0.95, 4.89)]
)
def test_h10_shuffled_batches_are_not_poisson(multiplier, sampled, shuffled):
    """Chua et al. 2024, arXiv:2403.17673: one epoch of 100 batches, delta 1e-6.

    Whose cohorts are a fixed partition takes part once in full: the Gaussian.
    """
    amplified = accounting.epsilon(poisson(0.01, multiplier), 100, delta=1e-6)
    once = accounting.epsilon(gaussian(multiplier), 1, delta=1e-6)
    assert amplified == pytest.approx(sampled, abs=0.01)
    assert once == pytest.approx(shuffled, abs=0.01)


def test_rounds_that_a_budget_allows():
    """z 1, q 1 %, delta 1e-6, epsilon 2: loss distributions 874, Renyi 531."""
    event = poisson(0.01, 1.0)
    found = accounting.calibrate_rounds(event, epsilon=2.0, delta=1e-6)
    assert found in (873, 874)
    assert accounting.epsilon(event, found, delta=1e-6) <= 2.002
    assert renyi(event, 531, 1e-6) <= 2.0 < renyi(event, 532, 1e-6)
