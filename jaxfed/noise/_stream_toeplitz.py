"""Streamed noise of Toeplitz strategies: w_t = Z_t - round(sum_j c_j w_(t-j)).

Choquette-Choo et al. 2023, arXiv:2306.08153 (banded); Dvijotham et al. 2024,
arXiv:2404.16706 (buffers). See `_stream` for the theorem.
"""

import dataclasses
import functools
import math
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed.noise import _int64, _toeplitz
from jaxfed.noise._int64 import Int64
from jaxfed.noise._strategies import COEFFICIENT_BITS, BandedStrategy, BLTStrategy
from jaxfed.noise._stream import (
    LIMIT,
    ROUNDED_UP,
    Stream,
    absolute_sum,
    draw_like,
)
from jaxfed.typing import PyTree

_MOST_FRACTION_BITS = 24
_WORD = 62  # magnitudes stay below 2^62, which leaves a bit for rounding


class BandedState(NamedTuple):
    """The noise of the last rounds. Secret."""

    past: PyTree
    """int32 leaves (bands - 1, ...): round t is in row t % (bands - 1)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandedStream(Stream):
    """Noise of a banded strategy; r = 1/2, or 0 with a single band.

    The coefficients are integers over 2^15. Earlier noise is cut into digits so short
    that the products of a digit with all coefficients sum to less than 2^31; the
    digits' sums are put together in 64 bits. The sum over j is therefore exact, and
    only its rounding to the grid remains.
    """

    strategy: BandedStrategy

    @functools.cached_property
    def _numerators(self) -> np.ndarray:
        """c_1, c_2, ... in units of 2^-15, int64."""
        scaled = np.array(self.strategy.coefficients[1:]) * 2**COEFFICIENT_BITS
        return scaled.astype(np.int64)

    @property
    def largest(self) -> int:
        """See `Stream`: C w = Z + rounding, hence |w| <= |C^-1|_1 (|Z| + r)."""
        noising = _toeplitz.inverse(
            np.array(self.strategy.coefficients), self.strategy.rounds
        )
        error = self.rounding_error / 2
        return math.ceil(absolute_sum(noising) * (self.sampler.largest + error))

    @property
    def rounding_error(self) -> float:
        """See `Stream`."""
        return 1.0 if len(self._numerators) else 0.0

    def init(self, shapes: PyTree) -> BandedState:
        """See `Stream`."""
        rows = len(self._numerators)
        return BandedState(
            jax.tree.map(lambda a: jnp.zeros((rows, *a.shape), jnp.int32), shapes)
        )

    def _next(
        self, state: BandedState, *, key: jax.Array, index: Any
    ) -> tuple[BandedState, PyTree]:
        past, structure = jax.tree.flatten(state.past)
        drawn = draw_like(self.sampler, [a.shape[1:] for a in past], key=key)
        rows = len(self._numerators)
        if rows:
            slots = jnp.arange(rows, dtype=jnp.int32)
            index = jnp.asarray(index, jnp.int32)
            lags = jnp.mod(index - 1 - slots, jnp.int32(rows))
            factors = jnp.asarray(self._numerators, jnp.int32)[lags]
            noise = [
                z - self._filtered(rows_of_leaf, factors)
                for z, rows_of_leaf in zip(drawn, past, strict=True)
            ]
            slot = jnp.mod(index, jnp.int32(rows))
            past = [a.at[slot].set(w) for a, w in zip(past, noise, strict=True)]
        else:
            noise = drawn
        return (
            BandedState(jax.tree.unflatten(structure, past)),
            jax.tree.unflatten(structure, noise),
        )

    def _filtered(self, past: jax.Array, factors: jax.Array) -> jax.Array:
        """Returns the exact sum of factors times rows, over 2^15, rounded."""
        total = int(np.abs(self._numerators).sum())
        bits = min(31, (LIMIT // max(total, 1) + 1).bit_length() - 1)
        shifts = range(0, 32, bits)

        def add_row(row: jax.Array, sums: tuple) -> tuple:
            return tuple(
                part + _digit(past[row], shift, bits) * factors[row]
                for part, shift in zip(sums, shifts, strict=True)
            )

        # row by row: eight times as fast on a CPU as a sum over the axis
        zero = jnp.zeros(past.shape[1:], jnp.int32)
        sums = jax.lax.fori_loop(0, len(past), add_row, (zero,) * len(shifts))
        result = _int64.zeros(past.shape[1:])
        for part, shift in zip(sums, shifts, strict=True):
            part = _int64.shifted_up(_int64.widened(part), shift)
            result = _int64.add(result, part)
        return _int64.narrowed(_int64.shifted_down(result, COEFFICIENT_BITS))


def _digit(values: jax.Array, shift: int, bits: int) -> jax.Array:
    """Returns `bits` bits of an integer from bit `shift` on; the top digit signed."""
    digit = jax.lax.shift_right_arithmetic(values, jnp.full_like(values, shift))
    return digit & jnp.int32((1 << bits) - 1) if shift + bits < 32 else digit


class BLTState(NamedTuple):
    """The buffers, as 64-bit fixed-point numbers. Secret."""

    high: PyTree
    """int32 leaves (buffers, ...)."""
    low: PyTree
    """int32 leaves (buffers, ...)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLTStream(Stream):
    """Noise of a BLT strategy from a few buffers the size of the model.

    Buffer i holds s_i = sum_j (1 - rate_i)^(j - 1) w_(t - j) in steps of 2^-F. A
    round rounds rate_i s_i once, by at most half a step, so that s_i is within
    min(rounds, 1 / rate_i) / 2 steps of its exact value, and the filter is within
    r = 1/2 + 2^-(F + 1) sum_i scale_i min(rounds, 1 / rate_i) of C. F is the largest
    number up to 24 for which no product can leave 64 bits.
    """

    strategy: BLTStrategy

    @functools.cached_property
    def _rates(self) -> list[tuple[int, int]]:
        """Numerators below 2^16 and powers of two below the fraction bar."""
        return [_dyadic(rate) for rate in self.strategy.rates]

    @functools.cached_property
    def _scales(self) -> tuple[list[int], int]:
        """Numerators and the power of two that they share."""
        found = [_dyadic(scale) for scale in self.strategy.scales]
        bits = max(power for _, power in found)
        return [number << (bits - power) for number, power in found], bits

    @functools.cached_property
    def _fraction_bits(self) -> int:
        """F: how finely buffers are kept."""
        numerators, scale_bits = self._scales
        largest = max(self._buffer_bounds)
        factor = max(1 << 16, sum(numerators))
        bits = _WORD - math.ceil(math.log2(largest * factor * ROUNDED_UP))
        bits = min(bits, _MOST_FRACTION_BITS, _WORD - scale_bits)
        is_rough = self._reach * 2.0 ** -(bits + 1) > 1  # the bounds allow r <= 3/2
        if is_rough or max(numerators) > 1 << 16:
            raise ValueError(
                "sampler.largest must leave bits for the fraction of buffers, got "
                f"{self.sampler.largest} and buffers up to {largest:.3g}; use a "
                "coarser grid or less noise."
            )
        return bits

    @functools.cached_property
    def _noising(self) -> np.ndarray:
        return _toeplitz.inverse(self.strategy.coefficients(), self.strategy.rounds)

    @functools.cached_property
    def _buffer_bounds(self) -> list[float]:
        """Bounds of |s_i|: that of |w| times the sum of its weights' magnitudes.

        s_i is the series 1 / (1 - (1 - rate_i) x) applied to w = C^-1 (Z + rounding).
        One more covers the buffer's own rounding, one the other deviations.
        """
        rounds, found = self.strategy.rounds, []
        for rate in self.strategy.rates:
            decay = (1 - rate) ** np.arange(rounds)
            weights = _toeplitz.product(decay, self._noising, rounds)
            found.append(absolute_sum(weights) * (self.sampler.largest + 2) + rounds)
        return found

    @property
    def _reach(self) -> float:
        """Returns the sum of scale_i min(rounds, 1 / rate_i), rounded up."""
        rounds = self.strategy.rounds
        pairs = zip(self.strategy.scales, self.strategy.rates, strict=True)
        return ROUNDED_UP * sum(
            scale * min(rounds, 1 / rate if rate else math.inf) for scale, rate in pairs
        )

    @property
    def _buffer_error(self) -> float:
        """R - 1/2."""
        return self._reach * 2.0 ** -(self._fraction_bits + 1)

    @property
    def largest(self) -> int:
        """See `Stream`: C w = Z + rounding, hence |w| <= |C^-1|_1 (|Z| + r)."""
        error = self.rounding_error / 2
        return math.ceil(absolute_sum(self._noising) * (self.sampler.largest + error))

    @property
    def rounding_error(self) -> float:
        """See `Stream`."""
        return 1.0 + 2 * self._buffer_error

    def init(self, shapes: PyTree) -> BLTState:
        """See `Stream`."""
        buffers = len(self._rates)

        def zeros(leaf: jax.Array) -> jax.Array:
            return jnp.zeros((buffers, *leaf.shape), jnp.int32)

        return BLTState(jax.tree.map(zeros, shapes), jax.tree.map(zeros, shapes))

    def _next(
        self, state: BLTState, *, key: jax.Array, index: Any
    ) -> tuple[BLTState, PyTree]:
        del index  # the buffers are all that the past amounts to
        high, structure = jax.tree.flatten(state.high)
        low = jax.tree.leaves(state.low)
        drawn = draw_like(self.sampler, [a.shape[1:] for a in high], key=key)
        stepped = [
            self._step(z, Int64(a, b)) for z, a, b in zip(drawn, high, low, strict=True)
        ]
        noise, high, low = zip(*stepped, strict=True) if stepped else ((), (), ())
        return (
            BLTState(
                jax.tree.unflatten(structure, high), jax.tree.unflatten(structure, low)
            ),
            jax.tree.unflatten(structure, noise),
        )

    def _step(
        self, drawn: jax.Array, buffers: Int64
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns one leaf's noise and its new buffers."""
        numerators, bits = self._scales
        each = [Int64(*pair) for pair in zip(*buffers, strict=True)]
        total = _int64.zeros(drawn.shape)
        for buffer, numerator in zip(each, numerators, strict=True):
            total = _int64.add(total, _int64.times(buffer, numerator))
        total = _int64.shifted_down(total, self._fraction_bits + bits)
        noise = drawn - _int64.narrowed(total)
        inflow = _int64.shifted_up(_int64.widened(noise), self._fraction_bits)
        kept = []
        for buffer, (numerator, power) in zip(each, self._rates, strict=True):
            lost = _int64.shifted_down(_int64.times(buffer, numerator), power)
            kept.append(_int64.add(_int64.subtract(buffer, lost), inflow))
        return (
            noise,
            jnp.stack([buffer.high for buffer in kept]),
            jnp.stack([buffer.low for buffer in kept]),
        )


def _dyadic(value: float) -> tuple[int, int]:
    """Returns `(n, p)` with value = n / 2^p and n at most 2^16."""
    fraction = Fraction(value)
    power = fraction.denominator.bit_length() - 1
    if not 0 <= fraction.numerator <= 1 << 16 or power >= _WORD:
        raise ValueError(
            f"rates and scales must be 16-bit numbers over a power of two, got {value};"
            " build the strategy with `noise.BLT(...).strategy(...)`."
        )
    return fraction.numerator, power
