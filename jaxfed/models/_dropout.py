"""Dropout whose mask is a hash of the unit's number and a few bits of the key.

Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from
overfitting". The hash is two rounds of Wellons' `lowbias32` (hash-prospector, 2018)
with a word of the key before each: good enough to switch units off, some ten times
cheaper than a cryptographic stream. **It must never be used for privacy noise**: the
guarantees of this library rest on `jaxfed.noise`, which does not use it.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

_ODD = (0x7FEB352D, 0x846CA68B)


def dropout(
    inputs: jax.Array,
    rate: float,
    *,
    key: jax.Array,
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """Sets each unit to zero with probability `rate` and scales the others up.

    Not for privacy noise: the randomness is a 32-bit hash.

    Args:
        inputs: floating-point numbers of any shape.
        rate: the probability to drop a unit, in [0, 1]; it is met within 2**-32.
        key: a typed PRNG key; two words of it are used.
        broadcast_dims: axes along which units share their fate.

    Raises:
        ValueError: `rate` is not in [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], got {rate}; pass for example 0.5.")
    if rate == 0:
        return inputs
    threshold = round(rate * 2**32)
    if threshold >= 2**32:
        return jnp.zeros_like(inputs)
    shared = {axis % inputs.ndim for axis in broadcast_dims}
    shape = tuple(1 if i in shared else n for i, n in enumerate(inputs.shape))
    kept = jnp.broadcast_to(_hash(shape, key) >= jnp.uint32(threshold), inputs.shape)
    scale = jnp.asarray(1 / (1 - rate), inputs.dtype)
    return jnp.where(kept, inputs * scale, jnp.zeros((), inputs.dtype))


def _hash(shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """Returns 32 bits for each element; every round is a permutation of its number."""
    words = jax.random.bits(key, (2,), jnp.uint32)
    bits = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    for word in (words[0], words[1]):
        bits = bits ^ word
        bits = (bits ^ (bits >> 16)) * jnp.uint32(_ODD[0])
        bits = (bits ^ (bits >> 15)) * jnp.uint32(_ODD[1])
        bits = bits ^ (bits >> 16)
    return bits


class Dropout(nn.Dropout):
    """Is flax linen's `nn.Dropout` with a cheap hash; not for privacy noise.

    The same attributes, call and random stream `"dropout"`; other masks.
    """

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """Drops units of `inputs`, of any shape, unless `deterministic`.

        Args:
            inputs: floating-point numbers.
            deterministic: overrides the attribute where that is `None`.
            rng: a key; taken from the module's stream where not given.
        """
        is_off = nn.merge_param("deterministic", self.deterministic, deterministic)
        if is_off or self.rate == 0:
            return inputs
        if rng is None:
            rng = self.make_rng(self.rng_collection)
        return dropout(inputs, self.rate, key=rng, broadcast_dims=self.broadcast_dims)


class NnxDropout(nnx.Dropout):
    """Is flax nnx's `nnx.Dropout` with a cheap hash; not for privacy noise.

    The same constructor, call, `train()` and `eval()`; other masks.
    """

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: Any = None,
    ) -> jax.Array:
        """Drops units of `inputs`, of any shape, unless `deterministic`.

        Args:
            inputs: floating-point numbers.
            deterministic: overrides the attribute.
            rngs: a key, stream or `nnx.Rngs` instead of the constructor's.

        Raises:
            ValueError: there is no key to take.
        """
        is_off = self.deterministic if deterministic is None else deterministic
        if is_off or self.rate == 0:
            return inputs
        source = self.rngs if rngs is None else rngs
        if source is None:
            raise ValueError(
                "dropout is on but has no random stream, got rngs=None; pass rngs= to "
                "the constructor or to the call, or switch it off with model.eval()."
            )
        if isinstance(source, nnx.Rngs):
            source = source[self.rng_collection]
        key = source if isinstance(source, jax.Array) else source()
        return dropout(inputs, self.rate, key=key, broadcast_dims=self.broadcast_dims)
