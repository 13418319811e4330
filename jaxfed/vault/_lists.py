"""Arrays over Python's lists: what a vault needs of NumPy on a machine without it.

The same names, shapes, dtypes and results as NumPy's, for the small arrays of tabular
models. Elements are Python's numbers, cut to their dtype after each operation: float32
is computed in float64 and rounded once, which gives the same bits for sums, products,
quotients and roots. There are no views: what is taken from an array is a copy.
"""

from __future__ import annotations

import array as _flat
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any


class dtype:
    """A kind of elements; call it for an array of no dimensions.

    Attributes:
        name: as in NumPy.
        kind: `"b"`, `"i"`, `"u"` or `"f"`.
        itemsize: bytes.
    """

    name: str
    kind: str
    itemsize: int
    code: str
    _known: dict[Any, dtype] = {}  # noqa: RUF012

    def __new__(cls, given: Any) -> dtype:
        """Returns the one object of a dtype, by NumPy's name or Python's."""
        if isinstance(given, dtype):
            return given
        return cls._known[given]

    @classmethod
    def _made(cls, name: str, kind: str, size: int, code: str, *others: Any) -> dtype:
        made = object.__new__(cls)
        made.name, made.kind, made.itemsize, made.code = name, kind, size, code
        for one in (name, f"<{kind}{size}", f"{kind}{size}", *others):
            cls._known[one] = made
        return made

    def newbyteorder(self, order: str) -> dtype:
        """Bytes are always read and written with the least first."""
        del order
        return self

    def __call__(self, value: Any = 0) -> ndarray:
        """Returns an array of no dimensions."""
        return asarray(value, self)

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def cut(self, values: list[Any]) -> list[Any]:
        """Returns numbers as this dtype holds them: rounded, or wrapped around."""
        if self.kind == "f":
            if self.itemsize == 8:
                return list(map(float, values))
            return _flat.array("f", values).tolist()
        if self.kind == "b":
            return list(map(bool, values))
        mask, half = (1 << 8 * self.itemsize) - 1, 1 << (8 * self.itemsize - 1)
        if self.kind == "u":
            return [int(v) & mask for v in values]
        return [((int(v) + half) & mask) - half for v in values]


bool_ = dtype._made("bool", "b", 1, "B", bool)
uint8 = dtype._made("uint8", "u", 1, "B")
int32 = dtype._made("int32", "i", 4, "i")
uint32 = dtype._made("uint32", "u", 4, "I")
int64 = dtype._made("int64", "i", 8, "q", int)
uint64 = dtype._made("uint64", "u", 8, "Q")
float32 = dtype._made("float32", "f", 4, "f")
float64 = dtype._made("float64", "f", 8, "d", float)


_RANK = {"b": 0, "i": 1, "u": 1, "f": 2}


class _Flags:
    c_contiguous = True


class ndarray:
    """An array: its elements in one list, the last dimension fastest."""

    flags = _Flags()

    def __init__(self, values: list[Any], shape: Sequence[int], kind: dtype):
        self.values, self.shape, self.dtype = values, tuple(shape), kind

    @property
    def size(self) -> int:
        """How many elements there are."""
        return len(self.values)

    @property
    def ndim(self) -> int:
        """How many dimensions there are."""
        return len(self.shape)

    @property
    def T(self) -> ndarray:
        """All dimensions in reverse."""
        return self.transpose(range(self.ndim)[::-1])

    def astype(self, kind: Any) -> ndarray:
        """A copy of another dtype; floats that are no integers become 0."""
        kind, values = dtype(kind), self.values
        if kind.kind in "iu" and self.dtype.kind == "f":
            values = [int(v) if math.isfinite(v) else 0 for v in values]
        if kind.kind == "f" and self.dtype.kind in "biu":
            values = list(map(float, values))
        return ndarray(kind.cut(values), self.shape, kind)

    def view(self, kind: Any) -> ndarray:
        """The same bytes as another dtype of the same width."""
        return frombuffer(self.tobytes(), kind).reshape(self.shape)

    def reshape(self, *shape: Any) -> ndarray:
        """The same elements in another shape, of which one length may be -1."""
        wanted = list(shape[0] if len(shape) == 1 and not _is_int(shape[0]) else shape)
        if -1 in wanted:
            rest = -math.prod(wanted)
            wanted[wanted.index(-1)] = self.size // rest if rest else 0
        if math.prod(wanted) != self.size:
            raise ValueError(f"{self.size} elements have no shape {wanted}")
        return ndarray(self.values, wanted, self.dtype)

    def transpose(self, order: Sequence[int]) -> ndarray:
        """Dimensions in another order."""
        steps = strides(self.shape)
        places = [0]
        for d in order:
            reach = range(0, self.shape[d] * steps[d], steps[d] or 1)
            reach = reach if self.shape[d] else range(0)
            places = [place + by for place in places for by in reach]
        shape = [self.shape[d] for d in order]
        return ndarray([self.values[place] for place in places], shape, self.dtype)

    def copy(self) -> ndarray:
        """Another array with the same elements."""
        return ndarray(list(self.values), self.shape, self.dtype)

    def tobytes(self) -> bytes:
        """Its elements as bytes, the least first."""
        found = _flat.array(self.dtype.code, self.values)
        if sys.byteorder == "big":
            found.byteswap()
        return found.tobytes()

    def tolist(self) -> Any:
        """Its elements as nested lists."""
        if not self.shape:
            return self.values[0]
        return [part.tolist() for part in self] if self.ndim > 1 else list(self.values)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[ndarray]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, key: Any) -> ndarray:
        places, shape = _places(self.shape, key)
        return ndarray([self.values[place] for place in places], shape, self.dtype)

    def __setitem__(self, key: Any, value: Any) -> None:
        places, shape = _places(self.shape, key)
        new = broadcast_to(asarray(value).astype(self.dtype), shape)
        values = list(self.values)  # it may be another array's too
        for place, one in zip(places, new.values):
            values[place] = one
        self.values = values

    def _one(self) -> Any:
        if self.size != 1:
            raise TypeError("only one element is a number")
        return self.values[0]

    def __bool__(self) -> bool:
        return bool(self._one())

    def __int__(self) -> int:
        return int(self._one())

    __index__ = __int__

    def __float__(self) -> float:
        return float(self._one())

    def __str__(self) -> str:
        return str(self.tolist())

    __repr__ = __str__

    def __format__(self, form: str) -> str:
        return format(self.tolist(), form)


def asarray(given: Any, kind: Any = None) -> ndarray:
    """Returns an array of numbers, of nested lists of them, or of arrays."""
    if isinstance(given, ndarray):
        wanted = given.dtype if kind is None else dtype(kind)
        return given if given.dtype is wanted else given.astype(wanted)
    if isinstance(given, (list, tuple, range)):
        parts = [asarray(one, kind) for one in given]
        shape = parts[0].shape if parts else ()
        if any(part.shape != shape for part in parts):
            raise ValueError("lists must have one length")
        wanted = common([part.dtype for part in parts], kind)
        values = [v for part in parts for v in part.astype(wanted).values]
        return ndarray(values, (len(parts), *shape), wanted)
    if not isinstance(given, (bool, int, float)):
        raise ValueError(f"an array holds numbers, got {type(given).__name__}")
    if isinstance(given, int) and not -(1 << 63) <= given < 1 << 64:
        raise ValueError("an integer must fit 64 bits")
    wanted = dtype(type(given) if kind is None else kind)
    return ndarray([given], (), dtype(type(given))).astype(wanted)


def common(kinds: Sequence[dtype], wanted: Any = None) -> dtype:
    """Returns the dtype that holds elements of several, as NumPy 2 promotes them."""
    if wanted is not None:
        return dtype(wanted)
    if not kinds:
        return float64
    found = kinds[0]
    for one in kinds[1:]:
        found = _promoted(found, one)
    return found


def _promoted(one: dtype, other: dtype) -> dtype:
    if one is other:
        return one
    low, high = sorted((one, other), key=lambda k: (_RANK[k.kind], k.itemsize))
    if low.kind == "b" or low.kind == high.kind:
        return high
    if high.kind == "f":
        return high if low.itemsize < high.itemsize or high is float64 else float64
    signed = low if low.kind == "i" else high
    unsigned = high if signed is low else low
    if signed.itemsize > unsigned.itemsize:
        return signed
    return int64 if unsigned.itemsize < 8 else float64


def frombuffer(
    data: bytes, kind: Any = "<f8", count: int = -1, offset: int = 0
) -> ndarray:
    """Returns an array of bytes."""
    kind = dtype(kind)
    end = len(data) if count < 0 else offset + count * kind.itemsize
    found = _flat.array(kind.code)
    found.frombytes(bytes(data[offset:end]))
    if sys.byteorder == "big":
        found.byteswap()
    values = found.tolist()
    if kind.kind == "b":
        values = list(map(bool, values))
    return ndarray(values, (len(values),), kind)


def broadcast_to(x: ndarray, shape: Sequence[int]) -> ndarray:
    """Returns an array repeated along new or short dimensions."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    if x.size == 1 and x.ndim <= len(shape):
        return ndarray(x.values * math.prod(shape), shape, x.dtype)
    own = (1,) * (len(shape) - x.ndim) + x.shape
    if len(own) != len(shape) or any(a not in (1, b) for a, b in zip(own, shape)):
        raise ValueError(f"{x.shape} does not fit {shape}")
    steps = [0 if n == 1 else step for n, step in zip(own, strides(own))]
    places = [0]
    for n, step in zip(shape, steps):
        places = [place + step * i for place in places for i in range(n)]
    return ndarray([x.values[place] for place in places], shape, x.dtype)


def strides(shape: Sequence[int]) -> list[int]:
    """Returns by how many elements each dimension steps."""
    found, step = [], 1
    for n in reversed(shape):
        found.append(step)
        step *= n
    return found[::-1]


def _is_int(key: Any) -> bool:
    return (isinstance(key, int) and not isinstance(key, bool)) or (
        isinstance(key, ndarray) and key.shape == () and key.dtype.kind in "iu"
    )


def _places(shape: tuple[int, ...], key: Any) -> tuple[list[int], tuple[int, ...]]:
    """Returns which elements an index means, and the shape that they have."""
    if isinstance(key, ndarray) and key.dtype is bool_:
        chosen = list(itertools.compress(range(len(key.values)), key.values))
        return chosen, (len(chosen),)
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(one is Ellipsis for one in keys):
        at = next(i for i, one in enumerate(keys) if one is Ellipsis)
        keys[at : at + 1] = [slice(None)] * (len(shape) - len(keys) + 1)
    keys += [slice(None)] * (len(shape) - len(keys))
    several = [one for one in keys if not isinstance(one, slice) and not _is_int(one)]
    if len(several) == len(keys) > 1:
        return _pointwise(shape, keys)
    places, found = [0], list[int]()
    for one, n, step in zip(keys, shape, strides(shape)):
        if _is_int(one):
            reach = [_inside(int(one), n)]
        elif isinstance(one, slice):
            reach = list(range(*one.indices(n)))
            found.append(len(reach))
        else:
            index = asarray(one)
            reach = [_inside(int(i), n) for i in index.values]
            found += index.shape
        places = [place + step * i for place in places for i in reach]
    return places, tuple(found)


def _pointwise(
    shape: tuple[int, ...], keys: list[Any]
) -> tuple[list[int], tuple[int, ...]]:
    """Returns the elements at some coordinates."""
    arrays = [asarray(key) for key in keys]
    rank = max(one.ndim for one in arrays)
    padded = [(1,) * (rank - one.ndim) + one.shape for one in arrays]
    found = tuple(max(lengths) if 0 not in lengths else 0 for lengths in zip(*padded))
    places = [0] * math.prod(found)
    for one, n, step in zip(arrays, shape, strides(shape)):
        reach = broadcast_to(one, found).values
        places = [p + step * _inside(int(i), n) for p, i in zip(places, reach)]
    return places, found


def _inside(index: int, length: int) -> int:
    if not -length <= index < length:
        raise IndexError(f"{index} is not inside {length}")
    return index % length
