"""Top-k sparsification: the largest values, and zero for the others.

Stich et al. 2018, arXiv:1809.07599, definition 2.1 (top-k). Gives no privacy by itself.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.compression import _vector
from jaxfed.typing import PyTree

_FLOAT = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopK:
    """Keeps the values of largest magnitude, over all arrays of an update together.

    k is `fraction` times the number d of scalars, rounded, at least 1; of equal
    magnitudes the first stay. The message holds k float32 values, and their places:
    `k * ceil(log2(d))` bits, or one bit for each of d, whatever is less.

    It is biased: what is small is never sent, if it is small in every round. With
    `error_feedback=True` it is sent later.

    Args:
        fraction: of the values to keep, in (0, 1].
    """

    fraction: float

    def __post_init__(self) -> None:
        remedy = "pass for example fraction=0.05"
        fraction = check.probability(remedy, fraction=self.fraction)
        object.__setattr__(self, "fraction", fraction)

    @property
    def is_unbiased(self) -> bool:
        """False."""
        return False

    @property
    def expands(self) -> bool:
        """False: some values become zero, and the others stay."""
        return False

    def compress(self, update: PyTree, *, key: jax.Array) -> PyTree:
        """Returns float32 leaves like `update`; draws nothing from `key`."""
        del key
        vector = _vector.flat(update)
        kept = _vector.count(self.fraction, update)
        _, places = lax.top_k(jnp.abs(vector), kept)
        return _vector.unflat(_vector.only(vector, places), update)

    def num_bits(self, like: PyTree) -> int:
        """Returns the length of the message for an update like this one."""
        size, kept = tree.size(like), _vector.count(self.fraction, like)
        places = min(kept * (size - 1).bit_length(), size)
        return kept * _FLOAT + places
