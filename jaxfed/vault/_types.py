"""Types of arrays, and the checks on numbers that a plan holds."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jaxfed.vault._errors import PlanError

BYTES = {"bool": 1, "uint8": 1, "int32": 4, "uint32": 4, "float32": 4}
MOST_BYTES = 1 << 31  # of one array; a policy may allow less
_MOST_DIMENSIONS = 12
_MOST_INTEGER = 1 << 31


class Type(NamedTuple):
    """The dtype and shape of an array."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes its elements take."""
        return self.size * BYTES[self.dtype]

    @property
    def rank(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether its elements are floating-point numbers."""
        return self.dtype == "float32"

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def checked(dtype: Any, shape: Any) -> Type:
    """Returns a type that a plan names.

    Raises:
        PlanError: there is no such type, or its arrays are too large.
    """
    found = Type(a_dtype(dtype), natural_numbers(shape))
    require(found.rank <= _MOST_DIMENSIONS, "an array has too many dimensions", found)
    require(found.bytes <= MOST_BYTES, "an array is too large", found)
    return found


def require(condition: bool, what: str, got: Any = None) -> None:
    """Refuses a plan.

    Raises:
        PlanError: the condition does not hold.
    """
    if not condition:
        shown = "" if got is None else f", got {str(got)[:80]}"
        raise PlanError(f"{what}{shown}")


def a_dtype(value: Any) -> str:
    """Checks for the name of a dtype."""
    require(isinstance(value, str) and value in BYTES, "there is no such dtype", value)
    return str(value)


def integer(value: Any) -> int:
    """Checks for an integer; JSON's true and 1.0 are none."""
    require(type(value) is int, "a number must be an integer", value)
    require(abs(value) < _MOST_INTEGER, "a number is too large", value)
    return int(value)


def natural(value: Any) -> int:
    """Checks for an integer >= 0."""
    require(integer(value) >= 0, "a number must not be negative", value)
    return int(value)


def positive(value: Any) -> int:
    """Checks for an integer >= 1."""
    require(integer(value) >= 1, "a number must be positive", value)
    return int(value)


def boolean(value: Any) -> bool:
    """Checks for true or false."""
    require(type(value) is bool, "a value must be true or false", value)
    return bool(value)


def _several(value: Any, one: Any) -> tuple[Any, ...]:
    require(type(value) is list and len(value) <= 64, "a list is wrong", value)
    return tuple(one(each) for each in value)


def integers(value: Any) -> tuple[int, ...]:
    """Checks for a list of integers."""
    return _several(value, integer)


def natural_numbers(value: Any) -> tuple[int, ...]:
    """Checks for a list of integers >= 0."""
    return _several(value, natural)


def registers(value: Any) -> tuple[int, ...]:
    """Checks for a list of numbers of arrays: a model may have thousands."""
    require(type(value) is list and len(value) <= 4096, "arrays must be listed")
    return tuple(natural(each) for each in value)


def positive_numbers(value: Any) -> tuple[int, ...]:
    """Checks for a list of integers >= 1."""
    return _several(value, positive)


def pairs(value: Any) -> tuple[tuple[int, ...], ...]:
    """Checks for a list of lists of integers."""
    return _several(value, integers)


def axes(value: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Checks that numbers are different dimensions of an array."""
    require(all(0 <= v < rank for v in value), "a dimension is not there", value)
    require(len(set(value)) == len(value), "a dimension is named twice", value)
    return value
