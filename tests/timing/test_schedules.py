"""Who reports when: laws of schedules, and small cases by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfed.timing import Buffered, Fleet, FleetClients, Synchronous

PLAIN = Fleet()


def clients_of(step_seconds, exchange=0.0, fleet=PLAIN, start=0.0):
    speeds = np.asarray(step_seconds, np.float64)
    full = np.full(len(speeds), 1.0)
    return FleetClients(fleet, speeds, exchange * full, start * full)


def everybody(count):
    return lambda round_index: np.arange(count)


def first(server, clients, steps, rounds, seed=0, cohort=None):
    cohort = cohort or everybody(len(steps))
    source = server.schedule(clients, np.asarray(steps), cohort, seed=seed)
    return list(itertools.islice(source, rounds))


def test_a_round_takes_as_long_as_its_slowest_client():
    clients = clients_of([1.0, 2.0, 5.0], exchange=3.0)
    one, two = first(Synchronous(), clients, [4, 1, 2], 2)
    assert one.time == 3 + 10
    assert two.time == 26
    assert one.clients.tolist() == [0, 1, 2]
    assert one.steps.tolist() == [4, 1, 2]
    assert two.versions.tolist() == [1, 1, 1]
    assert (one.num_lost, one.num_late) == (0, 0)


def test_a_goal_goes_on_with_the_first():
    clients = clients_of([1.0, 2.0, 5.0, 3.0])
    (one,) = first(Synchronous(goal=2), clients, [1, 1, 1, 1], 1)
    assert one.clients.tolist() == [0, 1]
    assert one.time == 2
    assert one.num_late == 2


def test_a_deadline_drops_or_takes_a_part():
    clients = clients_of([1.0, 2.0, 5.0], exchange=1.0)
    steps = [3, 3, 3]
    (dropped,) = first(Synchronous(deadline=5.0), clients, steps, 1)
    assert dropped.clients.tolist() == [0]
    assert dropped.time == 5
    assert dropped.num_late == 2
    late = Synchronous(deadline=5.0, late="partial")
    (partial,) = first(late, clients, steps, 1)
    assert partial.clients.tolist() == [0, 1]  # 4 seconds are no step of the third
    assert partial.steps.tolist() == [3, 2]
    assert partial.num_late == 1


def test_a_round_that_is_done_before_the_deadline_ends():
    (one,) = first(Synchronous(deadline=50.0), clients_of([1.0, 2.0]), [1, 1], 1)
    assert one.time == 2


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_stragglers_are_a_share_of_each_cohort(share):
    clients, steps = clients_of(np.ones(10)), np.full(10, 20)
    whole = Synchronous(stragglers=share, late="partial")
    for one in first(whole, clients, steps, 5):
        assert len(one.clients) == 10
        assert (one.steps < 20).sum() == round(10 * share)
        assert one.steps.min() >= 1
    for one in first(Synchronous(stragglers=share), clients, steps, 5):
        assert len(one.clients) == 10 - round(10 * share)
        assert one.num_late == round(10 * share)


def test_stragglers_work_is_uniform():
    """6,000 draws from 1 to 19; chi-square with 18 degrees, false alarms 1e-6."""
    clients, steps = clients_of(np.ones(20)), np.full(20, 20)
    server = Synchronous(stragglers=1.0, late="partial")
    drawn = np.concatenate([r.steps for r in first(server, clients, steps, 300)])
    counts = np.bincount(drawn, minlength=20)[1:20]
    expected = len(drawn) / 19
    assert counts.sum() == len(drawn)
    assert ((counts - expected) ** 2 / expected).sum() < 66  # its 1 - 1e-6 quantile


def test_buffered_by_hand():
    """Two at work of speeds 1 and 3: the fast one reports thrice as often."""
    server = Buffered(goal=2, concurrency=2)
    one, two, three = first(server, clients_of([1.0, 3.0]), [1, 1], 3)
    assert one.time == 2
    assert one.clients.tolist() == [0, 0]
    assert one.versions.tolist() == [0, 0]
    assert one.at_work.tolist() == [0]
    assert two.time == 3
    assert sorted(zip(two.clients, two.versions, strict=True)) == [(0, 1), (1, 0)]
    assert three.time == 5
    assert server.weights(np.array([0, 3])).tolist() == [1.0, 0.5]


def test_too_old_reports_are_not_used():
    server = Buffered(goal=1, concurrency=2, most_staleness=0)
    releases = first(server, clients_of([1.0, 3.5]), [1, 1], 8)
    assert all(r.clients.tolist() == [0] for r in releases)
    assert sum(r.num_late for r in releases) == 2


fleets = st.builds(
    Fleet,
    speed_spread=st.sampled_from([0.0, 0.5, 1.5]),
    seconds_of_exchange=st.sampled_from([0.0, 2.0]),
    dropout=st.sampled_from([0.0, 0.3]),
    available=st.sampled_from([1.0, 0.5]),
    period=st.just(500.0),
)
servers = st.one_of(
    st.builds(Synchronous, goal=st.sampled_from([None, 3])),
    st.builds(
        Synchronous,
        deadline=st.sampled_from([None, 10.0]),
        late=st.sampled_from(["drop", "partial"]),
        stragglers=st.sampled_from([0.0, 0.5]),
    ),
    st.builds(
        Buffered,
        goal=st.integers(1, 4),
        concurrency=st.integers(1, 9),
        most_staleness=st.sampled_from([None, 1]),
    ),
)


@settings(max_examples=60, deadline=None)
@given(fleet=fleets, server=servers, seed=st.integers(0, 2**40))
def test_laws_of_every_schedule(fleet, server, seed):
    steps = np.arange(1, 10)
    clients = fleet.drawn(9, seed)
    releases = first(server, clients, steps, 12, seed=seed)
    again = first(server, fleet.drawn(9, seed), steps, 12, seed=seed)
    time = 0.0
    for number, (one, other) in enumerate(zip(releases, again, strict=True)):
        assert all(map(np.array_equal, one, other))  # the seed decides
        assert one.time >= time
        assert (one.versions <= number).all()
        assert (one.at_work <= number).all()
        assert (one.steps >= 1).all()
        assert (one.steps <= steps[one.clients]).all()
        assert ((one.clients >= 0) & (one.clients < 9)).all()
        if isinstance(server, Buffered):
            assert len(one.clients) == server.goal
            assert len(one.at_work) <= server.concurrency
            if server.most_staleness is not None:
                assert (number - one.versions <= server.most_staleness).all()
        else:
            assert (one.versions == number).all()
            assert len(np.unique(one.clients)) == len(one.clients)
        time = one.time


def test_nobody_reports_outside_the_window():
    fleet = Fleet(available=0.5, period=100.0)
    clients = clients_of(np.full(4, 30.0), fleet=fleet)
    for one in first(Buffered(goal=2, concurrency=3), clients, np.ones(4, int), 20):
        assert 0 < one.time % 100 <= 50


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "server",
    [Synchronous(), Synchronous(deadline=3.0), Buffered(goal=2, concurrency=2)],
)
def test_time_goes_on_while_everybody_is_away(server, seed):
    fleet = Fleet(available=0.1, period=7.3, seconds_per_step=0.1)
    releases = first(server, fleet.drawn(3, seed), np.ones(3, int), 200, seed=seed)
    assert sum(len(r.clients) for r in releases) >= 100
    assert releases[-1].time > 20


def test_a_goal_is_met_exactly_by_equally_fast_clients():
    server, whose = Synchronous(goal=10), []
    for one in first(server, clients_of(np.ones(13)), np.ones(13, int), 40):
        assert len(one.clients) == 10
        assert one.num_late == 3
        whose.extend(one.clients.tolist())
    assert set(whose) == set(range(13))  # nobody is always last


def test_stragglers_are_waited_for_until_the_deadline():
    server = Synchronous(deadline=9.0, stragglers=0.5)
    (one,) = first(server, clients_of(np.ones(4)), np.ones(4, int), 1)
    assert one.time == 9
    assert len(one.clients) == 2


def test_dropout_is_as_likely_as_it_says():
    """3,000 clients at 0.3; six standard deviations."""
    clients = clients_of(np.ones(100), fleet=Fleet(dropout=0.3))
    lost = [r.num_lost for r in first(Synchronous(), clients, np.ones(100, int), 30)]
    assert abs(sum(lost) - 900) < 6 * (3000 * 0.3 * 0.7) ** 0.5


def test_speeds_are_log_normal():
    drawn = Fleet(seconds_per_step=2.0, speed_spread=0.7).drawn(20_000, 3)
    logs = np.log(drawn.step_seconds)
    assert abs(logs.mean() - np.log(2)) < 6 * 0.7 / 20_000**0.5
    assert abs(logs.std() - 0.7) < 6 * 0.7 / 40_000**0.5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Fleet(dropout=1.0), "dropout must be < 1"),
        (lambda: Fleet(seconds_per_step=0), "seconds_per_step must be > 0"),
        (lambda: Fleet(available=0.0), "available must be"),
        (lambda: Synchronous(goal=2, late="partial"), "must not go with goal=2"),
        (lambda: Synchronous(goal=2, stragglers=0.5), "must not go with goal=2"),
        (
            lambda: first(
                Buffered(goal=1, concurrency=1),
                clients_of([5.0], fleet=Fleet(available=0.1, period=10.0)),
                [1],
                1,
            ),
            "nobody would ever report",
        ),
        (lambda: Synchronous(stragglers=1.5), "stragglers must be a share <= 1"),
        (lambda: Synchronous(late="wait"), "late must be one of"),
        (lambda: Buffered(goal=0, concurrency=1), "goal must be"),
        (
            lambda: first(Buffered(goal=1, concurrency=3), clients_of([1.0]), [1], 1),
            "concurrency must be <= the 1 clients",
        ),
    ],
)
def test_wrong_settings_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
