"""The laws that every sampler obeys."""

import dp_accounting
import numpy as np
import pytest

import jaxfed as jf
from tests.conformance.cases import SAMPLERS

pytestmark = pytest.mark.parametrize("case", SAMPLERS, ids=lambda c: c.name)


PUBLIC = ("full", "cyclic")  # nothing about who takes part is random


def run_key(seed=1):
    return jf.keys.for_purpose(jf.keys.simulated(seed), jf.keys.Purpose.SAMPLING)


def draws(sampler, count=60, seed=1):
    return [sampler.draw(i, key=run_key(seed)) for i in range(count)]


def test_cohorts_are_distinct_numbers_in_the_population(case):
    sampler = case.build()
    for cohort in draws(sampler):
        assert cohort.dtype.kind == "i"
        assert len(np.unique(cohort)) == len(cohort) <= sampler.max_clients
        assert ((cohort >= 0) & (cohort < sampler.population)).all()


def test_expected_clients_is_about_the_mean(case):
    """60 draws; each count is within its population, so a wrong factor shows."""
    sampler = case.build()
    mean = np.mean([len(c) for c in draws(sampler)])
    assert mean == pytest.approx(sampler.expected_clients, rel=0.2)


def test_the_key_decides(case):
    sampler = case.build()
    one, again = draws(sampler), draws(sampler)
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    other = draws(sampler, seed=2)
    is_same = all(tuple(a) == tuple(b) for a, b in zip(one, other, strict=True))
    assert is_same == (case.name in PUBLIC)


def test_a_secure_key_draws_too(case):
    secure, other = (
        jf.keys.secure(bytes(32), context=context) for context in (b"one", b"two")
    )
    sampler = case.build()
    found = [[sampler.draw(i, key=k) for i in range(20)] for k in (secure, other)]
    for one in found[0] + found[1]:
        assert one.dtype == np.int64
        assert len(np.unique(one)) == len(one) <= sampler.max_clients
    is_same = all((a.tolist() == b.tolist()) for a, b in zip(*found, strict=True))
    assert is_same == (case.name in PUBLIC)


def test_a_cohort_depends_on_its_round_and_on_no_other(case):
    sampler = case.build()
    key = run_key()
    forwards = [sampler.draw(i, key=key) for i in range(20)]
    for i in reversed(range(20)):
        np.testing.assert_array_equal(sampler.draw(i, key=key), forwards[i])
    if case.name != "full":
        assert len({tuple(c) for c in forwards}) > 1


@pytest.mark.parametrize("index", [-1, 2**30, 1.0, None])
def test_a_round_is_counted_from_zero(case, index):
    with pytest.raises(ValueError, match="round_index must be an integer"):
        case.build().draw(index, key=run_key())


def test_cohorts_keep_the_contract_of_participation(case):
    sampler, rounds = case.build(), 60
    contract = sampler.participation(rounds)
    record = jf.sampling.no_attendance(sampler.population)
    for i, cohort in enumerate(draws(sampler, rounds)):
        record = jf.sampling.attend(
            record, cohort, round_index=i, participation=contract
        )
    # at worst a client takes part in every round; tighter contracts are nearly met
    assert record.count.max() >= 0.5 * contract.max_participations
    with pytest.raises(ValueError, match="rounds must be an integer >= 1"):
        sampler.participation(0)


def test_numpys_global_generator_has_no_influence(case):
    sampler = case.build()
    first = sampler.draw(3, key=jf.keys.simulated(5))
    np.random.seed(0)  # noqa: NPY002 - that it has no influence is the test
    again = sampler.draw(3, key=jf.keys.simulated(5))
    np.testing.assert_array_equal(again, first)


def test_configuration_prints_hashes_compares_and_serialises(case):
    sampler, again = case.build(), case.build()
    assert sampler == again
    assert hash(sampler) == hash(again)
    assert type(sampler).__name__ in repr(sampler)
    assert jf.sampling.Sampler.from_json(sampler.to_json()) == sampler


def test_event_is_accepted_by_an_accountant_of_its_relation(case):
    sampler = case.build()
    event = sampler.event(2.0)
    if sampler.relation == "replace_one":
        accountant = dp_accounting.rdp.RdpAccountant(
            neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
        )
    else:
        accountant = dp_accounting.pld.PLDAccountant(
            dp_accounting.NeighboringRelation.REPLACE_SPECIAL, 1e-3
        )
    assert accountant.supports(event)
    accountant.compose(event, 2)
    assert 0 < accountant.get_epsilon(1e-4) < np.inf


def test_describes_itself(case):
    sampler = case.build()
    assert f"{sampler.population:,}" in sampler.describe()
