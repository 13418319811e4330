"""The Gaussian mechanism.

Dwork and Roth 2014, appendix A; McMahan et al. 2018,
arXiv:1710.06963, algorithm 1.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxfed import _check as check
from jaxfed import keys
from jaxfed._config import Configuration
from jaxfed.typing import ClippedSum, Released


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussian(Configuration):
    """Gaussian noise whose standard deviation is `multiplier` times the sum's bound.

    Drawn in float32 by `jax.random.normal`: right in distribution up to 5.2 standard
    deviations, and so right for simulations, but its finite set of values can betray
    an input. No release may be made with it; accounting describes the ideal Gaussian.

    Args:
        multiplier: unitless, >= 0; 0 means no noise and an infinite epsilon.
    """

    multiplier: float

    def __post_init__(self) -> None:
        value = check.non_negative(
            "calibrate one with `privacy.calibrated(epsilon=..., ...)`",
            multiplier=self.multiplier,
        )
        object.__setattr__(self, "multiplier", value)

    def release(self, clipped: ClippedSum, *, key: jax.Array) -> Released:
        """Adds the noise; the only way from a `ClippedSum` to a `Released`."""
        check.instance(
            ClippedSum,
            "wrap the sum with its bound before adding noise",
            clipped=clipped,
        )
        bound = clipped.l2_bound
        if not isinstance(bound, Tracer):
            check.positive(
                "it is what one client can move the sum by", l2_bound=float(bound)
            )
        stddev = self.multiplier * bound
        leaf_keys = keys.tree_like(check.key(key=key), clipped.total)

        def add(leaf_key: jax.Array, leaf: jax.Array) -> jax.Array:
            return leaf + stddev * jax.random.normal(leaf_key, leaf.shape, jnp.float32)

        return Released(value=jax.tree.map(add, leaf_keys, clipped.total))
