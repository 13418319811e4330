"""The one table of a ledger's file, and whether a file has it."""

import sqlite3
from pathlib import Path

from jaxfed.ledger._errors import LedgerError

_APPLICATION = 0x6A786664  # "jxfd"
_FORMAT = 1
_TABLE = (
    "CREATE TABLE entries (number INTEGER PRIMARY KEY, text TEXT NOT NULL, "
    "hash TEXT NOT NULL, mac TEXT NOT NULL)"
)
_NO_CHANGE = (
    "CREATE TRIGGER no_{0} BEFORE {1} ON entries "
    "BEGIN SELECT RAISE(ABORT, 'a ledger only grows'); END"
)
_SCHEMA = (
    _TABLE,
    _NO_CHANGE.format("update", "UPDATE"),
    _NO_CHANGE.format("delete", "DELETE"),
)


def build(connection: sqlite3.Connection) -> None:
    """Makes the table in an empty file."""
    execute = connection.execute
    execute("PRAGMA journal_mode=WAL")
    execute("PRAGMA synchronous=FULL")
    execute("BEGIN IMMEDIATE")
    execute(f"PRAGMA application_id={_APPLICATION}")
    execute(f"PRAGMA user_version={_FORMAT}")
    for statement in _SCHEMA:
        execute(statement)
    execute("COMMIT")


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Refuses a file that has not this table and nothing else.

    Raises:
        LedgerError: it is no ledger, an unfinished one, or of another format.
    """
    if path.with_name(path.name + "-journal").exists():
        raise unfinished(path)  # only while a file is made there is one
    execute = connection.execute
    application = execute("PRAGMA application_id").fetchone()[0]
    version = execute("PRAGMA user_version").fetchone()[0]
    found = [row[0] for row in execute("SELECT sql FROM sqlite_master")]
    if application != _APPLICATION or (version == _FORMAT and not found):
        raise unfinished(path)
    if version != _FORMAT or sorted(map(str, found)) != sorted(_SCHEMA):
        raise LedgerError(
            f"{path} must have the tables of format {_FORMAT}, got format {version} "
            f"with {len(found)} objects; it was changed, or is of a newer version of "
            "jaxfed."
        )


def check_pages(connection: sqlite3.Connection) -> None:
    """Refuses pages that hide rows: one bit can cut a whole tree to its start."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(f"malformed: {found}")


def unfinished(path: Path) -> LedgerError:
    """Returns the error about a file without entries."""
    return LedgerError(
        f"{path} must be a ledger, got another or an unfinished file; name the file "
        "that Ledger.create made, or, if its creation was cut off, remove it with its "
        "secret and create it again."
    )
