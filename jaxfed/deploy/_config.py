"""The configuration of a server: one TOML file, of which every name is known."""

import importlib.util
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxfed import _check as check
from jaxfed.deploy._pace import Pace


class ConfigError(ValueError):
    """A configuration is not one; nothing was begun."""


_TABLES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "run": {
        "build": str,
        "rounds": int,
        "ledger": str,
        "folder": str,
        "clients": str,
        "signing_key": str,
        "name": str,
        "output": str,
        "report": str,
    },
    "pace": {
        "deadline_seconds": (int, float),
        "least_cohort": int,
        "goal": int,
        "most_attempts": int,
    },
    "http": {
        "host": str,
        "port": int,
        "certificate": str,
        "key": str,
        "authority": str,
        "revoked": str,
    },
    "status": {"port": int},
}
_REQUIRED = {
    "run": ("build", "rounds", "ledger", "folder", "clients", "signing_key"),
    "http": ("certificate", "key", "authority"),
}


class Config(NamedTuple):
    """A checked configuration; paths are relative to its own folder."""

    folder: Path
    run: dict[str, Any]
    pace: Pace
    http: dict[str, Any]
    status: dict[str, Any]

    def path(self, table: str, name: str) -> Path:
        """Returns a path that the configuration names."""
        return self.folder / getattr(self, table)[name]

    def clients(self) -> list[str]:
        """Returns the names of all enrolled clients."""
        return _read(self.path("run", "clients")).decode("utf-8").split()

    def signing_key(self) -> bytes:
        """Returns the secret key that plans are signed with.

        Raises:
            ConfigError: it is not one.
        """
        place = self.path("run", "signing_key")
        try:
            found = bytes.fromhex(_read(place).decode("ascii").strip())
        except ValueError:
            found = b""
        if len(found) != 32:
            raise ConfigError(
                f"run.signing_key must name a file of 64 hexadecimal digits, got "
                f"{place}; make one with `python -m jaxfed.deploy key`."
            )
        return found

    def build(self) -> Callable[[], Any]:
        """Returns the operator's function that makes what is run.

        Raises:
            ConfigError: there is none.
        """
        place, _, name = self.run["build"].partition(":")
        path = self.folder / place
        spec = importlib.util.spec_from_file_location("jaxfed_run", path)
        if not (name and spec is not None and spec.loader):
            raise ConfigError(
                f"run.build must be file.py:function, got {self.run['build']!r}; the "
                "function returns algorithm, params, examples, and what evaluates."
            )
        if not path.is_file():
            raise ConfigError(f"run.build must name a file that is there, got {path}.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not callable(getattr(module, name, None)):
            raise ConfigError(f"{path} must have the function {name!r}.")
        return getattr(module, name)


def read(path: Path) -> Config:
    """Reads a configuration.

    Raises:
        ConfigError: it is missing, or holds what nobody knows.
    """
    try:
        given = tomllib.loads(_read(path).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} must be TOML: {error}.") from None
    for table, values in given.items():
        _check_known("a table", table, _TABLES)
        if not isinstance(values, dict):
            raise ConfigError(f"{table} must be a table, got {values!r}.")
        for name, value in values.items():
            _check_known(f"{table}.", name, _TABLES[table])
            kind = _TABLES[table][name]
            if not isinstance(value, kind) or isinstance(value, bool):
                shown = getattr(kind, "__name__", "number")
                raise ConfigError(f"{table}.{name} must be {shown}, got {value!r}.")
    for table, names in _REQUIRED.items():
        for name in names:
            if name not in given.get(table, {}):
                raise ConfigError(f"{path} must name {table}.{name}; add it.")
    try:
        pace = Pace(**given.get("pace", {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"pace: {error}") from None
    return Config(
        path.resolve().parent,
        given["run"],
        pace,
        given["http"],
        given.get("status", {}),
    )


def _check_known(what: str, name: str, known: dict[str, Any]) -> None:
    if name not in known:
        hint = check.nearest(name, list(known)) or f"known are {', '.join(known)}."
        raise ConfigError(f"{what}{name!r} must be a known name; {hint}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} must be a file to read: {error.strerror}.") from None
