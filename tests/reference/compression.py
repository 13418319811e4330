"""Compressors as slow NumPy float64 code, and local work around them.

What is random is passed in: `draws` in [0, 1), places, or signs.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxfed as jf
from tests.reference.methods import FedAvg


def top_k(vector, kept):
    """Stich et al. 2018, definition 2.1: of equals the first stay."""
    order = sorted(range(len(vector)), key=lambda i: (-abs(vector[i]), i))
    sent = np.zeros(len(vector))
    for i in order[:kept]:
        sent[i] = vector[i]
    return sent


def random_k(vector, places, factor):
    """Zero but at some places."""
    sent = np.zeros(len(vector))
    for i in places:
        sent[i] = factor * vector[i]
    return sent


def quantize(vector, bits, draws):
    """Suresh et al. 2017, section 2.2."""
    low, high, top = vector.min(), vector.max(), 2**bits - 1
    levels = [low + r * (high - low) / top for r in range(top + 1)]
    sent = []
    for value, draw in zip(vector, draws, strict=True):
        r = max(i for i in range(top) if levels[i] <= value)
        chance = (value - levels[r]) / (levels[r + 1] - levels[r])
        sent.append(levels[r + 1] if draw < chance else levels[r])
    return np.array(sent)


def hadamard(length):
    """The orthonormal matrix: entry (i, j) is -1 to the number of common bits."""
    signs = [
        [(-1) ** (i & j).bit_count() for j in range(length)] for i in range(length)
    ]
    return np.array(signs) / np.sqrt(length)


def rotated(vector, signs, inner):
    """Suresh et al. 2017, section 3."""
    matrix = hadamard(len(signs)) * signs
    padded = np.append(vector, np.zeros(len(signs) - len(vector)))
    return (matrix.T @ inner(matrix @ padded))[: len(vector)]


def places_of(key, size, kept):
    """The places that `RandomK` draws."""
    draws = np.asarray(jax.random.bits(key, (size,), jnp.uint32)) >> 2
    return np.argsort(-draws.astype(np.int64), kind="stable")[:kept]


def seed_of(seed, round_index, client, num_steps):
    """The key that a client of a simulation compresses with."""
    root = jf.keys.simulated(seed)
    key = jf.keys.for_purpose(root, jf.keys.Purpose.TRAINING)
    key = jf.keys.for_client(jf.keys.for_round(key, round_index), client)
    key = jf.keys.for_leaf(jf.keys.for_leaf(key, num_steps - 1), 2**30 - 2)
    words = jax.random.bits(key, (2,), jnp.uint32)
    return jax.random.wrap_key_data(words, impl="threefry2x32")


class Feedback(FedAvg):
    """Karimireddy et al. 2019, algorithm 2, around any compressor of a vector."""

    def __init__(self, weights, compress, feedback=True):
        super().__init__(weights)
        self.compress, self.feedback = compress, feedback
        self.round, self.error = 0, {}

    def client(self, number, batches):
        wanted = super().client(number, batches)["change"]
        wanted = wanted + self.error.get(number, 0.0)
        sent = self.compress(wanted, self.round, number, len(batches))
        if self.feedback:
            self.error[number] = wanted - sent
        return {"change": sent}

    def server(self, mean, share):
        del share
        self.x = self.x + mean["change"]
        self.round += 1
