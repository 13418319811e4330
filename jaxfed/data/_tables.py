"""Tables with named columns: pandas, polars, pyarrow, mappings and CSV files."""

import csv
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfed import _check as check

Columns = dict[str, np.ndarray]


def split(
    frame: Any, client: str, label: str, features: Sequence[str] | None
) -> tuple[Columns, np.ndarray]:
    """Returns `{"x": ..., "y": ...}` and the client column of a table."""
    names = _names(frame)
    if isinstance(features, str):
        raise TypeError(
            f"features must be a list of column names, got {features!r}; pass "
            f"[{features!r}]."
        )
    if features is None:
        features = [name for name in names if name not in (client, label)]
    for name in (client, label, *features):
        if name not in names:
            hint = check.nearest(name, names) or f"columns are {names}."
            raise ValueError(f"there is no column {name!r}; {hint}")
    if not features:
        raise ValueError("there are no feature columns; add one or name them.")
    if label in features:
        raise ValueError(
            f"features must not hold the label {label!r}, got {list(features)}; a "
            "model would only copy it: leave it out."
        )
    owner = column(frame, client)
    nameless = owner == ""
    if np.any(nameless):
        raise ValueError(
            f"column {client!r} names no client in row {int(np.argmax(nameless))}; "
            "fill it in or drop the row."
        )
    x = np.stack([_number(column(frame, name), name) for name in features], axis=1)
    return {"x": x, "y": _label(column(frame, label), label)}, owner


def read_csv(path: Any, client: str) -> Columns:
    """Reads a CSV file with a header line; columns of numbers become numbers.

    The column `client` stays words unless every value is an integer as Python prints
    it: otherwise clients 007 and 7, or 1_12 and 11_2, would become one.

    Raises:
        ValueError: a line has too few or too many values, or there are no lines.
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.reader(file))
    if len(lines) < 2:
        raise ValueError(f"{path} has no examples; it needs a header and one line.")
    header, body = lines[0], [line for line in lines[1:] if line]
    if not body:
        raise ValueError(f"{path} has no examples; it needs a header and one line.")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise ValueError(f"{path} has two columns {twice!r}; rename one of them.")
    for number, line in enumerate(body, start=2):
        if len(line) != len(header):
            raise ValueError(
                f"{path} has {len(line)} values in example {number - 1} but "
                f"{len(header)} columns; mend that line."
            )
    return {
        name: _parse_ids(values) if name == client else _parse(values)
        for name, values in zip(header, zip(*body, strict=True), strict=True)
    }


def column(frame: Any, name: str) -> np.ndarray:
    """Returns one column as a NumPy array."""
    values = frame[name]
    return values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)


def _names(frame: Any) -> list[str]:
    if isinstance(frame, Mapping):
        return list(frame)
    for attribute in ("column_names", "columns"):
        found = getattr(frame, attribute, None)
        if found is not None and not callable(found):
            odd = [name for name in found if not isinstance(name, str)]
            if odd:
                raise ValueError(
                    f"columns must be named by words, got {odd[0]!r}; rename them, for "
                    "example frame.columns = frame.columns.astype(str)."
                )
            if len(set(found)) < len(found):
                raise ValueError(
                    f"columns must have different names, got {list(found)}; rename "
                    "the repeated ones."
                )
            return list(found)
    raise TypeError(
        f"frame must be a table with named columns, got {type(frame).__name__}; pass "
        "a pandas, polars or pyarrow table or a mapping of columns."
    )


def _parse_ids(values: Sequence[str]) -> np.ndarray:
    try:
        integers = [int(value) for value in values]
    except ValueError:
        return np.array(values)
    is_exact = [str(n) for n in integers] == list(values)
    return np.array(integers if is_exact else values)


def _parse(values: Sequence[str]) -> np.ndarray:
    for kind in (np.int64, np.float64):
        try:
            return np.array([kind(v) if v != "" else kind("nan") for v in values])
        except ValueError:
            continue
    return np.array(values)


def _number(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind in "biuf":
        return values.astype(np.float32)
    found = np.full(len(values), np.nan, np.float32)
    for row, value in enumerate(values):
        if value is None:
            continue
        if not isinstance(value, numbers.Real | np.bool_):
            shown = value.item() if isinstance(value, np.generic) else value
            raise ValueError(
                f"column {name!r} holds {shown!r}, which is no number; encode it as "
                "numbers or leave the column out."
            )
        found[row] = value
    return found


def _label(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind == "b":
        return values.astype(np.int32)
    if values.dtype.kind in "iu":
        if len(values) and not -(2**31) <= values.min() <= values.max() < 2**31:
            raise ValueError(
                f"column {name!r} holds labels outside int32, {values.min()} to "
                f"{values.max()}; renumber them."
            )
        return values.astype(np.int32)
    return _number(values, name)
