"""Argument checks: every message says the value, the rule and the remedy.

Checks take their subject as one keyword argument, so that the caller's own word
for it appears in the message: `check.positive(learning_rate=x)`.
"""

import difflib
import importlib
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax import core


def _only(named: dict[str, Any]) -> tuple[str, Any]:
    ((name, value),) = named.items()
    return name, value


def _remedy(text: str) -> str:
    return f"; {text}" if text else ""


def real(remedy: str = "", **named: Any) -> float:
    """Checks for a finite real number (a Python or NumPy scalar); returns a float."""
    name, value = _only(named)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(
            f"{name} must be a finite number, got {value!r}{_remedy(remedy)}."
        )
    return number


def positive(remedy: str = "", **named: Any) -> float:
    """Checks for a finite number > 0; returns a float."""
    name, value = _only(named)
    if real(remedy, **named) <= 0:
        raise ValueError(f"{name} must be > 0, got {value}{_remedy(remedy)}.")
    return float(value)


def non_negative(remedy: str = "", **named: Any) -> float:
    """Checks for a finite number >= 0; returns a float."""
    name, value = _only(named)
    if real(remedy, **named) < 0:
        raise ValueError(f"{name} must be >= 0, got {value}{_remedy(remedy)}.")
    return float(value)


def probability(remedy: str = "", **named: Any) -> float:
    """Checks for a number in (0, 1]; returns a float."""
    name, value = _only(named)
    if not 0 < real(remedy, **named) <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {value}{_remedy(remedy)}.")
    return float(value)


def open_probability(remedy: str = "", **named: Any) -> float:
    """Checks for a number strictly between 0 and 1; returns a float."""
    name, value = _only(named)
    if not 0 < real(remedy, **named) < 1:
        raise ValueError(
            f"{name} must be strictly between 0 and 1, got {value}{_remedy(remedy)}."
        )
    return float(value)


def positive_integer(remedy: str = "", **named: Any) -> int:
    """Checks for an integer >= 1; returns an int."""
    name, value = _only(named)
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < 1:
        raise ValueError(
            f"{name} must be an integer >= 1, got {value!r}{_remedy(remedy)}."
        )
    return int(value)


def non_negative_integer(remedy: str = "", **named: Any) -> int:
    """Checks for an integer >= 0; returns an int."""
    name, value = _only(named)
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < 0:
        raise ValueError(
            f"{name} must be an integer >= 0, got {value!r}{_remedy(remedy)}."
        )
    return int(value)


def seed(**named: Any) -> int:
    """Checks for an integer that 64 bits hold; returns an int."""
    name, value = _only(named)
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or not 0 <= value < 2**64:
        raise ValueError(
            f"{name} must be an integer with 0 <= {name} < 2**64, got {value!r}; "
            f"pass for example {name}=0."
        )
    return int(value)


def key(**named: Any) -> jax.Array:
    """Checks for one typed PRNG key; integers and raw `uint32` arrays are refused."""
    name, value = _only(named)
    is_key = isinstance(value, jax.Array) and jax.dtypes.issubdtype(
        value.dtype, jax.dtypes.prng_key
    )
    if not is_key or value.shape != ():
        found = f"an array of {value.dtype}" if hasattr(value, "dtype") else repr(value)
        if is_key:
            found = f"{value.shape[0]} keys"
        raise TypeError(
            f"{name} must be one typed PRNG key, got {found}; make one for a "
            "simulation with `jaxfed.keys.simulated(seed)`."
        )
    return value


def one_of(allowed: Iterable[str], **named: Any) -> str:
    """Checks for one of a few words; suggests the nearest."""
    name, value = _only(named)
    allowed = tuple(allowed)
    if value not in allowed:
        words = ", ".join(map(repr, allowed))
        hint = nearest(value, allowed) or "pass one of these words."
        raise ValueError(f"{name} must be one of {words}, got {value!r}; {hint}")
    return value


def name(remedy: str, **named: Any) -> str:
    """Checks for words that name something: text that is more than blanks."""
    what, value = _only(named)
    instance(str, remedy, **named)
    if not value.strip():
        raise ValueError(f"{what} must not be empty, got {value!r}; {remedy}.")
    if not value.isprintable():  # terminals and reports show it
        raise ValueError(f"{what} must be one printable line, got {value!r}; {remedy}.")
    return value


def instance(kind: type | tuple[type, ...], remedy: str, **named: Any) -> Any:
    """Checks the type of a value; the message names both types and the remedy."""
    name, value = _only(named)
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        raise TypeError(
            f"{name} must be a {wanted}, got {type(value).__name__}{_remedy(remedy)}."
        )
    return value


def function(remedy: str, **named: Callable[..., Any]) -> Callable[..., Any]:
    """Checks that a value can be called."""
    name, value = _only(named)
    if not callable(value):
        raise TypeError(
            f"{name} must be a function, got {type(value).__name__}{_remedy(remedy)}."
        )
    return value


def nearest(word: Any, allowed: Iterable[str]) -> str:
    """Returns `did you mean 'x'?` for a near miss, otherwise an empty string."""
    close = difflib.get_close_matches(str(word), list(allowed), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def optional_module(name: str, *, extra: str, purpose: str) -> Any:
    """Imports a module that an optional extra installs; says which when it is missing.

    Raises:
        ModuleNotFoundError: the module is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise ModuleNotFoundError(
            f"{purpose} needs {package}, which is not installed; install it with "
            f"pip install 'jaxfed[{extra}]'.",
            name=package,
        ) from error


def setting(checked: Callable[..., Any], remedy: str = "", **named: Any) -> Any:
    """Checks a number, unless it is traced: one of a sweep's settings."""
    _, value = _only(named)
    return value if is_traced(value) else checked(remedy, **named)


def is_traced(value: Any) -> bool:
    """Returns whether a number is known when a program runs, and not before."""
    return isinstance(value, core.Tracer)
