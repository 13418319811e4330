"""The mean of every coordinate without its smallest and largest values.

Yin, Chen, Ramchandran and Bartlett 2018, arXiv:1803.01498, algorithm 1, option II.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed.robust import _order
from jaxfed.robust._base import Rule

_ROUNDING = 1e-9  # 0.29 * 100 is 28.999999999999996


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrimmedMean(Rule):
    """The mean over reports, without the extremes of each coordinate.

    Of n reports, the floor of `fraction * n` smallest and as many largest values of
    each coordinate are left out. (The paper takes `fraction * n` for an integer.) If at
    most that fraction of the reports is hostile, each coordinate lies within the range
    of the honest ones: hostile reports are a whole number, so the floor loses none.
    Exactly the same in any order of reports.

    Args:
        fraction: trimmed at each end, 0 <= fraction < 0.5; 0 is the plain mean.

    Raises:
        ValueError: `fraction` is out of range.
    """

    fraction: float

    def __post_init__(self) -> None:
        remedy = "pass the share of clients that may be hostile, for example 0.2"
        fraction = check.non_negative(remedy, fraction=self.fraction)
        if fraction >= 0.5:
            raise ValueError(
                f"fraction must be < 0.5, got {fraction}; {remedy}, or Median()."
            )
        object.__setattr__(self, "fraction", fraction)

    def _combine(self, rows: jax.Array, counted: jax.Array) -> jax.Array:
        count = jnp.sum(counted)
        trimmed = jnp.asarray(self._trims(counted.size))[count]
        kept = jnp.maximum(count - 2 * trimmed, 1).astype(jnp.float32)

        def mean(ordered: jax.Array) -> jax.Array:
            rank = jnp.arange(len(ordered))
            inside = (rank >= trimmed) & (rank < count - trimmed)
            return jnp.sum(jnp.where(inside[:, None], ordered, 0.0), axis=0) / kept

        return _order.reduced(rows, counted, mean)

    def _trims(self, most: int) -> np.ndarray:
        """Returns how many are left out at each end, of 0, 1, ..., `most` reports."""
        counts = [
            max(0, min(math.floor(self.fraction * n + _ROUNDING), (n - 1) // 2))
            for n in range(most + 1)
        ]
        return np.array(counts, np.int32)

    def describe(self) -> str:
        """Returns one clause for people."""
        return (
            "the mean of all reports, coordinate by coordinate, without the "
            f"{self.fraction:g} smallest and the {self.fraction:g} largest of them"
        )
