"""A vault keeps its own count, whatever the server says, and across kills."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from jaxfed.vault._errors import Refused
from jaxfed.vault._participation import Limits, Participation, Task

ROOT = Path(__file__).resolve().parents[2]
FREE = Limits(most_rounds=100, least_separation=1)


def task(round_, attempt=0, run="a", plan="p", model=None):
    return Task(run, round_, attempt, plan, model or f"m{round_}")


@pytest.fixture
def record(tmp_path):
    with closing(Participation(tmp_path / "record.db")) as opened:
        yield opened


def test_the_same_task_gets_the_same_bytes_and_counts_once(record, tmp_path):
    first = record.join(task(0), FREE)
    assert len(first) == 32
    assert record.join(task(0), FREE) == first
    assert record.join(task(0, 1), FREE) == first  # or two noises hid one update
    record.close()
    with closing(Participation(tmp_path / "record.db")) as again:
        assert again.join(task(0), FREE) == first
        assert again.tasks() == [task(0), task(0, 1)]
        assert again.join(task(1), FREE) != first


@pytest.mark.parametrize(
    ("before", "asked", "limits", "match"),
    [
        ([task(3)], task(3, model="x"), FREE, "asked for twice, with another model"),
        ([task(3)], task(3, plan="q"), FREE, "asked for twice"),
        ([task(3)], task(3, 1, model="x"), FREE, "again, but with another model"),
        ([task(3)], task(3, run="b"), Limits(9, 1, 9, 1), "of one run more"),
        ([task(3)], task(2), FREE, "the server went back"),
        ([task(3, 2)], task(3, 1), FREE, "the server went back"),
        ([task(2), task(3)], task(2), FREE, "comes after a later one"),
        ([task(2), task(2, 1), task(3)], task(2, 1), FREE, "comes after a later one"),
        ([task(3)], task(4, plan="q"), FREE, "has another plan"),
        ([task(3)], task(4), Limits(9, 2), "comes too soon"),
        ([task(1), task(3)], task(5), Limits(2, 1), "one more than is allowed"),
        ([], task(0), Limits(0, 1), "one more than is allowed"),
        ([], task(-1), FREE, "has no such number"),
        ([task(3), task(3, 1)], task(3, 2), Limits(9, 1, 2), "(most_attempts)"),
    ],
)
def test_rounds_that_are_refused_leave_nothing(before, asked, limits, match, record):
    for one in before:
        record.join(one, FREE)
    with pytest.raises(Refused, match=match):
        record.join(asked, limits)
    assert record.tasks() == before


def test_rounds_that_are_fine(record):
    limits = Limits(most_rounds=2, least_separation=3)
    for one in (task(0), task(0, 1), task(3), task(3, 4)):
        record.join(one, limits)
    record.join(task(0, run="b", plan="q"), limits)  # another run counts for itself
    assert len(record.tasks()) == 5


def test_a_changed_record_is_refused(record, tmp_path):
    for number in range(3):
        record.join(task(number), FREE)
    record.close()
    path = tmp_path / "record.db"
    whole = path.read_bytes()
    for change in (
        "UPDATE participations SET seed = zeroblob(32) WHERE number = 1",
        "UPDATE participations SET text = replace(text, 'm1', 'm7')",
        "DELETE FROM participations WHERE number = 1",
        "INSERT INTO participations VALUES (3, '[]', x'00', 'x')",
    ):
        path.write_bytes(whole)
        with sqlite3.connect(path) as connection:
            connection.execute(change)
        connection.close()
        with pytest.raises(Refused, match="must be as it was written"):
            Participation(path)
    (tmp_path / "text").write_text("dear diary\n" * 300)
    with pytest.raises(Refused, match="could not be read or written"):
        Participation(tmp_path / "text")
    with pytest.raises(Refused, match="could not be read or written"):
        Participation(tmp_path / "none" / "record.db")


KILLED = """
import sys
from contextlib import closing
from pathlib import Path
from jaxfed.vault._participation import Limits, Participation, Task
record = Participation(Path(sys.argv[1]))
for number in range(len(record.tasks()), 10**6):
    seed = record.join(Task("a", number, 0, "p", "m"), Limits(10**9, 1))
    print(number, seed.hex(), flush=True)
"""


def test_what_was_answered_is_remembered_after_kills(tmp_path):
    path, seen = tmp_path / "record.db", {}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for lines in (1, 7, 3, 20, 2):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        for _ in range(lines):
            number, seed = process.stdout.readline().split()
            assert seen.setdefault(int(number), seed) == seed
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        for line in rest.splitlines():
            if len(line.split()) == 2 and len(line.split()[1]) == 64:
                seen[int(line.split()[0])] = line.split()[1]
        record = Participation(path)
        assert len(record.tasks()) in (len(seen), len(seen) + 1)
        written = [seed.hex() for _, seed in record._all()]
        assert written[: len(seen)] == [seed for _, seed in sorted(seen.items())]
        last = Task("a", len(written) - 1, 0, "p", "m")
        assert record.join(last, Limits(10**9, 1)).hex() == written[-1]
        record.close()
        if len(record_of(path)) > len(seen):  # one that nobody was told of
            number = max(seen) + 1
            with closing(Participation(path)) as record:
                seed = record.join(Task("a", number, 0, "p", "m"), Limits(10**9, 1))
            seen[number] = seed.hex()


def record_of(path):
    with closing(Participation(path)) as record:
        return record.tasks()


def _joined(path, results):
    with closing(Participation(Path(path))) as record:
        results.put(record.join(task(0), FREE).hex())


def test_two_processes_get_the_same_bytes(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    path = str(tmp_path / "record.db")
    Participation(Path(path)).close()
    workers = [context.Process(target=_joined, args=(path, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(found) == 1
