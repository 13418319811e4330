"""Poisson batches are drawn from the key, with the law that is accounted."""

import itertools
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from jaxfed import keys
from jaxfed.engine import _poisson
from jaxfed.engine._block import unpack
from jaxfed.engine._planner import Planner
from jaxfed.typing import Batching
from tests.problems import ragged_data
from tests.reference import poisson as twin

SECRET = keys.new_secret()  # another one each time: every bound below says how often


def secure():
    return keys.secure(SECRET, context=b"test")


def simulated():
    return keys.simulated(3)


def lines_of(planner, clients, client, key):
    """Returns the rows of a client's batches, and where its own rows begin."""
    for block in planner.plan(np.array(clients), key=key):
        for device, packed in enumerate(block.packed):
            plan = unpack(block.layout, packed)
            for place in np.argwhere((plan.clients == client) & plan.is_real):
                first, count = plan.first_step[*place], plan.num_steps[*place]
                return plan.rows[first : first + count], block.owners, device
    raise AssertionError(client)


def examples_of(data, planner, clients, client, key):
    """Returns the examples of each of a client's batches, numbered from 0."""
    lines, owners, device = lines_of(planner, clients, client, key)
    start = data.offsets[client]
    if owners:  # streamed: rows are numbered within the device
        start = data.client_sizes[owners[device][owners[device] < client]].sum()
    return [(line[line >= 0] - start).tolist() for line in lines]


def drawn(sizes, batching, key):
    """Returns whether each example is in each batch, (steps, size), of one client."""
    (size,) = sizes
    data = ragged_data(sizes)
    planner = Planner(data, batching, max_clients=1)
    joined = np.zeros((batching.steps, size), bool)
    for step, batch in enumerate(examples_of(data, planner, [0], 0, key)):
        assert len(set(batch)) == len(batch) <= batching.batch_size
        joined[step, batch] = True
    return joined


@pytest.mark.parametrize("make", [secure, simulated])
@pytest.mark.parametrize(
    ("size", "steps", "rate", "width"),
    [(7, 5, 0.4, 7), (300, 8, 0.05, 300), (90, 30, 0.3, 25), (5, 3, 1.0, 2)],
)
def test_equals_the_slow_twin(size, steps, rate, width, make):
    """Batches that never, sometimes and always overflow, in one tile and in several."""
    data = ragged_data((size + 2, size))
    planner = Planner(
        data, Batching(batch_size=width, steps=steps, rate=rate), max_clients=2
    )
    found = examples_of(data, planner, [0, 1], 1, make())
    assert found == twin.batches(make(), 1, size, steps, rate, width)


@pytest.mark.parametrize("make", [secure, simulated])
def test_examples_join_alone_at_the_rate_and_anew_in_every_step(make):
    # 6,000 batches of 25 examples with room for all. False alarm 1e-6 each: of the
    # four ways to join or not in two successive steps, 75,000 times (3 degrees of
    # freedom), of those of neighbouring examples, and of each example's count (25).
    # A rate wrong by 5 % misses it by 7 standard errors; a step that repeats the one
    # before it, and an example that joins half as often again, by far more.
    rate = 0.3
    joined = drawn((25,), Batching(batch_size=25, steps=6000, rate=rate), make())

    def pvalue(first, second, rate):
        cells = np.bincount(2 * first.ravel() + second.ravel(), minlength=4)
        law = np.outer([1 - rate, rate], [1 - rate, rate]).ravel()
        return stats.chisquare(cells, law * first.size).pvalue

    now, after = joined[0::2].astype(int), joined[1::2].astype(int)
    assert pvalue(now, after, rate) > 1e-6
    assert pvalue(now, after, 1.05 * rate) < 1e-6
    assert pvalue(now, after, 0.95 * rate) < 1e-6
    assert pvalue(now, now, rate) < 1e-6
    left, right = joined[:, 0:24:2].astype(int), joined[:, 1:25:2].astype(int)
    assert pvalue(left, right, rate) > 1e-6
    assert pvalue(left, left, rate) < 1e-6

    def spread(counts):
        squares = (counts - 6000 * rate) ** 2 / (6000 * rate * (1 - rate))
        return stats.chi2.sf(squares.sum(), 25)

    assert spread(joined.sum(axis=0)) > 1e-6
    assert spread(joined.sum(axis=0) * np.where(np.arange(25) == 7, 1.5, 1)) < 1e-6


@pytest.mark.parametrize("make", [secure, simulated])
def test_of_those_who_join_a_uniform_part_stays(make):
    # 6,000 batches of at most 2 of 6, at rate 0.9: all but a few are full, and each
    # of 15 pairs is equally likely. False alarm 1e-6 (14 degrees of freedom). Pairs
    # with the first example being half as likely again misses it by 6 standard errors.
    joined = drawn((6,), Batching(batch_size=2, steps=6000, rate=0.9), make())
    full = joined[joined.sum(axis=1) == 2]
    assert len(full) > 5900
    pairs = list(itertools.combinations(range(6), 2))
    counts = np.array([(full[:, a] & full[:, b]).sum() for a, b in pairs])
    assert counts.sum() == len(full)

    def pvalue(counts):
        return stats.chisquare(counts).pvalue

    assert pvalue(counts) > 1e-6
    assert pvalue(counts * np.array([1 + 0.5 * (a == 0) for a, _ in pairs])) < 1e-6


@pytest.mark.parametrize("make", [secure, simulated])
def test_batches_do_not_depend_on_the_cohort_or_on_how_it_is_laid_out(make):
    """Others fill whole draws of tiles, and one client's batches overflow."""
    sizes = (150_000, 40, 700, 120_000, 3)
    data = ragged_data(sizes)
    batching = Batching(batch_size=40, steps=3, rate=0.1)  # 70 of 700 join
    layouts = (
        {},
        {"lanes": 2},
        {"devices": 3, "block_clients": 1},
        {"devices": 2, "is_streamed": True},
    )
    alone = Planner(data, batching, max_clients=5)
    expected = [examples_of(data, alone, [c], c, make()) for c in (1, 2, 4)]
    assert 40 in [len(batch) for batch in expected[1]]
    for layout in layouts:
        planner = Planner(data, batching, max_clients=5, **layout)
        for cohort in ([0, 1, 2, 3, 4], [4, 3, 2, 1]):
            found = [examples_of(data, planner, cohort, c, make()) for c in (1, 2, 4)]
            assert found == expected
    other = [examples_of(data, alone, [c], c, keys.simulated(4)) for c in (1, 2)]
    assert all(a != b for a, b in zip(other, expected, strict=False))


@pytest.mark.parametrize(
    "rate", [1e-9, 1e-3, 2.0**-20 + 2.0**-50, 0.3, 1 - 2.0**-53, 2.0**-44, 0.25]
)
def test_the_rate_is_exact(rate, monkeypatch):
    """96 bits just below and at rate * 2**96, an integer, decide differently."""
    edge = int(Fraction(rate) * 2**96)
    assert edge == Fraction(rate) * 2**96
    uniform = [0, edge - 1, edge, 2**96 - 1]
    words = np.array([[u >> 64, u >> 32 & 0xFFFFFFFF, u & 0xFFFFFFFF] for u in uniform])

    def tiles(key, clients, numbers, count, use):
        out = np.full((256, 1024, _poisson._WORDS[use]), 2**32 - 1, np.uint32)
        out[0, :4] = words[:, :1] if use == _poisson._FIRST else words[:, 1:]
        return out

    monkeypatch.setattr(_poisson, "_tiles", tiles)
    batching = Batching(batch_size=4, steps=1, rate=rate)
    np.testing.assert_array_equal(
        drawn((4,), batching, simulated()), [[True, True, False, False]]
    )


def test_an_empty_batch_names_a_row_of_its_own_client():
    data = ragged_data([3, 5, 2])
    planner = Planner(data, Batching(batch_size=4, steps=50, rate=0.05), max_clients=3)
    empty = 0
    for client in range(3):
        lines, *_ = lines_of(planner, [0, 1, 2], client, simulated())
        own = np.where(lines >= 0, lines, ~lines)
        assert (own >= data.offsets[client]).all()
        assert (own < data.offsets[client + 1]).all()
        empty += (lines < 0).all(axis=1).sum()
    assert empty > 50


def test_one_program_draws_for_every_cohort():
    data = ragged_data((3000, 20, 400_000, 7))
    planner = Planner(
        data, Batching(batch_size=1000, steps=2, rate=1e-3), max_clients=4
    )
    for _ in planner.plan(np.array([1]), key=keys.simulated(0)):
        pass
    before = _poisson._tiles._cache_size()
    for cohort in ([0], [0, 1, 2, 3], [2, 3]):
        for _ in planner.plan(np.array(cohort), key=keys.simulated(0)):
            pass
    assert _poisson._tiles._cache_size() == before


def test_memory_follows_who_joins_and_not_who_could():
    """5,000,000 coins of one client beside small ones: one MiB at a time."""
    data = ragged_data((500_000, *[10] * 100))
    planner = Planner(
        data, Batching(batch_size=800, steps=10, rate=1e-3), max_clients=101, lanes=8
    )
    tracemalloc.start()
    for _ in planner.plan(np.arange(101), key=keys.simulated(0)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20  # one number of 64 bits for each coin would be 38 MiB
