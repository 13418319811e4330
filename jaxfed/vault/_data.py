"""Reading a client's own data: CSV, SQLite, npz, or a function of its owner.

A plan names arrays; a file has columns. A column's name is the array's name, or the
owner's column file says which columns make up which array. Messages name columns and
lines, never values.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfed.vault._errors import DataError
from jaxfed.vault._numpy import HAS_NUMPY, np
from jaxfed.vault._plan import Named

_SUFFIXES = {".csv": "CSV", ".npz": "npz", ".db": "SQLite", ".sqlite": "SQLite"}
_MOST_COLUMNS = 1 << 15  # as many as SQLite can have
Arrays = Mapping[str, np.ndarray]
Columns = Mapping[str, "list[str]"]
Read = Callable[["tuple[Named, ...]"], Arrays]


def reader(
    source: str, *, columns: Columns | None = None, table: str | None = None
) -> Read:
    """Returns what reads a client's examples, for the arrays that a plan names.

    Args:
        source: a .csv, .npz, .db or .sqlite file, or `file.py:function`, whose
            function returns a dictionary of arrays.
        columns: by array, the columns that make it up; else those of its name.
        table: of an SQLite file.

    Raises:
        DataError: there is no such file.
    """
    place, _, function = source.partition(".py:")
    path = Path(f"{place}.py" if function else source)
    if not path.is_file():
        raise DataError(f"data must be a file, got {source}; name it with --data.")
    if function:
        return lambda rows: _checked(_called(path, function), rows)
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(_SUFFIXES)
        raise DataError(
            f"data must end in one of {known}, got {path.name}; convert it, or write a "
            "function and name it as file.py:function."
        )
    if kind == "npz":
        return lambda rows: _checked(_npz(path), rows)
    named = columns or {}

    def read(rows: tuple[Named, ...]) -> Arrays:
        asked = sum(one.type.size for one in rows)
        if asked > _MOST_COLUMNS:
            raise DataError(
                f"a plan must read at most {_MOST_COLUMNS:,} columns, got {asked:,}; "
                "bring large examples as npz, or as a function."
            )
        wanted = {
            one.name: list(named[one.name] if one.name in named else _own(one))
            for one in rows
        }
        needed = [column for several in wanted.values() for column in several]
        lines = _csv(path, needed) if kind == "CSV" else _sqlite(path, table, needed)
        numbers = _numbers(lines, needed)
        place = {column: index for index, column in enumerate(needed)}
        found = {
            name: numbers[:, [place[column] for column in several]]
            for name, several in wanted.items()
        }
        return _checked(
            {
                one.name: found[one.name].reshape(len(numbers), *one.type.shape)
                if found[one.name].shape[1] == one.type.size
                else found[one.name]
                for one in rows
            },
            rows,
        )

    return read


def columns_of(path: Path) -> Columns:
    """Reads a column file: JSON, by array a column or a list of columns.

    Raises:
        DataError: it is none.
    """
    try:
        given = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(
            f"the column file must be at {path}: {error.strerror}."
        ) from None
    except (ValueError, RecursionError):
        raise DataError(f"{path} must be JSON.") from None
    fits = isinstance(given, dict)
    found = {}
    for name, columns in given.items() if fits else ():
        several = [columns] if isinstance(columns, str) else columns
        fits &= isinstance(several, list) and all(isinstance(c, str) for c in several)
        found[name] = several
    if not fits:
        raise DataError(
            f'{path} must name columns by array, as in {{"x": ["age", "bmi"], "y": '
            '"ill"}.'
        )
    return found


def _own(one: Named) -> list[str]:
    """Returns the columns of an array that the owner said nothing about."""
    if one.type.rank == 0:
        return [one.name]
    return [f"{one.name}{index}" for index in range(one.type.size)]


def _checked(found: Any, rows: Sequence[Named]) -> Arrays:
    """Returns arrays of the types that a plan names, all with as many examples."""
    if not isinstance(found, Mapping):
        raise DataError("data must be arrays by name; return a dictionary.")
    arrays = {}
    for name, one in rows_by_name(rows).items():
        if name not in found:
            raise DataError(
                f"data must have the array {name!r}, got {sorted(found)}; rename "
                "columns, or name them with --columns."
            )
        try:
            array = np.asarray(found[name])
        except (ArithmeticError, TypeError, ValueError):
            raise DataError(
                f"array {name!r} must hold numbers of one shape; return lists of "
                "numbers, or arrays."
            ) from None
        arrays[name] = _typed(name, array, one)
    sizes = {len(array) for array in arrays.values()}
    if len(sizes) != 1:
        raise DataError(f"all arrays must have as many examples, got {sorted(sizes)}.")
    return arrays


def rows_by_name(rows: Sequence[Named]) -> dict[str, Named]:
    """Returns the arrays that a plan names."""
    return {one.name: one for one in rows}


def _typed(name: str, array: np.ndarray, one: Named) -> np.ndarray:
    wanted = np.dtype(one.type.dtype)
    if array.ndim != 1 + one.type.rank or array.shape[1:] != one.type.shape:
        raise DataError(
            f"array {name!r} must hold examples of shape {one.type.shape}, got "
            f"{array.shape[1:]}."
        )
    if array.dtype.kind not in "biuf":
        raise DataError(f"array {name!r} must hold numbers, got {array.dtype}.")
    with np.errstate(all="ignore"):
        found = array.astype(wanted)
    if array.dtype.kind == "f":
        bad = ~np.isfinite(found if wanted.kind == "f" else array)
        _no_bad(name, bad, "missing, not a number, or beyond its type")
    if wanted.kind != "f":
        _no_bad(name, found != array, f"no {wanted}")
    return np.ascontiguousarray(found)


def _no_bad(name: str, bad: np.ndarray, what: str) -> None:
    if bad.any():
        rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
        raise DataError(
            f"array {name!r} must hold numbers of its type, but {len(rows)} examples "
            f"are {what}, the first is example {rows[0] + 1}; mend or leave them out."
        )


def _npz(path: Path) -> Arrays:
    if not HAS_NUMPY:
        raise DataError(
            f"{path} is NumPy's format, and this machine has no NumPy; install it, or "
            "bring CSV, SQLite or a function."
        )
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, LookupError) as error:
        raise DataError(
            f"{path} must be an npz file without objects: {type(error).__name__}."
        ) from None
    except Exception as error:  # zipfile and zlib have errors of their own
        raise DataError(
            f"{path} must be an npz file: {type(error).__name__}."
        ) from None


def _csv(path: Path, needed: Sequence[str]) -> list[Sequence[Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            header = next(lines, [])
            places = _places(header, needed, path)
            found = []
            for line in lines:
                if not line:
                    continue
                if len(line) != len(header):
                    raise DataError(
                        f"{path}, line {lines.line_num}, must have {len(header)} "
                        f"columns, got {len(line)}."
                    )
                found.append([line[place] for place in places])
            return found
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} must be CSV in UTF-8: {type(error).__name__}."
        ) from None


def _sqlite(path: Path, table: str | None, needed: Sequence[str]) -> list[Any]:
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            names = [
                row[0]
                for row in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
                )
            ]
            if table is None and len(names) == 1:
                table = names[0]
            if table is None or table not in names:
                raise DataError(
                    f"{path} has the tables {names}, got {table!r}; name one with "
                    "--table."
                )
            shown = table.replace('"', '""')
            cursor = connection.execute(f'SELECT * FROM "{shown}" LIMIT 0')
            _places([one[0] for one in cursor.description], needed, path)
            listed = ", ".join('"' + one.replace('"', '""') + '"' for one in needed)
            return connection.execute(f'SELECT {listed} FROM "{shown}"').fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise DataError(f"{path} must be an SQLite file: {error}.") from None


def _places(header: Sequence[str], needed: Sequence[str], path: Path) -> list[int]:
    names = [name.strip() for name in header]
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(
            f"{path} must have the columns {missing[:5]}, got {names[:20]}; name the "
            "columns of each array with --columns."
        )
    twice = [name for name in needed if names.count(name) > 1]
    if twice:
        raise DataError(f"{path} has two columns {twice[0]!r}; rename one.")
    return [names.index(name) for name in needed]


def _numbers(lines: Sequence[Sequence[Any]], needed: Sequence[str]) -> np.ndarray:
    found = []
    for number, line in enumerate(lines):
        for place, value in enumerate(line):
            try:
                found.append(float(value))
            except (TypeError, ValueError):
                raise DataError(
                    f"column {needed[place]!r} must hold numbers, but example "
                    f"{number + 1} holds none; encode words as numbers, and leave out "
                    "examples with gaps."
                ) from None
    return np.array(found, np.float64).reshape((len(lines), len(needed)))


def _called(path: Path, function: str) -> Any:
    """Calls the owner's own function; it is as trusted as this program."""
    spec = importlib.util.spec_from_file_location("vault_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if callable(getattr(module, function, None)):
            return getattr(module, function)()
    except Exception as error:  # whose words may hold a value
        kind = type(error).__name__
        raise DataError(f"{function} of {path} failed: {kind}; run it alone.") from None
    raise DataError(f"{path} must have a function {function!r}.")
