"""The integer lattice: contributions as bounded integers, whose sum is exact.

A contribution is measured in units of its clip norm, scaled to `levels` grid points a
norm and rounded to integers. Integer sums are the same in any order, chunking and
device layout, they cannot overflow by construction, and discrete noise on the same
grid leaves no output impossible under a neighbour (Kairouz, Liu and Steinke 2021,
arXiv:2102.06387, is the same idea for secure aggregation).

Theorem (L2 bound). The integers that `encode` returns have an exact L2 norm of at
most `levels`, for every input of fewer than 2**30 scalars. Proof. Let u be the
float32 values in units of the norm: one array in memory, both measured and scaled. (A
compiler that computes it twice may round it twice in different ways.) Let n be the
computed `sqrt(sum_of_squares(u))`.
By the bound of `tree.sum_of_squares` the true norm of u is at most n (1 + 2**-11.9);
scalars that count as zero add at most 2**30 * 2**-126 to its square. Either n is at
most 1 - 2**-11 and u is multiplied by `target`, or it is multiplied by at most
`target (1 - 2**-11) / n (1 + 2**-21)`; both give a true norm below `target`.
Truncation towards zero shortens every coordinate, and there `target = levels`;
randomised rounding moves each of d coordinates by less than 1, and there
`target = levels - ceil(sqrt(d))`.

Every sum is written out in an order of its own and all else is elementwise, so that
the same update gives the same integers under every strategy, chunking and number of
devices, and in NumPy.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed import tree

HEADROOM = 1.0 - 2.0**-11
_MOST_LEVELS = 2**20
_WORD = 2**31
# Noise tables end within 16 standard deviations (`largest` is checked again where a
# round is laid out), and are built for scales up to 2**30 / 12.
_TAIL = 24
# A bias of 0.14 standard deviations of the noise adds 1 % to the root-mean-square
# error, and so does losing 1 % of the norm to the room for randomised rounding.
_BIAS = 0.14
_ROOM = 0.01
# Squares of values beyond 2**60 norms overflow; such an update is no update.
_MOST_SQUARED = 2.0**120


class Encoded(NamedTuple):
    """One client's part of an integer sum. Private."""

    value: list[jax.Array]
    """int32 arrays, all zero where `is_finite` is False."""
    is_finite: jax.Array
    """() bool; False for NaN, infinity, and norms beyond 2**60 clip norms."""
    fits: jax.Array
    """() bool: whether nothing was clipped away."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lattice:
    """A grid on which one client's part has a norm of at most `levels`."""

    levels: int
    """The exact L2 bound of one contribution, in grid units."""
    target: int
    """How many grid units one clip norm is long."""
    is_random: bool
    """Whether rounding is randomised (unbiased) or truncates towards zero."""


def choose(*, dimension: int, max_clients: int, multiplier: float) -> Lattice:
    """Returns the finest grid on which nothing can overflow.

    Rounding adds less than 1 % to the error of the aggregate: truncation where its
    bias, at most `max_clients` grid units, is small beside the noise, and unbiased
    randomised rounding elsewhere.

    Args:
        dimension: how many scalars a contribution has.
        max_clients: the largest cohort.
        multiplier: standard deviation of the noise over the bound; 0 for none.

    Raises:
        ValueError: no grid can hold such a sum in 32 bits to that accuracy.
    """
    most = int((_WORD - 1) / (max_clients + _TAIL * multiplier + 1))
    levels = min(_MOST_LEVELS, 2 ** (most.bit_length() - 1) if most else 0)
    return at(
        levels,
        dimension=dimension,
        max_clients=max_clients,
        stddev=multiplier * levels,
    )


def at(levels: int, *, dimension: int, max_clients: int, stddev: float) -> Lattice:
    """Returns the grid with so many steps a clip norm, for noise of `stddev` steps.

    Raises:
        ValueError: rounding would cost more than 1 %.
    """
    if max_clients <= _BIAS * stddev:
        return Lattice(levels=levels, target=levels, is_random=False)
    room = math.ceil(math.sqrt(dimension))
    if room > _ROOM * levels:
        raise ValueError(
            f"a sum over up to {max_clients:,} clients of {dimension:,} parameters "
            f"with noise of {stddev:.4g} steps must fit 32-bit integers and be "
            f"rounded by under 1 %, but a grid of {levels:,} steps a clip norm is all "
            "that fits; take fewer clients a round (rate, size, cap), or more noise."
        )
    return Lattice(levels=levels, target=levels - room, is_random=True)


def encode(
    leaves: Sequence[jax.Array], norm: jax.Array, lattice: Lattice, *, key: jax.Array
) -> Encoded:
    """Clips arrays together to `norm` and rounds them onto the grid.

    Args:
        leaves: floating-point arrays: one group of an update.
        norm: () float32, the clip norm, between 1e-12 and 1e12.
        lattice: the grid.
        key: used only by randomised rounding.
    """
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"an update must hold floating-point arrays, got {leaf.dtype}; counts "
                "and flags have no norm to clip: keep them out of the parameters."
            )
    # held apart: where it is a constant, a compiler may join it to the next factor
    in_one_norm = lax.optimization_barrier(1.0 / norm)
    in_norms = [leaf.astype(jnp.float32) * in_one_norm for leaf in leaves]
    in_norms = lax.optimization_barrier(in_norms)  # the premise of the theorem
    squared = tree.sum_of_squares(in_norms)
    is_finite = squared < _MOST_SQUARED  # False for NaN
    length = jnp.sqrt(jnp.where(is_finite, squared, 1.0))
    fits = is_finite & (length <= HEADROOM)
    limit = jnp.float32(lattice.target * HEADROOM)
    factor = jnp.where(
        fits, jnp.float32(lattice.target), limit / jnp.maximum(length, HEADROOM)
    )
    scaled = [jnp.where(is_finite, leaf * factor, 0.0) for leaf in in_norms]
    if not lattice.is_random:
        return Encoded([leaf.astype(jnp.int32) for leaf in scaled], is_finite, fits)
    scaled = lax.optimization_barrier(scaled)  # floor and fraction of the same number
    keys = jax.random.split(key, len(scaled))
    value = [_randomly(leaf, key=keys[i]) for i, leaf in enumerate(scaled)]
    return Encoded(value, is_finite, fits)


def _randomly(values: jax.Array, *, key: jax.Array) -> jax.Array:
    """Rounds up with the probability that makes it unbiased, to 2**-24."""
    below = jnp.floor(values)
    uniform = (jax.random.bits(key, values.shape, jnp.uint32) >> 8).astype(jnp.float32)
    up = uniform < (values - below) * jnp.float32(2**24)
    return below.astype(jnp.int32) + up.astype(jnp.int32)
