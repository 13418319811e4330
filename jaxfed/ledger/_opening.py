"""How a ledger is made and opened: lock, file, chain, seal, anchor, in this order."""

import contextlib
from pathlib import Path
from typing import NamedTuple

from jaxfed.ledger import _anchor, _files, _rows, _schema
from jaxfed.ledger._book import Book, Terms
from jaxfed.ledger._errors import LedgerError
from jaxfed.ledger._owner import Owner
from jaxfed.ledger._store import Store


class Opened(NamedTuple):
    """The parts of an open ledger."""

    store: Store
    book: Book
    owner: Owner | None
    """None for readers."""
    anchor: Path | None
    exits: contextlib.ExitStack
    """Lets go of the file and of the lock."""

    def note_head(self) -> None:
        """Writes the last entry to the anchor, if there is one."""
        if self.anchor is not None and self.owner is not None:
            with _files.writing(self.anchor):
                _anchor.write(self.anchor, len(self.book.entries), self.book.head)


def create(where: Path, terms: Terms, anchor: Path | None) -> Opened:
    """Makes a ledger and its secret.

    Raises:
        LedgerError: something is in its place, or it cannot be written.
    """
    _anchor.check_place(anchor, where)
    for place in filter(None, (where, anchor)):
        _files.checked_folder(place)
        if place.exists():
            raise LedgerError(
                f"{place} must not exist yet; a ledger is never made anew in its "
                "place: open it with Ledger.open, or choose another path."
            )
    if _files.seal_of(where).exists():
        raise LedgerError(
            f"{_files.seal_of(where)} must not exist yet; it is the seal of a ledger "
            "that was there: bring that one back, move what is left of it away, or "
            "choose another path."
        )
    with _files.writing(where):
        owner = Owner(_files.new_secret(_files.secret_of(where)))
    with contextlib.ExitStack() as exits:
        exits.enter_context(_files.Lock(_files.secret_of(where), what=where))
        store = Store(where, "create")
        exits.callback(store.drop)
        first = owner.row(0, _rows.START, "ledger", terms.facts())
        with store.transaction():
            store.append(first)
        entries = _rows.entries_of([first], where=str(where), key=owner.mac_key)
        book = Book(entries, where=str(where))
        opened = Opened(store, book, owner, anchor, contextlib.ExitStack())
        opened.note_head()
        store.settled()
        return opened._replace(exits=exits.pop_all())


def mac_key_of(where: Path, owner: Owner | None) -> bytes | None:
    """Returns what shows who wrote a row; None where this process has no secret."""
    if owner is None:
        try:
            owner = Owner(_files.read_secret(_files.secret_of(where)))
        except LedgerError:
            return None
    return owner.mac_key


def open_(where: Path, anchor: Path | None, *, read_only: bool) -> Opened:
    """Opens a ledger after checking all of it.

    Raises:
        LedgerError: it is missing, changed, older than its anchor, or in use.
    """
    _anchor.check_place(anchor, where)
    with contextlib.ExitStack() as exits:
        owner = None
        if not read_only and where.is_file():  # if it is not, that is said first
            secret = _files.secret_of(where)
            owner = Owner(_files.read_secret(secret))
            exits.enter_context(_files.Lock(secret, what=where))
        store = Store(where, "read" if read_only else "write")
        exits.callback(store.drop)
        key = None if owner is None else owner.mac_key
        rows = store.rows()
        if not rows:
            raise _schema.unfinished(where)
        entries = _rows.entries_of(rows, where=str(where), key=key)
        store.check_sealed(len(entries), entries[-1].hash)
        book = Book(entries, where=str(where))
        _anchor.check(anchor, entries, where, book.terms, read_only=read_only)
        opened = Opened(store, book, owner, anchor, contextlib.ExitStack())
        if not read_only:
            store.begin_writing()
            opened.note_head()
        return opened._replace(exits=exits.pop_all())
