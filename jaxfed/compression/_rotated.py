"""Random rotation before another compressor, and back after it.

Suresh et al. 2017, arXiv:1611.00429, section 3: random signs, then a Walsh-Hadamard
transform, which makes all values about equally large whatever the update was. Gives no
privacy by itself.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfed import tree
from jaxfed.compression import _vector
from jaxfed.typing import PyTree

_SEED = 64
_RADIX = 5  # bits of an index a product takes care of: matrices of 32 by 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotated:
    """Rotates an update at random, compresses it, and rotates it back.

    All arrays are one vector, padded with zeros to the next power of two, of which
    `inner` compresses every value: up to twice as many as there are. The message is
    that of `inner` and the 64-bit seed of the signs. The rotation keeps the L2 norm,
    and there and back is the identity, both up to the rounding of float32.

    Args:
        inner: a compressor, for example `StochasticQuantization(bits=4)`.
    """

    inner: Any

    def __post_init__(self) -> None:
        is_type = isinstance(self.inner, (type, Rotated))
        if is_type or not hasattr(self.inner, "num_bits"):
            raise TypeError(
                f"inner must be a compressor that does not rotate, got {self.inner!r}; "
                "pass for example StochasticQuantization(bits=4)."
            )

    @property
    def is_unbiased(self) -> bool:
        """Whether `inner` is."""
        return self.inner.is_unbiased

    @property
    def expands(self) -> bool:
        """Whether `inner` does; else it does not, up to the rounding of float32."""
        return self.inner.expands

    def compress(self, update: PyTree, *, key: jax.Array) -> PyTree:
        """Returns float32 leaves like `update`; signs and `inner` draw from `key`."""
        signs_key, inner_key = jax.random.split(key)
        vector = _vector.flat(update)
        length = _padded(vector.size)
        signs = _signs(signs_key, length)
        padded = jnp.pad(vector, (0, length - vector.size))
        rotated = _hadamard(signs * padded)
        sent = self.inner.compress(rotated, key=inner_key)
        return _vector.unflat(signs * _hadamard(sent), update)

    def num_bits(self, like: PyTree) -> int:
        """Returns the length of the message for an update like this one."""
        padded = jax.ShapeDtypeStruct((_padded(tree.size(like)),), jnp.float32)
        return _SEED + self.inner.num_bits(padded)


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _signs(key: jax.Array, length: int) -> jax.Array:
    """Returns 1 or -1 at random, (length,) float32."""
    words = jax.random.bits(key, (-(-length // 32),), jnp.uint32)
    bits = words[:, None] >> jnp.arange(32, dtype=jnp.uint32)[None, :] & 1
    return 1.0 - 2.0 * bits.reshape(-1)[:length].astype(jnp.float32)


def _hadamard(vector: jax.Array) -> jax.Array:
    """Returns the orthonormal Walsh-Hadamard transform of 2**m values; its own inverse.

    The matrix is a product of Kronecker factors, one for each group of bits of an
    index: few products of small matrices, which is faster than m passes over memory.
    """
    left, shape = vector.size.bit_length() - 1, []
    while left:
        shape.append(1 << min(left, _RADIX))
        left -= min(left, _RADIX)
    values = vector.reshape(shape)
    for size in reversed(shape):  # the last axis goes to the front, in as many turns
        factor = jnp.asarray(_matrix(size))
        values = jnp.tensordot(
            factor,
            values,
            axes=[[1], [values.ndim - 1]],
            precision=lax.Precision.HIGHEST,
        )
    return values.reshape(-1)


def _matrix(size: int) -> np.ndarray:
    """Returns the orthonormal Hadamard matrix of 2**m rows."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (matrix / math.sqrt(size)).astype(np.float32)
