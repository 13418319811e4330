"""What each operation computes, in NumPy.

Operands and attributes were checked: nothing here has to be refused.
"""

from __future__ import annotations

import math
from typing import Any

from jaxfed.vault._numpy import np

Array = np.ndarray
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def logistic(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return np.reciprocal(1 + np.exp(-x))


def rsqrt(x: Array) -> Array:
    """1 / sqrt(x)."""
    return np.reciprocal(np.sqrt(x))


def erf(x: Array) -> Array:
    """The error function, to float32: Numerical Recipes' erfc, relative to 1.2e-7.

    Close to zero, its Taylor series.
    """
    wide = x.astype(np.float64)
    t = 1 / (1 + 0.5 * np.abs(wide))
    total = np.zeros_like(wide)
    for factor in _ERFC:
        total = total * t + factor
    far = 1 - t * np.exp(-wide * wide + total)
    near = wide * (1 - wide**2 * (1 / 3 - wide**2 * (0.1 - wide**2 / 42)))
    near *= 2 / math.sqrt(math.pi)
    return np.where(np.abs(wide) < 0.1, near, np.copysign(far, wide)).astype(x.dtype)


_ERFC = (
    *(0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807),
    *(-0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223),
)
# Giles 2012, the polynomials of single precision
_INVERSE_NEAR = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
    *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
_INVERSE_FAR = (
    *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773),
    *(-0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)


def erf_inv(x: Array) -> Array:
    """The inverse of the error function: Giles 2012, as XLA computes it."""
    w = -np.log1p(-x * x)
    is_near = w < 5
    w = np.where(is_near, w - np.float32(2.5), np.sqrt(w) - np.float32(3))
    total = np.zeros_like(w)
    for near, far in zip(_INVERSE_NEAR, _INVERSE_FAR):
        total = np.where(is_near, np.float32(near), np.float32(far)) + total * w
    found = total * x
    return np.where(np.abs(x) == 1, x * np.float32(np.inf), found).astype(x.dtype)


def integer_pow(x: Array, exponent: int) -> Array:
    """A whole power, by squaring."""
    if exponent < 0:
        return np.reciprocal(integer_pow(x, -exponent))
    found, factor = None, x
    while exponent:
        if exponent & 1:
            found = factor if found is None else found * factor
        exponent >>= 1
        if exponent:
            factor = factor * factor
    return np.ones_like(x) if found is None else found


def divide(x: Array, y: Array) -> Array:
    """A quotient; of integers, cut towards zero, and -1 by zero."""
    if x.dtype.kind == "f":
        return x / y
    wide = np.asarray(x, np.int64), np.asarray(y, np.int64)
    safe = np.where(wide[1] == 0, 1, wide[1])
    found = np.abs(wide[0]) // np.abs(safe) * np.sign(wide[0]) * np.sign(safe)
    return np.where(wide[1] == 0, -1, found).astype(x.dtype)


def remainder(x: Array, y: Array) -> Array:
    """What a division leaves, with the sign of the dividend; of x by zero, x."""
    if x.dtype.kind == "f":
        return np.fmod(x, y)
    return np.where(y == 0, x, np.fmod(x, np.where(y == 0, 1, y))).astype(x.dtype)


def shifted(x: Array, by: Array, *, left: bool, signed: bool) -> Array:
    """Shifts bits; by 32 and more, to nothing, or to the sign."""
    words = x if signed else x.view(np.uint32)
    count = by.astype(np.uint32)
    inside = np.minimum(count, 31).astype(words.dtype)
    found = np.left_shift(words, inside) if left else np.right_shift(words, inside)
    if not signed:
        found = np.where(count > 31, np.zeros((), words.dtype), found)
    return np.asarray(found, words.dtype).view(x.dtype)


def convert(x: Array, dtype: str) -> Array:
    """Another dtype; floats beyond integers are cut to their limits, NaN to 0."""
    if x.dtype.kind == "f" and dtype in ("int32", "uint32", "uint8"):
        limits = np.iinfo(dtype)
        wide = np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=1e30, neginf=-1e30)
        return np.clip(wide, limits.min, limits.max).astype(dtype)
    return x.astype(dtype)


def broadcast_in_dim(
    x: Array, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...]
) -> Array:
    """A view that repeats."""
    middle = [1] * len(shape)
    for d, n in zip(broadcast_dimensions, x.shape):
        middle[d] = n
    return np.broadcast_to(x.reshape(middle), shape)


def reshape(
    x: Array, shape: tuple[int, ...], dimensions: tuple[int, ...] | None
) -> Array:
    """The same elements in another shape, after another order if there is one."""
    return (x if dimensions is None else x.transpose(dimensions)).reshape(shape)


def pad(x: Array, value: Any, config: tuple[tuple[int, ...], ...]) -> Array:
    """With a value before, after and between elements; negative cuts off."""
    spread = [max(0, n + max(0, n - 1) * c[2]) for n, c in zip(x.shape, config)]
    middle = np.full(spread, value, x.dtype)
    middle[tuple(slice(None, None, c[2] + 1) for c in config)] = x
    cut = [slice(max(0, -c[0]), n + min(0, c[1])) for n, c in zip(spread, config)]
    middle = middle[tuple(cut)]
    shape = [max(0, n + c[0] + c[1]) for n, c in zip(spread, config)]
    found = np.full(shape, value, x.dtype)
    inside = tuple(
        slice(max(0, c[0]), max(0, c[0]) + n) for n, c in zip(middle.shape, config)
    )
    if 0 not in shape:
        found[inside] = middle
    return found


def slice_(x: Array, start: Any, limit: Any, strides: tuple[int, ...] | None) -> Array:
    """A view of every so many elements."""
    strides = strides or (1,) * x.ndim
    return x[tuple(slice(a, b, s) for a, b, s in zip(start, limit, strides))]


def dynamic_slice(x: Array, *starts: Array, sizes: tuple[int, ...]) -> Array:
    """A block, moved inside if it is not."""
    return x[_block(x, starts, sizes)]


def dynamic_update_slice(x: Array, block: Array, *starts: Array) -> Array:
    """A copy with a block replaced."""
    found = np.array(x)
    found[_block(x, starts, block.shape)] = block
    return found


def iota(shape: tuple[int, ...], dtype: str, dimension: int) -> Array:
    """0, 1, 2, ... along a dimension, as a view."""
    middle = [1] * len(shape)
    middle[dimension] = shape[dimension]
    return np.broadcast_to(
        np.arange(shape[dimension]).astype(dtype).reshape(middle), shape
    )


def reduce_sum(x: Array, axes: tuple[int, ...]) -> Array:
    """The sum; of columns as a product, which is faster and as exact."""
    if x.ndim == 2 and axes == (0,) and x.dtype.kind == "f" and x.flags.c_contiguous:
        return np.ones((1, x.shape[0]), x.dtype).dot(x)[0]
    return np.asarray(x.sum(axis=axes, dtype=x.dtype))


def cumulative(function: Any, x: Array, axis: int, reverse: bool) -> Array:
    """Each element with all before it, or behind it."""
    if reverse:
        return np.flip(function.accumulate(np.flip(x, axis), axis), axis)
    return np.asarray(function.accumulate(x, axis))


def sort(*arrays: Array, dimension: int, num_keys: int) -> Any:
    """All arrays in the order of the first keys; equal ones stay in order."""
    order = np.lexsort(arrays[:num_keys][::-1], axis=dimension)
    found = [np.take_along_axis(x, order, dimension) for x in arrays]
    return found if len(found) > 1 else found[0]


def random_bits(key: Array, shape: tuple[int, ...]) -> Array:
    """32 bits for each element, as JAX's threefry draws them."""
    first, second = _drawn(key, math.prod(shape))
    return (first ^ second).reshape((*key.shape[:-1], *shape))


def random_split(key: Array, shape: tuple[int, ...]) -> Array:
    """Keys from each key."""
    words = _drawn(key, math.prod(shape))
    return np.stack(words, axis=-1).reshape((*key.shape[:-1], *shape, 2))


def random_fold_in(key: Array, number: Array) -> Array:
    """A key from each key and a number."""
    data = np.broadcast_to(number.astype(np.uint32), key.shape[:-1])
    words = threefry(key[..., 0], key[..., 1], np.zeros_like(data), data)
    return np.stack(words, axis=-1)


def threefry(k0: Array, k1: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Threefry with 2 words of 32 bits and 20 rounds: Salmon et al. 2011."""
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    with np.errstate(over="ignore"):
        a, b = x0 + keys[0], x1 + keys[1]
        for turn in range(5):
            for by in _ROTATIONS[turn % 2]:
                a = a + b
                b = (b << np.uint32(by)) | (b >> np.uint32(32 - by))
                b = b ^ a
            a = a + keys[(turn + 1) % 3]
            b = b + keys[(turn + 2) % 3] + np.uint32(turn + 1)
    return a, b


def bits_at(key: Array, start: int, stop: int) -> Array:
    """The bits of some elements of a vector that `random_bits` would draw."""
    first, second = _drawn(key, stop - start, start)
    return first ^ second


def _drawn(key: Array, count: int, start: int = 0) -> tuple[Array, Array]:
    numbers = np.arange(count, dtype=np.uint64) + np.uint64(start)
    high = (numbers >> np.uint64(32)).astype(np.uint32)
    low = (numbers & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return threefry(key[..., :1], key[..., 1:], high, low)


def _block(x: Array, starts: Any, sizes: Any) -> tuple[slice, ...]:
    begins = (
        min(max(int(start), 0), n - size)
        for start, size, n in zip(starts, sizes, x.shape)
    )
    return tuple(slice(begin, begin + size) for begin, size in zip(begins, sizes))
