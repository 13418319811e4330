"""What each operation returns, from what it is given: a plan's own word is not taken.

Every function checks its operands and attributes as far as the operation needs it to
run, and returns the types of its results. `attributes` were read by `_operations`.
"""

from __future__ import annotations

from typing import Any

from jaxfed.vault._types import BYTES, Type, axes, checked, require


def same(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Of one array, element by element."""
    (x,) = inputs
    return [x]


def floats(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Of one array of floating-point numbers, element by element."""
    require(inputs[0].is_float, "an operand must be float32", inputs[0])
    return same(inputs, attributes)


def predicate(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Of one array of floats, to truth values."""
    return [Type("bool", floats(inputs, attributes)[0].shape)]


def numbers(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Of one array of numbers, element by element."""
    require(inputs[0].dtype != "bool", "an operand must hold numbers", inputs[0])
    return same(inputs, attributes)


def whole(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Of arrays of integers or truth values of one dtype."""
    require(not inputs[0].is_float, "an operand must not be float32", inputs[0])
    return alike(inputs, attributes)


def words(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Of arrays of 32-bit integers of one dtype."""
    whole_words = inputs[0].dtype in ("int32", "uint32")
    require(whole_words, "an operand must hold 32-bit integers", inputs[0])
    return alike(inputs, attributes)


def alike(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Of arrays of one dtype, and of one shape but for scalars."""
    require(len({x.dtype for x in inputs}) == 1, "operands must have one dtype", inputs)
    return [Type(inputs[0].dtype, _one_shape(inputs))]


def arithmetic(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """The same, of numbers."""
    require(inputs[0].dtype != "bool", "an operand must hold numbers", inputs[0])
    return alike(inputs, attributes)


def power(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Of floats, to a power that may be an integer."""
    base, exponent = inputs
    require(base.is_float, "a base must be float32", base)
    kinds = ("float32", "int32")
    require(exponent.dtype in kinds, "an exponent must be a number", exponent)
    return [Type(base.dtype, _one_shape(inputs))]


def compared(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Of arrays of one dtype, to truth values."""
    return [Type("bool", alike(inputs, attributes)[0].shape)]


def select(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """The second array where the first says so, else the third."""
    which, yes, no = inputs
    require(which.dtype == "bool" and yes == no, "cases must have one type", inputs)
    require(which.shape in ((), yes.shape), "a choice must fit its cases", which)
    return [yes]


def convert(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Another dtype."""
    return [checked(attributes["dtype"], list(inputs[0].shape))]


def bitcast(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """The same bits as another dtype of the same width."""
    (x,), dtype = inputs, attributes["dtype"]
    require("bool" not in (x.dtype, dtype), "truth values have no bits", x)
    require(BYTES[x.dtype] == BYTES[dtype], "both must be as wide", dtype)
    return convert(inputs, attributes)


def broadcast_in_dim(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """An array repeated along new or short dimensions."""
    (x,), shape = inputs, attributes["shape"]
    to = axes(attributes["broadcast_dimensions"], len(shape))
    require(len(to) == x.rank and list(to) == sorted(to), "dimensions must rise", to)
    fits = all(n in (1, shape[d]) for n, d in zip(x.shape, to))
    require(fits, "an array must fit where it is repeated", x)
    return [checked(x.dtype, list(shape))]


def reshape(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """The same elements in another shape."""
    found = checked(inputs[0].dtype, list(attributes["shape"]))
    require(found.size == inputs[0].size, "no element may come or go", found)
    order = attributes["dimensions"]
    if order is not None:
        rank = inputs[0].rank
        fits = len(axes(order, rank)) == rank
        require(fits, "every dimension must be named", order)
    return [found]


def transpose(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Dimensions in another order."""
    (x,) = inputs
    order = axes(attributes["permutation"], x.rank)
    require(len(order) == x.rank, "every dimension must be named", order)
    return [Type(x.dtype, tuple(x.shape[d] for d in order))]


def rev(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Some dimensions backwards."""
    axes(attributes["dimensions"], inputs[0].rank)
    return [inputs[0]]


def concatenate(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Arrays behind one another."""
    (d,) = axes((attributes["dimension"],), inputs[0].rank)
    rest = {(x.dtype, x.rank, x.shape[:d], x.shape[d + 1 :]) for x in inputs}
    require(len(rest) == 1, "arrays must fit behind one another", inputs)
    shape = list(inputs[0].shape)
    shape[d] = sum(x.shape[d] for x in inputs)
    return [checked(inputs[0].dtype, shape)]


def pad(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """With a value before, after and between elements; negative cuts off."""
    x, value = inputs
    config = attributes["config"]
    require(value == Type(x.dtype, ()), "padding must be one value", value)
    require(len(config) == x.rank, "every dimension must be padded", config)
    require(all(len(c) == 3 and c[2] >= 0 for c in config), "padding is wrong", config)
    return [
        checked(
            x.dtype,
            [
                max(0, low + n + max(0, n - 1) * between + high)
                for n, (low, high, between) in zip(x.shape, config)
            ],
        )
    ]


def slice_(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Every so many elements between bounds."""
    (x,) = inputs
    start, limit = attributes["start"], attributes["limit"]
    strides = attributes["strides"] or (1,) * x.rank
    require(len(start) == len(limit) == len(strides) == x.rank, "bounds are wrong", x)
    bounds = list(zip(start, limit, x.shape))
    require(all(a <= b <= n for a, b, n in bounds), "bounds must lie inside", bounds)
    return [
        Type(x.dtype, tuple(-(-(b - a) // s) for a, b, s in zip(start, limit, strides)))
    ]


def dynamic_slice(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """A block that begins where other operands say."""
    x, starts = inputs[0], inputs[1:]
    sizes = attributes["sizes"]
    _check_starts(starts, x.rank)
    fits = len(sizes) == x.rank and all(a <= b for a, b in zip(sizes, x.shape))
    require(fits, "a block must fit its array", sizes)
    return [Type(x.dtype, tuple(sizes))]


def dynamic_update_slice(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """An array with a block replaced."""
    require(len(inputs) >= 2, "a block must be given", inputs)
    x, block = inputs[:2]
    _check_starts(inputs[2:], x.rank)
    fits = block.rank == x.rank and all(a <= b for a, b in zip(block.shape, x.shape))
    require(block.dtype == x.dtype and fits, "a block must fit its array", block)
    return [x]


def iota(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """0, 1, 2, ... along a dimension."""
    found = checked(attributes["dtype"], list(attributes["shape"]))
    require(found.dtype != "bool", "truth values do not count", found)
    axes((attributes["dimension"],), found.rank)
    return [found]


def reduced(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Numbers, without the dimensions that are added up."""
    (x,) = inputs
    require(x.dtype != "bool", "an operand must hold numbers", x)
    return _without(x, attributes["axes"])


def extreme(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """The largest or smallest, of which there must be one."""
    (x,), gone = inputs, attributes["axes"]
    found = reduced(inputs, attributes)
    require(all(x.shape[d] > 0 for d in gone), "nothing has no largest element", x)
    return found


def decided(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Truth values, without the dimensions that are joined."""
    require(inputs[0].dtype == "bool", "an operand must hold truth values", inputs[0])
    return _without(inputs[0], attributes["axes"])


def place(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Where the largest or smallest is, along one dimension."""
    (x,), gone = inputs, attributes["axes"]
    require(len(gone) == 1, "one dimension must go", gone)
    (found,) = _without(x, gone)
    require(x.shape[gone[0]] > 0, "nothing has no largest element", x)
    require(attributes["dtype"] in ("int32", "uint32"), "a place is an integer")
    return [Type(attributes["dtype"], found.shape)]


def cumulative(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Numbers, each with all before it."""
    axes((attributes["axis"],), inputs[0].rank)
    return numbers(inputs, attributes)


def sort(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Arrays in the order of the first of them."""
    require(len({x.shape for x in inputs}) == 1, "arrays must have one shape", inputs)
    axes((attributes["dimension"],), inputs[0].rank)
    require(attributes["num_keys"] <= len(inputs), "a key must be an operand")
    return list(inputs)


def _without(x: Type, gone: tuple[int, ...]) -> list[Type]:
    axes(gone, x.rank)
    return [Type(x.dtype, tuple(n for d, n in enumerate(x.shape) if d not in gone))]


def _one_shape(inputs: list[Type]) -> tuple[int, ...]:
    """Returns the shape of an elementwise result: scalars and lengths of 1 stretch."""
    shapes = [x.shape for x in inputs if x.shape]
    require(len({len(s) for s in shapes}) <= 1, "operands must have one rank", inputs)
    found = []
    for lengths in zip(*shapes):
        long = {n for n in lengths if n != 1}
        require(len(long) <= 1, "operands must have one shape", inputs)
        found.append(long.pop() if long else 1)
    return checked(inputs[0].dtype, found).shape


def _check_starts(starts: list[Type], rank: int) -> None:
    fits = len(starts) == rank and all(s in _STARTS for s in starts)
    require(fits, "a block must begin at one integer a dimension", starts)


_STARTS = (Type("int32", ()), Type("uint32", ()))
