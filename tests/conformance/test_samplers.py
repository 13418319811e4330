"""The laws that every sampler obeys."""

import dp_accounting
import numpy as np
import pytest

import jaxfed as jf
from tests.conformance.cases import SAMPLERS

pytestmark = pytest.mark.parametrize("case", SAMPLERS, ids=lambda c: c.name)


def draws(sampler, count=60):
    root = jf.keys.for_purpose(jf.keys.simulated(1), jf.keys.Purpose.SAMPLING)
    return [sampler.draw(key=jf.keys.for_round(root, i)) for i in range(count)]


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
    if sampler.expected_clients < sampler.population:
        assert len({tuple(c) for c in one}) > 10


def test_numpys_global_generator_has_no_influence(case):
    sampler = case.build()
    first = sampler.draw(key=jf.keys.simulated(5))
    np.random.seed(0)  # noqa: NPY002 - that it has no influence is the test
    again = sampler.draw(key=jf.keys.simulated(5))
    np.testing.assert_array_equal(again, first)


def test_configuration_prints_hashes_compares_and_serialises(case):
    sampler, again = case.build(), case.build()
    assert sampler == again
    assert hash(sampler) == hash(again)
    assert type(sampler).__name__ in repr(sampler)
    assert jf.sampling.Sampler.from_json(sampler.to_json()) == sampler


def test_event_is_accepted_by_an_accountant_or_refused_aloud(case):
    sampler = case.build()
    accountant = dp_accounting.pld.PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_SPECIAL, 1e-3
    )
    if case.name == "fixed_size":
        with pytest.raises(ValueError, match="has no accounting"):
            sampler.event(2.0)
        return
    event = sampler.event(2.0)
    assert accountant.supports(event)
    accountant.compose(event, 2)
    assert 0 < accountant.get_epsilon(1e-4) < np.inf


def test_describes_itself(case):
    sampler = case.build()
    assert f"{sampler.population:,}" in sampler.describe()
