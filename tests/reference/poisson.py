"""Truncated Poisson batches as slow loops over examples, in exact arithmetic.

Ganesh et al. 2025, arXiv:2508.15089. Reads the words of a client's keys one at a time,
and compares 96 of their bits with the rate as a fraction.
"""

import functools
from fractions import Fraction

import jax

from jaxfed import keys

TILE = 1024


def batches(key, client, size, steps, rate, width):
    """Returns the examples of each of a client's batches, ascending."""
    own = keys.for_client(key, client)

    @functools.cache
    def tile(use, number, words):
        part = keys.for_leaf(keys.for_leaf(own, use), number)
        return jax.random.bits(part, (TILE * words,), "uint32").tolist()

    def uniform(use, coin, words):
        """Returns a number in [0, 2**(32 * words)), the upper words first."""
        first = coin % TILE * words
        total = 0
        for word in tile(use, coin // TILE, words)[first : first + words]:
            total = (total << 32) | word
        return total

    found = []
    for step in range(steps):
        joined = []
        for example in range(size):
            coin = step * size + example
            bits = (uniform(0, coin, 1) << 64) | uniform(1, coin, 2)
            if Fraction(bits, 2**96) < Fraction(rate):
                joined.append(example)
        if len(joined) > width:
            joined.sort(key=lambda e, step=step: uniform(2, step * size + e, 4))
        found.append(sorted(joined[:width]))
    return found
