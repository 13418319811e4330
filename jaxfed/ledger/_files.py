"""Small files that survive a crash: the secret, the seal and the anchor of a ledger.

A file appears whole or not at all: it is written beside its place, made durable,
moved there, and the folder is made durable too. A secret is 256 random bits that only
its owner may read; whoever holds it can take the noise off every release.
"""

import contextlib
import hashlib
import json
import os
import secrets
import stat
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

from jaxfed.ledger._errors import LedgerError

_SECRET_BYTES = 32
_OWNER_ONLY = 0o600


class Seal(NamedTuple):
    """What a ledger's file was when it was last closed."""

    entries: int
    head: str
    """The hash of its last entry."""
    sha256: str
    """Of the whole file."""


def secret_of(ledger: Path) -> Path:
    """Returns where the secret of a ledger is kept."""
    return ledger.with_name(ledger.name + "-secret")


def seal_of(ledger: Path) -> Path:
    """Returns where the seal of a ledger is kept."""
    return ledger.with_name(ledger.name + "-seal")


def files_of(ledger: Path) -> list[Path]:
    """Returns all files that a ledger may have, but for its anchor."""
    ends = ("", "-secret", "-seal", "-seal.new", "-wal", "-shm", "-journal")
    return [ledger.with_name(ledger.name + end) for end in ends]


def checked_folder(path: Path) -> None:
    """Refuses a place for a file in a folder that is not there, or of a folder.

    Raises:
        LedgerError: it is no place for a file.
    """
    if path.is_dir():
        raise LedgerError(
            f"there must be room for a file at {path}, got a folder; name a file in it."
        )
    if not path.absolute().parent.is_dir():
        raise LedgerError(
            f"the folder of {path} must exist, got none; make it first: "
            f"mkdir -p {path.absolute().parent}"
        )


def new_secret(path: Path) -> bytes:
    """Writes 32 bytes of the operating system's entropy, for the owner's eyes only.

    Raises:
        LedgerError: there is a file already.
    """
    secret = secrets.token_bytes(_SECRET_BYTES)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    except FileExistsError:
        raise LedgerError(
            f"{path} must not exist yet; it holds the secret of another ledger: move "
            "that ledger with its secret away, or choose another path; or, if the "
            "creation of a ledger was cut off, remove it."
        ) from None
    with open(file, "wb") as writer:
        writer.write(secret.hex().encode("ascii") + b"\n")
        writer.flush()
        os.fsync(writer.fileno())
    sync_folder(path.parent)
    return secret


def read_secret(path: Path) -> bytes:
    """Reads a secret.

    Raises:
        LedgerError: it is missing, damaged, or others may read it.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text("ascii", errors="replace").strip()
    except OSError as error:
        raise LedgerError(
            f"the ledger's secret must be at {path}, got {error.strerror}; noise keys "
            "come from it, so that nothing can be released without it. Bring it back, "
            "or open the ledger with read_only=True."
        ) from error
    if os.name == "posix" and mode & 0o077:
        raise LedgerError(
            f"{path} must be readable by its owner alone, got mode {mode:04o}; whoever "
            f"reads it can take the noise off every release: chmod 600 {path.name}."
        )
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != _SECRET_BYTES:
        raise LedgerError(
            f"{path} must hold {2 * _SECRET_BYTES} hexadecimal digits, got "
            f"{len(text)} characters; it is damaged: bring back a copy."
        )
    return secret


class Lock(contextlib.AbstractContextManager["Lock"]):
    """The lock that a ledger's one writer has; a process that dies lets it go.

    Args:
        path: of the file that is locked.
        what: the ledger, for messages.

    Raises:
        LedgerError: another writer holds it, or nobody can hold one there.
    """

    def __init__(self, path: Path, *, what: Path):
        import fcntl

        try:
            file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise _unlocked(path, error) from error
        self._close = weakref.finalize(self, os.close, file)
        _locks.add(self)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._close()
            raise LedgerError(
                f"{what} must have one writer, and another one has it open (in this "
                "or another process); wait until it ends, or open it with "
                "read_only=True."
            ) from error
        except OSError as error:
            self._close()
            raise _unlocked(path, error) from error

    def __exit__(self, *exception: object) -> None:
        self._close()


_locks: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked child has the lock's file open too: only the parent holds the lock."""
    for lock in list(_locks):
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


def _unlocked(path: Path, error: OSError) -> LedgerError:
    return LedgerError(
        f"{path} could not be locked: {error}; nothing was released. Mend the disk, or "
        "keep the ledger on one that has locks, and run again."
    )


@contextlib.contextmanager
def writing(path: Path) -> Generator[None]:
    """Turns what the disk says into what to do."""
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"{path} could not be written: {error}; nothing was released. Mend the "
            "disk, or let this process write there, and run again."
        ) from error


def replace(path: Path, text: str) -> None:
    """Writes a small file so that a crash leaves the old one or the new one."""
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Removes a file, durably, if it is there."""
    if path.exists():
        path.unlink()
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Returns the hash of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, fields: tuple[str, ...]) -> dict[str, Any] | None:
    """Reads a seal or an anchor; None if there is none.

    Raises:
        LedgerError: it is not what was written.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(
            f"{path} could not be read: {error}. Mend the disk, or let this process "
            "read it, and run again."
        ) from error
    try:
        values = json.loads(text)
        is_whole = json_text(values).encode("ascii") == text
    except (ValueError, RecursionError):
        values, is_whole = {}, False
    if not (is_whole and isinstance(values, dict) and set(values) == set(fields)):
        raise LedgerError(
            f"{path} must be as it was written, but it was changed or damaged; bring "
            "back a good copy of it and of its ledger."
        )
    return values


def json_text(values: dict[str, Any]) -> str:
    """Returns the one text of a seal or an anchor."""
    return json.dumps(values, sort_keys=True, allow_nan=False) + "\n"
