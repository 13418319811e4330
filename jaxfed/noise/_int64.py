"""64-bit integers as pairs of 32-bit ones, for programs without 64-bit JAX.

Two's complement modulo 2^64: every operation is exact as long as its result lies in
[-2^63, 2^63), which the callers prove from bounds of their inputs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_LOW = 0xFFFF


class Int64(NamedTuple):
    """An array of 64-bit integers: `high * 2**32 + low`, `low` read as unsigned."""

    high: jax.Array
    """int32."""
    low: jax.Array
    """int32, the bits of an unsigned word."""


def zeros(shape: tuple[int, ...]) -> Int64:
    """Returns zeros."""
    return Int64(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32))


def widened(values: jax.Array) -> Int64:
    """Returns int32 values as 64-bit integers."""
    return Int64(lax.shift_right_arithmetic(values, _like(values, 31)), values)


def narrowed(value: Int64) -> jax.Array:
    """Returns int32, for values that fit."""
    return value.low


def add(left: Int64, right: Int64) -> Int64:
    """Returns `left + right`."""
    low = _unsigned(left.low) + _unsigned(right.low)
    carry = (low < _unsigned(left.low)).astype(jnp.int32)
    return Int64(left.high + right.high + carry, _signed(low))


def subtract(left: Int64, right: Int64) -> Int64:
    """Returns `left - right`."""
    borrow = (_unsigned(left.low) < _unsigned(right.low)).astype(jnp.int32)
    return Int64(left.high - right.high - borrow, left.low - right.low)


def times(value: Int64, factor: jax.Array | int) -> Int64:
    """Returns `value * factor` for a whole factor in [0, 2**16].

    Digits of 16 bits: digit * 2^16 + carry <= (2^16 - 1) 2^16 + 2^16 - 1 < 2^32.
    """
    factor = jnp.asarray(factor).astype(jnp.uint32)
    carry, digits = None, []
    for word in (value.low, value.high):
        bits = _unsigned(word)
        for digit in (bits & jnp.uint32(_LOW), bits >> jnp.uint32(16)):
            part = digit * factor
            part = part if carry is None else part + carry
            digits.append(part & jnp.uint32(_LOW))
            carry = part >> jnp.uint32(16)
    low = digits[0] | (digits[1] << jnp.uint32(16))
    high = digits[2] | (digits[3] << jnp.uint32(16))
    return Int64(_signed(high), _signed(low))


def shifted_up(value: Int64, bits: int) -> Int64:
    """Returns `value * 2**bits` for 0 <= bits < 64."""
    if bits == 0:
        return value
    if bits >= 32:
        return Int64(_left(value.low, bits - 32), jnp.zeros_like(value.low))
    spill = _unsigned(value.low) >> jnp.uint32(32 - bits)
    return Int64(_left(value.high, bits) | _signed(spill), _left(value.low, bits))


def shifted_down(value: Int64, bits: int) -> Int64:
    """Returns `value / 2**bits` to the nearest integer, halves up; 0 <= bits < 64."""
    if bits == 0:
        return value
    half = shifted_up(widened(jnp.ones_like(value.low)), bits - 1)
    high, low = add(value, half)
    if bits >= 32:
        sign = lax.shift_right_arithmetic(high, _like(high, 31))
        return Int64(sign, lax.shift_right_arithmetic(high, _like(high, bits - 32)))
    kept = _unsigned(low) >> jnp.uint32(bits)
    return Int64(
        lax.shift_right_arithmetic(high, _like(high, bits)),
        _signed(kept) | _left(high, 32 - bits),
    )


def _left(word: jax.Array, bits: int) -> jax.Array:
    return lax.shift_left(word, _like(word, bits))


def _like(word: jax.Array, value: int) -> jax.Array:
    return jnp.full_like(word, value)


def _unsigned(word: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(word, jnp.uint32)


def _signed(word: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(word, jnp.int32)
