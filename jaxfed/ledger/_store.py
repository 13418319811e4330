"""The file: an SQLite database that only grows, and says when it was tampered with.

Write-ahead log, `synchronous=FULL`: a commit that returned has been forced to disk.
When a writer closes, the log is folded into the file and a seal beside it records the
hash of the whole file; the next writer takes the seal away before it changes
anything. So every bit of a ledger at rest is covered, also those that SQLite does not
use, and a ledger that was in use when its process died is covered row by row.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

from jaxfed.ledger import _files
from jaxfed.ledger._errors import LedgerError
from jaxfed.ledger._rows import Row

_APPLICATION = 0x6A786664  # "jxfd"
_FORMAT = 1
_BUSY_SECONDS = 5.0
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


class Store:
    """One open ledger file.

    Args:
        path: of the file.
        mode: `"create"`, `"write"` or `"read"`.

    Raises:
        LedgerError: the file cannot be opened so, or is not as it was closed.
    """

    def __init__(self, path: Path, mode: str):
        self.path, self.mode = path, mode
        self._process, self.mutex = os.getpid(), threading.RLock()
        self.failed: str | None = None
        self._is_closed = False
        if mode == "create" and path.exists():
            raise LedgerError(
                f"{path} must not exist yet; a ledger is never made anew in place: "
                "open it with Ledger.open, or choose another path."
            )
        if mode != "create":
            _check_there(path)
        self.seal = None if mode == "create" else checked_seal(path)
        with self.errors("opened"):
            self._connection = self._connect()
        try:
            with self.errors("opened"):
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def rows(self) -> list[Row]:
        """Reads all rows."""
        with self.errors("read"):
            found = self._connection.execute(
                "SELECT number, text, hash, mac FROM entries ORDER BY number"
            )
            return [Row(*values) for values in found]

    def last(self) -> tuple[int, str]:
        """Returns how many rows there are, and the hash of the last one."""
        with self.errors("read"):
            found = self._connection.execute(
                "SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1"
            ).fetchone()
        return (0, "") if found is None else (found[0] + 1, found[1])

    @contextlib.contextmanager
    def transaction(self) -> Generator[None]:
        """Makes all that is appended inside it durable at its end, or nothing.

        Raises:
            LedgerError: nothing was written, or nobody knows whether it was; after
                that the store writes no more until it is opened again.
        """
        self._check_writable()
        with self.mutex:
            with self.errors("locked"):
                self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                with self.errors("written"):
                    self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                raise

    def append(self, row: Row) -> None:
        """Adds a row; inside a transaction."""
        with self.errors("written"):
            self._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)

    def check_sealed(self, entries: int, head: str) -> None:
        """Refuses a seal of other entries than were read."""
        seal = self.seal
        if seal is None or (seal["entries"], seal["head"]) == (entries, head):
            return
        now = _files.read_json(_files.seal_of(self.path), _files.Seal._fields)
        if self.mode == "read" and now != seal:
            self.seal = None  # a writer began meanwhile, and took the seal away
            return
        raise LedgerError(
            f"{self.path} must have the {seal['entries']} entries it was closed with, "
            f"got {entries}; it was put together from several files: restore the last "
            "good copy that has every spend."
        )

    def unfinished(self) -> LedgerError:
        """Returns the error about a file without entries."""
        return LedgerError(
            f"{self.path} must be a ledger, got another or an unfinished file; name "
            "the file that Ledger.create made, or, if its creation was cut off, remove "
            "it with its secret and create it again."
        )

    def close(self, entries: int, head: str) -> None:
        """Closes the file; a writer that never failed seals it."""
        is_ours = self.mode != "read" and os.getpid() == self._process
        if not is_ours or self.failed is not None or self._is_closed:
            self.drop()
            return
        with self.mutex, self.errors("closed"):
            is_whole = self._fold("TRUNCATE")
            self.drop()
            if is_whole:
                seal = _files.Seal(entries, head, _files.sha256_of(self.path))
                text = _files.json_text(seal._asdict())
                _files.replace(_files.seal_of(self.path), text)

    def drop(self) -> None:
        """Closes the file as it is."""
        self._is_closed = True
        self._connection.close()

    @contextlib.contextmanager
    def errors(self, action: str) -> Generator[None]:
        """Turns what the disk or SQLite says into what to do."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeError) as error:
            if action == "written":
                self.failed = str(error)
            so_far = "nothing was released"
            if action == "closed":
                so_far = "all that was spent is on disk"
            raise LedgerError(
                f"{self.path} could not be {action}: {error}; {so_far}. "
                f"{_remedy(str(error))}"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        where, options = self.path.absolute().as_uri(), "?mode=rw"
        if self.mode == "create":
            options = "?mode=rwc"
        elif self.mode == "read":
            # a folder that cannot be written has no place for SQLite's shared memory
            is_frozen = not os.access(self.path.absolute().parent, os.W_OK)
            log = self.path.with_name(self.path.name + "-wal")
            if is_frozen and log.exists() and log.stat().st_size:
                raise LedgerError(
                    f"{self.path} must be read with its log {log.name}, where the last "
                    "entries are, and that needs a folder that can be written; copy "
                    "both to another folder, or open it once for writing."
                )
            options = "?immutable=1" if is_frozen else "?mode=ro"
        return sqlite3.connect(
            where + options,
            uri=True,
            isolation_level=None,
            timeout=_BUSY_SECONDS,
            check_same_thread=False,
        )

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA trusted_schema=OFF")
        execute("PRAGMA cell_size_check=ON")
        if self.mode == "create":
            self._build()
        self._check_schema()
        if self.seal is None:
            self._check_pages()
        if self.mode == "read":
            return
        execute("PRAGMA synchronous=FULL")
        if execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise sqlite3.OperationalError("this file system has no write-ahead log")
        _files.remove(_files.seal_of(self.path))
        # what is read from the log may not be on disk yet: folding it in forces it
        if not self._fold("FULL"):
            raise sqlite3.OperationalError("a reader is in the way")

    def _build(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=FULL")
        execute("BEGIN IMMEDIATE")
        execute(f"PRAGMA application_id={_APPLICATION}")
        execute(f"PRAGMA user_version={_FORMAT}")
        for statement in _SCHEMA:
            execute(statement)
        execute("COMMIT")
        _files.sync_folder(self.path.absolute().parent)

    def _check_schema(self) -> None:
        if self.path.with_name(self.path.name + "-journal").exists():
            raise self.unfinished()  # only while a file is made there is one
        execute = self._connection.execute
        application = execute("PRAGMA application_id").fetchone()[0]
        version = execute("PRAGMA user_version").fetchone()[0]
        found = [row[0] for row in execute("SELECT sql FROM sqlite_master")]
        if application != _APPLICATION or (version == _FORMAT and not found):
            raise self.unfinished()
        if version != _FORMAT or sorted(map(str, found)) != sorted(_SCHEMA):
            raise LedgerError(
                f"{self.path} must have the tables of format {_FORMAT}, got format "
                f"{version} with {len(found)} objects; it was changed, or is of a "
                "newer version of jaxfed."
            )

    def _check_pages(self) -> None:
        """Refuses pages that hide rows: one bit can cut a whole tree to its start."""
        found = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(f"malformed: {found}")

    def _fold(self, how: str) -> bool:
        """Moves the log into the file, durably; returns whether all of it was."""
        busy, frames, moved = self._connection.execute(
            f"PRAGMA wal_checkpoint({how})"
        ).fetchone()
        return not busy and frames == moved

    def _check_writable(self) -> None:
        if self.mode == "read":
            raise LedgerError(
                f"{self.path} was opened with read_only=True; open it for writing."
            )
        if os.getpid() != self._process:
            raise LedgerError(
                f"{self.path} was opened by another process; open it after forking."
            )
        if self._is_closed:
            raise LedgerError(f"{self.path} was closed; open it with Ledger.open.")
        if self.failed is not None:
            raise LedgerError(
                f"{self.path} could not be written before ({self.failed}) and nobody "
                "knows what reached the disk; close it, mend the disk, and open it "
                "again."
            )


def checked_seal(path: Path) -> dict[str, Any] | None:
    """Returns the seal of a ledger at rest, after comparing it with the file.

    Raises:
        LedgerError: the file is not the one that was sealed.
    """
    place = _files.seal_of(path)
    seal = _files.read_json(place, _files.Seal._fields)
    while seal is not None:
        try:
            found = _files.sha256_of(path)
        except OSError as error:
            raise LedgerError(
                f"{path} could not be read: {error}. {_remedy(str(error))}"
            ) from error
        if found == seal["sha256"]:
            return seal
        before, seal = seal, _files.read_json(place, _files.Seal._fields)
        if seal == before:  # else a writer began meanwhile: it takes the seal away
            raise LedgerError(
                f"{path} must be as it was when it was closed, but its hash is not the "
                f"one in {place.name}; it was changed or damaged, or one of the two is "
                "older than the other: restore the last good copy of both that has "
                "every spend."
            )
    return None


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise LedgerError(
            f"there must be a ledger at {path}, got no such file; make one with "
            f'jaxfed.Ledger.create("{path}", epsilon=1.0, delta=1e-5), once: deleting '
            "a ledger and making it anew forgets what was spent."
        )


def _remedy(message: str) -> str:
    lower = message.lower()
    if "full" in lower or "no space" in lower:
        return "Free some space and run again: it goes on where it was."
    if "readonly" in lower or "read-only" in lower or "permission" in lower:
        return "Let this process write to the file and its folder, and run again."
    if "locked" in lower or "busy" in lower or "in the way" in lower:
        return "Wait for the other reader or writer to end, and run again."
    if "malformed" in lower or "not a database" in lower:
        return "The file is damaged: restore the last good copy that has every spend."
    return "Mend the disk and run again: it goes on where it was."
