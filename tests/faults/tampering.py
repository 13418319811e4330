"""Ledgers to change, and ways to change them."""

import contextlib
import hashlib
import json
import shutil
import sqlite3
from pathlib import Path

from jaxfed.ledger import LedgerError, _rows
from tests.faults import sessions

ENTRIES = 100


def filled(folder: Path, *, anchored: bool = False) -> Path:
    """Returns the folder of a closed ledger of 100 entries of every kind."""
    folder.mkdir()
    with sessions.create(folder, anchored) as ledger:
        sessions.work(ledger, lambda line: None, charges=40, rounds=28)
        assert len(ledger.history()) == ENTRIES
    return folder


def killed(closed: Path, folder: Path, *, charges: int = 0) -> Path:
    """Returns a copy as a process leaves it that opened it and was killed."""
    working = folder.with_name(folder.name + "-working")
    shutil.copytree(closed, working)
    anchored = (closed / "elsewhere" / "anchor").exists()
    with sessions.opened(working, anchored) as ledger:
        for _ in range(charges):
            ledger.charge("single")
        shutil.copytree(working, folder)
    for each in folder.glob("*-shm"):
        each.unlink()
    shutil.rmtree(working)
    return folder


def hashes(folder: Path, anchored: bool = False, **options) -> list[str]:
    """Returns what a ledger says that it holds."""
    with sessions.opened(folder, anchored, **options) as ledger:
        ledger.verify()
        return [entry.hash for entry in ledger.history()]


def outcome(folder: Path, anchored: bool = False, **options) -> list[str] | None:
    """Returns its entries, or None if it is refused."""
    try:
        return hashes(folder, anchored, **options)
    except LedgerError:
        return None


def edited(folder: Path, *statements: str) -> None:
    """Edits the database, its triggers taken away and put back."""
    with contextlib.closing(sqlite3.connect(folder / "ledger")) as connection:
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, text in triggers:
            connection.execute(text)
        connection.commit()


def rechained(folder: Path) -> None:
    """Computes numbers and hashes anew, as anybody can who has not the secret."""
    with contextlib.closing(sqlite3.connect(folder / "ledger")) as connection:
        rows = connection.execute(
            "SELECT text, mac FROM entries ORDER BY number"
        ).fetchall()
    previous, made = _rows.START, []
    for number, (text, mac) in enumerate(rows):
        values = json.loads(text) | {"number": number, "previous": previous}
        text = _rows.canonical(values)
        previous = hashlib.sha256(text.encode()).hexdigest()
        made.append((number, text, previous, mac))
    values = ", ".join(str(row) for row in made)
    edited(folder, "DELETE FROM entries", f"INSERT INTO entries VALUES {values}")


def resealed(folder: Path) -> None:
    """Writes a seal for the file as it is."""
    content = (folder / "ledger").read_bytes()
    with contextlib.closing(sqlite3.connect(folder / "ledger")) as connection:
        found = connection.execute(
            "SELECT hash FROM entries ORDER BY number"
        ).fetchall()
    values = {
        "entries": len(found),
        "head": found[-1][0],
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (folder / "ledger-seal").write_text(json.dumps(values, sort_keys=True) + "\n")
