"""From a function to the equations of a plan: traced with JAX, inlined, and lowered.

A plan has fewer operations than JAX: what can be said by others is, so that a vault has
less to check. An unknown primitive, and an unknown parameter of a known one, is refused
by its name.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from jaxfed.deploy import _lower

_INLINED = {
    "checkpoint",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "jit",
    "pjit",
    "remat",
    "remat2",
}
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Constants:
    """The arrays that the programs of a plan share, each once."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def number_of(self, array: np.ndarray) -> int:
        """Returns the number of an array, which is added if it is new."""
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = len(self.arrays)
            self.arrays.append(array)
        return self._known[key]


class Tracing:
    """Equations as they are written; registers are numbered as they come.

    Args:
        constants: of the plan.

    Attributes:
        equations: `[operation, operands, results, attributes]`.
    """

    def __init__(self, constants: Constants):
        self.constants = constants
        self.equations: list[list[Any]] = []
        self._next = itertools.count()

    def add(self, name: str, operands: Sequence[int], **attributes: Any) -> int:
        """Writes an equation with one result; returns its register."""
        return self.add_several(name, operands, 1, **attributes)[0]

    def add_several(
        self, name: str, operands: Sequence[int], results: int, **attributes: Any
    ) -> list[int]:
        """Writes an equation; returns the registers of its results."""
        found = [self.new() for _ in range(results)]
        self.equations.append([name, list(operands), found, attributes])
        return found

    def new(self) -> int:
        """Returns a new register."""
        return next(self._next)

    def constant(self, value: Any) -> int:
        """Returns the register of a constant."""
        array = host_array(value)
        return self.add("constant", [], number=self.constants.number_of(array))

    def program(self, closed: Any) -> dict[str, Any]:
        """Returns the program of a closed jaxpr, such as the body of a loop."""
        inner = Tracing(self.constants)
        registers = [inner.new() for _ in closed.jaxpr.invars]
        outputs = inner.inline(closed.jaxpr, closed.consts, registers)
        return {
            "inputs": registers,
            "outputs": outputs,
            "equations": inner.equations,
        }

    def inline(
        self, jaxpr: Any, consts: Sequence[Any], given: Sequence[int]
    ) -> list[int]:
        """Writes all equations of a jaxpr; returns the registers of its results."""
        known = dict(zip(jaxpr.invars, given, strict=True))
        for variable, value in zip(jaxpr.constvars, consts, strict=True):
            known[variable] = self.constant(value)

        def register(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self.constant(np.asarray(atom.val, atom.aval.dtype))
            return known[atom]

        for equation in jaxpr.eqns:
            operands = [register(atom) for atom in equation.invars]
            results = self._equation(equation, operands)
            known.update(zip(equation.outvars, results, strict=True))
        return [register(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, operands: list[int]) -> list[int]:
        name, params = equation.primitive.name, equation.params
        if name in _INLINED:
            body = next(params[key] for key in _BODIES if key in params)
            jaxpr = getattr(body, "jaxpr", body)
            return self.inline(jaxpr, getattr(body, "consts", ()), operands)
        return _lower.lowered(self, equation, operands)


def host_array(value: Any) -> np.ndarray:
    """Returns an array of a dtype that plans have; keys as their words.

    Raises:
        ValueError: it has another dtype.
    """
    if hasattr(value, "dtype") and jax.dtypes.issubdtype(
        value.dtype, jax.dtypes.prng_key
    ):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    _lower.dtype_of(array.dtype)
    return np.ascontiguousarray(array).reshape(array.shape)


def traced(
    function: Callable[..., Any], arguments: Sequence[Any], constants: Constants
) -> dict[str, Any]:
    """Returns the program of a function: plain values, as a plan holds them.

    Args:
        function: of pytrees of arrays, to pytrees of arrays; pure.
        arguments: arrays, or their shapes and dtypes.
        constants: of the plan; gets those of this program.

    Raises:
        ValueError: it does what a plan cannot say.
    """
    return Tracing(constants).program(jax.make_jaxpr(function)(*arguments))
