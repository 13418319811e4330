"""The power may be cut at any moment: no spend is lost, no ledger becomes unreadable.

Everything that a session asks of the disk is recorded; `disk` says what may be there
after each call; each such state is opened as if the machine had been started again.
"""

import shutil
from random import Random

import pytest

from jaxfed.ledger import _files, _store
from tests.faults import disk, files, sessions
from tests.faults.calls import Recorder

pytestmark = pytest.mark.usefixtures("shim")


class Stopping(Recorder):
    """Copies the folder at one change, as a process that is killed there leaves it.

    Attributes:
        place: how many events were before.
    """

    def __init__(self, folder, at, copy):
        super().__init__()
        self._folder, self._at, self._copy = folder, at, copy
        self.place = 0

    def after(self, call):
        super().after(call)
        if not self.place and len(self.events) >= self._at:
            self.place = len(self.events)
            shutil.copytree(self._folder, self._copy)


def recorded(folder, name, anchored, calls=None):
    calls = calls or Recorder()
    with files.reporting(calls, folder):
        sessions.SESSIONS[name](folder, calls.note, anchored=anchored)
    return calls.events


def crashed(folder, anchored, at):
    """A process is killed in `whole`; the next one goes on with what it finds.

    Returns:
        All events, and how many were before the kill.
    """
    first, second = folder / "first", folder / "second"
    first.mkdir(parents=True)
    stopping = Stopping(first, at, second)
    events = recorded(first, "whole", anchored, stopping)
    place = stopping.place
    before = moved(events[:place], first, folder)
    return before + moved(recorded(second, "again", anchored), second, folder), place


def moved(events, old, new):
    """The same events in another folder."""

    def there(path):
        return path.replace(str(old), str(new), 1)

    return [
        event
        if isinstance(event, str)
        else event._replace(
            path=there(event.path),
            data=there(event.data.decode()).encode()
            if event.kind == "rename"
            else event.data,
        )
        for event in events
    ]


def looked(events, root, anchored, per_cut, *, seed=0, first=0, **defects):
    """Opens every state after an event; returns how many, and what was wrong.

    Args:
        first: of the events before which nothing is cut: there was a kill.
    """
    faults = 2 if first else 1
    played, chance = disk.Disk(root, **defects), Random(seed)
    released, seen, wrong = [], set(), []
    for number, event in enumerate(events):
        if isinstance(event, str):
            released.append(event)
            continue
        played.play(event)
        for state in played.states(chance, per_cut) if number >= first else ():
            mark = hash((len(released), *sorted(state.items())))
            if mark not in seen:
                seen.add(mark)
                wrong += look(state, root / "state", released, anchored, faults)
    return len(seen), wrong


def look(state, folder, released, anchored, faults):
    """Returns what is wrong with one state."""
    folder.mkdir(parents=True)
    disk.written(state, folder)
    found = sessions.Found(folder, list(released), anchored)
    shutil.rmtree(folder)
    extra = [f"over-count: {found.extra}"] if found.extra > faults else []
    return [f"after {len(released)} releases: {e}" for e in found.wrong + extra]


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("name", ["whole", "crowded"])
def test_no_power_cut_loses_a_spend(name, anchored, quick_path):
    events = recorded(quick_path, name, anchored)
    count, wrong = looked(events, quick_path, anchored, per_cut=8)
    assert wrong == []
    assert count > 120


@pytest.mark.parametrize("anchored", [False, True])
def test_no_power_cut_after_a_kill_loses_a_spend(anchored, quick_path):
    for at in (47, 58):
        events, first = crashed(quick_path / str(at), anchored, at)
        root = quick_path / str(at)
        count, wrong = looked(events, root, anchored, per_cut=3, first=first)
        assert wrong == []
        assert count > 20


@pytest.mark.slow
@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("name", ["whole", "crowded"])
def test_no_power_cut_of_thousands_loses_a_spend(name, anchored, quick_path):
    """All states of the slow tests together are more than 10,000."""
    events = recorded(quick_path, name, anchored)
    per_cut = {"whole": 300, "crowded": 160}[name]
    count, wrong = looked(events, quick_path, anchored, per_cut, seed=1)
    assert wrong == []
    assert count > 1800


@pytest.mark.slow
@pytest.mark.parametrize("anchored", [False, True])
def test_no_power_cut_after_any_kill_loses_a_spend(anchored, quick_path):
    total = 0
    for at in range(46, 100 if anchored else 88):
        root = quick_path / str(at)
        events, first = crashed(root, anchored, at)
        count, wrong = looked(events, root, anchored, per_cut=9, seed=at, first=first)
        assert wrong == []
        total += count
        shutil.rmtree(root)
    assert total > 2000


def test_commits_that_do_not_wait_for_the_disk_are_caught(quick_path, monkeypatch):
    """The power: `synchronous=OFF` under-counts."""
    prepare = _store.Store._prepare

    def careless(self):
        prepare(self)
        self._connection.execute("PRAGMA synchronous=OFF")

    monkeypatch.setattr(_store.Store, "_prepare", careless)
    events = recorded(quick_path, "whole", False)
    _, wrong = looked(events, quick_path, False, per_cut=4)
    assert sum("under-count" in each for each in wrong) > 10


def test_folders_that_are_not_synced_are_caught(quick_path):
    """The power: names that may be lost make ledgers unreadable, or forget spends."""
    events = recorded(quick_path, "whole", False)
    _, wrong = looked(events, quick_path, False, per_cut=4, folders_sync=False)
    assert len(wrong) > 10


def test_small_files_that_are_not_synced_are_caught(quick_path, monkeypatch):
    """The power: an anchor that is moved into place before it is on disk."""

    def careless(path, text):
        beside = path.with_name(path.name + ".new")
        with beside.open("w", encoding="ascii") as file:
            file.write(text)
        beside.replace(path)
        _files.sync_folder(path.parent)

    monkeypatch.setattr(_files, "replace", careless)
    events = recorded(quick_path, "whole", True)
    _, wrong = looked(events, quick_path, True, per_cut=4)
    assert sum("unreadable" in each for each in wrong) > 10
