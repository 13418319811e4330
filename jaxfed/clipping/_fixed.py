"""Flat clipping: the whole update to one norm.

McMahan et al. 2018, arXiv:1710.06963, section 3 (flat clipping of the whole update).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed import tree
from jaxfed.clipping._base import Clipping, Group, checked_norm, whole
from jaxfed.clipping._lattice import HEADROOM
from jaxfed.typing import Params, PyTree

# Squares of updates outside 2**-40 .. 2**40 could overflow or underflow: those are
# first multiplied by a power of two, which is exact. (Dividing by the largest value
# is not safe: compilers multiply by its reciprocal, which above 2**126 flushes to 0.)
_ORDINARY = 2.0**40
_RESCALE = 2.0**80


class Clipped(NamedTuple):
    """One client's bounded contribution. Private."""

    value: PyTree
    """float32 leaves."""
    is_finite: jax.Array
    """() bool; False where the client sent NaN or infinity and so counts as zero."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(Clipping):
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
        norm: the bound, in the units of the parameters; between 1e-12 and 1e12.
    """

    norm: float

    def __post_init__(self) -> None:
        remedy = "typical model updates have norms between 0.01 and 10"
        object.__setattr__(self, "norm", checked_norm(remedy, norm=self.norm))

    def groups(self, params: Params) -> tuple[Group, ...]:
        """Returns one group of all leaves."""
        return whole(params)

    def init(self, params: Params) -> PyTree:
        """Returns `()`: there is no state."""
        del params
        return ()

    def norms_of(self, state: PyTree) -> tuple[jax.Array, ...]:
        """Returns `norm`."""
        del state
        return (jnp.float32(self.norm),)

    @property
    def initial_norm(self) -> float:
        """`norm`."""
        return self.norm

    def describe(self) -> str:
        """Returns one clause for a privacy statement."""
        return f"each update is clipped to L2 norm {self.norm:g}"

    def clip(self, update: PyTree) -> Clipped:
        """Bounds one client's update (a pytree of floating-point leaves)."""
        limit = jnp.float32(self.norm * HEADROOM)
        return bounded(update, limit, lambda a: jnp.sqrt(tree.sum_of_squares(a)))


def bounded(
    update: PyTree, limit: jax.Array, length_of: Callable[[PyTree], jax.Array]
) -> Clipped:
    """Scales an update down to a length of at most `limit`, as far as it is computed.

    Args:
        update: a pytree of floating-point leaves.
        limit: () float32.
        length_of: a norm of float32 leaves, of ordinary size.
    """
    update = lax.optimization_barrier(update)  # measured and scaled: the same numbers
    peak = tree.maximum_magnitude(update)
    is_finite = jnp.isfinite(peak)
    values = jax.tree.map(
        lambda a: jnp.where(is_finite, a.astype(jnp.float32), 0.0), update
    )
    unit = jnp.where(
        peak > _ORDINARY,
        1 / _RESCALE,
        jnp.where(peak < 1 / _ORDINARY, _RESCALE, 1.0),
    ).astype(jnp.float32)
    scaled = lax.optimization_barrier(tree.scale(values, unit))
    length = length_of(scaled)  # in this unit
    fits = length <= limit * unit
    shrink = limit / jnp.where(fits, 1.0, length)
    value = jax.tree.map(lambda a, b: jnp.where(fits, a, b * shrink), values, scaled)
    return Clipped(value, is_finite)
