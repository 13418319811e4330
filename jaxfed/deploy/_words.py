"""The random words of a round's clients: those that a simulation would draw.

A vault knows one generator, threefry. From a simulation's key it gets the very words of
the client's own key; from a secure key 64 bits that nobody can tell from random ones.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from jaxfed import keys


class Words(NamedTuple):
    """Of one round."""

    training: jax.Array
    encoding: jax.Array
    order: list[int]

    def of_client(self, number: int) -> dict[str, list[int]]:
        """Returns what a task holds for one client."""
        client = np.int32(number)
        return {
            "training": _two(_for_client(self.training, client)),
            "encoding": _two(_for_client(self.encoding, client)),
            "order": self.order,
        }


def of_round(root: jax.Array, index: int) -> Words:
    """Returns the words of a round, from the key of its run."""
    number = np.int32(index)
    order = int(keys.host_words(_for(root, keys.Purpose.SHUFFLING, number), 1)[0])
    return Words(
        _for(root, keys.Purpose.TRAINING, number),
        _for(root, keys.Purpose.ENCODING, number),
        [order >> 32, order & 0xFFFFFFFF],
    )


@jax.jit
def sampling_key(root: jax.Array) -> jax.Array:
    """Returns the key of the run's cohorts."""
    return keys.for_purpose(root, keys.Purpose.SAMPLING)


@functools.partial(jax.jit, static_argnums=1)
def _for(root: jax.Array, purpose: keys.Purpose, index: jax.Array) -> jax.Array:
    return keys.for_round(keys.for_purpose(root, purpose), index)


@jax.jit
def _for_client(key: jax.Array, number: jax.Array) -> jax.Array:
    return keys.for_client(key, number)


def _two(key: jax.Array) -> list[int]:
    if not keys.is_secure(key):
        return [int(word) for word in np.asarray(jax.random.key_data(key))]
    word = int(keys.host_words(key, 1)[0])
    return [word >> 32, word & 0xFFFFFFFF]
