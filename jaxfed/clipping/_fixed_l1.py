"""Flat clipping to an L1 norm, for noise whose sensitivity is counted in L1.

Dwork, McSherry, Nissim and Smith 2006, section 3 (L1 sensitivity), by scaling down.
"""

import dataclasses

import jax.numpy as jnp

from jaxfed import tree
from jaxfed._config import Configuration
from jaxfed.clipping._base import checked_norm
from jaxfed.clipping._fixed import Clipped, bounded
from jaxfed.typing import PyTree

# The computed sum is within 2**-16 of the true one (`tree.sum_of_magnitudes`); a
# limit 2**-10 below the bound leaves room for that and for the scaling's rounding.
_HEADROOM = 1.0 - 2.0**-10


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedL1(Configuration):
    """Scales an update down to a fixed L1 norm (sum of magnitudes).

    Guarantee: the L1 norm of `clip(update).value` over all leaves together, in exact
    arithmetic, is at most `norm` for every input of fewer than 2**30 scalars: huge,
    subnormal, NaN, infinite, and any floating dtype. It costs 0.1 % of the norm.

    | update | contribution |
    | --- | --- |
    | L1 norm <= 0.998 `norm` | itself, in float32 |
    | larger | scaled to L1 norm 0.999 `norm` |
    | any NaN or infinity | zero, whole update |
    | zero | zero |

    Args:
        norm: the bound, in the units of the parameters; between 1e-12 and 1e12. An
            update's L1 norm is up to sqrt(number of parameters) times its L2 norm.
    """

    norm: float

    def __post_init__(self) -> None:
        remedy = "an L1 norm adds up the magnitudes of all parameters' changes"
        object.__setattr__(self, "norm", checked_norm(remedy, norm=self.norm))

    def clip(self, update: PyTree) -> Clipped:
        """Bounds one client's update (a pytree of floating-point leaves)."""
        limit = jnp.float32(self.norm * _HEADROOM)
        return bounded(update, limit, tree.sum_of_magnitudes)
