"""The planner lays out every example of every pass once, whatever the cohort."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from jaxfed import keys
from jaxfed.engine import _planner
from jaxfed.engine._block import Layout, pack, unpack
from jaxfed.engine._planner import Planner
from jaxfed.engine._shuffle import _mix, _shuffled
from jaxfed.typing import Batching, Cohort
from tests.problems import ragged_data

WORD = np.uint64(0x1234_5678_9ABC_DEF0)
SEED = 5


def queues_of(planner, clients, seed=SEED):
    """Returns the cohorts of all blocks and devices."""
    blocks = planner.plan(np.array(clients, int), key=keys.simulated(seed))
    return [unpack(b.layout, packed) for b in blocks for packed in b.packed]


def lines_of(queues, client):
    """Returns the lines of the only place where a client stands."""
    found = []
    for cohort in queues:
        for chunk, lane in np.argwhere((cohort.clients == client) & cohort.is_real):
            first = cohort.first_step[chunk, lane]
            found.append(cohort.rows[first : first + cohort.num_steps[chunk, lane]])
    (lines,) = found
    return lines


def sizes_of_data():
    return st.lists(st.integers(1, 30), min_size=1, max_size=12)


@hypothesis.given(
    sizes=sizes_of_data(),
    batch_size=st.integers(1, 9),
    epochs=st.integers(1, 3),
    lanes=st.integers(1, 5),
    devices=st.integers(1, 4),
    block_clients=st.integers(1, 40),
    seed=st.integers(0, 2**64 - 1),
    choice=st.randoms(use_true_random=False),
)
def test_every_pass_holds_every_example_once(
    sizes, batch_size, epochs, lanes, devices, block_clients, seed, choice
):
    data = ragged_data(sizes)
    batching = Batching(batch_size=batch_size, epochs=epochs)
    planner = Planner(
        data,
        batching,
        max_clients=len(sizes),
        lanes=lanes,
        devices=devices,
        block_clients=block_clients,
    )
    chosen = [i for i in range(len(sizes)) if choice.random() < 0.6]
    queues = queues_of(planner, chosen, seed)
    planned = np.concatenate([q.clients[q.is_real] for q in queues])
    assert sorted(planned) == chosen
    for client in chosen:
        lines = lines_of(queues, client)
        own = np.arange(data.offsets[client], data.offsets[client + 1])
        per_pass = -(-len(own) // batch_size)
        assert len(lines) == epochs * per_pass
        width = min(batch_size, max(sizes))  # no wider than the largest client
        for one_pass in lines.reshape(epochs, per_pass, width):
            assert sorted(one_pass[one_pass >= 0]) == list(own)
            assert (one_pass[:-1] >= 0).all()  # only the last batch is partial
        padding = lines[lines < 0]
        assert np.isin(~padding, own).all()  # a padding slot names an own row
    for queue in queues:  # longest first; chunks without gaps, padding behind them
        assert (np.diff(queue.num_steps.ravel()) <= 0).all()
        assert queue.num_chunks == queue.is_real[:, 0].sum()
        assert (queue.clients[~queue.is_real] == len(sizes)).all()


@hypothesis.given(
    sizes=sizes_of_data(),
    batch_size=st.integers(1, 9),
    amount=st.sampled_from([{"epochs": 1}, {"epochs": 3}, {"steps": 4}]),
    lanes=st.integers(1, 4),
    parts=st.integers(1, 4),
)
def test_a_narrow_batch_holds_all_real_rows(sizes, batch_size, amount, lanes, parts):
    data = ragged_data(sizes)
    batching = Batching(batch_size=batch_size, **amount)
    full = min(batch_size, max(sizes))
    widths = tuple(sorted({-(-full * i // parts) for i in range(1, parts + 1)})[::-1])
    planner = Planner(
        data, batching, max_clients=len(sizes), lanes=lanes, widths=widths, devices=2
    )
    for queue in queues_of(planner, range(len(sizes))):
        for chunk in range(int(queue.num_chunks)):
            length = int(queue.pass_steps[chunk])
            for step in range(int(queue.num_steps[chunk, 0])):
                is_last = (step + 1) % length == 0
                width = widths[queue.tail[chunk]] if is_last else full
                active = queue.num_steps[chunk] > step
                lines = queue.first_step[chunk][active] + step
                assert (queue.rows[lines][:, width:] < 0).all()


def test_narrow_batches_are_used():
    planner = Planner(
        ragged_data((21, 29, 20, 3)),
        Batching(batch_size=10, epochs=2),
        max_clients=4,
        widths=(10, 5, 2),
    )
    (queue,) = queues_of(planner, range(4))
    tails = dict(zip(queue.clients[:, 0].tolist(), queue.tail.tolist(), strict=True))
    assert tails == {0: 2, 1: 0, 2: 0, 3: 1}


def test_steps_reshuffle_when_the_examples_run_out():
    data = ragged_data((5, 40))
    planner = Planner(data, Batching(batch_size=2, steps=7), max_clients=2, lanes=2)
    queues = queues_of(planner, [0, 1])
    small, large = lines_of(queues, 0), lines_of(queues, 1)
    assert small.shape == large.shape == (7, 2)
    for start in (0, 3):  # three batches hold the five examples
        part = small[start : start + 3]
        assert sorted(part[part >= 0]) == [0, 1, 2, 3, 4]
    assert len(np.unique(large)) == 14


def test_a_clients_order_does_not_depend_on_the_cohort_but_on_the_round():
    data = ragged_data((40, 30, 20))
    batching = Batching(batch_size=7, epochs=2)
    planner = Planner(data, batching, max_clients=3, lanes=2)
    spread = Planner(data, batching, max_clients=3, devices=3, block_clients=1)
    alone = lines_of(queues_of(planner, [1]), 1)
    together = lines_of(queues_of(planner, [2, 1, 0]), 1)
    elsewhere = lines_of(queues_of(spread, [2, 1, 0]), 1)
    other_round = lines_of(queues_of(planner, [1], SEED + 1), 1)
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(alone, elsewhere)
    assert (alone != other_round).any()
    first, second = alone[:6], alone[6:]
    assert first.shape[0] == 6 or (first != second).any()  # passes differ too


def chi_square(orders):
    _, counts = np.unique(orders, axis=0, return_counts=True)
    expected = len(orders) / 6
    missing = 6 - len(counts)
    return ((counts - expected) ** 2 / expected).sum() + missing * expected


def test_shuffles_are_uniform():
    # 60,000 groups: each of 6 orders of 3 examples, chi-square with 5 degrees of
    # freedom; 38.3 has a false alarm of 3e-7, and a shuffle that never moves the
    # first example exceeds it by far.
    words = _mix(WORD, np.arange(60_000), np.zeros(60_000, int))
    group = np.repeat(np.arange(60_000), 3)
    orders = _shuffled(words, group, np.tile(np.arange(3), 60_000)).reshape(-1, 3)
    assert chi_square(orders) < 38.3
    assert chi_square(np.where(orders[:, :1] == 0, orders, [[0, 1, 2]])) > 38.3


def test_a_shuffle_without_room_for_random_bits_sorts_in_two_keys(monkeypatch):
    words = _mix(WORD, np.arange(6_000), np.zeros(6_000, int))
    group, position = np.repeat(np.arange(6_000), 3), np.tile(np.arange(3), 6_000)
    fast = _shuffled(words, group, position)
    monkeypatch.setattr("jaxfed.engine._shuffle._LEAST_RANDOM_BITS", 64)
    slow = _shuffled(words, group, position)
    assert (fast == slow).mean() > 0.999  # the same order but for equal leading bits
    assert chi_square(slow.reshape(-1, 3)) < 38.3


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("cohort", [10, 50, 1000])
def test_queues_take_equally_long(devices, cohort):
    # log-normal sizes around 100, 10 to 500, batches of 20: the workload W1; ten
    # clients on three devices cannot be dealt better than to one client's length
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(np.log(100) - 0.18, 0.6, 2000), 10, 500).astype(int)
    data = ragged_data(sizes)
    planner = Planner(
        data, Batching(batch_size=20, epochs=1), max_clients=cohort, devices=devices
    )
    waste = [
        planner.waste(rng.choice(2000, cohort, replace=False))["scheduling"]
        for _ in range(20)
    ]
    assert np.mean(waste) < (0.02 if cohort >= 50 or devices < 2 else 0.08)


def test_long_queues_are_dealt_in_turns(monkeypatch):
    costs = np.sort(np.random.default_rng(0).integers(1, 30, 5000))[::-1]
    by_heap = np.bincount(_planner._deal(costs, 4), costs)
    monkeypatch.setattr(_planner, "_DEALT_ONE_BY_ONE", 64)
    in_turns = np.bincount(_planner._deal(costs, 4), costs)
    for loads in (by_heap, in_turns):
        assert loads.sum() == costs.sum()
        assert loads.max() / loads.mean() < 1.001


def test_waste_counts_slots():
    data = ragged_data((20, 20, 10))
    planner = Planner(data, Batching(batch_size=20, epochs=1), max_clients=3, devices=2)
    waste = planner.waste(np.arange(3))
    assert waste["scheduling"] == pytest.approx(1 / 4)  # three steps in two times two
    assert waste["padding"] == pytest.approx(1 - 50 / 80)


def test_few_shapes_for_changing_cohorts():
    rng = np.random.default_rng(1)
    sizes = np.clip(rng.lognormal(3, 1, 3000), 1, 500).astype(int)
    planner = Planner(
        ragged_data(sizes),
        Batching(batch_size=10, epochs=2),
        max_clients=400,
        expected_clients=300,
        lanes=4,
        devices=2,
    )
    layouts = []
    for _ in range(50):
        clients = np.flatnonzero(rng.random(3000) < 0.1)[:400]
        layouts += [
            block.layout for block in planner.plan(clients, key=keys.simulated(SEED))
        ]
    assert len(layouts) == 50
    assert len(set(layouts)) <= 2


def test_shapes_grow_when_they_must_and_never_shrink():
    data = ragged_data((2,) * 90 + (400,) * 10)
    planner = Planner(data, Batching(batch_size=2, epochs=1), max_clients=10)
    small = next(planner.plan(np.arange(10), key=keys.simulated(SEED))).layout
    large = next(planner.plan(np.arange(90, 100), key=keys.simulated(SEED))).layout
    again = next(planner.plan(np.arange(10), key=keys.simulated(SEED))).layout
    assert large.lines >= 2000 > small.lines
    assert again == large


def test_an_empty_cohort_is_one_empty_block():
    planner = Planner(ragged_data(), Batching(batch_size=4, epochs=3), max_clients=3)
    (block,) = planner.plan(np.arange(0), key=keys.simulated(SEED))
    cohort = unpack(block.layout, block.packed[0])
    assert block.num_clients == cohort.num_chunks == cohort.is_real.sum() == 0


def test_blocks_hold_no_more_clients_than_asked_for():
    data = ragged_data([3] * 50)
    planner = Planner(
        data, Batching(batch_size=2, epochs=1), max_clients=50, lanes=2, block_clients=8
    )
    blocks = list(planner.plan(np.arange(50), key=keys.simulated(SEED)))
    counts = [block.num_clients for block in blocks]
    assert (sum(counts), max(counts), len(counts)) == (50, 8, 7)
    assert len({b.layout for b in blocks}) == 1


def test_streamed_rows_are_numbered_within_each_device():
    data = ragged_data((5, 3, 8, 2))
    planner = Planner(
        data,
        Batching(batch_size=4, epochs=1),
        max_clients=4,
        devices=2,
        is_streamed=True,
    )
    (block,) = planner.plan(np.arange(4), key=keys.simulated(SEED))
    assert sorted(np.concatenate(block.owners)) == [0, 1, 2, 3]
    for owned, packed in zip(block.owners, block.packed, strict=True):
        cohort = unpack(block.layout, packed)
        starts = np.cumsum(data.client_sizes[owned]) - data.client_sizes[owned]
        for client, start in zip(owned, starts, strict=True):
            lines = lines_of([cohort], client)
            own = np.arange(start, start + data.client_sizes[client])
            assert sorted(lines[lines >= 0]) == list(own)


def test_packing_and_unpacking():
    layout = Layout(chunks=2, lanes=3, lines=5, width=4)
    rng = np.random.default_rng(0)
    fields = Cohort(*(rng.integers(0, 99, (2, *shape)) for shape in layout.shapes()))
    packed = pack(layout, fields, 2)
    assert packed.shape == (2, layout.size)
    for device in range(2):
        for field, back in zip(fields, unpack(layout, packed[device]), strict=True):
            np.testing.assert_array_equal(field[device], back)
