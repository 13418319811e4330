"""One writer, many readers: two processes, two threads, a parent and its child."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from jaxfed.ledger import BudgetExhausted, Ledger, LedgerError, Permit, _budget
from tests.faults import sessions

ROOT = Path(__file__).parents[2]


def launched(what, count):
    """Returns what `racers` found."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.faults.racers", what, str(count)],
        env=os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def only_one_wins(races):
    found = launched("race", races)
    assert Counter(found["outcomes"]) == {"LW": races}
    assert found["takeovers"] == races // 20
    assert found["charged"] == races  # one for each, by whoever had it last


def test_one_of_two_processes_wins():
    """Every twentieth winner is killed; then the next one gets the ledger at once."""
    only_one_wins(100)


@pytest.mark.slow
def test_one_of_two_processes_wins_a_thousand_times():
    only_one_wins(1000)


def test_two_winners_would_be_noticed():
    """The power: without the lock both win."""
    found = launched("unlocked", 20)
    assert Counter(found["outcomes"])["WW"] > 5


def test_readers_beside_a_writer_see_a_valid_prefix():
    found = launched("readers", 150)
    assert found["wrong"] == []
    assert found["still"]
    assert len(found["lengths"]) > 50


def both(*functions):
    """Returns what two threads get that start at once."""
    barrier, results = threading.Barrier(len(functions)), [None] * len(functions)

    def run(index):
        barrier.wait()
        try:
            results[index] = functions[index]()
        except (BudgetExhausted, LedgerError) as error:
            results[index] = error

    threads = [
        threading.Thread(target=run, args=(index,)) for index in range(len(functions))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def eager_threads():
    """Threads that give way to each other as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def last_unit(path, adaptive):
    """Returns a ledger with one release left, and its event."""
    from dp_accounting import dp_event

    event = dp_event.GaussianDpEvent(4.0)
    ledger = Ledger.create(path, epsilon=1.2, delta=1e-5, adaptive=adaptive)
    ledger.plan(event, 1, name="last")
    return ledger


def permits_of_the_last_unit(folder, races, adaptive=False):
    """Two threads charge the last unit of a budget; counts permits and entries."""
    found = Counter()
    for number in range(races):
        with last_unit(folder / str(number), adaptive) as ledger:
            results = both(lambda: ledger.charge("last"), lambda: ledger.charge("last"))
            permits = sum(isinstance(each, Permit) for each in results)
            charges = sum(entry.kind == "charge" for entry in ledger.history())
            found[permits, charges] += 1
            ledger.verify()
    return found


@pytest.mark.parametrize("adaptive", [False, True])
def test_one_of_two_threads_gets_the_last_unit(quick_path, eager_threads, adaptive):
    assert permits_of_the_last_unit(quick_path, 50, adaptive) == {(1, 1): 50}


@pytest.mark.slow
def test_one_of_two_threads_gets_the_last_unit_a_thousand_times(
    quick_path, eager_threads
):
    assert permits_of_the_last_unit(quick_path, 1000) == {(1, 1): 1000}


def test_what_was_checked_still_holds_when_it_is_written(quick_path, monkeypatch):
    """Both threads are held up after the check, for as long as both may be there."""
    original, meeting = _budget.Planned.check, threading.Barrier(2)

    def slow(self, mechanism, uses):
        original(self, mechanism, uses)
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.2)

    monkeypatch.setattr(_budget.Planned, "check", slow)
    assert permits_of_the_last_unit(quick_path, 1) == {(1, 1): 1}


def test_two_threads_releasing_one_round_are_two_attempts(quick_path, eager_threads):
    with sessions.create(quick_path, False) as ledger:
        mechanism = sessions.planned(ledger, "run")

        def spent(inputs):
            with ledger.spending(mechanism, 0, inputs) as permit:
                pass
            return permit

        both(lambda: spent(b"a" * 32), lambda: spent(b"b" * 32))
        assert [charge.attempt for charge in mechanism.charges] == [0, 1]


def test_a_second_opener_is_refused_in_one_process_too(quick_path):
    with sessions.create(quick_path, False):
        with pytest.raises(LedgerError, match="must have one writer"):
            sessions.opened(quick_path, False)
        with sessions.opened(quick_path, False, read_only=True) as reader:
            assert len(reader.history()) == 1
    sessions.opened(quick_path, False).close()


def test_a_child_that_closes_leaves_its_parents_ledger_alone():
    """Or a seal would be written, and the next crash make the ledger unreadable."""
    found = launched("child", 1)
    assert found == {"sealed": False, "refused": True, "entries": found["entries"]}
