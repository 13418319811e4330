"""Contracts of participation: kept for every key, and enforced where they are not."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxfed import keys, sampling
from jaxfed.typing import Participation

FALSE_ALARM = 1e-6


def secure(seed):
    return keys.secure(seed.to_bytes(32), context=b"test")


both_kinds = pytest.mark.parametrize("make", [keys.simulated, secure])


def attended(sampler, rounds, *, seed=0, contract=None, make=keys.simulated):
    """Returns the attendance of a run, which raises where the contract is broken."""
    contract = contract or sampler.participation(rounds)
    record, key = sampling.no_attendance(sampler.population), make(seed)
    for i in range(rounds):
        record = sampling.attend(
            record, sampler.draw(i, key=key), round_index=i, participation=contract
        )
    return record


@st.composite
def min_separations(draw):
    size = draw(st.integers(1, 6))
    separation = draw(st.integers(1, 9))
    spare = draw(st.integers(0, 4 * size))
    return sampling.MinSeparation(
        population=size * separation + spare,
        size=size,
        separation=separation,
        max_participations=draw(st.integers(1, 5)),
    )


@given(min_separations(), st.integers(0, 2**32))
def test_min_separation_keeps_its_contract_to_the_last_round(sampler, seed):
    rounds = sampler.max_rounds
    record = attended(sampler, rounds, seed=seed)
    assert record.count.sum() == rounds * sampler.size
    assert record.count.max() <= sampler.max_participations
    with pytest.raises(ValueError, match="rounds must be <="):
        sampler.draw(rounds, key=keys.simulated(seed))
    with pytest.raises(ValueError, match="rounds must be <="):
        sampler.participation(rounds + 1)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32))
def test_cyclic_and_balls_in_bins_keep_theirs(population, parts, seed):
    parts = min(parts, population)
    rounds = 3 * parts + 1
    cyclic = sampling.Cyclic(population=population, groups=parts)
    count = attended(cyclic, rounds, seed=seed).count
    assert ((count == 3) | (count == 4)).all()
    bins = sampling.BallsInBins(population=population, bins=parts)
    count = attended(bins, rounds, seed=seed).count
    assert (count <= 4).all()
    if population <= 16:  # the cap does not bind
        assert (count >= 3).all()


def test_the_contract_is_not_slack():
    """One round less of separation is used: the enforcer sees it at separation + 1."""
    sampler = sampling.MinSeparation(
        population=80, size=4, separation=11, max_participations=9
    )
    attended(sampler, 180, contract=Participation(min_separation=11, **most(9)))
    with pytest.raises(ValueError, match="before 12 rounds"):
        attended(sampler, 180, contract=Participation(min_separation=12, **most(9)))
    with pytest.raises(ValueError, match="more than 8 times"):
        attended(sampler, 180, contract=Participation(min_separation=11, **most(8)))


def most(count):
    return {"max_participations": count}


@both_kinds
def test_min_separation_uses_all_clients_equally(make):
    # 800 keys, round 25 of a run with 5 spare clients: each of 29 clients is in the
    # cohort with probability 4/29. Chi-square, false alarm 1e-6; a sampler that never
    # used the spare clients is caught by the next line.
    sampler = sampling.MinSeparation(
        population=29, size=4, separation=4, max_participations=8
    )
    counts = np.zeros(29)
    for seed in range(800):
        counts[sampler.draw(25, key=make(seed))] += 1
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
    without = counts.copy()
    without[-1] = 0
    assert stats.chisquare(without * counts.sum() / without.sum()).pvalue < FALSE_ALARM
    assert (attended(sampler, sampler.max_rounds).count > 0).all()


def test_min_separation_shuffles_within_its_pools():
    """Fixed groups would show as a pair of clients that is always together."""
    sampler = sampling.MinSeparation(
        population=60, size=3, separation=10, max_participations=50
    )
    together = np.zeros((60, 60))
    for i in range(1000):
        cohort = sampler.draw(i, key=keys.simulated(0))
        together[np.ix_(cohort, cohort)] += 1
    np.fill_diagonal(together, 0)
    assert together.max() < 25  # of the 50 times each takes part


def test_separation_one_is_no_constraint_but_once_an_epoch():
    sampler = sampling.MinSeparation(
        population=10, size=5, separation=1, max_participations=30
    )
    with pytest.raises(ValueError, match="before 2 rounds"):
        attended(sampler, 60, contract=Participation(min_separation=2, **most(30)))


@both_kinds
def test_balls_in_bins_picks_uniformly_and_keeps_the_pick(make):
    # One key, 20,000 clients in 10 bins: chi-square of the sizes, false alarm 1e-6,
    # power against a bin that is 20 % too large.
    sampler = sampling.BallsInBins(population=20_000, bins=10)
    key = make(3)
    epoch = [sampler.draw(i, key=key) for i in range(10)]
    np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(20_000))
    sizes = np.array([len(c) for c in epoch])
    assert stats.chisquare(sizes).pvalue > FALSE_ALARM
    tilted = sizes + np.r_[400, np.full(9, -400 / 9)]
    assert stats.chisquare(tilted).pvalue < FALSE_ALARM
    for i in range(10):
        np.testing.assert_array_equal(sampler.draw(10 + i, key=key), epoch[i])


@both_kinds
def test_balls_in_bins_beyond_the_cap_takes_turns(make):
    sampler = sampling.BallsInBins(population=60, bins=3, cap=20)
    record = attended(sampler, 300, make=make)
    sizes = [len(sampler.draw(i, key=make(0))) for i in range(3)]
    assert max(sizes) == 20 > min(sizes)
    assert (record.count > 0).all()
    assert len(np.unique(record.count)) > 2


def test_contracts_of_samplers_that_promise_nothing():
    for sampler in (
        sampling.Poisson(population=10, rate=0.5),
        sampling.Full(population=10),
        sampling.FixedSize(population=10, size=3),
    ):
        assert sampler.participation(7) == Participation(
            min_separation=1, max_participations=7
        )
    assert sampling.Cyclic(population=10, groups=3).participation(7) == Participation(
        min_separation=3, max_participations=3
    )


@pytest.mark.parametrize(
    "sampler",
    [
        sampling.Poisson(population=10**6, rate=0.001),
        sampling.FixedSize(population=10**6, size=1000),
        sampling.Cyclic(population=10**6, groups=1000),
        sampling.BallsInBins(population=10**6, bins=1000),
        sampling.MinSeparation(
            population=10**6, size=1000, separation=400, max_participations=4
        ),
    ],
    ids=lambda s: type(s).__name__,
)
@both_kinds
def test_a_cohort_of_a_million_clients_takes_milliseconds(sampler, make):
    """Late rounds cost what early ones do: nothing is replayed."""
    key = make(0)
    sampler.draw(0, key=key)
    seconds = []
    for i in (1, 3_001, 2_999, 3_500, 2_000):
        start = time.perf_counter()
        cohort = sampler.draw(i, key=key)
        seconds.append(time.perf_counter() - start)
        assert len(cohort) > 0
        assert (np.diff(cohort) > 0).all()
    assert min(seconds) < 0.15  # measured: 0.1 to 30 ms


CONTRACT = Participation(min_separation=3, max_participations=2)


def recorded(*cohorts):
    record = sampling.no_attendance(10)
    for i, cohort in enumerate(cohorts):
        record = sampling.attend(
            record, np.array(cohort, int), round_index=i, participation=CONTRACT
        )
    return record


@pytest.mark.parametrize(
    ("cohorts", "message"),
    [
        (([0, 1], [2], [1]), "before 3 rounds have passed, got 1 such clients"),
        (([0], [], [], [0], [], [], [0]), "more than 2 times, got 1 such"),
        (([4, 4],), "cohort must name a client once"),
        (([10],), r"in \[0, 10\), got 10 to 10"),
        (([-1],), r"in \[0, 10\), got -1 to -1"),
    ],
)
def test_a_broken_contract_raises(cohorts, message):
    with pytest.raises(ValueError, match=message):
        recorded(*cohorts)


def test_attendance_is_kept_and_compact():
    record = recorded([0, 1], [], [2], [0])
    assert list(record.last_round[:3]) == [3, 0, 2]
    assert list(record.count[:4]) == [2, 1, 1, 0]
    assert record.last_round.nbytes + record.count.nbytes == 80
    with pytest.raises(ValueError, match="round_index must be > 3"):
        sampling.attend(record, np.array([5]), round_index=3, participation=CONTRACT)


@pytest.mark.parametrize("name", ["min_separation", "max_participations"])
@pytest.mark.parametrize("value", [0, -1, 1.5, None])
def test_a_contract_is_two_positive_integers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer >= 1"):
        Participation(**{"min_separation": 1, "max_participations": 1, name: value})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sampling.Cyclic(population=3, groups=4), "groups must be <= popul"),
        (lambda: sampling.BallsInBins(population=9, bins=0), "bins must be an integer"),
        (lambda: sampling.BallsInBins(population=90, bins=2, cap=20), "cap must be >="),
        (
            lambda: sampling.MinSeparation(
                population=10, size=3, separation=4, max_participations=1
            ),
            r"size \* separation must be <= population = 10, got 3 \* 4",
        ),
    ],
)
def test_impossible_contracts_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
