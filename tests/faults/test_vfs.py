"""The instruments of these tests hear every call, and change nothing else."""

import errno
import sqlite3
from random import Random

import pytest

from jaxfed.ledger import LedgerError
from tests.faults import disk, files, sessions
from tests.faults.calls import Call, Calls, Failing, Fault, Recorder
from tests.faults.disk import Disk

pytestmark = pytest.mark.usefixtures("shim")


def test_every_change_of_every_file_is_heard(quick_path):
    """What was heard, played again, gives the files that are there."""
    calls = Recorder()
    with files.reporting(calls, quick_path):
        sessions.whole(quick_path, calls.note, anchored=True)
    played = Disk(quick_path)
    for event in calls.events:
        if isinstance(event, Call):
            played.play(event)
    (state,) = played.states(Random(0), 1)
    there = {
        str(path.relative_to(quick_path)): path.read_bytes()
        for path in quick_path.rglob("*")
        if path.is_file()
    }
    assert state == there
    kinds = {event.kind for event in calls.events if isinstance(event, Call)}
    assert kinds >= {"create", "write", "truncate", "sync", "rename", "unlink"}
    assert "sync_folder" in kinds


@pytest.mark.parametrize(
    ("fault", "message"),
    [("full", "full"), ("broken", "disk I/O error"), ("read-only", "readonly")],
)
def test_sqlite_fails_where_it_is_told_to(shim, quick_path, fault, message):
    connection = sqlite3.connect(quick_path / "file")
    connection.execute("CREATE TABLE t (x)")

    class FirstWrite(Calls):
        def before(self, call):
            if call.kind == "write" and call.path.endswith("file"):
                raise Fault(fault)

    shim.calls = FirstWrite()
    with pytest.raises(sqlite3.OperationalError, match=message):
        connection.execute("INSERT INTO t VALUES (1)").connection.commit()
    shim.calls = None
    connection.close()


def test_python_fails_where_it_is_told_to(quick_path):
    calls = Failing(1, "full")
    with files.reporting(calls, quick_path), pytest.raises(LedgerError) as caught:
        sessions.create(quick_path, False)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert calls.failed[0].path.endswith("ledger-secret")


def test_a_torn_write_leaves_whole_sectors_of_either_age():
    call = Call("write", "", offset=100, data=b"n" * 1400)
    seen = {
        disk._applied(b"o" * 1536, call, chance=Random(seed)) for seed in range(200)
    }
    assert len(seen) == 8  # three sectors, each old or new
    assert all(each[:100] == b"o" * 100 and len(each) == 1536 for each in seen)
