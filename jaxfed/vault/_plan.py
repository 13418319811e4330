"""A plan: local work as data, read with suspicion.

A plan is compressed JSON of one canonical form, so that its hash names it. Everything
in it is checked before anything of it runs: sizes before memory is taken, every
program from its operations up, unknown fields not at all.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import zlib
from collections.abc import Generator
from typing import Any, NamedTuple

from jaxfed.vault import _made_up, _operations, _rules, _types
from jaxfed.vault._errors import PlanError
from jaxfed.vault._numpy import HAS_NUMPY, np
from jaxfed.vault._program import Array, Program
from jaxfed.vault._types import Type, require

FORMAT, VERSION = "jaxfed plan", 1
MOST_BYTES = 1 << 24 if HAS_NUMPY else 1 << 20  # of the JSON
_MOST_PARTS = 1 << 19  # lists, fields and what is in them: each takes 100 bytes
_FIELDS = {
    *("format", "version", "operations", "producer", "constants", "programs"),
    *("shared", "kept", "start", "carry", "update", "metrics", "rows", "batching"),
    *("check", "rules"),
}
_UNTYPED = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError),
    *(RecursionError, TypeError, ValueError),
)
_BATCHING = {"batch_size", "epochs", "steps"}
KEY, COUNT, WEIGHT = Type("uint32", (2,)), Type("int32", ()), Type("float32", ())


class Named(NamedTuple):
    """An array that a plan names."""

    name: str
    type: Type


class Batching(NamedTuple):
    """How examples are cut into steps: so many passes, or so many batches."""

    batch_size: int
    epochs: int | None
    steps: int | None


class Plan:
    """A checked plan.

    Args:
        data: what the server sent.
        most_bytes: of its JSON.

    Attributes:
        hash: SHA-256 of its canonical JSON, in hexadecimal.
        document: its plain values.
        shared: what the server sends to every client, leaf by leaf.
        kept: what a client keeps for its next round.
        start: what it keeps before its first one.
        carry: the types that go from step to step.
        update: what local work returns.
        metrics: the names of what a step says about itself; private.
        rows: one example, array by array.
        begin, step, finish: the programs.
        rules: what its server promises, or None of a plan that promises nothing.

    Raises:
        PlanError: it is not a plan, or not one that this version knows.
    """

    def __init__(self, data: bytes, *, most_bytes: int = MOST_BYTES):
        with _typed():
            self._fill(data, most_bytes)

    def _fill(self, data: bytes, most_bytes: int) -> None:
        text = _decompressed(data, most_bytes)
        self.document = given = _read(text)
        self.hash = hashlib.sha256(text).hexdigest()
        require(given.get("format") == FORMAT, "this is no plan", given.get("format"))
        for name, version in (
            ("version", VERSION),
            ("operations", _operations.VERSION),
        ):
            found = given.get(name)
            require(found == version, f"a plan must have {name} {version}", found)
        require(set(given) == _FIELDS, "a plan has other fields", sorted(given))
        self.shared, self.kept = _named(given["shared"]), _named(given["kept"])
        self.carry = _listed(given["carry"])
        self.update, self.rows = _named(given["update"]), _named(given["rows"])
        self.metrics = tuple(_name(one) for one in _list(given["metrics"]))
        self.batching = _batching(given["batching"])
        rules = given["rules"]
        size = len(self.update)
        self.rules = None if rules is None else _rules.read(rules, size)
        constants = [_constant(one) for one in _list(given["constants"])]
        self.start = [_constant(one) for one in _list(given["start"])]
        found = [Type(array.dtype.name, array.shape) for array in self.start]
        require(found == [n.type for n in self.kept], "a start has other types")
        self._build(given["programs"], constants)

    def _build(self, programs: Any, constants: list[Array]) -> None:
        require(type(programs) is dict, "programs must be named")
        known = {"begin", "step", "finish"}
        require(set(programs) == known, "a plan has other programs", sorted(programs))
        shared, kept = [n.type for n in self.shared], [n.type for n in self.kept]
        size = self.batching.batch_size
        rows = [Type(n.type.dtype, (size, *n.type.shape)) for n in self.rows]
        step = [*self.carry, *rows, Type("bool", (size,)), COUNT, KEY]
        self.begin = Program(programs["begin"], [*shared, *kept], constants)
        self.step = Program(programs["step"], step, constants)
        self.finish = Program(programs["finish"], [*shared, *self.carry], constants)
        self.inputs = {"begin": [*shared, *kept], "step": step}
        self.inputs["finish"] = [*shared, *self.carry]
        metrics = [WEIGHT] * len(self.metrics)
        for program, wanted in (
            (self.begin, self.carry),
            (self.step, [*self.carry, *metrics]),
            (self.finish, [*(n.type for n in self.update), WEIGHT, *kept]),
        ):
            require(program.outputs == wanted, "a program returns other types")

    def check_itself(self) -> None:
        """Runs every program on made-up arrays, and compares with what JAX found.

        Raises:
            PlanError: this machine computes something else.
        """
        wanted = self.document["check"]
        names = type(wanted) is dict and set(wanted) == set(self.inputs)
        require(names, "a plan must say what its programs return")
        for name, inputs in self.inputs.items():
            with _typed():
                found = getattr(self, name)(*_made_up.arrays(inputs))
                _made_up.compare(name, _made_up.summary(found), wanted[name])


@contextlib.contextmanager
def _typed() -> Generator[None, None, None]:
    """Turns whatever a hostile plan makes Python or NumPy say into a refusal."""
    try:
        yield
    except PlanError:
        raise
    except _UNTYPED as error:
        raise PlanError(f"a plan cannot be run: {type(error).__name__}") from None


def canonical(document: Any) -> bytes:
    """Returns the one text of a document."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def compressed(text: bytes) -> bytes:
    """Returns a plan as it is sent."""
    return zlib.compress(text, 9)


def _decompressed(data: bytes, most: int) -> bytes:
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(data, most + 1)
    except zlib.error as error:
        raise PlanError(f"a plan must be compressed: {error}") from None
    require(len(text) <= most, f"a plan must have at most {most} bytes")
    require(reader.eof and not reader.unused_data, "a plan is cut off, or too long")
    return text


def _read(text: bytes) -> dict[str, Any]:
    parts = sum(map(text.count, (b",", b"[", b"{")))
    require(parts <= _MOST_PARTS, f"a plan must have at most {_MOST_PARTS} parts")
    try:
        found = json.loads(text)
        is_one = canonical(found) == text
    except (ValueError, RecursionError) as error:
        raise PlanError(f"a plan must be JSON: {type(error).__name__}") from None
    require(is_one and type(found) is dict, "a plan must be in canonical form")
    return dict(found)


def _list(given: Any) -> list[Any]:
    require(type(given) is list and len(given) <= 4096, "a list is wrong")
    return list(given)


def _name(given: Any) -> str:
    fits = type(given) is str and 0 < len(given) <= 200 and given.isprintable()
    require(fits, "a name is wrong", given)
    return str(given)


def _type(given: Any) -> Type:
    require(type(given) is list and len(given) == 2, "a type is wrong", given)
    return _types.checked(*given)


def _listed(given: Any) -> list[Type]:
    return [_type(one) for one in _list(given)]


def _named(given: Any) -> list[Named]:
    found = []
    for one in _list(given):
        require(type(one) is list and len(one) == 3, "an array is wrong", one)
        found.append(Named(_name(one[0]), _type(one[1:])))
    names = [one.name for one in found]
    require(len(set(names)) == len(names), "two arrays have one name", names)
    return found


def _batching(given: Any) -> Batching:
    require(type(given) is dict and set(given) == _BATCHING, "batching is wrong", given)
    number = {
        name: None if value is None else _types.positive(value)
        for name, value in given.items()
    }
    fits = (number["epochs"] is None) != (number["steps"] is None)
    require(fits and number["batch_size"] is not None, "batching is wrong", given)
    return Batching(number["batch_size"] or 1, number["epochs"], number["steps"])


def _constant(given: Any) -> Array:
    require(type(given) is list and len(given) == 3, "a constant is wrong")
    dtype, shape, text = given
    one = _types.checked(dtype, shape)
    fits = type(text) is str and len(text) == 4 * -(-one.bytes // 3)
    require(fits, "a constant has another length", one)
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise PlanError("a constant must be base64") from None
    require(len(data) == one.bytes, "a constant has another length", one)
    found = np.frombuffer(data, np.dtype(one.dtype).newbyteorder("<"))
    if one.dtype == "bool":
        require(bool((found.view(np.uint8) <= 1).all()), "a truth value is 0 or 1")
    return found.astype(one.dtype).reshape(one.shape)
