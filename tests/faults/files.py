"""Python's own calls for the ledger's small files, reported as SQLite's are."""

import builtins
import contextlib
import fcntl
import os
import pathlib
from collections.abc import Generator

from jaxfed.ledger import _files
from tests.faults import vfs
from tests.faults.calls import Call, Calls, Fault


class Reported:
    """The functions that stand in for Python's; for paths in one folder only."""

    def __init__(self, calls: Calls, root: os.PathLike[str]):
        self._calls, self._root = calls, os.path.realpath(root)
        self._paths: dict[int, str] = {}
        self.original = {
            "open": os.open,
            "fsync": os.fsync,
            "close": os.close,
            "replace": os.replace,
            "unlink": os.unlink,
            "path": pathlib.Path.open,
            "flock": fcntl.flock,
        }

    def told(self, call: Call, perform):
        """Reports a call before and after it is made."""
        try:
            self._calls.before(call)
        except Fault as fault:
            if fault.is_partial:
                perform(len(call.data) // 2)
            raise OSError(fault.errno, os.strerror(fault.errno), call.path) from None
        result = perform()
        self._calls.after(call)
        return result

    def is_ours(self, path) -> bool:
        return os.path.realpath(path).startswith(self._root)

    def open(self, path, flags, mode=0o777, **options):
        perform = lambda: self.original["open"](path, flags, mode, **options)  # noqa: E731
        if not self.is_ours(path):
            return perform()
        kind = "create" if flags & os.O_CREAT else "open"
        handle = self.told(Call(kind, os.path.abspath(path)), perform)
        self._paths[handle] = os.path.abspath(path)
        return handle

    def fsync(self, handle):
        path = self._paths.get(handle)
        perform = lambda: self.original["fsync"](handle)  # noqa: E731
        if path is None:
            return perform()
        kind = "sync_folder" if os.path.isdir(path) else "sync"
        return self.told(Call(kind, path), perform)

    def close(self, handle):
        self._paths.pop(handle, None)
        self.original["close"](handle)

    def replace(self, source, target, **options):
        perform = lambda: self.original["replace"](source, target, **options)  # noqa: E731
        if not self.is_ours(source):
            return perform()
        source, target = os.path.abspath(source), os.path.abspath(target)
        return self.told(Call("rename", source, data=os.fsencode(target)), perform)

    def unlink(self, path, **options):
        perform = lambda: self.original["unlink"](path, **options)  # noqa: E731
        if not self.is_ours(path):
            return perform()
        return self.told(Call("unlink", os.path.abspath(path)), perform)

    def flock(self, file, how):
        path = self._paths[file]
        return self.told(Call("lock", path), lambda: self.original["flock"](file, how))

    def path_open(self, path, mode="r", *arguments, **options):
        perform = lambda: self.original["path"](path, mode, *arguments, **options)  # noqa: E731
        if not self.is_ours(path):
            return perform()
        name = os.path.abspath(path)
        if "w" not in mode:
            return self.told(Call("read", name), perform)
        is_new = not path.exists()
        call = Call("create", name) if is_new else Call("truncate", name)
        return self.writer(self.told(call, perform), name)

    def file_open(self, file, mode="r", *arguments, **options):
        """Replaces `open` where the file is already a number."""
        name = self._paths[file]
        return self.writer(builtins.open(file, mode, *arguments, **options), name)

    def writer(self, file, name: str) -> "Writer":
        self._paths[file.fileno()] = name
        return Writer(file, name, self)


class Writer:
    """A file that reports what it hands to the system, when it does."""

    def __init__(self, file, name: str, reported: Reported):
        self._file, self._name, self._reported = file, name, reported
        self._waiting, self._offset = b"", 0

    def __enter__(self):
        return self

    def __exit__(self, kind, *exception):
        try:
            if kind is None:
                self.flush()
        finally:
            self._reported._paths.pop(self._file.fileno(), None)
            self._file.close()

    def fileno(self):
        return self._file.fileno()

    def write(self, data):
        self._waiting += data if isinstance(data, bytes) else data.encode("ascii")
        return len(data)

    def flush(self):
        if not self._waiting:
            return
        data, self._waiting = self._waiting, b""

        def perform(size=None):
            os.write(self._file.fileno(), data[:size])

        self._reported.told(Call("write", self._name, self._offset, data), perform)
        self._offset += len(data)


@contextlib.contextmanager
def reporting(calls: Calls, root: os.PathLike[str]) -> Generator[None]:
    """Reports what a ledger in a folder does, in SQLite and beside it."""
    own = Reported(calls, root)
    places = [
        (os, "open", own.open),
        (os, "fsync", own.fsync),
        (os, "close", own.close),
        (os, "replace", own.replace),
        (os, "unlink", own.unlink),
        (fcntl, "flock", own.flock),
    ]
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    original = own.original["path"]
    try:
        for place, name, function in places:
            setattr(place, name, function)
        pathlib.Path.open = lambda *a, **o: own.path_open(*a, **o)
        _files.open = own.file_open
        with vfs.reporting(calls):
            yield
    finally:
        for place, name, function in before:
            setattr(place, name, function)
        pathlib.Path.open = original
        del _files.open
