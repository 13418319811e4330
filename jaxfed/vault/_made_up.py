"""Made-up arrays, on which a plan is tried before it sees any data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jaxfed.vault import _arrays
from jaxfed.vault._numpy import np
from jaxfed.vault._types import Type, require

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
        wide = np.asarray(array, np.float64)
        finite = wide[np.isfinite(wide)]
        size = max(1, finite.size)
        means = finite.sum() / size, np.abs(finite).sum() / size
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
    if one == _KEY:
        return _WORDS
    places = np.arange(one.size).reshape(one.shape)
    if one.dtype == "bool":
        return places % 4 != 3
    key = _arrays.random_fold_in(_WORDS, np.asarray(number, np.uint32))
    bits = _arrays.random_bits(key, one.shape)
    if one.is_float:
        return (bits >> np.uint32(8)).astype(np.float32) / np.float32(
            2**25
        ) - np.float32(0.25)
    return (bits & np.uint32(1)).astype(one.dtype)
