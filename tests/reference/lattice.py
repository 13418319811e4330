"""The lattice's encoding in plain NumPy, in the same arithmetic: the same integers.

Sums are Python-like integer sums, so that this is also what a client without JAX would
compute.
"""

import numpy as np

F = np.float32


def sum_in_integers(values, *, squared):
    """Columns of up to 256 terms, scaled by a power of two, truncated and added."""
    values = np.abs(np.ravel(values)).astype(F)
    while values.size > 1 or squared:
        columns = -(-values.size // 256)
        values = np.pad(values, (0, -values.size % columns)).reshape(-1, columns)
        largest = values.max(axis=0)
        bits = largest.view(np.int32) >> 23
        up = (np.clip(253 - bits, 1, 253) << 23).astype(np.int32).view(F)
        down = (np.clip(bits + 1, 1, 255) << 23).astype(np.int32).view(F)
        scaled = values * up
        terms = (scaled * scaled if squared else scaled) * F(2**23)
        total = terms.astype(np.int64).sum(axis=0)
        assert total.max(initial=0) < 2**31
        values = total.astype(F) * F(2.0**-23) * down
        values = values * down if squared else values
        squared = False
    return values.reshape(())


def encode(leaves, norm, *, target):
    """Returns the truncated integers of one group of leaves."""
    in_norms = [leaf.astype(F) * (F(1) / F(norm)) for leaf in leaves]
    squares = np.array([sum_in_integers(leaf, squared=True) for leaf in in_norms])
    squared = sum_in_integers(squares, squared=False)
    if not squared < F(2.0**120):
        return [np.zeros(leaf.shape, np.int32) for leaf in leaves]
    length = np.sqrt(squared)
    headroom = F(1 - 2.0**-11)
    factor = F(target)
    if not length <= headroom:
        factor = F(target * (1 - 2.0**-11)) / np.maximum(length, headroom)
    return [np.trunc(leaf * factor).astype(np.int32) for leaf in in_norms]
