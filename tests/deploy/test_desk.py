"""The desk believes nothing: reports are within their bound, and counted once."""

import collections
import contextlib
import json
import random
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jaxfed.deploy._desk import Desk
from jaxfed.vault import _task
from jaxfed.vault._errors import WireError
from tests.deploy.running import NAMES, levels_of, report_of
from tests.deploy.running import opened as opened  # a fixture


def test_only_reports_within_their_bound_are_added(opened):
    levels, desk = levels_of(opened), opened.desk
    for values in (
        [levels + 1, 0, 0, 0, 0],
        [levels, 1, 0, 0, 0],
        [-(2**31), 0, 0, 0, 0],
        [2**31 - 1] * 5,
    ):
        with pytest.raises(WireError, match="beyond its clip norm"):
            desk.submit(NAMES[0], report_of(opened, values))
    for values in ([0] * 4, [0] * 6):
        with pytest.raises(WireError):
            desk.submit(NAMES[0], report_of(opened, values))
    good = report_of(opened, [levels, 0, 0, 0, 0])
    for bad in (b"", good[:-1], good + b"\0", good[:40], b"\xff" * len(good)):
        with pytest.raises(WireError):
            desk.submit(NAMES[0], bad)
    floats = good.replace(b'"I32"', b'"F32"')
    with pytest.raises(WireError, match="another type"):
        desk.submit(NAMES[0], floats)
    assert desk.submit(NAMES[0], good) == "accepted"
    total = desk._total
    assert total.num_reports == 1
    assert np.array_equal(total.values[0], [levels, 0, 0, 0, 0])


def test_one_report_per_client_and_attempt_and_none_for_another(opened):
    desk = opened.desk
    first = report_of(opened, [1, 0, 0, 0, 0])
    second = report_of(opened, [2, 0, 0, 0, 0])
    other = report_of(opened, [4, 0, 0, 0, 0], NAMES[1])
    assert desk.submit(NAMES[0], first) == "accepted"
    assert desk.submit(NAMES[0], first) == "duplicate"
    assert desk.submit(NAMES[0], second) == "duplicate"
    assert desk.task(NAMES[0]) is None
    for name, value in (
        ("round", 1),
        ("attempt", 1),
        ("run", "0" * 64),
        ("plan", "0" * 64),
        ("model", "0" * 64),
    ):
        stale = report_of(opened, [8, 0, 0, 0, 0], NAMES[1], **{name: value})
        assert desk.submit(NAMES[1], stale) == "stale"
    assert desk.submit(NAMES[1], other) == "accepted"
    with pytest.raises(PermissionError, match="not enrolled"):
        desk.submit("stranger", first)
    assert desk._total.values[0][0] == 5
    opened.desk._open = opened.desk._open._replace(until=0.0)
    late = desk.submit(NAMES[2], first)
    assert late == "stale"
    assert desk.gather().num_reports == 2


def test_replay_into_the_next_attempt_is_refused(opened):
    old = report_of(opened, [3, 0, 0, 0, 0])
    tasks, model = opened._tasks(0, 1, opened._cohorts.of(0))
    opened.desk.open(tasks, model, seconds=30.0, goal=8)
    assert opened.desk.submit(NAMES[0], old) == "stale"
    assert opened.desk._total.num_reports == 0


def hostile_reports(opened, count, seed=0):
    """Yields reports that a client may send: a good one, changed in some way."""
    draw = random.Random(seed)
    levels = levels_of(opened)
    good = report_of(opened, [levels // 2, -levels // 2, 0, 1, -1])
    header = int.from_bytes(good[:8], "little")
    for _ in range(count):
        kind = draw.randrange(6)
        data = bytearray(good)
        if kind == 0:  # anywhere
            for _ in range(draw.choice([1, 2, 8])):
                data[draw.randrange(len(data))] = draw.randrange(256)
        elif kind == 1:  # the length of the header
            data[:8] = draw.choice(
                [draw.randrange(1 << 64), draw.randrange(400), 1 << 63]
            ).to_bytes(8, "little")
        elif kind == 2:  # cut off, or longer
            size = draw.randrange(2 * len(data))
            data = (data + bytes(size))[:size]
        elif kind == 3:  # numbers
            place = 8 + header + 4 * draw.randrange(5)
            data[place : place + 4] = draw.randrange(1 << 32).to_bytes(4, "little")
        elif kind == 4:  # a character of the header for another
            data[8 + draw.randrange(header)] = draw.choice(b'{}[]":,-0123456789eE. ')
        else:
            data = bytearray(draw.randbytes(draw.randrange(64)))
        yield bytes(data)


def check_hostile_reports(opened, count):
    """Hands them all in as clients that have not reported; counts what is added."""
    desk, levels, accepted = opened.desk, levels_of(opened), 0
    for sent in hostile_reports(opened, count):
        desk._reported.clear()
        desk._total.values[0][:] = 0
        try:
            state = desk.submit(NAMES[0], sent)
        except WireError:
            assert not desk._total.values[0].any()
            continue
        assert state in ("accepted", "stale")
        if state == "accepted":
            accepted += 1
            exact = [int(value) for value in desk._total.values[0]]
            assert sum(value**2 for value in exact) <= levels**2
    assert count / 1000 < accepted < count / 2  # some changes change nothing


def test_hostile_reports_are_refused_or_within_the_bound(opened):
    check_hostile_reports(opened, 20_000)


@pytest.mark.slow
def test_a_million_hostile_reports(opened):
    opened.desk._open = opened.desk._open._replace(until=time.monotonic() + 1e6)
    check_hostile_reports(opened, 1_000_000)


def with_header(data, change):
    """Returns a report whose header was changed as JSON."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


# Section 2.1 of the reference on threats: what one client did to Flower 1.41
ROWS = {
    "1 NaN": lambda h: h["update/w"].update(dtype="F32"),
    "3 weights": lambda h: h["__metadata__"].update({"num-examples": "1000000"}),
    "3b weights": lambda h: h.update(
        {"weight": {"dtype": "F32", "shape": [], "data_offsets": [20, 24]}}
    ),
    "4 other places": lambda h: h["update/w"].update(data_offsets=[4, 24]),
    "4 other names": lambda h: h.update({"update/v": h.pop("update/w")}),
    "5 shapes": lambda h: h["update/w"].update(shape=[5, 1]),
    "5 more shapes": lambda h: h["update/w"].update(shape=[6000, 6000]),
    "6 metrics": lambda h: h["__metadata__"].update(loss="4.5"),
    "8 types": lambda h: h["update/w"].update(dtype="I64"),
    "numbers in words": lambda h: h["__metadata__"].update(round=0),
    "deep": lambda h: h["__metadata__"].update(run="a" * 70_000),
}


@pytest.mark.parametrize("row", ROWS)
def test_what_one_client_did_to_peers_is_refused_here(row, opened):
    good = report_of(opened, [1, 2, 3, 4, 5])
    with pytest.raises(WireError):
        opened.desk.submit(NAMES[0], with_header(good, ROWS[row]))
    assert opened.desk._total.num_reports == 0
    same = with_header(good, lambda h: h.update(dict(reversed(list(h.items())))))
    assert opened.desk.submit(NAMES[0], same) == "accepted"  # order means nothing
    assert np.array_equal(opened.desk._total.values[0], [1, 2, 3, 4, 5])


def test_an_unchanged_model_is_an_honest_report(opened):
    """Row 2: a zero update divides by nothing."""
    assert opened.desk.submit(NAMES[0], report_of(opened, [0] * 5)) == "accepted"


def test_a_report_takes_no_more_memory_and_time_than_it_has_bytes(opened):
    """Row 18: at most twice the declared bytes and 1 MiB; under 50 ms."""
    worst, most = 0.0, 0
    tracemalloc.start()
    try:
        for sent in hostile_reports(opened, 3000, seed=1):
            opened.desk._reported.clear()
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            start = time.perf_counter()
            with contextlib.suppress(WireError):
                opened.desk.submit(NAMES[0], sent)
            worst = max(worst, time.perf_counter() - start)
            _, peak = tracemalloc.get_traced_memory()
            most = max(most, peak - before - 2 * len(sent))
    finally:
        tracemalloc.stop()
    assert most <= 1 << 20
    assert worst < 0.5  # a generous bound for a busy machine


class AnyOrder(RuleBasedStateMachine):
    """Row 21: duplicates, delays and replays in any order; each client counts once."""

    made = None  # desk, update, levels: set by the test

    @initialize()
    def begin(self):
        self.attempt, self.sent = -1, []
        self.open()

    @rule()
    def open(self):
        self.attempt += 1
        tasks = {
            name: task._replace(attempt=self.attempt)
            for name, task in self.made.tasks.items()
        }
        self.desk = self.made.desk
        self.desk.open(tasks, b"model", seconds=1e6, goal=99)
        self.counted = {}
        self.tasks = tasks

    @rule(client=st.sampled_from(NAMES), value=st.integers(1, 1000))
    def send(self, client, value):
        numbers = np.array([value, 0, 0, 0, 0], np.int32)
        task = self.tasks[client]
        data = _task.encode_report(task, self.made.update, [numbers], None)
        self.sent.append((client, self.attempt, value, data))
        self.deliver(self.sent[-1])

    @rule(data=st.data())
    def replay(self, data):
        if self.sent:
            self.deliver(data.draw(st.sampled_from(self.sent)))

    @rule(data=st.data(), thief=st.sampled_from(NAMES))
    def replay_as_another(self, data, thief):
        if self.sent:
            _, attempt, value, sent = data.draw(st.sampled_from(self.sent))
            self.deliver((thief, attempt, value, sent))

    def deliver(self, one):
        client, attempt, value, data = one
        state = self.desk.submit(client, data)
        if attempt != self.attempt:
            assert state == "stale"
        elif client in self.counted:
            assert state == "duplicate"
        else:
            assert state == "accepted"
            self.counted[client] = value

    @invariant()
    def each_client_counts_once(self):
        if hasattr(self, "counted"):
            total = self.desk._total
            assert total.num_reports == len(self.counted)
            assert total.values[0][0] == sum(self.counted.values())


@pytest.mark.parametrize(
    "examples", [100, pytest.param(20_000, marks=pytest.mark.nightly)]
)
def test_each_client_counts_once_in_any_order(examples, opened):
    made = collections.namedtuple("made", "desk update tasks")
    desk = Desk(NAMES, opened._plan, opened.desk._sealed)
    tasks = opened.desk._open.tasks
    machine = type(
        "Machine", (AnyOrder,), {"made": made(desk, opened._plan.update, tasks)}
    )
    machine.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=40, deadline=None
    )
    machine.TestCase().runTest()


def test_a_round_ends_by_its_deadline(opened):
    tasks, model = opened._tasks(0, 1, opened._cohorts.of(0))
    opened.desk.open(tasks, model, seconds=0.5, goal=8)
    start = time.monotonic()
    assert opened.desk.submit(NAMES[0], report_of(opened, [1, 0, 0, 0, 0])) == (
        "accepted"
    )
    assert opened.desk.gather().num_reports == 1
    assert 0.4 < time.monotonic() - start < 1.5
    late = _task.encode_report(
        tasks[NAMES[1]], opened._plan.update, [np.ones(5, np.int32)], None
    )
    assert opened.desk.submit(NAMES[1], late) == "stale"


def test_a_round_with_any_dropouts_is_the_sum_of_who_reported(opened):
    """Row 22: an exact sum, or none."""
    draw = random.Random(0)
    for attempt in range(200):
        tasks, model = opened._tasks(0, attempt, opened._cohorts.of(0))
        opened.desk.open(tasks, model, seconds=1e6, goal=99)
        here = [name for name in NAMES if draw.random() > 0.3]
        values = {name: draw.randrange(-1000, 1000) for name in here}
        for name, value in values.items():
            report = report_of(opened, [value, 0, 0, 0, 0], name)
            assert opened.desk.submit(name, report) == "accepted"
        opened.desk._open = opened.desk._open._replace(until=0.0)
        total = opened.desk.gather()
        assert total.num_reports == len(here)
        assert total.values[0][0] == sum(values.values())


def test_no_report_beyond_the_goal_is_added(opened):
    """Or how many are summed would depend on who is fast."""
    desk = opened.desk
    desk._open = desk._open._replace(goal=2)
    names = (*NAMES[:4], NAMES[0])
    reports = [report_of(opened, [1, 0, 0, 0, 0], name) for name in names]
    states = [desk.submit(*one) for one in zip(names, reports, strict=True)]
    assert states == ["accepted", "accepted", "stale", "stale", "duplicate"]
    total = desk.gather()
    assert (total.num_reports, total.values[0][0]) == (2, 2)


def test_a_late_report_is_stale_also_for_who_is_not_asked_now(opened):
    late = report_of(opened, [3, 0, 0, 0, 0], NAMES[7])
    tasks, model = opened._tasks(0, 1, opened._cohorts.of(0))
    fewer = {name: tasks[name] for name in NAMES[:4]}
    opened.desk.open(fewer, model, seconds=30.0, goal=4)
    assert opened.desk.submit(NAMES[7], late) == "stale"
    with pytest.raises(PermissionError, match="not asked"):
        opened.desk.submit(NAMES[7], report_of(opened, [3, 0, 0, 0, 0]))
