"""The planner lays out every example of every pass once, whatever the cohort."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from jaxfed.engine._planner import Planner
from jaxfed.typing import Batching
from tests.problems import ragged_data

WORD = np.uint64(0x1234_5678_9ABC_DEF0)


def lines_of(cohort, client):
    chunk, lane = np.argwhere(
        (np.asarray(cohort.clients) == client) & np.asarray(cohort.is_real)
    )[0]
    first = int(cohort.first_step[chunk, lane])
    return np.asarray(cohort.rows)[first : first + int(cohort.num_steps[chunk, lane])]


@hypothesis.given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    batch_size=st.integers(1, 9),
    epochs=st.integers(1, 3),
    lanes=st.integers(1, 5),
    word=st.integers(0, 2**64 - 1),
    choice=st.randoms(use_true_random=False),
)
def test_every_pass_holds_every_example_once(
    sizes, batch_size, epochs, lanes, word, choice
):
    data = ragged_data(sizes)
    batching = Batching(batch_size=batch_size, epochs=epochs)
    planner = Planner(data, batching, max_clients=len(sizes), lanes=lanes)
    chosen = np.array([i for i in range(len(sizes)) if choice.random() < 0.6], int)
    cohort = planner.plan(chosen, np.uint64(word))
    assert sorted(np.asarray(cohort.clients)[np.asarray(cohort.is_real)]) == list(
        chosen
    )
    for client in chosen:
        lines = lines_of(cohort, client)
        own = np.arange(data.offsets[client], data.offsets[client + 1])
        per_pass = -(-len(own) // batch_size)
        assert len(lines) == epochs * per_pass
        width = min(batch_size, max(sizes))  # no wider than the largest client
        for one_pass in lines.reshape(epochs, per_pass, width):
            assert sorted(one_pass[one_pass >= 0]) == list(own)
            assert (one_pass[:-1] >= 0).all()  # only the last batch is partial
        padding = lines[lines < 0]
        assert np.isin(~padding, own).all()  # a padding slot names an own row
    assert (np.diff(np.asarray(cohort.num_steps).ravel()) <= 0).all()


def test_steps_reshuffle_when_the_examples_run_out():
    data = ragged_data((5, 40))
    planner = Planner(data, Batching(batch_size=2, steps=7), max_clients=2, lanes=2)
    cohort = planner.plan(np.array([0, 1]), WORD)
    small, large = lines_of(cohort, 0), lines_of(cohort, 1)
    assert small.shape == large.shape == (7, 2)
    for start in (0, 3):  # three batches hold the five examples
        part = small[start : start + 3]
        assert sorted(part[part >= 0]) == [0, 1, 2, 3, 4]
    assert len(np.unique(large)) == 14


def test_a_clients_order_does_not_depend_on_the_cohort_but_on_the_round():
    data = ragged_data((40, 30, 20))
    planner = Planner(data, Batching(batch_size=7, epochs=2), max_clients=3, lanes=2)
    alone = lines_of(planner.plan(np.array([1]), WORD), 1)
    together = lines_of(planner.plan(np.array([2, 1, 0]), WORD), 1)
    other_round = lines_of(planner.plan(np.array([1]), WORD + np.uint64(1)), 1)
    np.testing.assert_array_equal(alone, together)
    assert (alone != other_round).any()
    first, second = alone[:5], alone[5:]
    assert (first != second).any()  # passes differ too


def test_shuffles_are_uniform():
    # 6,000 rounds: each of 6 orders of 3 examples, chi-square with 5 degrees of
    # freedom; 38.3 has a false alarm of 3e-7, and a shuffle that never moves the
    # first example exceeds it by far.
    data = ragged_data((3,))
    planner = Planner(data, Batching(batch_size=1, epochs=1), max_clients=1, lanes=1)

    def chi_square(orders):
        _, counts = np.unique(orders, axis=0, return_counts=True)
        expected = len(orders) / 6
        missing = 6 - len(counts)
        return ((counts - expected) ** 2 / expected).sum() + missing * expected

    words = np.random.default_rng(0).integers(0, 2**64, 6000, dtype=np.uint64)
    orders = np.array(
        [planner._rows(np.array([0]), np.array([0]), w)[:, 0] for w in words]
    )
    assert chi_square(orders) < 38.3
    assert chi_square(np.where(orders[:, :1] == 0, orders, [[0, 1, 2]])) > 38.3


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_shape_for_every_cohort(count):
    planner = Planner(
        ragged_data(), Batching(batch_size=4, epochs=3), max_clients=3, lanes=2
    )
    full = planner.plan(np.array([0, 3, 4]), WORD)
    some = planner.plan(np.arange(count), WORD)
    assert [a.shape for a in some] == [a.shape for a in full]
    assert int(np.asarray(some.is_real).sum()) == count
