"""Tables with named columns: pandas, polars, pyarrow, mappings and CSV files."""

import csv
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
            hint = check.nearest(name, names) or f"columns are {names}"
            raise ValueError(f"there is no column {name!r}; {hint}")
    if not features:
        raise ValueError("there are no feature columns; add one or name them.")
    x = np.stack([_number(column(frame, name), name) for name in features], axis=1)
    return {"x": x, "y": _label(column(frame, label), label)}, column(frame, client)


def read_csv(path: Any) -> Columns:
    """Reads a CSV file with a header line; columns of numbers become numbers.

    Raises:
        ValueError: a line has too few or too many values, or there are no lines.
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.reader(file))
    if len(lines) < 2:
        raise ValueError(f"{path} has no examples; it needs a header and one line.")
    header, body = lines[0], [line for line in lines[1:] if line]
    for number, line in enumerate(body, start=2):
        if len(line) != len(header):
            raise ValueError(
                f"{path} has {len(line)} values in example {number - 1} but "
                f"{len(header)} columns; mend that line."
            )
    return {
        name: _parse(values)
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
            return [str(name) for name in found if isinstance(name, str)]
    raise TypeError(
        f"frame must be a table with named columns, got {type(frame).__name__}; pass "
        "a pandas, polars or pyarrow table or a mapping of columns."
    )


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
    try:
        return np.array([np.nan if v is None else v for v in values]).astype(np.float32)
    except (TypeError, ValueError):
        raise ValueError(
            f"column {name!r} holds {values[0]!r}, which is no number; encode it as "
            "numbers or leave it out of features."
        ) from None


def _label(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind == "b":
        return values.astype(np.int32)
    if values.dtype.kind in "iu":
        return values.astype(np.int32)
    return _number(values, name)
