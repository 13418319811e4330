"""A program: operations on numbered arrays, checked as a whole before any is run."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxfed.vault import _operations, _types
from jaxfed.vault._numpy import np
from jaxfed.vault._types import Type, require

Array = np.ndarray
_MOST_EQUATIONS = 20_000
_MOST_DEPTH = 4
_MOST_LENGTH = 1 << 20  # turns of a loop
_NESTED = {"scan": ("body",), "cond": ("branches",)}
_A_CALL = 16  # arrays that are handed over in the time of an operation


class Cost(NamedTuple):
    """What a program takes at most, known before it runs."""

    operations: dict[str, int]
    """How often each is written down; those of a loop's body once."""
    flops: int
    calls: int
    """How many operations are carried out: each takes some time, whatever its size."""
    peak_bytes: int
    """Of all arrays that are alive at once, operands included."""


class Program:
    """A checked program.

    Args:
        given: its plain values: `inputs`, `outputs` and `equations`.
        inputs: the types of its operands.
        constants: arrays that it may use by number.
        depth: how many programs it is in.

    Attributes:
        outputs: the types of its results.
        cost: what running it takes.

    Raises:
        PlanError: it is not a program.
    """

    def __init__(
        self, given: Any, inputs: list[Type], constants: list[Array], depth: int = 0
    ):
        names = {"inputs", "outputs", "equations"}
        require(type(given) is dict and set(given) == names, "a program is wrong")
        require(depth <= _MOST_DEPTH, "programs are nested too deeply")
        self._constants, self._depth = constants, depth
        self._types: dict[int, Type] = {}
        self._fixed: dict[int, Array] = {}
        self._code: list[Any] = []
        self._counts: dict[str, int] = {}
        self._scratch: list[int] = []
        self._flops = self._calls = self._inner_bytes = 0
        self._inputs = _types.registers(given["inputs"])
        require(len(self._inputs) == len(inputs), "operands must fit a program")
        for register, one in zip(self._inputs, inputs):
            self._define(register, one)
        equations = given["equations"]
        require(type(equations) is list, "equations must be listed")
        require(len(equations) <= _MOST_EQUATIONS, "a program is too long")
        for equation in equations:
            self._read(equation)
        self._results = _types.registers(given["outputs"])
        self.outputs = [self._type(register) for register in self._results]
        handed = len(self._inputs) + len(self._fixed) + len(self._results)
        calls = self._calls + handed // _A_CALL
        self.cost = Cost(self._counts, self._flops, calls, self._finish())

    def __call__(self, *arrays: Array) -> list[Array]:
        """Runs it on arrays of the types it was checked for."""
        with np.errstate(all="ignore"):  # as on every other machine, numbers say it
            return self._run(arrays)

    def _run(self, arrays: tuple[Array, ...]) -> list[Array]:
        registers = dict(self._fixed)
        registers.update(zip(self._inputs, arrays))
        for run, operands, results, dead in self._code:
            found = run(*[registers[register] for register in operands])
            if len(results) == 1:
                registers[results[0]] = found
            else:
                registers.update(zip(results, found))
            for register in dead:
                del registers[register]
        return [registers[register] for register in self._results]

    def _read(self, equation: Any) -> None:
        require(type(equation) is list and len(equation) == 4, "an equation is wrong")
        name, operands, results, attributes = equation
        require(type(name) is str, "an operation must be named", name)
        operands, results = _types.registers(operands), _types.registers(results)
        inputs = [self._type(register) for register in operands]
        if name == "constant":
            self._constant(operands, results, attributes)
            return
        if name in _NESTED:
            run, found = self._nested(name, inputs, attributes)
        else:
            run, found = self._plain(name, inputs, attributes)
        require(len(found) == len(results), "an equation has other results", name)
        for register, one in zip(results, found):
            self._define(register, one)
        self._counts[name] = self._counts.get(name, 0) + 1
        self._code.append([run, operands, results, ()])

    def _plain(self, name: Any, inputs: list[Type], given: Any) -> Any:
        operation, attributes = _operations.read(name, given)
        wanted = operation.operands
        fits = len(inputs) == wanted if wanted is not None else len(inputs) > 0
        require(fits, "an operation has other operands", name)
        found = operation.infer(inputs, attributes)
        cost = operation.flops
        elements = sum(one.size for one in found)
        self._flops += elements if cost is None else cost(inputs, found, attributes)
        calls = operation.calls
        self._calls += 1 if calls is None else calls(inputs, found, attributes)
        self._calls += len(inputs) // _A_CALL
        scratch = operation.scratch
        self._scratch.append(
            0 if scratch is None else scratch(inputs, found, attributes)
        )
        return _bound(operation.run, attributes, found), found

    def _nested(self, name: str, inputs: list[Type], given: Any) -> Any:
        require(type(given) is dict, "attributes must be named", name)
        build = _scan if name == "scan" else _cond
        run, found, turns, bodies = build(self._program, inputs, given)
        costs = [body.cost for body in bodies]
        self._flops += turns * max(cost.flops for cost in costs)
        self._calls += 1 + turns * max(1 + cost.calls for cost in costs)
        peak = max(cost.peak_bytes for cost in costs)
        self._inner_bytes = max(self._inner_bytes, peak)
        self._scratch.append(0)
        return run, found

    def _program(self, given: Any, inputs: list[Type]) -> Program:
        program = Program(given, inputs, self._constants, self._depth + 1)
        for name, count in program.cost.operations.items():
            self._counts[name] = self._counts.get(name, 0) + count
        return program

    def _constant(self, operands: Any, results: Any, given: Any) -> None:
        require(type(given) is dict and set(given) == {"number"}, "a constant is wrong")
        require(len(results) == 1 and not operands, "a constant is wrong")
        number = _types.natural(given["number"])
        require(number < len(self._constants), "there is no such constant", number)
        array = self._constants[number]
        self._define(results[0], Type(array.dtype.name, array.shape))
        self._fixed[results[0]] = array

    def _define(self, register: int, one: Type) -> None:
        require(register not in self._types, "an array is made twice", register)
        self._types[register] = one

    def _type(self, register: int) -> Type:
        require(register in self._types, "an array is used before it is made", register)
        return self._types[register]

    def _finish(self) -> int:
        """Notes after which operation each array is dead; returns the peak."""
        kept = {*self._results, *self._fixed}
        last: dict[int, int] = dict.fromkeys(self._inputs, -1)
        for place, (_, operands, results, _) in enumerate(self._code):
            last.update(dict.fromkeys((*operands, *results), place))
        dead: dict[int, list[int]] = {}
        for register, place in last.items():
            if register not in kept and place >= 0:
                dead.setdefault(place, []).append(register)
        alive = sum(self._types[r].bytes for r in (*self._inputs, *self._fixed))
        peak = alive
        for place, line in enumerate(self._code):
            alive += sum(self._types[r].bytes for r in line[2])
            peak = max(peak, alive + self._scratch[place])
            line[3] = tuple(dead.get(place, ()))
            alive -= sum(self._types[r].bytes for r in line[3])
        return peak + self._inner_bytes


def _bound(run: Any, attributes: dict[str, Any], found: list[Type]) -> Any:
    """Returns a call that keeps to the dtype of its result, whatever NumPy promotes."""
    dtypes = [np.dtype(one.dtype) for one in found]
    if len(dtypes) > 1:
        return lambda *x: run(*x, **attributes)
    (dtype,) = dtypes

    def call(*x: Array) -> Array:
        out = run(*x, **attributes)
        if type(out) is not np.ndarray or out.dtype != dtype:
            out = np.asarray(out).astype(dtype)
        return _owned(out)

    return call


def _owned(array: Array) -> Array:
    """Returns an array that keeps no larger one alive, as a view of a part does."""
    base = getattr(array, "base", None)
    if base is None or getattr(base, "nbytes", 0) <= array.nbytes:
        return array
    return array.copy()


def _scan(program: Any, inputs: list[Type], given: dict[str, Any]) -> Any:
    """A loop of a known number of turns; see `jax.lax.scan`."""
    names = {"length", "reverse", "num_constants", "num_carried", "body"}
    require(set(given) == names, "a loop is wrong")
    length = _types.natural(given["length"])
    require(length <= _MOST_LENGTH, "a loop is too long", length)
    is_reversed = _types.boolean(given["reverse"])
    fixed = _types.natural(given["num_constants"])
    first = fixed + _types.natural(given["num_carried"])
    require(first <= len(inputs), "a loop has too few operands")
    lined = inputs[first:]
    fits = all(x.rank and x.shape[0] == length for x in lined)
    require(fits, "a loop must have an element a turn", lined)
    one = [Type(x.dtype, x.shape[1:]) for x in lined]
    body = program(given["body"], [*inputs[:first], *one])
    carried = first - fixed
    require(body.outputs[:carried] == inputs[fixed:first], "a loop must keep its types")
    stacked = [
        _types.checked(x.dtype, [length, *x.shape]) for x in body.outputs[carried:]
    ]
    turns = range(length - 1, -1, -1) if is_reversed else range(length)

    def run(*arrays: Array) -> Any:
        carry = list(arrays[fixed:first])
        out = [np.zeros(x.shape, x.dtype) for x in stacked]
        for turn in turns:
            found = body(*arrays[:fixed], *carry, *(x[turn] for x in arrays[first:]))
            carry = found[:carried]
            for whole, part in zip(out, found[carried:]):
                whole[turn] = part
        found = [*map(_owned, carry), *out]
        return found[0] if len(found) == 1 else found

    found = [*inputs[fixed:first], *stacked]
    return run, found, length, [body]


def _cond(program: Any, inputs: list[Type], given: dict[str, Any]) -> Any:
    """One of several programs, by number."""
    require(set(given) == {"branches"}, "a choice is wrong")
    require(type(given["branches"]) is list, "a choice is wrong")
    require(0 < len(given["branches"]) <= 64, "a choice is wrong")
    require(len(inputs) > 0, "a choice is a number")
    require(inputs[0] == Type("int32", ()), "a choice is a number", inputs[0])
    branches = [program(branch, inputs[1:]) for branch in given["branches"]]
    found = branches[0].outputs
    require(all(b.outputs == found for b in branches), "branches must have one type")

    def run(number: Array, *arrays: Array) -> Any:
        chosen = min(max(int(number), 0), len(branches) - 1)
        results = branches[chosen](*arrays)
        return results[0] if len(results) == 1 else results

    return run, found, 1, branches
