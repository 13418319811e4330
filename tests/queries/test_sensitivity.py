"""One client moves the integer sum of any query by at most its bound, exactly."""

import numpy as np
import pytest

import jaxfed as jf
from tests.queries.common import (
    KEY,
    LOWER,
    QUERIES,
    UPPER,
    clients,
    lattice,
    mechanism,
    recorded,
    replaced,
    squared_distance,
)

SIZES = (1, 2, 40, 3, 1, 7)
GREEDY = 2  # the client of 40 examples
HOSTILE = (1e300, -1e300, 5e-324, UPPER, LOWER, 0.0, np.inf, -np.inf)


@pytest.mark.parametrize(
    ("norm", "multiplier", "is_random"),
    [(0.3, 1.0, False), (6.0, 1.0, False), (1.0, 1e-7, True)],
)
@pytest.mark.parametrize("name", QUERIES)
def test_a_client_moves_the_sum_by_at_most_the_bound(
    name, norm, multiplier, is_random, monkeypatch
):
    data = clients(SIZES)
    privacy = mechanism(len(SIZES), norm=norm, multiplier=multiplier)

    def total(given):
        with np.errstate(all="ignore"):
            return recorded(QUERIES[name], given, privacy, monkeypatch)

    whole = total(data)
    grid = lattice(privacy, whole)
    assert grid.is_random == is_random
    for client in range(len(SIZES)):
        absent = total(replaced(data, client, np.nan))
        assert 0 < squared_distance(whole, absent) <= grid.levels**2
        for value in HOSTILE if client == GREEDY else ():
            moved = squared_distance(total(replaced(data, client, value)), absent)
            assert moved <= grid.levels**2
            if not np.isfinite(value):
                assert moved == 0


@pytest.mark.parametrize("name", QUERIES)
def test_the_bound_is_used_up(name, monkeypatch):
    """Without a clip the greedy client would move it by several bounds: power."""
    data = clients(SIZES)
    privacy = mechanism(len(SIZES), norm=0.3)
    absent = recorded(
        QUERIES[name], replaced(data, GREEDY, np.nan), privacy, monkeypatch
    )
    total = recorded(QUERIES[name], data, privacy, monkeypatch)
    levels = lattice(privacy, total).levels
    assert squared_distance(total, absent) >= (0.99 * levels) ** 2
    loose = mechanism(len(SIZES), norm=60.0)
    unit = levels / 0.3  # what an unclipped sum would be in the grid above
    spread = np.subtract(
        recorded(QUERIES[name], data, loose, monkeypatch),
        recorded(QUERIES[name], replaced(data, GREEDY, np.nan), loose, monkeypatch),
    ) * (60.0 / lattice(loose, total).levels)
    # weighted by clients, 1.1: the greedy client's 40 examples are spread over bins
    times = 1.1 if name.endswith("clients") else 10
    assert np.linalg.norm(spread) * unit >= times * levels


@pytest.mark.parametrize("name", QUERIES)
def test_a_client_of_nan_is_a_client_who_is_not_there(name, monkeypatch):
    data = clients(SIZES)
    others = [i for i in range(len(SIZES)) if i != GREEDY]
    fewer = mechanism(len(others), norm=0.3)
    without = recorded(QUERIES[name], data.select(others), fewer, monkeypatch)
    every = mechanism(len(SIZES), norm=0.3)
    marked = recorded(QUERIES[name], replaced(data, GREEDY, np.nan), every, monkeypatch)
    assert lattice(fewer, without) == lattice(every, marked)
    assert without == marked


@pytest.mark.parametrize("name", QUERIES)
def test_one_bad_number_silences_a_client_and_no_other(name, monkeypatch):
    data = clients(SIZES)
    bad = replaced(data, GREEDY, np.nan)
    partly = data.select(data.client_ids)
    arrays = {n: np.array(a, np.float64) for n, a in data.arrays.items()}
    first = int(data.offsets[GREEDY])
    for array in arrays.values():
        array[first + 3, ...] = np.inf
    object.__setattr__(partly, "arrays", arrays)
    privacy = mechanism(len(SIZES), norm=0.3)
    with np.errstate(all="ignore"):
        assert recorded(QUERIES[name], partly, privacy, monkeypatch) == recorded(
            QUERIES[name], bad, privacy, monkeypatch
        )


@pytest.mark.parametrize("name", [n for n in QUERIES if n.endswith("examples")][::3])
def test_the_sum_does_not_depend_on_blocks(name, monkeypatch):
    rng = np.random.default_rng(0)
    data = clients(rng.integers(1, 9, 50))
    for privacy in (
        mechanism(50, norm=3.0, rate=0.8),
        mechanism(50, norm=3.0, multiplier=1e-7),
    ):
        whole = recorded(QUERIES[name], data, privacy, monkeypatch)
        with monkeypatch.context() as patch:
            patch.setattr(jf.queries._release, "_BLOCK_SCALARS", 7 * len(whole))
            pieces = recorded(QUERIES[name], data, privacy, monkeypatch, key=KEY)
        assert whole == pieces
        assert any(whole)


def test_an_empty_cohort_is_a_full_noisy_release():
    data = clients((1, 1, 1))
    privacy = mechanism(3, rate=1e-6, multiplier=2.0)
    answers = [
        jf.queries.histogram(
            data,
            "y",
            categories=[0, 1, 2, 3],
            privacy=privacy,
            key=jf.keys.simulated(seed),
            non_negative=False,
        )
        for seed in range(2)
    ]
    assert all((answer.value != 0).all() for answer in answers)
    assert (answers[0].value != answers[1].value).all()
    assert answers[0].event == privacy.event(rounds=1)
