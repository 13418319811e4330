"""The lattice's encoding in plain NumPy, in the same arithmetic: the same integers.

Additions are written out in their order, so that this is also what a client without
JAX would compute.
"""

import numpy as np

F = np.float32


def squares(values):
    """(h + l)**2 without l**2, of the upper 12 bits and the lower ones: exact parts."""
    bits = np.abs(np.ravel(values)).astype(F).view(np.int32)
    bits = np.where(bits < 64 << 23, 0, np.minimum(bits, 0x7F7FFFFF))
    bits = np.where(bits < 76 << 23, (bits + 0x800) & ~0xFFF, bits).astype(np.int32)
    upper = (bits & ~0xFFF).view(F)
    lower = bits.view(F) - upper
    with np.errstate(over="ignore"):
        return upper * upper + upper * (F(2) * lower)


def added(terms):
    """Eight equal parts added to each other, until one is left."""
    while terms.size > 1:
        length = terms.size // 8 if terms.size >= 64 else -(-terms.size // 8)
        terms = np.pad(terms, (0, max(0, 8 * length - terms.size)))
        total = np.zeros(length, F)
        for part in terms[: 8 * length].reshape(8, length):
            total = total + part
        rest = terms[8 * length :]
        total[: rest.size] += rest
        terms = total
    return terms.reshape(())


def sum_of_squares(leaves):
    """Leaves of fewer than 4,096 scalars are joined, and added after the others."""
    parts = [squares(leaf) for leaf in leaves]
    small = [part for part in parts if 0 < part.size < 4096]
    sums = [added(part) for part in parts if part.size >= 4096]
    sums += [added(np.concatenate(small))] if small else []
    return added(np.array(sums, F))


def encode(leaves, norm, *, target):
    """Returns the truncated integers of one group of leaves."""
    in_norms = [leaf.astype(F) * (F(1) / F(norm)) for leaf in leaves]
    squared = sum_of_squares(in_norms)
    if not squared < F(2.0**120):
        return [np.zeros(leaf.shape, np.int32) for leaf in leaves]
    length = np.sqrt(squared)
    headroom = F(1 - 2.0**-11)
    factor = F(target)
    if not length <= headroom:
        factor = F(target * (1 - 2.0**-11)) / np.maximum(length, headroom)
    return [np.trunc(leaf * factor).astype(np.int32) for leaf in in_norms]
