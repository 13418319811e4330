"""Export: local work as a plan that a vault runs without JAX."""

import base64
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.data import FederatedData
from jaxfed.deploy import _lower, _simplify
from jaxfed.deploy._trace import Constants, host_array, traced
from jaxfed.typing import Batch, FederatedAlgorithm, Params, PyTree
from jaxfed.vault import _made_up, _operations, _plan
from jaxfed.vault._plan import Plan

_TOLERANCE = 1e-4  # of a check, relative to the largest value


def export(
    algorithm: FederatedAlgorithm,
    data: FederatedData | Mapping[str, Any],
    params: Params,
    *,
    rules: Mapping[str, Any] | None = None,
) -> bytes:
    """Returns local work as a plan: compressed JSON, the same for the same work.

    Every plan is run in NumPy and with JAX, on made-up inputs, before it is returned.

    Args:
        algorithm: whose local work; any that is a step and a sum.
        data: the clients' examples, or arrays with a few of them: names, dtypes and
            shapes are looked at alone. A plan asks for those that a step reads.
        params: the model's parameters.
        rules: what vaults are promised, from `rules_of`; without, no vault takes part.

    Raises:
        ValueError: local work does what a plan cannot say; the message names it.
        AssertionError: NumPy and JAX disagree.
    """
    check.instance(
        FederatedAlgorithm,
        "pass for example algorithms.fedavg(...)",
        algorithm=algorithm,
    )
    arrays = data.arrays if isinstance(data, FederatedData) else dict(data)
    work = _Work(algorithm, arrays, params)
    used = work.used()
    work = _Work(algorithm, arrays, params, used)
    arrays = {name: array for name, array in arrays.items() if name in used}
    constants = Constants()
    programs = {
        name: _simplify.simplified(traced(function, arguments, constants))
        for name, (function, arguments) in work.functions.items()
    }
    _check_size(constants.arrays)
    document = {
        "format": _plan.FORMAT,
        "version": _plan.VERSION,
        "operations": _operations.VERSION,
        "producer": {
            name: importlib.metadata.version(name) for name in ("jaxfed", "jax")
        },
        "constants": [_constant(array) for array in constants.arrays],
        "programs": programs,
        "shared": _named(work.shared),
        "kept": _named(work.kept),
        "start": [_constant(host_array(leaf)) for leaf in jax.tree.leaves(work.kept)],
        "carry": [_type(leaf) for leaf in jax.tree.leaves(work.carry)],
        "update": _named(work.update),
        "metrics": work.metrics,
        "rows": [
            [name, *_type(array, skip=1)] for name, array in sorted(arrays.items())
        ],
        "batching": work.batching,
        "check": {name: [] for name in programs},
        "rules": None if rules is None else dict(rules),
    }
    unchecked = Plan(_plan.compressed(_plan.canonical(document)))
    document["check"] = work.compared(unchecked)
    return _plan.compressed(_plan.canonical(document))


class _Work:
    """Local work as three functions of leaves, and all their types.

    Args:
        algorithm: whose.
        arrays: the clients' examples.
        params: the model's parameters.
        used: the arrays that a client reads; all if None.
    """

    def __init__(
        self,
        algorithm: FederatedAlgorithm,
        arrays: Mapping[str, Any],
        params: Params,
        used: Sequence[str] | None = None,
    ):
        local = algorithm.local
        if local.batching.rate is not None:
            raise ValueError(
                "local work must take shuffled batches, got a sampling rate; export "
                "work without privacy.example_level."
            )
        if local.compression is not None:
            raise ValueError(
                f"local work must not be compressed, got {local!r}: a vault reports "
                "the integers of its clip, all of them; export the local work inside."
            )
        if getattr(algorithm.aggregator, "keeps_reports", False):
            raise ValueError(
                f"a plan's reports are added up, which {algorithm.aggregator!r} does "
                "not: it needs every single one; pass privacy.central(...)."
            )
        size = local.batching.batch_size
        self.batching = {
            "batch_size": size,
            "epochs": local.batching.epochs,
            "steps": local.batching.steps,
        }
        self.shared = algorithm.broadcast(algorithm.init(params))
        self.kept = local.init_client(params)
        rows = {
            name: jax.ShapeDtypeStruct(
                (size, *np.shape(array)[1:]),
                jax.dtypes.canonicalize_dtype(np.asarray(array).dtype),
            )
            for name, array in sorted(arrays.items())
        }
        names = list(rows) if used is None else list(used)
        self.rows = {name: rows[name] for name in names}
        rest = {name: rows[name] for name in rows if name not in names}
        self.carry = jax.eval_shape(local.init, self.shared, self.kept)
        real = jax.ShapeDtypeStruct((size,), jnp.bool_)
        count = jax.ShapeDtypeStruct((), jnp.int32)
        key = jax.eval_shape(lambda: jax.random.key(0))

        def step(carry: PyTree, rows: Any, real: Any, count: Any, key: Any) -> Any:
            if rest:
                unread = {n: jnp.zeros(s.shape, s.dtype) for n, s in rest.items()}
                rows = {**unread, **rows}
            return local.step(carry, Batch(rows, real, count), key=key)

        def finish(shared: Any, carry: PyTree) -> Any:
            result = local.finish(shared, carry)
            weight = jnp.asarray(result.weight, jnp.float32)
            return result.update, weight, result.client_state

        _, metrics = jax.eval_shape(step, self.carry, self.rows, real, count, key)
        self.metrics = sorted(metrics)
        self.update = jax.eval_shape(finish, self.shared, self.carry)[0]
        stepping = (self.carry, self.rows, real, count, key)
        self.functions = {
            "begin": _flat(local.init, (self.shared, self.kept)),
            "step": _flat(step, stepping),
            "finish": _flat(finish, (self.shared, self.carry)),
        }

    def used(self) -> list[str]:
        """Returns the arrays that a step reads, one at least: a plan asks no more."""
        function, arguments = self.functions["step"]
        program = _simplify.simplified(traced(function, arguments, Constants()))
        first = len(jax.tree.leaves(self.carry))
        registers = program["inputs"][first : first + len(self.rows)]
        read = {one for equation in program["equations"] for one in equation[1]}
        read |= set(program["outputs"])
        places = zip(self.rows, registers, strict=True)
        return [name for name, one in places if one in read] or list(self.rows)[:1]

    def compared(self, plan: Plan) -> dict[str, Any]:
        """Runs all programs in NumPy and with JAX; returns summaries of JAX's results.

        Raises:
            AssertionError: they disagree.
        """
        summaries = {}
        for name, (function, arguments) in self.functions.items():
            given = _made_up.arrays(plan.inputs[name])
            found = getattr(plan, name)(*given)
            typed = [_typed(a, spec) for a, spec in zip(given, arguments, strict=True)]
            wanted = [host_array(leaf) for leaf in jax.jit(function)(*typed)]
            for one, other in zip(found, wanted, strict=True):
                _check_close(name, one, other)
            summaries[name] = _made_up.summary(wanted)
        return summaries


def _flat(function: Any, arguments: Any) -> Any:
    """Returns a function of leaves, and their shapes."""
    leaves, structure = jax.tree.flatten(arguments)

    def flat(*given: Any) -> list[Any]:
        return jax.tree.leaves(function(*structure.unflatten(given)))

    specs = [
        jax.eval_shape(lambda leaf=leaf: jnp.asarray(leaf))
        if not isinstance(leaf, jax.ShapeDtypeStruct)
        else leaf
        for leaf in leaves
    ]
    return flat, specs


def _typed(array: np.ndarray, spec: Any) -> jax.Array:
    if jax.dtypes.issubdtype(spec.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array))
    return jnp.asarray(array)


def _check_close(name: str, found: np.ndarray, wanted: np.ndarray) -> None:
    if found.dtype.kind != "f":
        assert np.array_equal(found, wanted), f"{name}: integers differ"
        return
    largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-3)
    both = np.isfinite(wanted)
    assert np.array_equal(both, np.isfinite(found)), f"{name}: NaN or infinity differ"
    error = np.abs(found - wanted)[both].max(initial=0.0) / largest
    assert error <= _TOLERANCE, f"{name}: differs by {error:.2g} of the largest value"


def _named(values: PyTree) -> list[list[Any]]:
    found: list[list[Any]] = []
    tree.map_with_names(lambda name, leaf: found.append([name, *_type(leaf)]), values)
    return found


def _type(leaf: Any, *, skip: int = 0) -> list[Any]:
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype) if skip else leaf.dtype
    return [_lower.dtype_of(dtype), _lower.shape_of(leaf)[skip:]]


def _check_size(arrays: Sequence[np.ndarray]) -> None:
    """Refuses more constants than a vault reads: base64 takes 4 bytes for 3."""
    size, most = sum(array.nbytes for array in arrays), _plan.MOST_BYTES * 3 // 4
    if size > most:
        raise ValueError(
            "what local work holds beside its parameters, such as the frozen part of a "
            f"model, must fit a plan: at most {most:,} bytes, got {size:,}; hold less, "
            "or train it without vaults."
        )


def _constant(array: np.ndarray) -> list[Any]:
    little = array.astype(array.dtype.newbyteorder("<"))
    text = base64.b64encode(little.tobytes()).decode("ascii")
    return [array.dtype.name, list(array.shape), text]
