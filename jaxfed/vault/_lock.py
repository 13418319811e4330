"""One process for each record: two could answer one round with two noises."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from jaxfed.vault._errors import Busy, Refused


def held(folder: Path) -> IO[bytes]:
    """Returns the open file whose lock this process has until it is closed, or ends.

    Raises:
        Busy: another process has it.
        Refused: no lock can be had there.
    """
    place = folder / "lock"
    try:
        file = os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    except OSError as error:
        raise Refused(f"{place} must be a file to lock: {error.strerror}.") from None
    try:
        _take(file)
    except BlockingIOError:
        file.close()
        raise Busy(
            f"another process takes part with the record in {folder}; wait until it "
            "ends, or give this one a record and a certificate of its own."
        ) from None
    except OSError as error:
        file.close()
        raise Refused(
            f"{place} cannot be locked: {error.strerror}; keep the record on a disk of "
            "this machine."
        ) from None
    return file


def _take(file: IO[bytes]) -> None:
    """Locks a file, at once or not at all."""
    if os.name == "nt":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            raise BlockingIOError from None
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
