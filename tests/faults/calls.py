"""What a ledger asks of the disk, call by call, and what may happen at each.

`vfs` reports SQLite's calls and `files` those of Python to one of these: it can write
them down, let one fail, or kill the process before or after one.
"""

import errno
import os
import signal
from typing import NamedTuple

FAULTS = {"full": errno.ENOSPC, "broken": errno.EIO, "read-only": errno.EROFS}
CHANGES = (
    "create",
    "write",
    "truncate",
    "sync",
    "sync_folder",
    "rename",
    "unlink",
)


class Call(NamedTuple):
    """One call; paths are absolute."""

    kind: str
    """One of `CHANGES`, or "open", "read", "lock", "map"."""
    path: str
    offset: int = 0
    data: bytes = b""
    """What is written; the other name of a rename, encoded."""
    size: int = 0
    """Of a truncated file."""


class Fault(Exception):
    """The disk's answer instead of what was asked for."""

    def __init__(self, name: str, *, is_partial: bool = False):
        super().__init__(name)
        self.name, self.errno, self.is_partial = name, FAULTS[name], is_partial


class Calls:
    """Hears of every call; this one only counts them."""

    def __init__(self):
        self.count = 0

    def before(self, call: Call) -> None:
        self.count += 1

    def after(self, call: Call) -> None:
        del call


class Recorder(Calls):
    """Writes down every change that was made."""

    def __init__(self):
        super().__init__()
        self.events: list[Call | str] = []

    def after(self, call):
        if call.kind in CHANGES:
            self.events.append(call)

    def note(self, what: str) -> None:
        """Writes down that something left the process."""
        self.events.append(what)


class Dying(Calls):
    """Kills this process at its n-th change, before or after it is made."""

    def __init__(self, at: int, *, after: bool):
        super().__init__()
        self._at, self._after = at, after

    def before(self, call):
        if call.kind in CHANGES:
            self.count += 1
            if not self._after and self.count == self._at:
                os.kill(os.getpid(), signal.SIGKILL)

    def after(self, call):
        # a sync of a folder may be made inside one of a file, and end before it
        if self._after and call.kind in CHANGES and self.count >= self._at:
            os.kill(os.getpid(), signal.SIGKILL)


class Failing(Calls):
    """Lets the n-th call fail, or all from the n-th on.

    A full or read-only disk can still be read.
    """

    def __init__(
        self, at: int, fault: str, *, lasts: bool = False, is_partial: bool = False
    ):
        super().__init__()
        self._at, self._lasts = at, lasts
        self._fault, self._is_partial = fault, is_partial
        self.failed: list[Call] = []

    def before(self, call):
        if self._fault != "broken" and call.kind in ("open", "read", "lock"):
            return
        self.count += 1
        if self.count == self._at or (self._lasts and self.count > self._at):
            self.failed.append(call)
            is_partial = self._is_partial and call.kind == "write"
            raise Fault(self._fault, is_partial=is_partial)
