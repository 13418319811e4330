"""The mean of reports clipped to a norm.

Sun, Kairouz, Suresh and McMahan 2019, arXiv:1911.07963, norm thresholding of updates.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed.robust._base import Rule, norms, weighted_sum


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormBounded(Rule):
    """The mean of the reports, each first scaled down to an L2 norm.

    One of n clients moves the value by at most 2 `norm` / n, wherever it points: that
    limits a minority and does not leave it out. Alone among these rules it is a sum;
    `jaxfed.privacy.central` clips so already, to the last bit, and adds noise.

    Args:
        norm: of one report, over all leaves, in the units of the parameters.

    Raises:
        ValueError: `norm` is not a positive number.
    """

    norm: float

    def __post_init__(self) -> None:
        remedy = "typical model updates have norms between 0.01 and 10"
        object.__setattr__(self, "norm", check.positive(remedy, norm=self.norm))

    def _combine(self, rows: jax.Array, counted: jax.Array) -> jax.Array:
        lengths = jnp.maximum(norms(rows), jnp.finfo(jnp.float32).tiny)
        shrink = jnp.minimum(self.norm / lengths, 1.0)
        return weighted_sum(rows, shrink / jnp.sum(counted).astype(jnp.float32))

    def describe(self) -> str:
        """Returns one clause for people."""
        return f"the mean of all reports, each clipped to L2 norm {self.norm:g}"
