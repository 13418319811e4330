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
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

from jaxfed.ledger import _files, _schema
from jaxfed.ledger._errors import LedgerError
from jaxfed.ledger._rows import Row

_T = TypeVar("_T")
_BUSY_SECONDS = 5.0


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
        self._in_place: list[os.stat_result] = []
        self.is_closed = self._is_at_rest = False
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
                if mode != "read":
                    self._in_place.append(os.stat(path))
                self._steadily(self._prepare)
        except BaseException:
            self._connection.close()
            raise

    def rows(self) -> list[Row]:
        """Reads all rows."""
        self.check_open()
        with self.errors("read"):
            return self._steadily(self._rows)

    def committed_rows(self, known: int) -> list[Row]:
        """Reads all rows, without those that a transaction may still take back.

        Args:
            known: how many rows there were before it.
        """
        found = self.rows()
        return found[:known] if self._connection.in_transaction else found

    def check_open(self) -> None:
        """Refuses to be used after `close`."""
        if self.is_closed:
            raise LedgerError(f"{self.path} was closed; open it with Ledger.open.")

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

        From the commit on the store counts as failed until `settled` is called: who is
        interrupted in between does not know what is on disk.

        Raises:
            LedgerError: nothing was written, or nobody knows whether it was; after
                that the store writes no more until it is opened again.
        """
        self.check_writable()
        with self.mutex:
            with self.errors("locked"):
                self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._check_in_place()
                yield
                self.failed = "it was interrupted"
                with self.errors("written"):
                    self._connection.execute("COMMIT")
                self._check_in_place()
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                raise

    def _check_in_place(self) -> None:
        """Refuses to go on when the open files are no longer those with their names.

        What is written to a file that was removed is lost with the process.
        """
        log = self.path.with_name(self.path.name + "-wal")
        try:
            found = [os.stat(self.path), os.stat(log)]
        except OSError:
            found = []
        self._in_place += found[len(self._in_place) :]
        if not found or not all(map(os.path.samestat, found, self._in_place)):
            self.failed = "its file or log was moved, removed or replaced while in use"
            raise LedgerError(
                f"{self.path} must stay in place with its log while it is in use, but "
                "was moved, removed or replaced; nothing was released. What was spent "
                "since may be lost: bring back the files that were there, and open it "
                "again."
            )

    def settled(self) -> None:
        """Takes note that all who keep account of the last commit know of it."""
        self.failed = None

    def _rows(self) -> list[Row]:
        found = self._connection.execute(
            "SELECT number, text, hash, mac FROM entries ORDER BY number"
        )
        return [Row(*values) for values in found]

    def _steadily(self, read: Callable[[], _T]) -> _T:
        """Reads a file at rest as one that nobody changes.

        Reads it again, with SQLite's files beside it, if a writer began meanwhile.
        """
        if self._is_at_rest:
            try:
                found = read()
                if self._has_seal():
                    return found
            except (sqlite3.Error, LedgerError):
                if self._has_seal():
                    raise
            self.seal, self._is_at_rest = None, False
            self._connection.close()
            self._connection = self._connect()
            self._prepare()
        return read()

    def _has_seal(self) -> bool:
        now = _files.read_json(_files.seal_of(self.path), _files.Seal._fields)
        return now == self.seal

    def append(self, row: Row) -> None:
        """Adds a row; inside a transaction."""
        with self.errors("written"):
            self._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)

    def check_sealed(self, entries: int, head: str) -> None:
        """Refuses a seal of other entries than were read."""
        seal = self.seal
        if seal is None or (seal["entries"], seal["head"]) == (entries, head):
            return
        if self.mode == "read" and not self._has_seal():
            self.seal = None  # a writer began meanwhile, and took the seal away
            return
        raise LedgerError(
            f"{self.path} must have the {seal['entries']} entries it was closed with, "
            f"got {entries}; it was put together from several files: restore the last "
            "good copy that has every spend."
        )

    def begin_writing(self) -> None:
        """Makes the file ready for a writer, after everything was checked.

        Takes the seal away; what is read from the log may not be on disk yet, and
        folding it into the file forces it.
        """
        with self.errors("opened"):
            execute = self._connection.execute
            execute("PRAGMA synchronous=FULL")
            if execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                no_log = "this file system has no write-ahead log"
                raise sqlite3.OperationalError(no_log)
            _files.remove(_files.seal_of(self.path))
            self.seal = None
            if not self._fold("FULL"):
                raise sqlite3.OperationalError("a reader is in the way")

    def close(self, entries: int, head: str) -> None:
        """Closes the file; a writer that never failed seals it."""
        is_ours = self.mode != "read" and os.getpid() == self._process
        if not is_ours or self.failed is not None or self.is_closed:
            self.drop()
            return
        with self.mutex, self.errors("closed"):
            is_whole = self.last() == (entries, head) and self._fold("TRUNCATE")
            self.drop()
            if is_whole:
                seal = _files.Seal(entries, head, _files.sha256_of(self.path))
                text = _files.json_text(seal._asdict())
                _files.replace(_files.seal_of(self.path), text)

    def drop(self) -> None:
        """Closes the file as it is."""
        self.is_closed = True
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
            options = "?immutable=1" if self._is_quiet() else "?mode=ro"
        return sqlite3.connect(
            where + options,
            uri=True,
            isolation_level=None,
            timeout=_BUSY_SECONDS,
            check_same_thread=False,
        )

    def _is_quiet(self) -> bool:
        """Whether the file can be read without SQLite's files beside it.

        It can while it is sealed: other people's readers then leave nothing behind.
        It must where the folder has no place for such files.
        """
        log = self.path.with_name(self.path.name + "-wal")
        has_log = False
        with contextlib.suppress(FileNotFoundError):  # a writer may close meanwhile
            has_log = log.stat().st_size > 0
        is_frozen = not os.access(self.path.absolute().parent, os.W_OK)
        if is_frozen and has_log:
            raise LedgerError(
                f"{self.path} must be read with its log {log.name}, where the last "
                "entries are, and that needs a folder that can be written; copy "
                "both to another folder, or open it once for writing."
            )
        self._is_at_rest = self.seal is not None and not has_log
        return self._is_at_rest or is_frozen

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA trusted_schema=OFF")
        execute("PRAGMA cell_size_check=ON")
        if self.mode == "create":
            _schema.build(self._connection)
            _files.sync_folder(self.path.absolute().parent)
        _schema.check(self._connection, self.path)
        if self.seal is None:
            _schema.check_pages(self._connection)

    def _fold(self, how: str) -> bool:
        """Moves the log into the file, durably; returns whether all of it was."""
        busy, frames, moved = self._connection.execute(
            f"PRAGMA wal_checkpoint({how})"
        ).fetchone()
        return not busy and frames == moved

    def check_writable(self) -> None:
        """Refuses to write where nothing can be, or not now."""
        self.check_open()
        if self.mode == "read":
            raise LedgerError(
                f"{self.path} was opened with read_only=True; open it for writing."
            )
        if os.getpid() != self._process:
            raise LedgerError(
                f"{self.path} was opened by another process; open it after forking."
            )
        if self.failed is not None:
            raise LedgerError(
                f"{self.path} could not be written before ({self.failed}) and nobody "
                "knows what reached the disk; close it, mend the disk, and open it "
                "again."
            )
        if self._connection.in_transaction:
            raise LedgerError(
                f"{self.path} must finish one release before the next, got one inside "
                "another; nothing was spent for the inner one: end the outer `with "
                "ledger.spending(...)` first."
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
    if path.is_dir():
        raise LedgerError(
            f"{path} must be a ledger, got a folder; name the file in it."
        )
    if path.is_file():
        return
    if _files.secret_of(path).exists():
        raise LedgerError(
            f"there must be a ledger at {path}, got only its secret; the file was "
            "moved or lost: bring back the last copy that has every spend."
        )
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
    if "not a database" in lower:
        return (
            "It is no ledger, or its start is damaged: name the right file, or restore "
            "the last good copy that has every spend."
        )
    if "malformed" in lower:
        return "The file is damaged: restore the last good copy that has every spend."
    return "Mend the disk and run again: it goes on where it was."
