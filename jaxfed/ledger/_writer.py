"""The one writer of a ledger: rows in transactions, and releases that are paid."""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from jaxfed import _check as check
from jaxfed.ledger import _mechanism, _permit, _rows
from jaxfed.ledger._errors import LedgerError
from jaxfed.ledger._mechanism import Mechanism
from jaxfed.ledger._opening import Opened
from jaxfed.ledger._owner import Owner
from jaxfed.ledger._permit import Permit
from jaxfed.ledger._rows import Entry, Row


class Writer:
    """Writes to an open ledger; refuses where it was opened to be read.

    Args:
        path: of the file, for messages.
        opened: the parts of the ledger.
    """

    def __init__(self, path: Path, opened: Opened):
        self._path, self._opened = path, opened
        self._book, self._store = opened.book, opened.store

    @property
    def owner(self) -> Owner:
        """What only the holder of the secret can do."""
        if self._opened.owner is None:
            raise LedgerError(
                f"{self._path} was opened with read_only=True; open it for writing."
            )
        return self._opened.owner

    def owned(self, mechanism: Mechanism) -> Mechanism:
        """Checks that a mechanism is this ledger's own."""
        check.instance(Mechanism, "take it from ledger.plan(...)", mechanism=mechanism)
        if self._book.mechanisms.get(mechanism.number) is not mechanism:
            raise ValueError(
                f"mechanism must be this ledger's own, got {mechanism.name!r} of "
                "another one, or of this one before it was opened again; take it from "
                "ledger.plan(...) or ledger.mechanisms."
            )
        return mechanism

    @contextlib.contextmanager
    def paying(
        self, mechanism: Mechanism, round_index: int, inputs: bytes | None, about: str
    ) -> Generator[Permit]:
        """Spends one release; see `Ledger.spending`."""
        self.owned(mechanism)
        remedy = "rounds count from 0"
        round_index = check.non_negative_integer(remedy, round_index=round_index)
        check.instance(str, "pass a public word", about=about)
        owner, book = self.owner, self._book
        self._store.check_writable()
        mechanism.check_next(round_index)
        latest = mechanism.latest(round_index)

        def committed(attempt: int) -> str:
            if inputs is None:
                return ""
            return owner.commitment(mechanism, round_index, attempt, inputs)

        if latest is not None and committed(latest.attempt) == latest.commitment != "":
            yield owner.permit(book.identity, mechanism, latest, is_replay=True)
            return
        attempt = 0 if latest is None else latest.attempt + 1
        if attempt and not mechanism.cost.may_repeat:
            raise LedgerError(
                f"round {round_index + 1} of {mechanism.name!r} must have the sum it "
                "had when it was released, got another one; correlated noise covers "
                "each round once: run on the machine and versions it began on."
            )
        uses = mechanism.next_uses(round_index)
        book.budget.check(mechanism, uses)
        facts = {
            "mechanism": mechanism.number,
            "round": round_index,
            "attempt": attempt,
            "uses": uses,
            "about": about,
            "commitment": committed(attempt),
        }
        permit = None
        try:
            with self.transaction() as written:
                if mechanism.moved is not None:
                    self.append(written, "run", mechanism.moved)
                entry = self.append(written, "charge", facts)
                charge = _mechanism.charge_of(entry)
                permit = owner.permit(book.identity, mechanism, charge, is_replay=False)
                yield permit
                if permit.model is not None:
                    model = {"charge": entry.number, "sha256": permit.model}
                    self.append(written, "model", model)
            permit.state = _permit.DURABLE
        except BaseException:
            if permit is not None:
                permit.state = _permit.VOID
            raise

    @contextlib.contextmanager
    def transaction(self) -> Generator[list[Row]]:
        """Makes rows durable, then takes account of them."""
        owner, written = self.owner, list[Row]()
        with self._store.transaction():
            entries = self._book.entries
            if self._store.last() != (len(entries), self._book.head):
                raise LedgerError(
                    f"{self._path} must have one writer, but somebody else wrote to "
                    "it; open it again."
                )
            yield written
        where, first = str(self._path), len(self._book.entries)
        for entry in _rows.entries_after(
            written, first, self._book.head, where=where, key=owner.mac_key
        ):
            self._book.take(entry)
        self._opened.note_head()
        self._store.settled()

    def append(self, written: list[Row], kind: str, facts: dict[str, Any]) -> Entry:
        """Adds a row to the open transaction."""
        previous = written[-1].hash if written else self._book.head
        number = len(self._book.entries) + len(written)
        row = self.owner.row(number, previous, kind, facts)
        self._store.append(row)
        written.append(row)
        return _rows.entry_of(row)
