"""Clipping: bounding what one client can contribute.

McMahan et al. 2018, arXiv:1710.06963, section 3 (flat clipping of the whole update).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed import tree
from jaxfed._config import Configuration
from jaxfed.typing import PyTree

# The computed norm is within 2**-12.8 of the true one (see `tree.sum_of_squares`); a
# limit 2**-11 below the bound leaves room for that and for the scaling's rounding.
_HEADROOM = 1.0 - 2.0**-11
# Below this magnitude an update is passed on as it is: squares would underflow, and
# its norm is far under any bound that `Fixed` accepts.
_TINY = 2.0**-100


class Clipped(NamedTuple):
    """One client's bounded contribution. Private."""

    value: PyTree
    """float32 leaves."""
    is_finite: jax.Array
    """() bool; False where the client sent NaN or infinity and so counts as zero."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(Configuration):
    """Scales an update down to a fixed L2 norm.

    Guarantee: the L2 norm of `clip(update).value` over all leaves together, in exact
    arithmetic, is at most `norm` for every input of fewer than 2**30 scalars: huge,
    subnormal, NaN, infinite, and any floating dtype. The promise is about the float32
    program that runs, including its rounding; it costs 0.05 % of the norm.

    | update | contribution |
    | --- | --- |
    | norm <= 0.9995 `norm` | itself, in float32 |
    | larger | scaled to norm 0.9995 `norm` |
    | any NaN or infinity | zero, whole update |
    | zero | zero |

    Args:
        norm: the bound, in the units of the parameters; between 1e-20 and 1e20.
    """

    norm: float

    def __post_init__(self) -> None:
        remedy = "typical model updates have norms between 0.01 and 10"
        norm = check.positive(remedy, norm=self.norm)
        if not 1e-20 <= norm <= 1e20:
            raise ValueError(f"norm must be in [1e-20, 1e20], got {norm}; {remedy}.")
        object.__setattr__(self, "norm", norm)

    def clip(self, update: PyTree) -> Clipped:
        """Bounds one client's update (a pytree of floating-point leaves)."""
        peak = tree.maximum_magnitude(update)
        is_finite = jnp.isfinite(peak)
        safe_peak = jnp.where(is_finite, jnp.maximum(peak, _TINY), 1.0)
        values = jax.tree.map(
            lambda a: jnp.where(is_finite, a.astype(jnp.float32), 0.0), update
        )
        unit = jax.tree.map(lambda a: a / safe_peak, values)
        length = jnp.sqrt(tree.sum_of_squares(unit))  # the norm is safe_peak * length
        limit = jnp.float32(self.norm * _HEADROOM)
        fits = safe_peak * length <= limit
        shrink = jnp.where(fits, 1.0, limit / jnp.maximum(length, 1.0))
        value = jax.tree.map(lambda a, u: jnp.where(fits, a, u * shrink), values, unit)
        return Clipped(value, is_finite)
