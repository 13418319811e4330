"""Made-up arrays, on which a plan is tried before it sees any data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jaxfed.vault import _arrays
from jaxfed.vault._numpy import np
from jaxfed.vault._types import Type, require

_BLOCK = 1 << 16
_WORDS = np.array([7, 13], np.uint32)
_KEY = Type("uint32", (2,))
_TOLERANCE = 1e-3  # of a mean, relative to the mean magnitude; sums differ in order


def arrays(types: Sequence[Type]) -> list[np.ndarray]:
    """Returns arrays of these types, always the same ones: floats in [-1/4, 1/4)."""
    return [_array(one, number) for number, one in enumerate(types)]


def summary(found: Sequence[np.ndarray]) -> list[list[float]]:
    """Returns the mean of each array, and of its magnitude, over finite elements."""
    rows = []
    for array in found:
        flat, size, total, magnitude = np.ravel(array), 0, 0.0, 0.0
        for start in range(0, flat.size, _BLOCK):
            wide = np.asarray(flat[start : start + _BLOCK], np.float64)
            finite = wide[np.isfinite(wide)]
            size += finite.size
            total += float(finite.sum())
            magnitude += float(np.abs(finite).sum())
        means = total / max(1, size), magnitude / max(1, size)
        rows.append([float(f"{mean:.5e}") for mean in means])  # short in a plan
    return rows


def compare(name: str, found: list[list[float]], wanted: Any) -> None:
    """Checks one summary against another.

    Raises:
        PlanError: they differ.
    """
    fits = type(wanted) is list and len(wanted) == len(found)
    require(fits, f"a plan must say what {name} returns")
    for number, (one, other) in enumerate(zip(found, wanted)):
        fits = type(other) is list and len(other) == 2
        fits = fits and all(type(x) in (int, float) and math.isfinite(x) for x in other)
        require(fits, f"a plan must say what {name} returns")
        limit = _TOLERANCE * max(one[1], abs(other[1]), 1e-6)
        is_close = all(abs(a - b) <= limit for a, b in zip(one, other))
        require(is_close, f"result {number} of {name} is not what JAX found", one)


def _array(one: Type, number: int) -> np.ndarray:
    """Makes an array block by block, in little more memory than it takes."""
    if one == _KEY:
        return _WORDS
    key = _arrays.random_fold_in(_WORDS, np.asarray(number, np.uint32))
    found = np.empty(one.size, one.dtype)
    for start in range(0, one.size, _BLOCK):
        stop = min(start + _BLOCK, one.size)
        found[start:stop] = _values(one, key, start, stop)
    return found.reshape(one.shape)


def _values(one: Type, key: np.ndarray, start: int, stop: int) -> np.ndarray:
    if one.dtype == "bool":
        return (np.arange(stop - start) + start) % 4 != 3
    bits = _arrays.bits_at(key, start, stop)
    if one.is_float:
        numbers = (bits >> np.uint32(8)).astype(np.float32)
        return numbers / np.float32(2**25) - np.float32(0.25)
    return (bits & np.uint32(1)).astype(one.dtype)
