"""The operations that a plan may use: attributes, types of results, arrays, and cost.

Whatever is not in this table is never run. `VERSION` changes with every change of what
an operation means.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxfed.vault import _arrays as arrays
from jaxfed.vault import _costs as costs
from jaxfed.vault import _products as products
from jaxfed.vault import _shapes as shapes
from jaxfed.vault import _shapes_of_products as wide
from jaxfed.vault import _types as types
from jaxfed.vault._numpy import HAS_NUMPY, np
from jaxfed.vault._types import PlanError, Type, require

VERSION = 1


class Operation(NamedTuple):
    """One operation."""

    infer: Callable[[list[Type], dict[str, Any]], list[Type]]
    """Returns the types of its results, or refuses."""
    run: Callable[..., Any]
    """`(*arrays, **attributes)`."""
    attributes: Mapping[str, Callable[[Any], Any]] = MappingProxyType({})
    """How each attribute is checked; all must be there, and no other."""
    operands: int | None = 1
    """How many; None for any number, at least one."""
    flops: Callable[[list[Type], list[Type], dict[str, Any]], int] | None = None
    """What it costs; one for each element of its results if None."""
    scratch: Callable[[list[Type], list[Type], dict[str, Any]], int] | None = None
    """How many bytes it takes beside operands and results; few if None."""
    calls: Callable[[list[Type], list[Type], dict[str, Any]], int] | None = None
    """How often NumPy is called, each time for long enough to count; once if None."""


def read(name: Any, given: Any) -> tuple[Operation, dict[str, Any]]:
    """Returns an operation that a plan names, and its attributes, checked.

    Raises:
        PlanError: there is none, or its attributes are not those it has.
    """
    require(isinstance(name, str) and name in TABLE, "there is no such operation", name)
    if name in _NUMPY_ALONE and not HAS_NUMPY:
        raise PlanError(f"{name} needs NumPy, which is not installed on this machine")
    operation = TABLE[name]
    require(type(given) is dict, "attributes must be named", given)
    if set(given) != set(operation.attributes):
        raise PlanError(f"{name} has the attributes {sorted(operation.attributes)}")
    checks = operation.attributes
    return operation, {key: checks[key](value) for key, value in given.items()}


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _two_pairs(value: Any) -> Any:
    found = types.pairs(value)
    require(len(found) == 2, "there must be one list for each operand", value)
    return found


def _mode(value: Any) -> str:
    require(value in ("clip", "fill"), "indices are clipped or filled", value)
    return str(value)


def _exponent(value: Any) -> int:
    require(abs(types.integer(value)) <= 64, "a power is too large", value)
    return int(value)


# what images need and tables do not
_NUMPY_ALONE = {
    *("conv_general_dilated", "reduce_window_max", "reduce_window_sum"),
    *("scatter_windows", "sort"),
}
_SHAPE = {"shape": types.natural_numbers}
_DTYPE = {"dtype": types.a_dtype}
_AXES = {"axes": types.natural_numbers}
_AXIS = {"axis": types.natural, "reverse": types.boolean}
_WINDOW = {
    "window": types.positive_numbers,
    "strides": types.positive_numbers,
    "padding": types.pairs,
}
_INDICES = {
    "collapsed": types.natural_numbers,
    "operand_batching": types.natural_numbers,
    "indices_batching": types.natural_numbers,
    "index_map": types.natural_numbers,
    "mode": _mode,
}
_CONVOLUTION = {
    "strides": types.positive_numbers,
    "padding": types.pairs,
    "lhs_dilation": types.positive_numbers,
    "rhs_dilation": types.positive_numbers,
    "lhs": types.natural_numbers,
    "rhs": types.natural_numbers,
    "out": types.natural_numbers,
    "feature_groups": types.positive,
    "batch_groups": types.positive,
}
_SCATTER = {"update_window_dims": types.natural_numbers, **_INDICES}


def _shift(left: bool, signed: bool) -> Operation:
    run = functools.partial(arrays.shifted, left=left, signed=signed)
    return Operation(shapes.words, run, operands=2, scratch=costs.an_element(16))


def _reduced(infer: Any, function: Any) -> Operation:
    return Operation(
        infer,
        lambda x, axes: np.asarray(function(x, axis=axes)),
        attributes=_AXES,
        flops=costs.of_operand,
    )


def _placed(function: Any) -> Operation:
    return Operation(
        shapes.place,
        lambda x, axes, dtype: np.asarray(function(x, axis=axes[0])).astype(dtype),
        attributes={**_AXES, **_DTYPE},
        flops=costs.of_operand,
        scratch=costs.an_element(9),
    )


def _windows(function: Any, start: float) -> Operation:
    run = functools.partial(products.reduce_window, function, start)
    return Operation(
        wide.reduce_window,
        run,
        attributes=_WINDOW,
        flops=wide.flops_of_windows,
        scratch=costs.padded,
        calls=costs.windows_called,
    )


def _scattered(adds: bool) -> Operation:
    run = functools.partial(products.scatter, adds=adds)
    return Operation(
        wide.scatter,
        run,
        attributes=_SCATTER,
        operands=3,
        flops=costs.of_operand,
        scratch=costs.indexed,
    )


TABLE: dict[str, Operation] = {
    "abs": Operation(shapes.numbers, np.abs),
    "add": Operation(shapes.arithmetic, np.add, operands=2),
    "and": Operation(shapes.whole, np.bitwise_and, operands=2),
    "argmax": _placed(np.argmax),
    "argmin": _placed(np.argmin),
    "bitcast_convert_type": Operation(
        shapes.bitcast,
        lambda x, dtype: np.ascontiguousarray(x).view(dtype).reshape(x.shape),
        _DTYPE,
    ),
    "broadcast_in_dim": Operation(
        shapes.broadcast_in_dim,
        arrays.broadcast_in_dim,
        {**_SHAPE, "broadcast_dimensions": types.natural_numbers},
    ),
    "ceil": Operation(shapes.floats, np.ceil),
    "concatenate": Operation(
        shapes.concatenate,
        lambda *x, dimension: np.concatenate(x, dimension),
        {"dimension": types.natural},
        operands=None,
    ),
    "conv_general_dilated": Operation(
        wide.convolution,
        products.convolution,
        _CONVOLUTION,
        operands=2,
        flops=wide.flops_of_convolution,
        scratch=costs.unfolded,
        calls=costs.convolved,
    ),
    "convert_element_type": Operation(
        shapes.convert, arrays.convert, _DTYPE, scratch=costs.converted
    ),
    "cos": Operation(shapes.floats, np.cos),
    "cummax": Operation(
        shapes.cumulative,
        functools.partial(arrays.cumulative, np.maximum),
        _AXIS,
        flops=costs.an_element(8),
        scratch=costs.an_element(16),
    ),
    "cumsum": Operation(
        shapes.cumulative,
        functools.partial(arrays.cumulative, np.add),
        _AXIS,
        flops=costs.an_element(8),
        scratch=costs.an_element(16),
    ),
    "div": Operation(
        shapes.arithmetic, arrays.divide, operands=2, scratch=costs.if_whole(48)
    ),
    "dot_general": Operation(
        wide.dot_general,
        products.dot_general,
        {"contracting": _two_pairs, "batch": _two_pairs},
        operands=2,
        flops=wide.flops_of_dot,
        scratch=costs.copied,
    ),
    "dynamic_slice": Operation(
        shapes.dynamic_slice,
        arrays.dynamic_slice,
        {"sizes": types.natural_numbers},
        operands=None,
    ),
    "dynamic_update_slice": Operation(
        shapes.dynamic_update_slice, arrays.dynamic_update_slice, operands=None
    ),
    "eq": Operation(shapes.compared, np.equal, operands=2),
    "erf": Operation(
        shapes.floats,
        arrays.erf,
        flops=costs.an_element(30),
        scratch=costs.an_element(64),
    ),
    "erf_inv": Operation(
        shapes.floats,
        arrays.erf_inv,
        flops=costs.an_element(30),
        scratch=costs.an_element(32),
    ),
    "exp": Operation(shapes.floats, np.exp),
    "expm1": Operation(shapes.floats, np.expm1),
    "floor": Operation(shapes.floats, np.floor),
    "gather": Operation(
        wide.gather,
        products.gather,
        {
            "offset_dims": types.natural_numbers,
            "sizes": types.natural_numbers,
            **_INDICES,
        },
        operands=2,
        scratch=costs.gathered,
    ),
    "ge": Operation(shapes.compared, np.greater_equal, operands=2),
    "gt": Operation(shapes.compared, np.greater, operands=2),
    "integer_pow": Operation(
        shapes.floats,
        arrays.integer_pow,
        {"exponent": _exponent},
        scratch=costs.an_element(8),
    ),
    "iota": Operation(
        shapes.iota,
        arrays.iota,
        {**_SHAPE, **_DTYPE, "dimension": types.natural},
        operands=0,
        scratch=lambda inputs, outputs, given: 16 * given["shape"][given["dimension"]],
    ),
    "is_finite": Operation(shapes.predicate, np.isfinite),
    "le": Operation(shapes.compared, np.less_equal, operands=2),
    "log": Operation(shapes.floats, np.log),
    "log1p": Operation(shapes.floats, np.log1p),
    "logistic": Operation(shapes.floats, arrays.logistic, scratch=costs.an_element(4)),
    "lt": Operation(shapes.compared, np.less, operands=2),
    "max": Operation(shapes.arithmetic, np.maximum, operands=2),
    "min": Operation(shapes.arithmetic, np.minimum, operands=2),
    "mul": Operation(shapes.arithmetic, np.multiply, operands=2),
    "ne": Operation(shapes.compared, np.not_equal, operands=2),
    "neg": Operation(shapes.numbers, np.negative),
    "not": Operation(shapes.whole, np.invert),
    "or": Operation(shapes.whole, np.bitwise_or, operands=2),
    "pad": Operation(
        shapes.pad,
        arrays.pad,
        {"config": types.pairs},
        operands=2,
        scratch=costs.padded,
    ),
    "pow": Operation(
        shapes.power,
        lambda x, y: np.power(x, y.astype(x.dtype)),
        operands=2,
        scratch=costs.an_element(4),
    ),
    "random_bits": Operation(
        wide.random_bits,
        arrays.random_bits,
        _SHAPE,
        flops=costs.threefry,
        scratch=costs.drawn,
    ),
    "random_fold_in": Operation(
        wide.random_fold_in,
        arrays.random_fold_in,
        operands=2,
        scratch=costs.an_element(16),
    ),
    "random_split": Operation(
        wide.random_split,
        arrays.random_split,
        _SHAPE,
        flops=costs.threefry,
        scratch=costs.drawn,
    ),
    "reduce_and": _reduced(shapes.decided, np.all),
    "reduce_max": _reduced(shapes.extreme, np.max),
    "reduce_min": _reduced(shapes.extreme, np.min),
    "reduce_or": _reduced(shapes.decided, np.any),
    "reduce_prod": Operation(
        shapes.reduced,
        lambda x, axes: np.asarray(x.prod(axis=axes, dtype=x.dtype)),
        _AXES,
        flops=costs.of_operand,
    ),
    "reduce_sum": Operation(
        shapes.reduced,
        arrays.reduce_sum,
        _AXES,
        flops=lambda inputs, outputs, a: inputs[0].size,
        scratch=costs.an_element(4),
    ),
    "reduce_window_max": _windows(np.maximum, -np.inf),
    "reduce_window_sum": _windows(np.add, 0.0),
    "rem": Operation(
        shapes.arithmetic, arrays.remainder, operands=2, scratch=costs.if_whole(16)
    ),
    "reshape": Operation(
        shapes.reshape,
        arrays.reshape,
        {**_SHAPE, "dimensions": _optional(types.natural_numbers)},
    ),
    "rev": Operation(
        shapes.rev,
        lambda x, dimensions: np.flip(x, dimensions),
        {"dimensions": types.natural_numbers},
    ),
    "round": Operation(shapes.floats, np.rint),
    "rsqrt": Operation(shapes.floats, arrays.rsqrt, scratch=costs.an_element(4)),
    "scatter": _scattered(adds=False),
    "scatter_add": _scattered(adds=True),
    "scatter_windows": Operation(
        wide.scatter_windows,
        products.scatter_windows,
        _WINDOW,
        operands=2,
        flops=wide.flops_of_windows,
        scratch=costs.padded,
        calls=costs.windows_called,
    ),
    "select": Operation(shapes.select, np.where, operands=3),
    "shift_left": _shift(left=True, signed=False),
    "shift_right_arithmetic": _shift(left=False, signed=True),
    "shift_right_logical": _shift(left=False, signed=False),
    "sign": Operation(shapes.numbers, np.sign),
    "sin": Operation(shapes.floats, np.sin),
    "slice": Operation(
        shapes.slice_,
        arrays.slice_,
        {
            "start": types.natural_numbers,
            "limit": types.natural_numbers,
            "strides": _optional(types.positive_numbers),
        },
    ),
    "sort": Operation(
        shapes.sort,
        arrays.sort,
        {"dimension": types.natural, "num_keys": types.positive},
        operands=None,
        scratch=costs.an_element(24),
    ),
    "sqrt": Operation(shapes.floats, np.sqrt),
    "sub": Operation(shapes.arithmetic, np.subtract, operands=2),
    "tan": Operation(shapes.floats, np.tan),
    "tanh": Operation(shapes.floats, np.tanh),
    "transpose": Operation(
        shapes.transpose,
        lambda x, permutation: x.transpose(permutation),
        {"permutation": types.natural_numbers},
    ),
    "xor": Operation(shapes.whole, np.bitwise_xor, operands=2),
}
