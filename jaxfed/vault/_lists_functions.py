"""NumPy's functions over `_lists`, as far as tabular models need them."""

from __future__ import annotations

import builtins
import contextlib
import itertools
import math
import operator
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

from jaxfed.vault._lists import (
    asarray,
    bool_,
    broadcast_to,
    common,
    dtype,
    float32,
    float64,
    frombuffer,
    int32,
    int64,
    ndarray,
    uint8,
    uint32,
    uint64,
)

__all__ = [
    "broadcast_to",
    "float32",
    "frombuffer",
    "int32",
    "uint8",
    "uint32",
    "uint64",
]
inf, nan = math.inf, math.nan


@contextlib.contextmanager
def errstate(**_: str) -> Generator[None, None, None]:
    """Nothing warns here."""
    yield


class Limits(NamedTuple):
    """Of an integer dtype."""

    min: int
    max: int


def iinfo(kind: Any) -> Limits:
    """Returns the limits of an integer dtype."""
    kind = dtype(kind)
    bits = 8 * kind.itemsize - (kind.kind == "i")
    return Limits(-(1 << bits) if kind.kind == "i" else 0, (1 << bits) - 1)


def array(given: Any, kind: Any = None) -> ndarray:
    """Returns a new array."""
    return asarray(given, kind).copy()


def ascontiguousarray(given: Any) -> ndarray:
    """Returns an array; all are contiguous."""
    return asarray(given)


def full(shape: Any, value: Any, kind: Any = None) -> ndarray:
    """Returns an array of one value."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return broadcast_to(asarray(value, kind), shape).copy()


def zeros(shape: Any, kind: Any = float) -> ndarray:
    """Returns an array of zeros."""
    return full(shape, 0, kind)


def ones(shape: Any, kind: Any = float) -> ndarray:
    """Returns an array of ones."""
    return full(shape, 1, kind)


empty = zeros


def zeros_like(x: ndarray) -> ndarray:
    """Returns zeros of the same shape and dtype."""
    return zeros(x.shape, x.dtype)


def ones_like(x: ndarray) -> ndarray:
    """Returns ones of the same shape and dtype."""
    return ones(x.shape, x.dtype)


def arange(count: int, dtype: Any = int) -> ndarray:
    """Returns 0, 1, 2, ..."""
    return asarray(range(count), dtype) if count else zeros(0, dtype)


class _Function:
    """A function of each element of one or two arrays.

    Args:
        one: of Python's numbers.
        otherwise: what is tried where that raises.
        to: the dtype of the result; that of the operands if None.
    """

    def __init__(
        self,
        one: Callable[..., Any],
        otherwise: Callable[..., Any] | None = None,
        to: dtype | None = None,
    ):
        self._one, self._otherwise, self._to = one, otherwise, to

    def __call__(self, *given: Any) -> ndarray:
        arrays, kind = _operands(given)
        shape = _common_shape([x.shape for x in arrays])
        values = [broadcast_to(x, shape).values for x in arrays]
        try:
            found = list(map(self._one, *values))
        except (ArithmeticError, ValueError):
            if self._otherwise is None:
                raise
            found = list(map(self._otherwise, *values))
        kind = self._to or kind
        return ndarray(kind.cut(found), shape, kind)

    def accumulate(self, x: ndarray, axis: int) -> ndarray:
        """Each element with all before it."""
        if not x.shape[axis]:
            return x.copy()
        found = [x[(*[slice(None)] * axis, 0)]]
        for place in range(1, x.shape[axis]):
            found.append(self(found[-1], x[(*[slice(None)] * axis, place)]))
        return stack(found, axis)

    def at(self, x: ndarray, index: Any, new: ndarray) -> None:
        """Changes elements one after the other, also the same one again."""
        places = asarray(range(x.size)).reshape(x.shape)[index]
        values = list(x.values)
        for place, one in zip(places.values, broadcast_to(new, places.shape).values):
            values[place] = self._one(values[place], one)
        x.values = x.dtype.cut(values)


def _operands(given: Sequence[Any]) -> tuple[list[ndarray], dtype]:
    """Returns arrays of one dtype; Python's numbers take that of the arrays."""
    known = [x.dtype for x in given if isinstance(x, ndarray)]
    kind = common(known) if known else common([asarray(x).dtype for x in given])
    if known and kind.kind != "f" and builtins.any(isinstance(x, float) for x in given):
        kind = float64
    if known and kind is bool_ and builtins.any(type(x) is int for x in given):
        kind = int64
    return [asarray(x, kind) for x in given], kind


def _common_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    rank = builtins.max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(next((n for n in lengths if n != 1), 1) for lengths in zip(*padded))


def _quotient(x: float, y: float) -> float:
    if y == 0:
        sign = math.copysign(1, x) * math.copysign(1, y)
        return nan if x == 0 or math.isnan(x) else math.copysign(inf, sign)
    return x / y


def _either(value: Callable[[float], float], below: float) -> Callable[[float], float]:
    """Returns a function with its limits where Python raises: of exp, log and kin."""

    def safe(x: float) -> float:
        try:
            return value(x)
        except OverflowError:
            return inf
        except ValueError:
            return -inf if x == below else nan

    return safe


def _power(x: float, y: float) -> float:
    try:
        found = x**y
        return nan if isinstance(found, complex) else found
    except OverflowError:
        return -inf if x < 0 and y % 2 == 1 else inf
    except ZeroDivisionError:
        return math.copysign(inf, x) if y % 2 == 1 else inf


def _fmod(x: Any, y: Any) -> Any:
    if isinstance(x, int):
        return int(math.copysign(builtins.abs(x) % builtins.abs(y), x)) if y else 0
    return math.fmod(x, y) if y and math.isfinite(x) else nan


def _whole(value: Callable[[float], float]) -> Callable[[float], float]:
    def safe(x: float) -> float:
        return math.copysign(float(value(x)), x) if math.isfinite(x) else x

    return safe


def _larger(x: Any, y: Any) -> Any:
    return x if x > y or x != x else y  # NaN wins


def _smaller(x: Any, y: Any) -> Any:
    return x if x < y or x != x else y


def _sign(x: Any) -> Any:
    return x if x != x else (x > 0) - (x < 0)


add, subtract = _Function(operator.add), _Function(operator.sub)
multiply, negative = _Function(operator.mul), _Function(operator.neg)
_divide = _Function(operator.truediv, _quotient)
_floor_divide, _modulo = _Function(operator.floordiv), _Function(operator.mod)
bitwise_and, bitwise_or = _Function(operator.and_), _Function(operator.or_)
bitwise_xor = _Function(operator.xor)
left_shift, right_shift = _Function(operator.lshift), _Function(operator.rshift)
equal, not_equal = _Function(operator.eq, to=bool_), _Function(operator.ne, to=bool_)
less, less_equal = _Function(operator.lt, to=bool_), _Function(operator.le, to=bool_)
greater = _Function(operator.gt, to=bool_)
greater_equal = _Function(operator.ge, to=bool_)
maximum, minimum = _Function(_larger), _Function(_smaller)
abs, sign = _Function(operator.abs), _Function(_sign)
isfinite = _Function(math.isfinite, to=bool_)
exp = _Function(math.exp, _either(math.exp, nan))
expm1 = _Function(math.expm1, _either(math.expm1, nan))
log = _Function(math.log, _either(math.log, 0.0))
log1p = _Function(math.log1p, _either(math.log1p, -1.0))
sqrt = _Function(math.sqrt, _either(math.sqrt, nan))
sin, cos = (_Function(f, _either(f, nan)) for f in (math.sin, math.cos))
tan = _Function(math.tan, _either(math.tan, nan))
tanh, copysign = _Function(math.tanh), _Function(math.copysign)
power, fmod = _Function(_power), _Function(_fmod)
floor, ceil = _Function(_whole(math.floor)), _Function(_whole(math.ceil))
trunc, rint = _Function(_whole(math.trunc)), _Function(_whole(round))


def invert(x: ndarray) -> ndarray:
    """The other bits; of truth values, the opposite."""
    one = operator.not_ if x.dtype is bool_ else operator.invert
    return ndarray(x.dtype.cut(list(map(one, x.values))), x.shape, x.dtype)


def reciprocal(x: ndarray) -> ndarray:
    """One over each element."""
    return _divide(ones_like(x), x)


def where(choice: ndarray, yes: Any, no: Any) -> ndarray:
    """The first where the choice says so, else the second."""
    (a, b), kind = _operands([yes, no])
    shape = _common_shape([choice.shape, a.shape, b.shape])
    lists = [broadcast_to(x, shape).values for x in (choice, a, b)]
    return ndarray([p if c else q for c, p, q in zip(*lists)], shape, kind)


def clip(x: ndarray, low: Any, high: Any) -> ndarray:
    """Elements moved between two bounds."""
    return minimum(maximum(x, low), high)


def nan_to_num(x: ndarray, nan: float, posinf: float, neginf: float) -> ndarray:
    """Other numbers for those that are not finite."""
    values = [
        v if math.isfinite(v) else nan if v != v else posinf if v > 0 else neginf
        for v in x.values
    ]
    return ndarray(x.dtype.cut(values), x.shape, x.dtype)


def _reduced(
    x: ndarray, axis: Any, one: Callable[[list[Any]], Any], to: dtype | None = None
) -> ndarray:
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    gone = [d % x.ndim for d in axes] if x.ndim else []
    kept = [d for d in range(x.ndim) if d not in gone]
    count = math.prod(x.shape[d] for d in gone)
    values = x.transpose([*kept, *gone]).values
    shape = [x.shape[d] for d in kept]
    found = [one(values[count * i : count * (i + 1)]) for i in range(math.prod(shape))]
    kind = to or x.dtype
    return ndarray(kind.cut(found), shape, kind)


def _total(values: list[Any]) -> Any:
    try:
        return (
            math.fsum(values)
            if values and isinstance(values[0], float)
            else sum(values)
        )
    except (OverflowError, ValueError):  # infinities
        return sum(values)


def _sum(x: ndarray, axis: Any = None, dtype: Any = None) -> ndarray:
    whole = x.astype(int64) if x.dtype.kind == "b" else x
    return _reduced(whole if dtype is None else x.astype(dtype), axis, _total)


def _prod(x: ndarray, axis: Any = None, dtype: Any = None) -> ndarray:
    return _reduced(x if dtype is None else x.astype(dtype), axis, _product)


def _product(values: list[Any]) -> Any:
    found: Any = 1
    for value in values:  # integers wrap around at 64 bits, which keeps the lower ones
        found = found * value
        found = found if isinstance(found, float) else found & ((1 << 64) - 1)
    return found


def max(x: ndarray, axis: Any = None) -> ndarray:
    """The largest."""
    return _reduced(x, axis, lambda values: _fold(_larger, values))


def min(x: ndarray, axis: Any = None) -> ndarray:
    """The smallest."""
    return _reduced(x, axis, lambda values: _fold(_smaller, values))


def _fold(one: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    return list(itertools.accumulate(values, one))[-1]


def all(x: ndarray, axis: Any = None) -> ndarray:
    """Whether all are true."""
    return _reduced(x, axis, builtins.all, bool_)


def any(x: ndarray, axis: Any = None) -> ndarray:
    """Whether one is true."""
    return _reduced(x, axis, builtins.any, bool_)


def argmax(x: ndarray, axis: int) -> ndarray:
    """Where the largest is: the first of them."""
    return _reduced(x, axis, lambda v: v.index(_fold(_larger, v)), int64)


def argmin(x: ndarray, axis: int) -> ndarray:
    """Where the smallest is: the first of them."""
    return _reduced(x, axis, lambda v: v.index(_fold(_smaller, v)), int64)


def argsort(x: ndarray, kind: str = "stable") -> ndarray:
    """The places of the elements of a vector in rising order."""
    del kind
    return asarray(sorted(range(x.size), key=x.values.__getitem__), int64)


def flatnonzero(x: ndarray) -> ndarray:
    """The places of what is not zero."""
    places = [i for i, v in enumerate(x.values) if v]
    return asarray(places, int64) if places else zeros(0, int64)


def ravel(x: ndarray) -> ndarray:
    """All elements in one dimension."""
    return x.reshape(x.size)


def flip(x: ndarray, axes: Any) -> ndarray:
    """Some dimensions backwards."""
    axes = (axes,) if isinstance(axes, int) else axes
    return x[tuple(slice(None, None, -1 if d in axes else 1) for d in range(x.ndim))]


def concatenate(parts: Sequence[ndarray], axis: int = 0) -> ndarray:
    """Arrays behind one another."""
    order = [axis % parts[0].ndim]
    order += [d for d in range(parts[0].ndim) if d not in order]
    kind = common([part.dtype for part in parts])
    moved = [part.astype(kind).transpose(order) for part in parts]
    length = sum(part.shape[0] for part in moved)
    values = [v for part in moved for v in part.values]
    whole = ndarray(values, (length, *moved[0].shape[1:]), kind)
    return whole.transpose([order.index(d) for d in range(whole.ndim)])


def stack(parts: Sequence[ndarray], axis: int = 0) -> ndarray:
    """Arrays along a new dimension."""
    rank = parts[0].ndim + 1
    at = axis % rank
    shape = (*parts[0].shape[:at], 1, *parts[0].shape[at:])
    return concatenate([part.reshape(shape) for part in parts], at)


def pad(x: ndarray, by: tuple[int, int]) -> ndarray:
    """A vector with zeros around it."""
    zero = x.dtype.cut([0])
    values = [*zero * by[0], *x.values, *zero * by[1]]
    return ndarray(values, (len(values),), x.dtype)


def dot(x: ndarray, y: ndarray) -> ndarray:
    """The product of two vectors, or of two matrices."""
    if x.ndim == y.ndim == 1:
        return _sum(multiply(x, y))
    return matmul(x, y)


def matmul(x: ndarray, y: ndarray) -> ndarray:
    """The product of matrices, for each index of the dimensions before."""
    outer, (rows, inner), columns = x.shape[:-2], x.shape[-2:], y.shape[-1]
    found = []
    for block in range(math.prod(outer)):
        left = x.values[block * rows * inner : (block + 1) * rows * inner]
        right = y.values[block * inner * columns : (block + 1) * inner * columns]
        lines = [left[i * inner : (i + 1) * inner] for i in range(rows)]
        down = [right[j::columns] for j in range(columns)]
        found += [
            sum(map(operator.mul, line, column)) for line in lines for column in down
        ]
    return ndarray(x.dtype.cut(found), (*outer, rows, columns), x.dtype)


def ndindex(*shape: int) -> Iterator[tuple[int, ...]]:
    """All coordinates."""
    return itertools.product(*map(range, shape))


def load(file: Any, allow_pickle: bool = False) -> Any:
    """Refuses: npz files are NumPy's own."""
    del file, allow_pickle
    raise ValueError("npz needs NumPy")


def _as_method(function: Callable[..., ndarray], name: str) -> None:
    """Gives arrays a function as a method of that name."""
    setattr(ndarray, name, lambda x, *a, **k: function(x, *a, **k))


def _as_operator(function: Callable[..., ndarray], name: str) -> None:
    """Gives arrays a function as an operator, also behind one of Python's numbers."""
    _as_method(function, f"__{name}__")
    _as_method(lambda x, y: function(y, x), f"__r{name}__")


for _name, _function in {
    **{"add": add, "sub": subtract, "mul": multiply, "truediv": _divide},
    **{"floordiv": _floor_divide, "mod": _modulo, "pow": power},
    **{"and": bitwise_and, "or": bitwise_or, "xor": bitwise_xor},
    **{"lshift": left_shift, "rshift": right_shift},
}.items():
    _as_operator(_function, _name)
for _name, _function in {
    **{"__eq__": equal, "__ne__": not_equal, "__lt__": less, "__le__": less_equal},
    **{"__gt__": greater, "__ge__": greater_equal},
    **{"__neg__": negative, "__invert__": invert, "__abs__": abs},
    **{"sum": _sum, "prod": _prod, "max": max, "min": min, "all": all, "any": any},
    **{"dot": dot, "ravel": ravel},
}.items():
    _as_method(_function, _name)
