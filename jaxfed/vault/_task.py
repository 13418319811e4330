"""What goes between a server and a vault: tasks, models and reports.

A task names everything else by its hash. Both sides check both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxfed.vault import _participation, _wire
from jaxfed.vault._errors import WireError
from jaxfed.vault._numpy import np
from jaxfed.vault._plan import Named, Plan, canonical
from jaxfed.vault._types import Type

MOST_TASK = 1 << 14  # bytes
MOST_SECONDS = 10**7
_NORMS = "norms"
_WORD = 1 << 32
_PAIRS = ("training", "encoding", "order")


class Task(NamedTuple):
    """What a server asks one client for; as confidential as its connection."""

    run: str
    """A hash: which run, of which ledger."""
    round: int
    attempt: int
    plan: str
    """The hash of the plan."""
    model: str
    """The hash of the model that comes with it."""
    client: int
    """The client's number in the population."""
    training: list[int]
    """Two words of 32 bits: the key of local randomness."""
    encoding: list[int]
    """The key of randomised rounding."""
    order: list[int]
    """The order of examples: the upper word first."""
    seconds: float
    """How long the server waits for the report, from when it sent this."""

    def remembered(self) -> _participation.Task:
        """Returns what a vault writes down."""
        inputs = [self.model, self.client, self.training, self.encoding, self.order]
        digest = hashlib.sha256(canonical(inputs)).hexdigest()
        return _participation.Task(
            self.run, self.round, self.attempt, self.plan, digest
        )

    def header(self) -> dict[str, str]:
        """Returns the words that a report carries: what it answers."""
        names = ("run", "round", "attempt", "plan", "model")
        return {name: str(getattr(self, name)) for name in names}


def encode_task(task: Task) -> bytes:
    """Returns a task as it is sent."""
    return canonical(task._asdict())


def decode_task(data: bytes) -> Task:
    """Reads a task.

    Raises:
        WireError: it is none.
    """
    _require(len(data) <= MOST_TASK, "a task is too long")
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        raise WireError("a task must be JSON") from None
    named = type(given) is dict and set(given) == set(Task._fields)
    _require(named, "a task has other fields")
    for name in ("run", "plan", "model"):
        _require(is_digest(given[name]), f"{name} must be a hash")
    for name in ("round", "attempt", "client"):
        _require(_is_word(given[name]), f"{name} must be a number")
    for name in _PAIRS:
        pair = given[name]
        fits = type(pair) is list and len(pair) == 2 and all(map(_is_word, pair))
        _require(fits, f"{name} must be two words")
    seconds = given["seconds"]
    is_time = type(seconds) in (int, float) and 0 < seconds <= MOST_SECONDS
    _require(is_time, "seconds must be a time")
    return Task(**given)


def model_types(plan: Plan) -> dict[str, Type]:
    """Returns the arrays of a model as it is sent."""
    assert plan.rules is not None
    found = {f"shared/{one.name}": one.type for one in plan.shared}
    return {**found, _NORMS: Type("float32", (len(plan.rules.groups),))}


def size_of_model(plan: Plan) -> int:
    """Returns how many bytes a model takes at most."""
    return _wire.size_of(model_types(plan))


def encode_model(shared: Sequence[np.ndarray], norms: np.ndarray, plan: Plan) -> bytes:
    """Returns what all clients of a round get."""
    arrays: dict[str, Any] = {
        f"shared/{one.name}": array for one, array in zip(plan.shared, shared)
    }
    return _wire.encode({**arrays, _NORMS: norms}, {})


def decode_model(data: bytes, plan: Plan) -> tuple[list[np.ndarray], np.ndarray]:
    """Reads what the server sent: the shared arrays, and the clip norms.

    Raises:
        WireError: it is anything else.
    """
    found, _ = _wire.decode(data, model_types(plan))
    return [found[f"shared/{one.name}"] for one in plan.shared], found[_NORMS]


def report_types(update: Sequence[Named], *, counts: bool) -> dict[str, Type]:
    """Returns the arrays of a report."""
    found = {f"update/{one.name}": Type("int32", one.type.shape) for one in update}
    return {**found, "count": Type("int32", ())} if counts else found


def encode_report(
    task: Task, update: Sequence[Named], values: Sequence[np.ndarray], count: int | None
) -> bytes:
    """Returns what a vault answers: integers within their bound."""
    arrays: dict[str, Any] = {
        f"update/{one.name}": array for one, array in zip(update, values)
    }
    if count is not None:
        arrays["count"] = np.asarray(count, np.int32)
    return _wire.encode(arrays, task.header())


def decode_report(
    data: bytes, expected: Mapping[str, Type]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a report: its integers, and what it answers.

    Raises:
        WireError: it is anything else.
    """
    found, words = _wire.decode(data, expected)
    names = {"run", "round", "attempt", "plan", "model"}
    _require(set(words) == names, "a report must say what it answers")
    return found, words


def digest(data: bytes) -> str:
    """Returns the hash that names a plan's or a model's bytes."""
    return hashlib.sha256(data).hexdigest()


def is_digest(value: Any) -> bool:
    """Returns whether a value is a SHA-256 in hexadecimal."""
    is_text = type(value) is str and len(value) == 64
    return is_text and not set(value) - set("0123456789abcdef")


def _is_word(value: Any) -> bool:
    return type(value) is int and 0 <= value < _WORD


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise WireError(what)
