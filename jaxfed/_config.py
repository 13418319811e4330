"""Configuration that prints, hashes, compares and serialises.

A behaviour that carries a guarantee is a frozen keyword-only dataclass deriving
from `Configuration`. Its fields are public settings: numbers, words, or other
configurations; private data arrives only as method arguments.
"""

import dataclasses
import inspect
import json
from typing import Any, ClassVar, Self

import numpy as np

from jaxfed import _check as check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration:
    """Base of frozen dataclasses that can be written as JSON and read back."""

    _kinds: ClassVar[dict[str, type["Configuration"]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """Registers the class; what carries a guarantee can be neither bent nor faked.

        Raises:
            TypeError: a base is a concrete configuration, or the name is taken.
        """
        super().__init_subclass__(**options)
        for base in cls.__mro__[1:]:
            if base in Configuration._kinds.values() and not inspect.isabstract(base):
                raise TypeError(
                    f"{cls.__name__} must not derive from {base.__name__}: its "
                    "guarantee is about its own code; wrap it, or derive from the "
                    "abstract class."
                )
        if cls.__name__ in Configuration._kinds:
            raise TypeError(
                f"there is already a configuration named {cls.__name__}; choose "
                "another name."
            )
        Configuration._kinds[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """Returns plain Python values, with the class name under `"kind"`."""
        fields = dataclasses.fields(self)
        values = {f.name: _plain(getattr(self, f.name)) for f in fields if f.init}
        return {"kind": type(self).__name__, **values}

    def to_json(self) -> str:
        """Returns the configuration as one line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuilds what `to_dict` wrote; every check of the class runs again.

        Raises:
            ValueError: for an unknown kind, or a kind other than this class.
            TypeError: a field is missing or unknown.
        """
        check.instance(dict, "pass what to_dict() returned", values=values)
        kind = values.get("kind")
        allowed = {
            name: known
            for name, known in Configuration._kinds.items()
            if issubclass(known, cls) and not inspect.isabstract(known)
        }
        known = allowed.get(str(kind))
        if known is None:
            raise ValueError(
                f"kind must be one of {', '.join(sorted(allowed))}, got {kind!r}; was "
                "it written by a newer version of jaxfed?"
            )
        fields = {k: _value(v) for k, v in values.items() if k != "kind"}
        return known(**fields)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuilds what `to_json` wrote."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"text must be JSON, got {text[:40]!r} ({error}); pass what to_json() "
                "returned, not a path."
            ) from error
        return cls.from_dict(values)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return value.to_dict() if isinstance(value, Configuration) else value


def _value(value: Any) -> Any:
    return Configuration.from_dict(value) if isinstance(value, dict) else value
