"""The probe: times one local step in a loop and called from Python, side by side.

The answer is kept on disk, because it holds for a model and a kind of device, and so
that the same program runs in the same way again.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed import _program
from jaxfed.typing import Batch, FederatedAlgorithm, Params, Shared

_REPEATS = 3
_LEAST_SECONDS = 0.01  # of a timing; shorter ones are repeated in one go
_LONG_SECONDS = 0.2
_FILE = "strategies.json"


class Step:
    """One local step on made-up rows, as the engine would run it.

    Args:
        algorithm: whose local work.
        params: the model's parameters.
        rows: a few rows of the data, for shapes and dtypes.
        width: how many rows a batch has.
    """

    def __init__(
        self,
        algorithm: FederatedAlgorithm,
        params: Params,
        rows: dict[str, Any],
        width: int,
    ):
        self._algorithm, self._params = algorithm, params
        self._rows = {
            n: jnp.zeros((width, *a.shape[1:]), jax.dtypes.canonicalize_dtype(a.dtype))
            for n, a in rows.items()
        }
        self._width = width
        self.jaxpr = jax.make_jaxpr(self._one)(self._start(), jnp.zeros((), jnp.int32))

    def primitives(self) -> set[str]:
        """Returns the names of all primitives in the step, inner programs included."""
        return _primitives(self.jaxpr)

    def fingerprint(self) -> str:
        """Returns a hash of the step's program and of what runs it.

        Values of arrays that it closes over are left out: they decide on no time, may
        be private, and the hash is kept on disk.
        """
        found = hashlib.sha256(str(jax.device_count()).encode())
        found.update(_program.text_of(self.jaxpr))
        found.update(repr(_program.machine()).encode())
        return found.hexdigest()

    def seconds_in_loop(self, lanes: int) -> float:
        """Times a step of one client inside a loop of a compiled program."""

        def run(carry: Any, count: Any) -> Any:
            return lax.fori_loop(0, count, lambda i, c: self._all(c, i, lanes), carry)

        program, carry = jax.jit(run), self._carries(lanes)
        return _timed(lambda count: program(carry, count)) / lanes

    def seconds_stepped(self, lanes: int) -> float:
        """Times a step of one client as a program of its own, called from Python."""
        program = jax.jit(
            lambda carry, i: (self._all(carry, i, lanes), i + 1), donate_argnums=(0, 1)
        )

        def run(count: int) -> Any:
            carry, index = self._carries(lanes), jnp.zeros((), jnp.int32)
            for _ in range(count):
                carry, index = program(carry, index)
            return carry

        return _timed(run) / lanes

    def _all(self, carry: Any, index: Any, lanes: int) -> Any:
        if lanes == 1:
            return self._one(carry, index)
        return jax.vmap(self._one, (0, None))(carry, index)

    def _one(self, carry: Any, index: Any) -> Any:
        is_real = jnp.ones(self._width, bool)
        batch = Batch(self._rows, is_real, jnp.int32(self._width))
        key = jax.random.fold_in(jax.random.key(0), index)
        return self._algorithm.local.step(carry, batch, key=key)[0]

    def _start(self) -> Any:
        server = self._algorithm.init(self._params)
        shared: Shared = self._algorithm.broadcast(server)
        local = self._algorithm.local
        return local.init(shared, local.init_client(self._params))

    def _carries(self, lanes: int) -> Any:
        one = jax.tree.map(jnp.array, self._start())  # copies: they are given away
        if lanes == 1:
            return one
        return jax.tree.map(lambda a: jnp.repeat(a[None], lanes, axis=0), one)


def remembered(
    key: str, names: Iterable[str], measure: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Returns seconds measured before, or measures now and keeps them on disk.

    In the folder named by `JAXFED_CACHE_DIR`, or `~/.cache/jaxfed`. A folder that
    cannot be found or written, or a damaged file, costs a measurement in each process.

    Args:
        key: what is measured.
        names: of what an answer has to hold the seconds.
        measure: gives the seconds of these names.
    """
    if key in _in_memory:
        return _in_memory[key]
    path = _file()
    found = _read(path).get(key, {})
    usable = all(math.isfinite(value) and value > 0 for value in found.values())
    if set(found) != set(names) or not usable:
        found = measure()
        _write(path, key, found)
    _in_memory[key] = found
    return found


_in_memory: dict[str, dict[str, float]] = {}


def _file() -> pathlib.Path | None:
    """Returns where answers are kept; None where there is no home."""
    named = os.environ.get("JAXFED_CACHE_DIR")
    if named:
        return pathlib.Path(named) / _FILE
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return pathlib.Path(base).expanduser() / "jaxfed" / _FILE
    except RuntimeError:
        return None


def _read(path: pathlib.Path | None) -> dict[str, dict[str, float]]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(key): {str(n): float(s) for n, s in seconds.items()}
            for key, seconds in found.items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(path: pathlib.Path | None, key: str, seconds: dict[str, float]) -> None:
    """Adds an answer to those that are in the file by now."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.NamedTemporaryFile(
                "w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8"
            ) as file,
            contextlib.ExitStack() as undo,
        ):
            undo.callback(os.unlink, file.name)
            json.dump(_read(path) | {key: seconds}, file, indent=1)
            file.flush()
            os.replace(file.name, path)  # whole or not at all, for others too
            undo.pop_all()
    except OSError:
        return


def _timed(run: Callable[[int], Any]) -> float:
    """Returns the least seconds of one step; each timing lasts long enough."""
    jax.block_until_ready(run(1))  # compile
    count = 1
    while True:
        taken = _seconds(run, count)
        if taken >= _LONG_SECONDS:  # noise does not matter
            return taken / count
        if taken >= _LEAST_SECONDS:
            break
        count = min(4 * count, max(count + 1, int(count * _LEAST_SECONDS / taken) + 1))
    return min([taken, *(_seconds(run, count) for _ in range(_REPEATS - 1))]) / count


def _seconds(run: Callable[[int], Any], count: int) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(count))
    return time.perf_counter() - start


def _primitives(jaxpr: Any) -> set[str]:
    found = set()
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        found.add(equation.primitive.name)
        for inner in _program.inner_programs(equation):
            found |= _primitives(inner)
    return found
