"""Scale-then-privatise: clipping and noise in the units of an adaptive optimizer.

Ganesh, McMahan and Thakurta 2025, arXiv:2507.01129, algorithm 8: an update is divided,
coordinate by coordinate, by the root of its estimated second moment, then clipped and
noised, then multiplied back. Noise is then small where updates are small, as an
adaptive server optimizer needs it. The estimate is made from released means alone, so
that it is post-processing: the event and its epsilon are those of fixed clipping.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed import _check as check
from jaxfed.clipping._base import Clipping, Group, checked_norm, whole
from jaxfed.typing import Params, PyTree

_MOST_SQUARED = 2.0**100  # keeps the estimate finite whatever is released


class ScaledState(NamedTuple):
    """What released means have taught about the size of each coordinate; public."""

    second_moment: PyTree
    """float32 leaves: exponential average of squared released means, from zero."""
    weight: jax.Array
    """() float32: what the average's weights add up to, in [0, 1)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaled(Clipping):
    """Clips to a fixed L2 norm after dividing each coordinate by its usual size.

    With v the bias-corrected average of squared released means, an update u is clipped
    as `u / (sqrt(v) + floor)`. In the first round v is zero: all is divided by `floor`.
    Goes with a server optimizer of the same decay, such as
    `optax.adam(rate, b2=decay, eps=floor)`.

    The noise of a round feeds the estimate of the next. Where
    `multiplier * norm >= expected clients` it would grow without end, and the round
    is refused.

    Args:
        norm: the bound in scaled units; a vector of d coordinates of usual size has
            norm `sqrt(d)`.
        floor: added to every coordinate's size, in the units of the parameters: what is
            smaller counts as noise.
        decay: of the average, in (0, 1).
    """

    norm: float
    floor: float
    decay: float = 0.99

    def __post_init__(self) -> None:
        remedy = "the root of the number of parameters is the usual size"
        object.__setattr__(self, "norm", checked_norm(remedy, norm=self.norm))
        floor = checked_norm("1e-3 is a usual start", floor=self.floor)
        object.__setattr__(self, "floor", floor)
        check.open_probability("0.99 is usual", decay=self.decay)
        object.__setattr__(self, "decay", float(self.decay))

    def groups(self, params: Params) -> tuple[Group, ...]:
        """Returns one group of all leaves."""
        return whole(params)

    def init(self, params: Params) -> PyTree:
        """Returns the estimate before anything was released."""
        zeros = jax.tree.map(lambda a: jnp.zeros(jnp.shape(a), jnp.float32), params)
        return ScaledState(zeros, jnp.float32(0))

    def norms_of(self, state: PyTree) -> tuple[jax.Array, ...]:
        """Returns `norm`, in scaled units."""
        del state
        return (jnp.float32(self.norm),)

    def scale(self, state: PyTree, update: PyTree) -> PyTree:
        """Divides each coordinate by its usual size."""

        def scaled(leaf: jax.Array, size: jax.Array) -> jax.Array:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf  # refused where it is encoded
            # held apart: else the compiler divides in one layout of clients and
            # multiplies by a reciprocal in another, and the integers differ
            return leaf.astype(jnp.float32) * lax.optimization_barrier(1.0 / size)

        return jax.tree.map(scaled, update, self._sizes(state))

    def unscale(self, state: PyTree, mean: PyTree) -> PyTree:
        """Multiplies each coordinate by its usual size."""
        return jax.tree.map(jnp.multiply, mean, self._sizes(state))

    def observe(self, state: PyTree, mean: PyTree) -> PyTree:
        """Returns the next estimate, from a released mean."""
        rest = 1 - self.decay

        def averaged(moment: jax.Array, value: jax.Array) -> jax.Array:
            square = jnp.minimum(value.astype(jnp.float32) ** 2, _MOST_SQUARED)
            return self.decay * moment + rest * square

        moment = jax.tree.map(averaged, state.second_moment, mean)
        return ScaledState(moment, self.decay * state.weight + rest)

    @property
    def initial_norm(self) -> float:
        """What `norm` is worth in the first round: `norm * floor`."""
        return self.norm * self.floor

    def check_noise(self, expected_clients: float, multiplier: float) -> None:
        """Refuses noise that would feed on itself.

        Raises:
            ValueError: `multiplier * norm` is not below the expected cohort.
        """
        if multiplier * self.norm >= expected_clients:
            raise ValueError(
                f"multiplier * norm must be < the expected clients = "
                f"{expected_clients:g}, got {multiplier:g} * {self.norm:g}; the noise "
                "of one round would raise the noise of the next without end: take a "
                "smaller norm, or more clients."
            )

    def describe(self) -> str:
        """Returns one clause for a privacy statement."""
        return (
            "each update is divided by the usual size of released means, coordinate by "
            f"coordinate, and clipped to L2 norm {self.norm:g} in these units"
        )

    def _sizes(self, state: PyTree) -> PyTree:
        weight = jnp.where(state.weight > 0, state.weight, 1.0)
        return jax.tree.map(
            lambda moment: jnp.sqrt(moment / weight) + jnp.float32(self.floor),
            state.second_moment,
        )
