"""The integer lattice in NumPy: the same integers as `jaxfed.clipping` gives with JAX.

Each group of arrays is measured in its clip norm, scaled onto the grid, and rounded to
integers whose exact L2 norm is at most `levels`; see `jaxfed.clipping._lattice` for the
theorem. Here that bound is checked again in exact integers before anything leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxfed.vault import _arrays
from jaxfed.vault._numpy import np
from jaxfed.vault._program import Array

_F = np.float32
_HEADROOM = _F(1 - 2.0**-11)
_MOST_SQUARED = _F(2.0**120)
MOST_LEVELS, MOST_FINE_LEVELS = 1 << 20, 1 << 24
_BLOCK = 1 << 14  # whose squares, of numbers up to 2**24, add up to at most 2**62
_LEAF = np.uint32(3 << 30)  # the branch of a key for a group; see `jaxfed.keys`


class Group(NamedTuple):
    """Arrays that are clipped together, and their grid."""

    indices: tuple[int, ...]
    """Which of the update's arrays."""
    norm: float
    """The clip norm."""
    levels: int
    """The exact bound of the integers' L2 norm."""
    target: int
    """How many grid units one clip norm is long."""
    is_random: bool
    """Whether rounding is randomised or truncates towards zero."""


class Encoded(NamedTuple):
    """One client's part of the sum. Private."""

    update: list[Array]
    """int32, in the order of the update; all zero where it could not be used."""
    fits: bool
    """Whether nothing of the first group was clipped away."""
    is_finite: bool


def encode(leaves: Sequence[Array], groups: Sequence[Group], key: Array) -> Encoded:
    """Clips an update and rounds it onto the grid.

    Args:
        leaves: float32 arrays.
        groups: every leaf is in one.
        key: (2,) uint32 of threefry, the client's for encoding; randomised rounding
            alone uses it.

    Raises:
        ArithmeticError: an exact norm is beyond its bound, which cannot be.
    """
    found: list[Array] = [np.zeros(leaf.shape, np.int32) for leaf in leaves]
    fits, is_finite = True, True
    for number, group in enumerate(groups):
        own_key = _arrays.random_fold_in(key, np.asarray(_LEAF | np.uint32(number)))
        integers, is_whole, was_finite = _group(
            [leaves[index] for index in group.indices], group, own_key
        )
        is_finite &= was_finite
        fits = is_whole if number == 0 else fits
        for index, one in zip(group.indices, integers):
            found[index] = one
    if not is_finite:  # one bad group zeroes the whole contribution
        found = [np.zeros_like(one) for one in found]
    for group in groups:
        check([found[index] for index in group.indices], group.levels)
    return Encoded(found, bool(fits), bool(is_finite))


def check(leaves: Sequence[Array], levels: int) -> None:
    """Checks the exact L2 norm of integers.

    Raises:
        ArithmeticError: it is beyond `levels`.
    """
    total = 0
    for leaf in leaves:
        flat = leaf.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK].astype(np.int64)
            if int(np.abs(block).max()) > levels:
                total = levels * levels + 1
                break
            total += int(np.dot(block, block))
    if total > levels * levels:
        raise ArithmeticError(
            f"the norm of a contribution must be at most {levels} grid units, got "
            "more; nothing was sent."
        )


def _group(
    leaves: Sequence[Array], group: Group, key: Array
) -> tuple[list[Array], bool, bool]:
    with np.errstate(all="ignore"):
        in_norms = [leaf.astype(_F) * (_F(1) / _F(group.norm)) for leaf in leaves]
        squared = _sum_of_squares(in_norms)
        if not squared < _MOST_SQUARED:
            return [np.zeros(leaf.shape, np.int32) for leaf in leaves], False, False
        length = np.sqrt(squared)
        fits = bool(length <= _HEADROOM)
        factor = _F(group.target)
        if not fits:
            limit = _F(group.target * (1 - 2.0**-11))
            factor = limit / np.maximum(length, _HEADROOM)
        scaled = [leaf * factor for leaf in in_norms]
    if not group.is_random:
        return [np.trunc(leaf).astype(np.int32) for leaf in scaled], fits, True
    keys = _arrays.random_split(key, (len(scaled),))
    return [_randomly(x, k) for x, k in zip(scaled, keys)], fits, True


def _randomly(values: Array, key: Array) -> Array:
    """Rounds up with the probability that makes it unbiased, to 2**-24."""
    below = np.floor(values)
    bits = _arrays.random_bits(key, values.shape) >> np.uint32(8)
    up = bits.astype(_F) < (values - below) * _F(2**24)
    return below.astype(np.int32) + up.astype(np.int32)


def _sum_of_squares(leaves: Sequence[Array]) -> Array:
    """Adds squares in the order of `jaxfed.tree.sum_of_squares`: the same bits."""
    parts = [_squares(leaf) for leaf in leaves]
    small = [part for part in parts if 0 < part.size < 4096]
    sums = [_added(part) for part in parts if part.size >= 4096]
    sums += [_added(np.concatenate(small))] if small else []
    return _added(np.array(sums, _F))


def _squares(values: Array) -> Array:
    """(h + l)**2 without l**2, of the upper 12 bits and the lower ones: exact parts."""
    bits = np.abs(np.ravel(values)).astype(_F).view(np.int32)
    bits = np.where(bits < 64 << 23, 0, np.minimum(bits, 0x7F7FFFFF))
    bits = np.where(bits < 76 << 23, (bits + 0x800) & ~0xFFF, bits).astype(np.int32)
    upper = (bits & ~0xFFF).view(_F)
    lower = bits.view(_F) - upper
    return upper * upper + upper * (_F(2) * lower)


def _added(terms: Array) -> Array:
    """Eight equal parts added to each other, until one is left."""
    while terms.size > 1:
        length = terms.size // 8 if terms.size >= 64 else -(-terms.size // 8)
        terms = np.pad(terms, (0, max(0, 8 * length - terms.size)))
        total = np.zeros(length, _F)
        for part in terms[: 8 * length].reshape(8, length):
            total = total + part
        rest = terms[8 * length :]
        total[: rest.size] += rest
        terms = total
    return terms.reshape(()) if terms.size else np.zeros((), _F)
