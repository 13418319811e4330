"""Noise that a vault adds itself: nobody learns much from a report, the server neither.

The clipped update on a fine grid, plus discrete Gaussian or Laplace noise, rounded at
random to a coarser grid on which a whole cohort's sum fits 32 bits: what
`jaxfed.privacy.local` does with JAX, and from the same tables. The clip is computed in
float64 and checked in exact integers. All random words come from the 32 secret bytes of
a round and the clipped update itself, by SHAKE-256: a round that is asked for again
gets the same report, which tells nothing more, and no two updates share noise.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence

from jaxfed.vault import _lattice, _tables
from jaxfed.vault._numpy import np
from jaxfed.vault._program import Array
from jaxfed.vault._rules import Rules

_SHRINK = 1 - 2.0**-20  # as in `jaxfed.privacy`: more than rounding can add to a norm
_BLOCK = 1 << 16  # draws at once
_SALT = b"jaxfed vault noise, version 1"


def report(update: Sequence[Array], rules: Rules, seed: bytes) -> list[Array]:
    """Returns a private report: int32 arrays, for any update, also NaN.

    Args:
        update: float32 arrays.
        rules: of a local mechanism.
        seed: 32 secret bytes of this round.

    Raises:
        ArithmeticError: an exact norm is beyond its bound, which cannot be.
    """
    exact = _clipped(update, rules)
    digest = hashlib.sha256()
    for leaf in exact:
        digest.update(leaf.astype("<i8").tobytes())
    secret, found = seed + digest.digest(), []
    for number, leaf in enumerate(exact):
        noisy = np.empty(leaf.size, np.int32)
        for start in range(0, leaf.size, _BLOCK):
            block = leaf.reshape(-1)[start : start + _BLOCK]
            words = _Words(secret, number, start)
            drawn = block + draw(rules, words, block.size)
            if rules.shift:
                random = words.take(block.size) >> np.uint32(32 - rules.shift)
                drawn = (drawn + random.astype(np.int64)) >> rules.shift
            noisy[start : start + _BLOCK] = drawn
        found.append(noisy.reshape(leaf.shape))
    return found


def draw(rules: Rules, words: _Words, size: int) -> Array:
    """Draws integer noise, (size,) int64."""
    total = np.zeros(size, np.int64)
    for factor, table in _parts(rules.law, rules.noise_scale):
        total += factor * from_table(table, [words.take(size) for _ in range(3)])
    return total


def from_table(table: _tables.Rows, words: Sequence[Array]) -> Array:
    """Turns three vectors of uniform words into one of draws (int64).

    The first word is index | sign | top of u, the others are the rest of u: a draw is
    the index if u is below the index's threshold, otherwise its alias.
    """
    first, *others = words
    bits = np.uint32(table.index_bits)
    row = (first >> (np.uint32(32) - bits)).astype(np.int64)
    sign = (first >> (np.uint32(31) - bits)) & np.uint32(1)
    top = first & np.uint32((1 << (31 - table.index_bits)) - 1)
    packed = table.rows[0][row]
    threshold = packed >> bits
    alias = packed & np.uint32((1 << table.index_bits) - 1)
    below = np.zeros(first.shape, bool)
    for word, column in zip(others[::-1], table.rows[:0:-1]):
        limit = column[row]
        below = (word < limit) | ((word == limit) & below)
    below = (top < threshold) | ((top == threshold) & below)
    magnitude = np.where(below, row, alias.astype(np.int64))
    return np.where(sign == 1, -magnitude, magnitude)


def most_value(rules: Rules) -> int:
    """Returns the largest magnitude of any report's number."""
    parts = _parts(rules.law, rules.noise_scale)
    largest = sum(factor * table.largest for factor, table in parts)
    return ((rules.groups[0].levels + largest) >> rules.shift) + 1


def most_norm(rules: Rules, size: int) -> float:
    """Returns what the norm of a whole report exceeds with probability 2**-60 at most.

    L1 or L2 as the law's: of the clipped update, the noise, and the rounding. The tails
    are Laurent and Massart's (2000, lemma 1) and that of a sum of exponentials.
    """
    unit, tail = 2.0**rules.shift, 60 * math.log(2)
    clipped, scale = rules.groups[0].levels / unit, rules.noise_scale / unit
    if rules.law == "laplace":
        return clipped + scale * (size + math.sqrt(2 * size * tail) + tail) + size
    spread = size + 2 * math.sqrt(size * tail) + 2 * tail
    return clipped + scale * math.sqrt(spread) + math.sqrt(size)


class _Words:
    """Uniform words for one block of one array, from a secret."""

    def __init__(self, secret: bytes, number: int, start: int):
        place = number.to_bytes(8, "little") + start.to_bytes(8, "little")
        self._prefix, self._turn = _SALT + secret + place, 0

    def take(self, count: int) -> Array:
        """Returns the next words, (count,) uint32."""
        self._turn += 1
        data = self._prefix + self._turn.to_bytes(8, "little")
        return np.frombuffer(hashlib.shake_256(data).digest(4 * count), "<u4")


def _clipped(update: Sequence[Array], rules: Rules) -> list[Array]:
    """Returns whole numbers whose norm, L1 or L2 as the law's, is at most `levels`."""
    (group,) = rules.groups
    wide = [np.asarray(leaf, np.float64) for leaf in update]
    is_l1 = rules.law == "laplace"
    with np.errstate(all="ignore"):
        if is_l1:
            length = sum(float(np.abs(leaf).sum()) for leaf in wide)
        else:
            length = float(np.sqrt(sum(float((leaf**2).sum()) for leaf in wide)))
        if not length < np.inf:  # NaN too
            return [np.zeros(leaf.shape, np.int64) for leaf in wide]
        factor = group.levels / max(group.norm, length) * _SHRINK
        exact = [np.trunc(leaf * factor).astype(np.int64) for leaf in wide]
    if not is_l1:
        _lattice.check(exact, group.levels)
    elif sum(int(np.abs(leaf).sum()) for leaf in exact) > group.levels:
        raise ArithmeticError("the norm of a contribution is beyond its bound")
    return exact


@functools.lru_cache(maxsize=4)
def _parts(law: str, scale: float) -> list[tuple[int, _tables.Rows]]:
    return _tables.laplace(scale) if law == "laplace" else _tables.gaussian(scale)[0]
