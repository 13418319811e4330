"""Cohorts follow the law that is accounted."""

import numpy as np
import pytest
from scipy import stats

import jaxfed as jf
from jaxfed import keys, sampling

FALSE_ALARM = 1e-6


MAKERS = {
    "simulated": lambda: keys.simulated(0),
    "secure": lambda: keys.secure(bytes(range(32)), context=b"test"),
}
both_kinds = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def cohorts(sampler, count, make=MAKERS["simulated"]):
    root = keys.for_purpose(make(), keys.Purpose.SAMPLING)
    return [sampler.draw(index, key=root) for index in range(count)]


def membership(sampler, count, make=MAKERS["simulated"]):
    member = np.zeros((count, sampler.population), bool)
    for row, cohort in enumerate(cohorts(sampler, count, make)):
        member[row, cohort] = True
    return member


@pytest.mark.slow
@both_kinds
def test_poisson_clients_join_alone_and_at_the_rate(make):
    # 5,000 rounds of 12 clients at rate 0.3, uncapped. Each client's count is
    # binomial; cohort sizes are binomial; pairs are independent. Every p-value is
    # compared with 1e-6 / 100, and the last lines show the power.
    sampler = sampling.Poisson(population=12, rate=0.3, cap=12)
    member = membership(sampler, 5_000, make)
    level = FALSE_ALARM / 100

    def marginal(m, rate):
        return min(stats.binomtest(int(c), len(m), rate).pvalue for c in m.sum(0))

    def sizes(m, rate):
        counts = np.bincount(m.sum(1), minlength=13)
        return stats.chisquare(*_pooled(counts, len(m) * _binomial(rate))).pvalue

    assert marginal(member, 0.3) > level
    assert sizes(member, 0.3) > level
    pairs = np.corrcoef(member.T)[np.triu_indices(12, 1)]
    assert np.abs(pairs).max() < stats.norm.isf(level / 132) / np.sqrt(5_000)
    rounds = np.corrcoef(member[:-1, 0], member[1:, 0])[0, 1]
    assert abs(rounds) < stats.norm.isf(level) / np.sqrt(5_000)
    assert marginal(member, 0.36) < level
    fixed = membership(sampling.FixedSize(population=12, size=4), 5_000, make)
    assert sizes(fixed, 1 / 3) < level


def _binomial(rate):
    return stats.binom.pmf(np.arange(13), 12, rate)


def _pooled(observed, expected):
    """Pools cells with fewer than five expected."""
    small = expected < 5
    tail = np.array([observed[small].sum()]), np.array([expected[small].sum()])
    return np.r_[observed[~small], tail[0]], np.r_[expected[~small], tail[1]]


@both_kinds
def test_a_large_round_has_the_size_of_its_law(make):
    # 100,000 clients at rates 0.3 and 1e-4: the size is within 5.1 standard errors, a
    # false alarm of 3.5e-7; it would not be at 1.05 or, for the small one, 20 times it
    for rate, wrong in ((0.3, 1.05), (1e-4, 20.0)):
        sampler = sampling.Poisson(population=100_000, rate=rate, cap=100_000)
        size = len(sampler.draw(0, key=make()))
        error = 5.1 * np.sqrt(100_000 * rate * (1 - rate))
        assert abs(size - 100_000 * rate) < error
        assert abs(size * wrong - 100_000 * rate) > error


@both_kinds
def test_cap_truncates_to_a_uniform_subset(make):
    # 2,000 rounds at a cap that binds in about half of them: each client's share of
    # places is equal (chi-square, false alarm 1e-6); keeping the first ones is caught.
    sampler = sampling.Poisson(population=10, rate=0.5, cap=5)
    member = membership(sampler, 2_000, make)
    assert member.sum(1).max() == 5
    counts = member.sum(0)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
    every = sampling.Poisson(population=10, rate=0.5, cap=10)
    uncapped = membership(every, 2_000, make)
    first = uncapped & (np.cumsum(uncapped, axis=1) <= 5)
    assert stats.chisquare(first.sum(0)).pvalue < FALSE_ALARM


def test_default_cap_is_mean_plus_five_roots():
    assert sampling.Poisson(population=10_000, rate=0.01).max_clients == 150
    assert sampling.Poisson(population=100_000, rate=0.01).max_clients == 1159
    assert sampling.Poisson(population=10, rate=0.9).max_clients == 10


def test_a_million_clients_are_drawn_quickly_and_distinct():
    sampler = sampling.Poisson(population=10**6, rate=0.01)
    cohort = sampler.draw(0, key=keys.simulated(0))
    assert len(np.unique(cohort)) == len(cohort)
    assert 9_000 < len(cohort) < 11_000
    assert (np.diff(cohort) > 0).all()


def test_event_follows_every_setting():
    base = {"population": 10_000, "rate": 0.01, "cap": 150}
    event = sampling.Poisson(**base).event(1.0)
    assert event.dataset_size == 10_000
    assert event.sampling_probability == 0.01
    assert event.truncated_batch_size == 150
    assert event.noise_multiplier == 1.0
    for change in ({"population": 9_000}, {"rate": 0.012}, {"cap": 151}):
        assert sampling.Poisson(**base | change).event(1.0) != event
    assert sampling.Poisson(**base).event(1.1) != event


@both_kinds
def test_fixed_size_takes_everybody_and_every_pair_alike(make):
    # 1,000 rounds of 2 of 6 clients, and as many of 2 of 20: 15 and 190 pairs
    # (chi-square, false alarm 1e-6); pairs of neighbours only are caught.
    for population, degrees in ((6, 15), (20, 190)):
        sampler = sampling.FixedSize(population=population, size=2)
        member = membership(sampler, 1_000, make)
        assert (member.sum(1) == 2).all()
        pairs = member.astype(float).T @ member
        counts = pairs[np.triu_indices(population, 1)]
        assert len(counts) == degrees
        assert stats.chisquare(counts).pvalue > FALSE_ALARM
        neighbours = np.where(np.arange(degrees) < population, counts.sum(), 0.0)
        neighbours *= counts.sum() / neighbours.sum()
        assert stats.chisquare(neighbours).pvalue < FALSE_ALARM


def test_full_and_fixed_size():
    np.testing.assert_array_equal(
        sampling.Full(population=4).draw(0, key=keys.simulated(0)), [0, 1, 2, 3]
    )
    fixed = cohorts(sampling.FixedSize(population=9, size=3), 50)
    assert all(len(set(c)) == 3 for c in fixed)
    assert set(np.concatenate(fixed)) == set(range(9))


def test_fixed_size_is_accounted_under_replace_one_at_twice_the_norm():
    sampler = sampling.FixedSize(population=900, size=30)
    assert sampler.relation == "replace_one"
    event = sampler.event(1.5)
    assert event.source_dataset_size == 900
    assert event.sample_size == 30
    assert event.event.noise_multiplier == 0.75
    privacy = jf.privacy.central(
        sampling=sampler,
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=1.5),
    )
    assert privacy.event(rounds=1).event == event


def test_fixed_size_reproduces_what_the_halved_multiplier_costs():
    """1 % of clients, multiplier 1, 1,000 rounds, delta 1e-6: 23.3, not 4.02.

    The larger number is that of jax-privacy's accountant for fixed batches at twice
    the sensitivity; 4.02 is what feeding the whole multiplier claims.
    """
    import dp_accounting

    event = sampling.FixedSize(population=10_000, size=100).event(1.0)
    accountant = dp_accounting.rdp.RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
    )
    accountant.compose(event, 1000)
    assert accountant.get_epsilon(1e-6) == pytest.approx(23.3, abs=0.05)


def test_a_cohort_of_everybody_is_charged_the_doubling_once():
    """Replace-one moves a full sum by twice the norm: half the multiplier, no less."""
    import dp_accounting

    def epsilon(event, relation="replace_one"):
        return jf.accounting.epsilon(event, 10, delta=1e-6, relation=relation)

    everybody = sampling.FixedSize(population=900, size=900).event(8.0)
    assert epsilon(everybody) == epsilon(dp_accounting.GaussianDpEvent(8.0))
    halved = epsilon(dp_accounting.GaussianDpEvent(4.0), "zero_out")
    assert epsilon(everybody) == pytest.approx(halved, rel=1e-6)
    nearly = sampling.FixedSize(population=900, size=899).event(8.0)
    assert epsilon(everybody) <= epsilon(nearly)
