"""What every rule of clipping can be asked."""

import abc
import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed._config import Configuration
from jaxfed.typing import Params, PyTree


class Group(NamedTuple):
    """Leaves of an update that are clipped together."""

    indices: tuple[int, ...]
    """Positions in `jax.tree.leaves(update)`."""
    dimension: int
    """How many scalars they hold."""
    share: float
    """Which part of the privacy of a round the group spends; shares add up to 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipping(Configuration, abc.ABC):
    """A rule that bounds one client's contribution, group by group."""

    @abc.abstractmethod
    def groups(self, params: Params) -> tuple[Group, ...]:
        """Returns the groups of an update with the structure of `params`."""

    @abc.abstractmethod
    def init(self, params: Params) -> PyTree:
        """Returns the rule's own state before the first round."""

    @abc.abstractmethod
    def norms_of(self, state: PyTree) -> tuple[jax.Array, ...]:
        """Returns each group's clip norm, () float32; public."""

    def check_noise(self, expected_clients: float, multiplier: float) -> None:
        """Refuses noise that this rule cannot work with; any will do unless it says so.

        Args:
            expected_clients: of a round; public.
            multiplier: noise over the norm, of all parts together.

        Raises:
            ValueError: the rule has no use for such noise.
        """
        del expected_clients, multiplier

    def scale(self, state: PyTree, update: PyTree) -> PyTree:
        """Returns an update in the units in which it is clipped and noised."""
        del state
        return update

    def unscale(self, state: PyTree, mean: PyTree) -> PyTree:
        """Returns a noised mean in the units of the parameters again."""
        del state
        return mean

    def observe(self, state: PyTree, mean: PyTree) -> PyTree:
        """Returns the next state, from a released mean: post-processing."""
        del mean
        return state

    @property
    @abc.abstractmethod
    def initial_norm(self) -> float:
        """The L2 norm of a whole clipped update, at most, in the first round."""

    @abc.abstractmethod
    def describe(self) -> str:
        """Returns one clause for a privacy statement."""


def checked_norm(remedy: str, **named: float) -> float:
    """Checks for a norm that float32 arithmetic can work with; returns a float."""
    norm = check.positive(remedy, **named)
    if not 1e-12 <= norm <= 1e12:
        (name,) = named
        raise ValueError(f"{name} must be in [1e-12, 1e12], got {norm}; {remedy}.")
    return norm


def whole(params: Params) -> tuple[Group, ...]:
    """Returns one group of all leaves."""
    leaves = jax.tree.leaves(params)
    return (Group(tuple(range(len(leaves))), sum(map(_size, leaves)), 1.0),)


def _size(leaf: jax.Array) -> int:
    return math.prod(jnp.shape(leaf))
