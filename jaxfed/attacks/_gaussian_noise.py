"""Gaussian noise in place of an update.

Blanchard, El Mhamdi, Guerraoui and Stainer 2017, arXiv:1703.02757, the Gaussian
attack of the experiments (there with a standard deviation of 200).
"""

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed import keys
from jaxfed.attacks._wrapper import attacked
from jaxfed.typing import LocalWork, PyTree


def gaussian_noise(local: LocalWork, *, deviation: float) -> LocalWork:
    """Returns local work in which hostile clients send noise instead of an update.

    Args:
        local: any; honest clients do just that. Of work that sends more than a change
            of the parameters, all that it sends is noise.
        deviation: the standard deviation of every coordinate, in the units of the
            parameters, > 0. Its draws come from the key of the client's last step.

    Raises:
        ValueError: `deviation` is out of range.
        TypeError: `local` is no local work.
    """
    check.setting(check.positive, "the paper takes 200", deviation=deviation)

    def drawn(leaf: jax.Array, key: jax.Array) -> jax.Array:
        noise = jax.random.normal(key, leaf.shape, jnp.float32)
        return (noise * jnp.float32(deviation)).astype(leaf.dtype)

    def change(update: PyTree, key: jax.Array) -> PyTree:
        return jax.tree.map(drawn, update, keys.tree_like(key, update))

    settings = f"deviation={deviation}"
    return attacked(local, change, name="gaussian_noise", settings=settings)
