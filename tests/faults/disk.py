"""What a disk may hold after the power was cut, given what was asked of it before.

The model is that of SQLite's "Atomic Commit" and of Pillai et al. 2014 (ALICE): after
its last completed sync a file may have got any of the later writes, each of them cut
into sectors of 512 bytes of which any may have got through; names that were made, moved
or removed since the last sync of their folder may be there or not, in any combination.
What is new and was not written is zeros or rubbish.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.faults.calls import Call

SECTOR = 512
State = dict[str, bytes]


class _File:
    """One file, whatever its name: what is durable, and what is not yet."""

    def __init__(self):
        self.durable = b""
        self.waiting: list[Call] = []

    def sync(self) -> None:
        for call in self.waiting:
            self.durable = _applied(self.durable, call)
        self.waiting = []


class Disk:
    """Plays recorded calls, and shows what could be on disk after each.

    Args:
        root: the folder whose files are followed.
        folders_sync: False to ignore syncs of folders: a seeded defect.
    """

    def __init__(self, root: Path, *, folders_sync: bool = True):
        self._root, self._folders_sync = root, folders_sync
        self._now: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self._waiting: list[tuple[str, str, _File | None]] = []

    def play(self, call: Call) -> None:
        """Takes account of one completed call."""
        path = os.path.relpath(call.path, self._root)
        if call.kind == "create":
            self._now[path] = _File()
            self._waiting.append((os.path.dirname(path), path, self._now[path]))
        elif call.kind in ("write", "truncate"):
            self._now[path].waiting.append(call)
        elif call.kind == "sync":
            self._now[path].sync()
        elif call.kind == "sync_folder" and self._folders_sync:
            folder = "" if path == "." else path
            for place, name, file in self._waiting:
                if place == folder:
                    _name(self._durable, name, file)
            self._waiting = [each for each in self._waiting if each[0] != folder]
        elif call.kind == "rename":
            target = os.path.relpath(os.fsdecode(call.data), self._root)
            file = self._now.pop(path)
            self._now[target] = file
            self._waiting += [
                (os.path.dirname(target), target, file),
                (os.path.dirname(path), path, None),
            ]
        elif call.kind == "unlink":
            self._waiting.append((os.path.dirname(path), path, None))
            self._now.pop(path)

    def states(self, chance: Random, count: int) -> Iterator[State]:
        """Yields what may be there if the power is cut now; the extremes first."""
        for number in range(count):
            share = (1.0, 0.0)[number] if number < 2 else chance.choice((0.2, 0.5, 0.9))
            names = dict(self._durable)
            for _, name, file in self._waiting:
                if chance.random() < share:
                    _name(names, name, file)
            yield {name: _survived(file, chance, share) for name, file in names.items()}


def _name(names: dict[str, _File], name: str, file: _File | None) -> None:
    names.pop(name, None)
    if file is not None:
        names[name] = file


def _survived(file: _File, chance: Random, share: float) -> bytes:
    """Returns what is in a file; with share 1 all that was written."""
    content = file.durable
    is_torn = share < 1 and chance.random() < 0.5
    rubbish = chance.random() < 0.25
    for call in file.waiting:
        if chance.random() >= share:
            continue
        content = _applied(content, call, chance if is_torn else None, rubbish)
    return content


def _applied(
    content: bytes, call: Call, chance: Random | None = None, rubbish: bool = False
) -> bytes:
    """Returns the content after a call, of which only some sectors got through."""
    if call.kind == "truncate":
        return content[: call.size].ljust(call.size, b"\0")
    end = call.offset + len(call.data)
    old = content.ljust(end, b"\xa5" if rubbish and chance else b"\0")
    new = old[: call.offset] + call.data + old[end:]
    if chance is None:
        return new
    kept = bytearray(new)
    for start in range(call.offset // SECTOR * SECTOR, end, SECTOR):
        if chance.random() < 0.5:
            kept[start : start + SECTOR] = old[start : start + SECTOR]
    return bytes(kept)


def written(state: State, folder: Path) -> None:
    """Makes the files of a state in a folder."""
    for name, content in state.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(0o600)
