"""From a primitive of JAX to the operations of a plan.

Every handler pops the parameters that it understands. What is left must be of those
that change nothing (`_IDLE`); anything else is refused by name, since a parameter that
is not understood may change what is computed.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

Params = dict[str, Any]
# parameters that change nothing here, at these values
_IDLE: dict[str, Callable[[Any], bool]] = {
    "accuracy": lambda value: True,  # NumPy's is the highest
    "indices_are_sorted": lambda value: True,
    "is_stable": lambda value: True,
    "out_dtype": lambda value: value is None,
    "out_sharding": lambda value: value is None,
    "precision": lambda value: True,
    "sharding": lambda value: value is None or value.mesh.empty,
    "unique_indices": lambda value: True,
    "unroll": lambda value: True,
    "weak_type": lambda value: True,
    "linear": lambda value: True,
    "_split_transpose": lambda value: True,
    "update_consts": lambda value: not value,
    "update_jaxpr": lambda value: True,
    "ft_out": lambda value: True,
    "prevent_cse": lambda value: True,
}
_DTYPES = ("bool", "uint8", "int32", "uint32", "float32")
# one operation each, under this name
_PLAIN = {
    name: name
    for name in (
        *("abs", "add", "and", "ceil", "cos", "div", "eq", "erf", "erf_inv", "exp"),
        *("expm1", "floor", "ge", "gt", "is_finite", "le", "log", "log1p", "logistic"),
        *("lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "random_fold_in"),
        *("rem", "rsqrt", "shift_left", "shift_right_arithmetic"),
        *("shift_right_logical", "sign", "sin", "sqrt", "sub", "tan", "tanh", "xor"),
    )
} | {"add_any": "add", "dynamic_update_slice": "dynamic_update_slice"}
_SAME = {
    *("copy", "copy_p", "optimization_barrier", "pvary", "random_unwrap"),
    *("random_clone", "random_wrap", "sharding_constraint", "stop_gradient"),
}


def lowered(tracing: Any, equation: Any, operands: list[int]) -> list[int]:
    """Writes the operations of one equation; returns the registers of its results.

    Raises:
        ValueError: a plan cannot say it.
    """
    name, params = equation.primitive.name, dict(equation.params)
    for atom in (*equation.invars, *equation.outvars):
        if hasattr(atom, "aval"):
            dtype_of(atom.aval.dtype)
    if name in _SAME:
        return operands
    if name in _PLAIN:
        found: Any = tracing.add(_PLAIN[name], operands)
    elif name in _HANDLERS:
        found = _HANDLERS[name](tracing, equation, operands, params)
    else:
        raise ValueError(
            f"a plan must be made of its operations, got the primitive {name!r}; "
            "compute it on the server, or write the loss with other functions."
        )
    left = [key for key in params if key not in _IDLE or not _IDLE[key](params[key])]
    if left:
        raise ValueError(
            f"the primitive {name!r} must have known parameters, got "
            f"{left[0]}={params[left[0]]!r}; write the loss without it."
        )
    return found if isinstance(found, list) else [found]


def dtype_of(dtype: Any) -> str:
    """Returns the name of a dtype in a plan.

    Raises:
        ValueError: plans have none such.
    """
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        if "fry" not in str(dtype):
            raise ValueError(
                f"keys in a plan must be of threefry, got {dtype}; use jax.random.key."
            )
        return "uint32"
    name = np.dtype(dtype).name
    if name not in _DTYPES:
        raise ValueError(
            f"arrays in a plan must be of {', '.join(_DTYPES)}, got {name}; convert "
            "it, for example with x.astype(jnp.float32)."
        )
    return name


def shape_of(aval: Any) -> list[int]:
    """Returns the shape of an array in a plan, where a key is two words."""
    is_key = jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key)
    return [*map(int, aval.shape), *([2] if is_key else [])]


def _ints(value: Any) -> list[int]:
    return [int(each) for each in value]


def _pairs(value: Any) -> list[list[int]]:
    return [_ints(each) for each in value]


def _out(equation: Any) -> list[int]:
    return shape_of(equation.outvars[0].aval)


def _scalar(t: Any, equation: Any, value: float) -> int:
    return t.constant(np.asarray(value, equation.outvars[0].aval.dtype))


def _reshaped(t: Any, e: Any, x: list[int], p: Params) -> int:
    """`squeeze`, `expand_dims` and `reshape`."""
    order = (
        p.pop("dimensions", None) if "new_sizes" in p else p.pop("dimensions") and None
    )
    p.pop("new_sizes", None)
    order = None if order is None else _ints(order)
    return t.add("reshape", x, shape=_out(e), dimensions=order)


def _broadcast(t: Any, e: Any, x: list[int], p: Params) -> int:
    to, shape = _ints(p.pop("broadcast_dimensions")), p.pop("shape")
    if len(_out(e)) > len(shape):  # the words of a key
        to.append(len(shape))
    return t.add("broadcast_in_dim", x[:1], shape=_out(e), broadcast_dimensions=to)


def _transpose(t: Any, e: Any, x: list[int], p: Params) -> int:
    order = _ints(p.pop("permutation"))
    if len(_out(e)) > len(order):
        order.append(len(order))
    return t.add("transpose", x, permutation=order)


def _slice(t: Any, e: Any, x: list[int], p: Params) -> int:
    start, limit = _ints(p.pop("start_indices")), _ints(p.pop("limit_indices"))
    strides = p.pop("strides")
    strides = None if strides is None else _ints(strides)
    if len(shape_of(e.invars[0].aval)) > len(start):
        start, limit = [*start, 0], [*limit, 2]
        strides = None if strides is None else [*strides, 1]
    return t.add("slice", x, start=start, limit=limit, strides=strides)


def _cut(t: Any, x: int, shape: list[int], axis: int, start: int, stop: int) -> int:
    low, high = [0] * len(shape), list(shape)
    low[axis], high[axis] = start, stop
    return t.add("slice", [x], start=low, limit=high, strides=None)


def _split(t: Any, e: Any, x: list[int], p: Params) -> list[int]:
    shape, axis = shape_of(e.invars[0].aval), int(p.pop("axis"))
    found, start = [], 0
    for size in _ints(p.pop("sizes")):
        found.append(_cut(t, x[0], shape, axis, start, start + size))
        start += size
    return found


def _unstack(t: Any, e: Any, x: list[int], p: Params) -> list[int]:
    shape, axis = shape_of(e.invars[0].aval), int(p.pop("axis"))
    parts = [_cut(t, x[0], shape, axis, n, n + 1) for n in range(shape[axis])]
    return [t.add("reshape", [n], shape=_out(e), dimensions=None) for n in parts]


def _stack(t: Any, e: Any, x: list[int], p: Params) -> int:
    axis, shape = int(p.pop("axis")), _out(e)
    shape[axis] = 1
    parts = [t.add("reshape", [one], shape=shape, dimensions=None) for one in x]
    return t.add("concatenate", parts, dimension=axis % len(shape))


def _tile(t: Any, e: Any, x: list[int], p: Params) -> int:
    shape, reps = shape_of(e.invars[0].aval), _ints(p.pop("reps"))
    middle = [n for pair in zip(reps, shape, strict=True) for n in pair]
    places = list(range(1, 2 * len(shape), 2))
    wide = t.add("broadcast_in_dim", x, shape=middle, broadcast_dimensions=places)
    return t.add("reshape", [wide], shape=_out(e), dimensions=None)


def _clamp(t: Any, e: Any, x: list[int], p: Params) -> int:
    low, value, high = x
    return t.add("min", [t.add("max", [value, low]), high])


def _select_n(t: Any, e: Any, x: list[int], p: Params) -> int:
    which, *cases = x
    if len(cases) == 2 and e.invars[0].aval.dtype == bool:
        return t.add("select", [which, cases[1], cases[0]])
    found = cases[0]
    for number, case in enumerate(cases[1:], start=1):
        is_this = t.add("ge", [which, t.constant(np.int32(number))])
        found = t.add("select", [is_this, case, found])
    return found


def _round(t: Any, e: Any, x: list[int], p: Params) -> int:
    if int(p.pop("rounding_method")) == 1:
        return t.add("round", x)
    half = t.add("add", [t.add("abs", x), _scalar(t, e, 0.5)])
    return t.add("mul", [t.add("sign", x), t.add("floor", [half])])


def _integer_pow(t: Any, e: Any, x: list[int], p: Params) -> int:
    exponent = int(p.pop("y"))
    if e.outvars[0].aval.dtype == np.float32:
        return t.add("integer_pow", x, exponent=exponent)
    found = x[0]
    for _ in range(exponent - 1):
        found = t.add("mul", [found, x[0]])
    return found


def _dot(t: Any, e: Any, x: list[int], p: Params) -> int:
    contracting, batch = p.pop("dimension_numbers")
    wanted = p.pop("preferred_element_type")
    if wanted is not None and np.dtype(wanted) != np.float32:
        raise ValueError(f"a product must be of float32, got {wanted}; convert it.")
    return t.add("dot_general", x, contracting=_pairs(contracting), batch=_pairs(batch))


def _convolution(t: Any, e: Any, x: list[int], p: Params) -> int:
    numbers = p.pop("dimension_numbers")
    p.pop("preferred_element_type")
    return t.add(
        "conv_general_dilated",
        x,
        strides=_ints(p.pop("window_strides")),
        padding=_pairs(p.pop("padding")),
        lhs_dilation=_ints(p.pop("lhs_dilation")),
        rhs_dilation=_ints(p.pop("rhs_dilation")),
        lhs=_ints(numbers.lhs_spec),
        rhs=_ints(numbers.rhs_spec),
        out=_ints(numbers.out_spec),
        feature_groups=int(p.pop("feature_group_count")),
        batch_groups=int(p.pop("batch_group_count")),
    )


def _windows(name: str) -> Any:
    def write(t: Any, e: Any, x: list[int], p: Params) -> int:
        for key in ("base_dilation", "window_dilation"):
            if any(n != 1 for n in p.pop(key, ())):
                raise ValueError(f"windows in a plan must have no {key}; pool without.")
        if "select_prim" in p and str(p.pop("select_prim")) != "ge":
            raise ValueError("the gradient of a minimum of windows is not in a plan.")
        return t.add(
            name,
            x,
            window=_ints(p.pop("window_dimensions")),
            strides=_ints(p.pop("window_strides")),
            padding=_pairs(p.pop("padding")),
        )

    return write


def _mode(p: Params) -> str:
    name = p.pop("mode").name.lower()
    if name in ("clip", "promise_in_bounds"):
        return "clip"
    fill = p.pop("fill_value", None)
    if name != "fill_or_drop" or not (fill is None or np.isnan(fill)):
        raise ValueError(f"indices in a plan are clipped or filled, got {name} {fill}.")
    return "fill"


def _gather(t: Any, e: Any, x: list[int], p: Params) -> int:
    d, mode = p.pop("dimension_numbers"), _mode(p)
    p.pop("fill_value", None)
    return t.add(
        "gather",
        x,
        offset_dims=_ints(d.offset_dims),
        sizes=_ints(p.pop("slice_sizes")),
        mode=mode,
        collapsed=_ints(d.collapsed_slice_dims),
        operand_batching=_ints(d.operand_batching_dims),
        indices_batching=_ints(d.start_indices_batching_dims),
        index_map=_ints(d.start_index_map),
    )


def _scatter(name: str) -> Any:
    def write(t: Any, e: Any, x: list[int], p: Params) -> int:
        d = p.pop("dimension_numbers")
        return t.add(
            name,
            x,
            update_window_dims=_ints(d.update_window_dims),
            mode=_mode(p),
            collapsed=_ints(d.inserted_window_dims),
            operand_batching=_ints(d.operand_batching_dims),
            indices_batching=_ints(d.scatter_indices_batching_dims),
            index_map=_ints(d.scatter_dims_to_operand_dims),
        )

    return write


def _scan(t: Any, e: Any, x: list[int], p: Params) -> list[int]:
    if "num_consts" in p:
        fixed, carried = p.pop("num_consts"), p.pop("num_carry")
    else:
        fixed, carried = (len(list(one.vals)) for one in p.pop("ft_in").unpack()[:2])
    return t.add_several(
        "scan",
        x,
        len(e.outvars),
        length=int(p.pop("length")),
        reverse=bool(p.pop("reverse")),
        num_constants=int(fixed),
        num_carried=int(carried),
        body=t.program(p.pop("jaxpr")),
    )


def _cond(t: Any, e: Any, x: list[int], p: Params) -> list[int]:
    branches = [t.program(branch) for branch in p.pop("branches")]
    return t.add_several("cond", x, len(e.outvars), branches=branches)


def _one(name: str, **attributes: tuple[str, Any]) -> Any:
    """Returns a handler of one operation: `attribute=(parameter, how to read it)`."""

    def write(t: Any, e: Any, x: list[int], p: Params) -> int:
        read = {key: how(p.pop(param)) for key, (param, how) in attributes.items()}
        return t.add(name, x, **read)

    return write


def _bits(t: Any, e: Any, x: list[int], p: Params) -> int:
    if p.pop("bit_width") != 32:
        raise ValueError("random bits in a plan must be 32 wide; draw jnp.uint32.")
    return t.add("random_bits", x, shape=_ints(p.pop("shape")))


def _polynomial(t: Any, e: Any, x: list[int], p: Params) -> int:
    """The sum of coefficients times rising powers, by Horner's rule."""
    value, *coefficients = x
    found = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        found = t.add("add", [t.add("mul", [found, value]), coefficient])
    return found


def _seed(t: Any, e: Any, x: list[int], p: Params) -> int:
    p.pop("impl")
    if not isinstance(e.invars[0], Literal):
        raise ValueError(
            "a key in a plan must not be made of data; use the step's key."
        )
    key = jax.random.key(int(e.invars[0].val))
    return t.constant(np.asarray(jax.random.key_data(key)))


def _sort(t: Any, e: Any, x: list[int], p: Params) -> list[int]:
    read = {key: int(p.pop(key)) for key in ("dimension", "num_keys")}
    return t.add_several("sort", x, len(x), **read)


def _precision(t: Any, e: Any, x: list[int], p: Params) -> int:
    if (p.pop("exponent_bits"), p.pop("mantissa_bits")) != (8, 23):
        raise ValueError("a plan has no lower precision than float32.")
    return x[0]


_AXES = {"axes": ("axes", _ints)}
_AXIS = {"axis": ("axis", int), "reverse": ("reverse", bool)}
_PLACE = {**_AXES, "dtype": ("index_dtype", dtype_of)}
_HANDLERS: dict[str, Any] = {
    "argmax": _one("argmax", **_PLACE),
    "argmin": _one("argmin", **_PLACE),
    "bitcast_convert_type": _one("bitcast_convert_type", dtype=("new_dtype", dtype_of)),
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _one("concatenate", dimension=("dimension", int)),
    "cond": _cond,
    "conv_general_dilated": _convolution,
    "convert_element_type": _one("convert_element_type", dtype=("new_dtype", dtype_of)),
    "cummax": _one("cummax", **_AXIS),
    "cumsum": _one("cumsum", **_AXIS),
    "dot_general": _dot,
    "dynamic_slice": _one("dynamic_slice", sizes=("slice_sizes", _ints)),
    "erfc": lambda t, e, x, p: t.add("sub", [_scalar(t, e, 1), t.add("erf", x)]),
    "exp2": lambda t, e, x, p: t.add(
        "exp", [t.add("mul", [x[0], _scalar(t, e, np.log(2))])]
    ),
    "expand_dims": _reshaped,
    "gather": _gather,
    "integer_pow": _integer_pow,
    "iota": _one(
        "iota",
        shape=("shape", _ints),
        dtype=("dtype", dtype_of),
        dimension=("dimension", int),
    ),
    "one_minus_square": lambda t, e, x, p: t.add(
        "sub", [_scalar(t, e, 1), t.add("mul", [x[0], x[0]])]
    ),
    "pad": _one("pad", config=("padding_config", _pairs)),
    "polynomial": _polynomial,
    "random_bits": _bits,
    "random_seed": _seed,
    "random_split": _one("random_split", shape=("shape", _ints)),
    "reduce_and": _one("reduce_and", **_AXES),
    "reduce_max": _one("reduce_max", **_AXES),
    "reduce_min": _one("reduce_min", **_AXES),
    "reduce_or": _one("reduce_or", **_AXES),
    "reduce_precision": _precision,
    "reduce_prod": _one("reduce_prod", **_AXES),
    "reduce_sum": _one("reduce_sum", **_AXES),
    "reduce_window_max": _windows("reduce_window_max"),
    "reduce_window_sum": _windows("reduce_window_sum"),
    "reshape": _reshaped,
    "rev": _one("rev", dimensions=("dimensions", _ints)),
    "round": _round,
    "scan": _scan,
    "scatter": _scatter("scatter"),
    "scatter-add": _scatter("scatter_add"),
    "scatter_add": _scatter("scatter_add"),
    "select_and_scatter_add": _windows("scatter_windows"),
    "select_n": _select_n,
    "slice": _slice,
    "sort": _sort,
    "split": _split,
    "square": lambda t, e, x, p: t.add("mul", [x[0], x[0]]),
    "squeeze": _reshaped,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
    "unstack": _unstack,
}
