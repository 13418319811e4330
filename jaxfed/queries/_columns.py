"""Columns with public bounds, as every query reads them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfed import _check as check
from jaxfed.data import FederatedData
from jaxfed.queries._release import Clients

Columns = int | Sequence[int] | None
"""Which columns of an array: one, several, or all of them."""


class Array(NamedTuple):
    """An array of the data, or some of its columns."""

    values: np.ndarray
    """(num_examples, ...). Private."""
    columns: Columns
    shape: tuple[int, ...]
    """Of one example; () for one number."""

    @property
    def width(self) -> int:
        """How many numbers an example has."""
        return int(np.prod(self.shape, dtype=np.int64))

    def read(self, clients: Clients) -> np.ndarray:
        """Returns (num_examples, width) float64, NaN for what is not finite."""
        rows = self.values[clients.rows]
        if self.columns is not None:
            rows = rows[:, self.columns]
        rows = np.asarray(rows, np.float64).reshape(len(rows), -1)
        finite = np.isfinite(rows)
        return rows if finite.all() else np.where(finite, rows, np.nan)


class Bounded(NamedTuple):
    """An array between public bounds, seen in units in which they are -1 and 1."""

    array: Array
    middle: np.ndarray
    """(width,) float64."""
    half: np.ndarray
    """(width,) float64: half the distance of the bounds."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return self.array.shape

    def units(self, clients: Clients) -> np.ndarray:
        """Returns (num_examples, width) float64 in [-1, 1]; NaN where not finite."""
        return self.to_units(self.array.read(clients))

    def to_units(self, values: np.ndarray) -> np.ndarray:
        """Clips to the bounds and scales; NaN stays NaN."""
        low, high = self.middle - self.half, self.middle + self.half
        return np.clip((np.clip(values, low, high) - self.middle) / self.half, -1, 1)

    def from_units(self, units: np.ndarray) -> np.ndarray:
        """Returns values of the array's shape, inside the bounds."""
        return (self.middle + self.half * np.clip(units, -1, 1)).reshape(self.shape)


def array_of(data: FederatedData, name: str, columns: Columns) -> Array:
    """Returns an array of the data by name.

    Raises:
        ValueError: there is no such array or no such columns.
    """
    check.one_of(data.arrays, name=name)
    values = data.arrays[name]
    if columns is None:
        return Array(values, None, values.shape[1:])
    index = np.asarray(columns)
    width = values.shape[1] if values.ndim == 2 else 0
    is_index = index.ndim < 2 and index.size > 0 and index.dtype.kind in "iu"
    if not is_index or not ((index >= 0) & (index < width)).all():
        raise ValueError(
            f"columns must be numbers from 0 to {width - 1} of array {name!r}, got "
            f"{columns!r}; leave it out for all of a one-dimensional array."
            if width
            else f"columns={columns!r} need a two-dimensional array, got {name!r} of "
            f"shape {values.shape}; leave columns out."
        )
    # a list even of one column: `read` flattens it, and `shape` remembers
    return Array(values, np.atleast_1d(index).tolist(), index.shape)


def bounded(
    data: FederatedData, name: str, columns: Columns, lower: Any, upper: Any
) -> Bounded:
    """Returns an array of the data with its public bounds, one each or for all."""
    array = array_of(data, name, columns)
    middle, half = bounds(lower, upper, array.shape)
    return Bounded(array, middle, half)


def bounds(
    lower: Any, upper: Any, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns middle and half the distance of bounds, (width,) float64.

    Raises:
        ValueError: they are not finite, not in order, or of another shape.
    """
    try:
        low, high = (
            np.broadcast_to(np.asarray(b, np.float64), shape).reshape(-1)
            for b in (lower, upper)
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"lower and upper must be numbers, or arrays of shape {shape}, got "
            f"{lower!r} and {upper!r}; give every column its public bounds."
        ) from error
    with np.errstate(over="ignore", invalid="ignore"):
        half = high / 2 - low / 2
        is_good = np.isfinite(low) & np.isfinite(high) & (half > 0)
    if not is_good.all() or not np.isfinite(1 / half).all():
        raise ValueError(
            f"lower must be finite and < upper, got lower={lower!r} and "
            f"upper={upper!r}; pass what the values can be by definition, never what "
            "the data happens to hold."
        )
    return low / 2 + high / 2, half
