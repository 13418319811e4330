"""The geometric median: the point of the least sum of distances to all reports.

Pillutla, Kakade and Harchaoui 2019, arXiv:1912.13445: the smoothed Weiszfeld algorithm.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed import _check as check
from jaxfed.robust import _order
from jaxfed.robust._base import Rule, norms, weighted_sum

_LEAST_SMOOTHING = 1e-20


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeometricMedian(Rule):
    """The geometric median of the reports, by a fixed number of Weiszfeld's steps.

    Each step is a mean in which a report weighs 1 / max(`smoothing`, its distance from
    the last one), as in the paper, with equal weights of clients. The first point is
    the median of every coordinate, which hostile reports cannot send far away: from
    their mean, as many steps would be lost on the way back. It may be a report, which
    would then weigh as much as all others together: in the first step the distances'
    median counts in place of `smoothing`, if it is larger.

    With f of n reports hostile, f < n / 2, the exact geometric median is within
    2 (n - f) / (n - 2 f) times the largest distance of honest reports from any point
    you like, such as their mean.

    Args:
        iterations: Weiszfeld's steps, each one pass over all reports.
        smoothing: distances below it count as it, in the units of the parameters.

    Raises:
        ValueError: an argument is out of range.
    """

    iterations: int = 10
    smoothing: float = 1e-6

    def __post_init__(self) -> None:
        iterations = check.positive_integer("10 is usual", iterations=self.iterations)
        object.__setattr__(self, "iterations", iterations)
        smoothing = check.positive("1e-6 is usual", smoothing=self.smoothing)
        if smoothing < _LEAST_SMOOTHING:
            raise ValueError(
                f"smoothing must be >= {_LEAST_SMOOTHING}, got {smoothing}: weights of "
                "1 / smoothing must add up in float32; 1e-6 is usual."
            )
        object.__setattr__(self, "smoothing", smoothing)

    def _combine(self, rows: jax.Array, counted: jax.Array) -> jax.Array:
        def step(index: jax.Array, point: jax.Array) -> jax.Array:
            distances = norms(rows - point[None])
            least = jnp.where(index == 0, middle_of(distances), 0.0)
            distances = jnp.maximum(distances, jnp.maximum(least, self.smoothing))
            weights = jnp.where(counted, 1 / distances, 0.0)
            return weighted_sum(rows, weights / jnp.sum(weights))

        def middle_of(distances: jax.Array) -> jax.Array:
            return _order.middle(distances[:, None], counted)[0]

        start = _order.middle(rows, counted)
        return lax.fori_loop(0, self.iterations, step, start)

    def describe(self) -> str:
        """Returns one clause for people."""
        return (
            f"the geometric median of all reports, after {self.iterations} of "
            "Weiszfeld's steps"
        )
