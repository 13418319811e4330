"""An SQLite file system around the default one, which reports every call.

SQLite documents such shims (sqlite.org/vfs.html). This one needs no compiler: it copies
the default's tables of functions and puts Python functions into some places. A file
stays the default's own, so that all else runs as ever.
"""

import contextlib
import ctypes
import ctypes.util
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path

from tests.faults.calls import Call, Calls, Fault

INT, LONG, POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
OK, FULL, READONLY, CANTOPEN = 0, 13, 8, 14
_CREATE = 0x4  # of the flags of xOpen
_IOERR = {
    "read": 266,
    "write": 778,
    "sync": 1034,
    "truncate": 1546,
    "unlink": 2570,
    "lock": 3850,
    "map": 5386,
    "create": CANTOPEN,
    "open": CANTOPEN,
}

_METHODS = {
    "xClose": (POINTER,),
    "xRead": (POINTER, POINTER, INT, LONG),
    "xWrite": (POINTER, POINTER, INT, LONG),
    "xTruncate": (POINTER, LONG),
    "xSync": (POINTER, INT),
    "xFileSize": (),
    "xLock": (POINTER, INT),
    "xUnlock": (),
    "xCheckReservedLock": (),
    "xFileControl": (),
    "xSectorSize": (),
    "xDeviceCharacteristics": (),
    "xShmMap": (POINTER, INT, INT, INT, POINTER),
    "xShmLock": (),
    "xShmBarrier": (),
    "xShmUnmap": (),
    "xFetch": (),
    "xUnfetch": (),
}
_CALLS = {
    "xOpen": (POINTER, POINTER, POINTER, INT, POINTER),
    "xDelete": (POINTER, ctypes.c_char_p, INT),
    "xAccess": (),
    "xFullPathname": (),
    "xDlOpen": (),
    "xDlError": (),
    "xDlSym": (),
    "xDlClose": (),
    "xRandomness": (),
    "xSleep": (),
    "xCurrentTime": (),
    "xGetLastError": (),
    "xCurrentTimeInt64": (),
    "xSetSystemCall": (POINTER, ctypes.c_char_p, POINTER),
    "xGetSystemCall": (POINTER, ctypes.c_char_p),
    "xNextSystemCall": (),
}


class _Methods(ctypes.Structure):
    _fields_ = [("iVersion", INT), *((name, POINTER) for name in _METHODS)]


class _Vfs(ctypes.Structure):
    _fields_ = [
        *((name, INT) for name in ("iVersion", "szOsFile", "mxPathname")),
        *((name, POINTER) for name in ("pNext", "zName", "pAppData", *_CALLS)),
    ]


class Unavailable(RuntimeError):
    """SQLite is linked so that no file system can be put into it from outside."""


class Shim:
    """The file system of this process, from the first use to its end.

    Attributes:
        calls: what hears of every call, or None.
    """

    def __init__(self):
        self.calls: Calls | None = None
        self._library = _library()
        self._library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        self._default = self._library.sqlite3_vfs_find(None)
        self._kept: list[object] = []  # SQLite holds no references
        self._tables: dict[int, tuple[_Methods, dict[str, object]]] = {}
        self._files: dict[int, tuple[str, dict[str, object]]] = {}
        self._own = _Vfs.from_buffer_copy(self._default.contents)
        name = ctypes.create_string_buffer(b"reporting")
        self._own.zName = ctypes.addressof(name)
        self._kept.append(name)
        self._original = {
            name: _function(getattr(self._own, name), types)
            for name, types in _CALLS.items()
            if types and name != "xGetSystemCall"
        }
        self._put(self._own, _CALLS, {"xOpen": self._open, "xDelete": self._delete})
        self._library.sqlite3_vfs_register(ctypes.byref(self._own), 1)
        self._listen_to_folders()
        self._check()

    def _check(self) -> None:
        heard = self.calls = Calls()
        with contextlib.suppress(sqlite3.Error):
            sqlite3.connect("/nowhere/at/all").close()
        self.calls = None
        if not heard.count:
            raise Unavailable("the library found is not the one that Python uses")

    def _put(self, table, signatures, functions) -> None:
        for name, function in functions.items():
            made = ctypes.CFUNCTYPE(INT, *signatures[name])(function)
            self._kept.append(made)
            setattr(table, name, ctypes.cast(made, POINTER).value)

    def _listen_to_folders(self) -> None:
        """SQLite makes names durable through one function, which can be replaced."""
        get = ctypes.CFUNCTYPE(POINTER, POINTER, ctypes.c_char_p)
        found = get(self._own.xGetSystemCall)(self._default, b"openDirectory")
        types = (ctypes.c_char_p, POINTER)
        original = _function(found, types)

        def open_folder(path, handle):
            folder = os.path.dirname(os.fsdecode(path))
            return self._told(
                Call("sync_folder", folder), lambda: original(path, handle)
            )

        made = ctypes.CFUNCTYPE(INT, *types)(open_folder)
        self._kept.append(made)
        place = ctypes.cast(made, POINTER)
        self._original["xSetSystemCall"](self._default, b"openDirectory", place)

    def _told(self, call: Call, perform) -> int:
        """Reports a call before and after it is made."""
        if self.calls is None:
            return perform()
        try:
            self.calls.before(call)
        except Fault as fault:
            if fault.is_partial:
                _write_half(call)
            return _code(fault, call.kind)
        result = perform()
        if result == OK:
            self.calls.after(call)
        return result

    def _open(self, _, name, file, flags, out):
        path = "" if not name else os.fsdecode(ctypes.string_at(name))
        is_new = bool(flags & _CREATE) and not os.path.exists(path)

        def perform():
            return self._original["xOpen"](self._default, name, file, flags, out)

        place = ctypes.cast(file, ctypes.POINTER(POINTER))
        place[0] = None  # or SQLite would close what was never opened
        result = self._told(Call("create" if is_new else "open", path), perform)
        methods = place[0]
        if methods:
            own, original = self._table(methods)
            place[0] = ctypes.addressof(own)
            self._files[file] = (path, original)
        return result

    def _delete(self, _, name, sync_folder):
        call = Call("unlink", os.fsdecode(name))

        def perform():
            return self._original["xDelete"](self._default, name, sync_folder)

        return self._told(call, perform) if os.path.exists(call.path) else perform()

    def _table(self, address: int):
        if address not in self._tables:
            own = _Methods.from_buffer_copy(_Methods.from_address(address))
            original = {
                name: _function(getattr(own, name), types)
                for name, types in _METHODS.items()
                if types and getattr(own, name)
            }
            functions = {name: getattr(self, "_" + name) for name in original}
            self._put(own, _METHODS, functions)
            self._tables[address] = (own, original)
        return self._tables[address]

    def _xClose(self, file):
        _, original = self._files.pop(file)
        return original["xClose"](file)

    def _xRead(self, file, buffer, size, offset):
        path, original = self._files[file]
        call = Call("read", path, offset)
        return self._told(call, lambda: original["xRead"](file, buffer, size, offset))

    def _xWrite(self, file, buffer, size, offset):
        path, original = self._files[file]
        call = Call("write", path, offset, ctypes.string_at(buffer, size))
        return self._told(call, lambda: original["xWrite"](file, buffer, size, offset))

    def _xTruncate(self, file, size):
        path, original = self._files[file]
        call = Call("truncate", path, size=size)
        return self._told(call, lambda: original["xTruncate"](file, size))

    def _xSync(self, file, flags):
        path, original = self._files[file]
        return self._told(Call("sync", path), lambda: original["xSync"](file, flags))

    def _xLock(self, file, level):
        path, original = self._files[file]
        return self._told(Call("lock", path), lambda: original["xLock"](file, level))

    def _xShmMap(self, file, region, size, extend, out):
        path, original = self._files[file]
        return self._told(
            Call("map", path + "-shm"),
            lambda: original["xShmMap"](file, region, size, extend, out),
        )


def _write_half(call: Call) -> None:
    with open(call.path, "r+b", buffering=0) as file:
        file.seek(call.offset)
        file.write(call.data[: len(call.data) // 2])


def _code(fault: Fault, kind: str) -> int:
    """Returns what the default file system would say."""
    if kind == "sync_folder":
        return CANTOPEN  # which SQLite takes as: this system has no such thing
    if kind in ("write", "map") and fault.name == "full":
        return FULL
    if kind in ("write", "truncate", "unlink") and fault.name == "read-only":
        return READONLY
    return _IOERR[kind]


def _function(address, types):
    return ctypes.CFUNCTYPE(INT, *types)(address)


def _library():
    """Finds the library that Python's own module uses."""
    import _sqlite3

    names = [getattr(_sqlite3, "__file__", None), None]
    maps = Path("/proc/self/maps")
    if maps.exists():
        lines = maps.read_text().splitlines()
        names = [x.split()[-1] for x in lines if "libsqlite3" in x][:1] + names
    names.append(ctypes.util.find_library("sqlite3"))
    for name in names:
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(name)
            if hasattr(library, "sqlite3_vfs_register"):
                return library
    raise Unavailable("SQLite is linked into Python without its interface for these")


_shim: Shim | None = None


def shim() -> Shim:
    """Returns this process's file system, made at the first call.

    Raises:
        Unavailable: SQLite has no place for it here.
    """
    global _shim
    if _shim is None:
        _shim = Shim()
    return _shim


@contextlib.contextmanager
def reporting(calls: Calls) -> Generator[None]:
    """Reports what SQLite does to `calls`."""
    own = shim()
    own.calls = calls
    try:
        yield
    finally:
        own.calls = None
