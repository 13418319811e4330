"""A writer that is interrupted, or refused, leaves a ledger that the next one opens."""

import contextlib
import shutil

import dp_accounting
import pytest

from jaxfed.ledger import Ledger, LedgerError, _anchor, _opening, _schema
from jaxfed.ledger._book import Book
from jaxfed.ledger._opening import Opened
from jaxfed.ledger._store import Store

EVENT = dp_accounting.GaussianDpEvent(4.0)


def created(folder, **options):
    path = folder / "b.db"
    with Ledger.create(path, epsilon=9.0, delta=1e-3, **options) as ledger:
        ledger.plan(EVENT, rounds=9, name="mine")
        ledger.charge("mine")
    return path


def interrupted_at(monkeypatch, where):
    """Interrupts the next charge at a place; returns a function that mends it."""
    place, name = {
        "in the transaction": (Store, "append"),
        "after the commit": (Store, "settled"),
        "in the book": (Book, "take"),
        "in the anchor": (_anchor, "write"),
        "before the anchor": (Opened, "note_head"),
    }[where]

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, name, interrupt)


@pytest.mark.parametrize(
    "where",
    [
        "in the transaction",
        "after the commit",
        "in the book",
        "in the anchor",
        "before the anchor",
    ],
)
def test_an_interrupted_writer_leaves_a_ledger_that_counts(
    where, tmp_path, monkeypatch
):
    anchor = tmp_path / "anchor"
    path = created(tmp_path, anchor=anchor)
    ledger = Ledger.open(path, anchor=anchor)
    with monkeypatch.context() as patched:
        interrupted_at(patched, where)
        with pytest.raises(KeyboardInterrupt):
            ledger.charge("mine")
    spent = 1 if where == "in the transaction" else 2
    if spent == 2:
        with pytest.raises(LedgerError, match="open it again"):
            ledger.charge("mine")
    with contextlib.suppress(LedgerError):
        ledger.close()
    with Ledger.open(path, anchor=anchor) as again:
        (mine,) = again.mechanisms
        assert len(mine.charges) == spent
        again.verify()
        again.charge("mine")
    with Ledger.open(path, read_only=True, anchor=anchor) as again:
        assert again.verify().is_sealed


def test_an_interrupted_commit_is_not_sealed(tmp_path, monkeypatch):
    path = created(tmp_path)
    ledger = Ledger.open(path)
    commit = ledger._store._connection

    class Interrupting:
        def __getattr__(self, name):
            return getattr(commit, name)

        def execute(self, statement, *values):
            found = commit.execute(statement, *values)
            if statement == "COMMIT":
                raise KeyboardInterrupt
            return found

    monkeypatch.setattr(ledger._store, "_connection", Interrupting())
    with pytest.raises(KeyboardInterrupt):
        ledger.charge("mine")
    ledger.close()
    with Ledger.open(path) as again:
        assert len(again.mechanisms[0].charges) == 2


def test_a_ledger_behind_its_file_is_not_sealed(tmp_path):
    path = created(tmp_path)
    ledger = Ledger.open(path)
    ledger._book.entries.pop()  # whatever the reason
    ledger.close()
    assert not (tmp_path / "b.db-seal").exists()
    Ledger.open(path).close()


def test_a_refused_writer_changes_nothing(tmp_path, monkeypatch):
    path = created(tmp_path, anchor=tmp_path / "anchor")
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "anchor"
    other.write_text('{"entries": 9, "head": "0"}\n')
    for options, match in (
        ({}, "must be opened with its anchor"),
        ({"anchor": other}, "older copy"),
        ({"anchor": tmp_path / "none"}, "the anchor must be at"),
    ):
        with pytest.raises(LedgerError, match=match):
            Ledger.open(path, **options)
    for place, name in ((_schema, "check"), (_opening._rows, "entries_of")):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                Ledger.open(path, anchor=tmp_path / "anchor")
    shutil.rmtree(tmp_path / "other")
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before
    Ledger.open(path, anchor=tmp_path / "anchor").close()


def test_readers_of_a_closed_ledger_leave_nothing_behind(tmp_path):
    path = created(tmp_path)
    before = sorted(f.name for f in tmp_path.iterdir())
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.verify().is_sealed
        assert sorted(f.name for f in tmp_path.iterdir()) == before
    assert sorted(f.name for f in tmp_path.iterdir()) == before


def test_a_reader_who_opened_before_a_writer_sees_what_it_wrote(tmp_path):
    path = created(tmp_path)
    with Ledger.open(path, read_only=True) as reader:
        entries = reader.verify().entries
        with Ledger.open(path) as writer:
            writer.charge("mine")
            found = reader.verify()
            assert (found.entries, found.is_sealed) == (entries + 1, False)
