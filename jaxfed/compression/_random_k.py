"""Random-k sparsification: as many values at random places, and zero for the others.

Unbiased: Konečný and Richtárik 2016, arXiv:1611.07555 (fixed-size support, a seed
instead of places). Unscaled, for error feedback: Stich et al. 2018, arXiv:1809.07599,
definition 2.1 (random-k). Gives no privacy by itself.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed import _check as check
from jaxfed.compression import _vector
from jaxfed.typing import PyTree

_FLOAT, _SEED = 32, 64
_LEAST_NORMAL = 1 << 23  # the bits of the least normal float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomK:
    """Keeps the values at random places, over all arrays of an update together.

    k is `fraction` times the number d of scalars, rounded, at least 1; every set of k
    places is as likely as any other. The message holds k float32 values and the 64-bit
    seed that places are drawn from.

    Args:
        fraction: of the values to keep, in (0, 1].
        unbiased: whether kept values are multiplied by d / k, so that the mean over
            draws is the update; with False they stay, which error feedback needs.
    """

    fraction: float
    unbiased: bool = True

    def __post_init__(self) -> None:
        remedy = "pass for example fraction=0.05"
        fraction = check.probability(remedy, fraction=self.fraction)
        object.__setattr__(self, "fraction", fraction)
        check.instance(bool, "pass True or False", unbiased=self.unbiased)

    @property
    def is_unbiased(self) -> bool:
        """As it was set."""
        return self.unbiased

    @property
    def expands(self) -> bool:
        """Whether kept values are multiplied."""
        return self.unbiased

    def compress(self, update: PyTree, *, key: jax.Array) -> PyTree:
        """Returns float32 leaves like `update`; `key` is what the seed stands for."""
        vector = _vector.flat(update)
        kept = _vector.count(self.fraction, update)
        sent = _vector.only(vector, _places(key, vector.size, kept))
        if self.unbiased:
            sent = sent * jnp.float32(vector.size / kept)
        return _vector.unflat(sent, update)

    def num_bits(self, like: PyTree) -> int:
        """Returns the length of the message for an update like this one."""
        return _SEED + _FLOAT * _vector.count(self.fraction, like)


def _places(key: jax.Array, size: int, kept: int) -> jax.Array:
    """Returns `kept` distinct places of `size`: those of the largest of 30-bit draws.

    Compared as normal floats, whose order is that of their bits, because compilers
    have a fast selection for these alone.
    """
    bits = (jax.random.bits(key, (size,), jnp.uint32) >> 2) + jnp.uint32(_LEAST_NORMAL)
    return lax.top_k(lax.bitcast_convert_type(bits, jnp.float32), kept)[1]
