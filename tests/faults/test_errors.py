"""A disk that is full, broken or read-only stops releases, and says what to do.

Every call that a session makes of the disk fails once, or from there on. Whatever
fails: no permit is durable whose entry is not there afterwards, what is raised is a
`LedgerError` with a remedy, and once the disk is mended the session goes on.
"""

import contextlib
import re
import shutil
from pathlib import Path

import pytest

from jaxfed.ledger import LedgerError, _store
from tests.faults import files, sessions
from tests.faults.calls import FAULTS, Failing

pytestmark = pytest.mark.usefixtures("shim")

REMEDY = re.compile(
    "Free some space|Mend the disk|Let this process write|Wait for|open it again|"
    "bring back|Bring it back|restore|remove it|choose another path"
)


class Outcome:
    """What a session under a failing disk came to.

    Attributes:
        released: entries whose permits were durable.
        raised: all that was raised.
    """

    def __init__(self):
        self.released: list[str] = []
        self.raised: list[BaseException] = []

    @contextlib.contextmanager
    def step(self):
        try:
            yield
        except Exception as error:
            self.raised.append(error)


def attempted(folder, outcome, anchored, begin):
    """Goes through a session whatever fails, as a stubborn caller does."""
    ledger, say = None, outcome.released.append
    with outcome.step():
        ledger = begin(folder, anchored)
    if ledger is None:
        return
    for _ in range(2):  # also after a failure: a permit must be refused then
        with outcome.step():
            single = sessions.planned(ledger, "single")
            sessions.planned(ledger, "run")
            sessions.release(say, ledger.charge(single.name))
    with outcome.step():
        sessions.work(ledger, say, charges=1, rounds=1)
    with outcome.step():
        ledger.verify()
    with outcome.step():
        ledger.close()


def wrong(outcome, folder, anchored):
    """Returns what is wrong, after mending the disk and going on."""
    found = [
        f"not a LedgerError: {error!r}"
        for error in outcome.raised
        if not isinstance(error, LedgerError)
    ]
    found += [
        f"no remedy: {error}"
        for error in outcome.raised
        if not REMEDY.search(str(error))
    ]
    after = sessions.Found(folder, outcome.released, anchored)
    found += after.wrong
    if after.extra > len(outcome.raised):
        found.append(f"over-count: {after.extra}")
    try:
        sessions.again(folder, outcome.released.append, anchored=anchored)
    except LedgerError as error:
        found.append(f"does not go on: {error}")
    return found + sessions.Found(folder, outcome.released, anchored).wrong


def all_faults(root, begin, fault, anchored, *, step=1, **options):
    """Lets each call fail in turn; returns how many did, and what was wrong."""
    template, before, at, found = root / "template", [], 1, []
    (template / "elsewhere").mkdir(parents=True)
    if begin is sessions.opened:
        sessions.whole(template, before.append, anchored=anchored)
    while True:
        folder, outcome = root / str(at), Outcome()
        shutil.copytree(template, folder)
        outcome.released += before
        calls = Failing(at, fault, **options)
        with files.reporting(calls, folder):
            attempted(folder, outcome, anchored, begin)
        if not calls.failed:
            return at // step, found
        call = calls.failed[0]
        what = f"{fault} at {at} ({call.kind} {Path(call.path).name})"
        found += [f"{what}: {each}" for each in wrong(outcome, folder, anchored)]
        shutil.rmtree(folder)
        at += step


BEGINNINGS = {"create": sessions.create, "open": sessions.opened}


@pytest.mark.parametrize("lasts", [False, True])
@pytest.mark.parametrize("begin", BEGINNINGS)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_failing_call_lets_a_release_go(quick_path, fault, begin, lasts):
    """Every third call of the disk; the slow test below lets every one fail."""
    count, found = all_faults(
        quick_path, BEGINNINGS[begin], fault, True, step=3, lasts=lasts
    )
    assert found == []
    assert count > 15


@pytest.mark.slow
@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("begin", BEGINNINGS)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_failing_call_at_all_lets_a_release_go(quick_path, fault, begin, anchored):
    """Once, from there on, and with half of a write done."""
    for index, options in enumerate(({}, {"lasts": True}, {"is_partial": True})):
        root = quick_path / str(index)
        root.mkdir()
        count, found = all_faults(root, BEGINNINGS[begin], fault, anchored, **options)
        assert found == []
        assert count > 25


def test_a_commit_that_failed_unnoticed_is_caught(quick_path, monkeypatch):
    """The power: a store that ignores what COMMIT says lets releases go."""
    original = _store.Store.errors

    @contextlib.contextmanager
    def careless(self, action):
        ignored = contextlib.suppress(LedgerError if action == "written" else ())
        with ignored, original(self, action):
            yield

    monkeypatch.setattr(_store.Store, "errors", careless)
    _, found = all_faults(quick_path, sessions.opened, "full", False)
    assert any("under-count" in each for each in found)


def test_an_error_as_the_disk_gave_it_is_caught(quick_path, monkeypatch):
    """The power: a store that passes SQLite's errors on."""
    monkeypatch.setattr(
        _store.Store, "errors", lambda self, action: contextlib.nullcontext()
    )
    _, found = all_faults(quick_path, sessions.opened, "broken", False, step=3)
    assert any("not a LedgerError" in each for each in found)
