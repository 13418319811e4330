"""Correlated noise on the integers, a round at a time, with a proved sensitivity.

The strategies are those of Choquette-Choo et al. 2023, arXiv:2306.08153; that noise
and sums are integers is jaxfed's own, and so is the theorem.

A round releases y_t = x_t + w_t. x_t is a sum of clients' integer vectors, each of
norm at most L, and w_t = Z_t + g_t(w_0, ..., w_(t-1)) is an integer vector: Z_t is
discrete Gaussian noise, and g_t is what the filter computes from earlier noise, within
r of the exact -sum_j c_j w_(t-j) in every coordinate.

Theorem. Let a neighbour's sums be x' = x + u with u_t = 0 outside the rounds of one
client's participation. Given the same earlier releases, the two runs release the same
y_t if their Z_t differ by an integer vector s_t that the earlier releases determine,
and over the run, always,

    (sum_t |s_t|^2)^(1/2) <= sensitivity(C) L + 2 r sqrt(rounds * dimension).

Proof. y fixes w = y - x and w' = w - u. Z_t = w_t - g_t(w), so s_t = Z'_t - Z_t =
-u_t - (g_t(w') - g_t(w)) = -(C u)_t + e_t, where e_t gathers the two deviations from
the exact filter, each coordinate at most 2 r. The triangle inequality ends it.

So the run is an adaptive composition of discrete Gaussian mechanisms whose squared
shifts sum to at most S^2, the square of the right side, whatever is released. Each is
(|s_t|^2 / (2 scale^2))-concentrated (Canonne, Kamath and Steinke 2020,
arXiv:2004.00010), and under such a bound on the total adaptivity costs
nothing (Feldman and Zrnic 2021, arXiv:2008.11193, for Renyi divergences; Smith and
Thakurta 2022, arXiv:2210.17520, and Koskela, Tobaben and Honkela 2022,
arXiv:2209.15596, for Gaussian ones): the run is charged as one Gaussian event of
multiplier scale / S.
"""

import abc
import dataclasses
import math
from typing import Any, Protocol

import jax
import numpy as np
from jax.core import Tracer

from jaxfed import _check as check
from jaxfed import keys
from jaxfed.noise._strategies import Strategy
from jaxfed.typing import PyTree

LIMIT = 2**31 - 1
ROUNDED_UP = 1 + 1e-6  # more than the float64 sums of a bound can lose


class IntegerSampler(Protocol):
    """Independent noise on the integers."""

    @property
    def largest(self) -> int:
        """No draw is larger in magnitude."""
        ...

    def draw(self, shape: tuple[int, ...], *, key: jax.Array) -> jax.Array:
        """Draws int32 noise."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream(abc.ABC):
    """Correlated integer noise, one round after the other.

    The state is a pytree of int32 arrays, a function of the noise so far: it is as
    secret as the noise, and is saved with a checkpoint. Rounds are asked for once
    each, in order; noise of a round beyond the strategy's horizon is not covered.

    Args:
        strategy: what `noise.BLT(...).strategy(rounds, participation)` returned.
        sampler: independent integer noise.
    """

    strategy: Strategy
    sampler: IntegerSampler

    def __post_init__(self) -> None:
        if self.largest > LIMIT:
            raise ValueError(
                f"sampler.largest must keep the noise of {self.strategy.rounds} rounds "
                f"below 2**31, got {self.sampler.largest}, for which it can reach "
                f"{self.largest:.3g}; use a coarser grid or less noise."
            )

    @property
    @abc.abstractmethod
    def largest(self) -> int:
        """No coordinate of any round's noise is larger in magnitude, for any draws."""

    @property
    @abc.abstractmethod
    def rounding_error(self) -> float:
        """2 r: how far the filter of two runs can differ beyond C, a coordinate."""

    @abc.abstractmethod
    def init(self, shapes: PyTree) -> PyTree:
        """Returns the state before round 0 for noise of these shapes."""

    @abc.abstractmethod
    def _next(
        self, state: PyTree, *, key: jax.Array, index: Any
    ) -> tuple[PyTree, PyTree]:
        """Draws one round's noise; `index` is an integer or an int32 scalar."""

    def next(
        self, state: PyTree, *, key: jax.Array, round_index: jax.Array | int
    ) -> tuple[PyTree, PyTree]:
        """Draws the noise of the next round; may be traced.

        Args:
            state: what `init` or the last call returned.
            key: the round's key for noise.
            round_index: how many rounds came before.

        Returns:
            The new state, and int32 noise with the structure of `shapes`.

        Raises:
            ValueError: the round is beyond the strategy's horizon (where its number
                is known before the program runs).
        """
        check.key(key=key)
        is_known = not isinstance(round_index, Tracer)
        if is_known and not 0 <= int(round_index) < self.strategy.rounds:
            raise ValueError(
                f"round_index must be in [0, {self.strategy.rounds}), got "
                f"{int(round_index)}; the noise covers no more rounds: plan them all "
                "before the first."
            )
        return self._next(state, key=key, index=round_index)

    def sensitivity(self, *, norm: float, dimension: int) -> float:
        """Returns S of the theorem, in units of the grid; rounded up.

        Args:
            norm: the largest norm of a client's integer vector.
            dimension: its number of coordinates.
        """
        check.positive("it is what one client can move a sum by", norm=norm)
        check.positive_integer(dimension=dimension)
        rounding = self.rounding_error * math.sqrt(self.strategy.rounds * dimension)
        return (self.strategy.sensitivity * norm + rounding) * (1 + 2.0**-50)


def draw_like(
    sampler: IntegerSampler, shapes: list[tuple[int, ...]], *, key: jax.Array
) -> list[jax.Array]:
    """Draws independent noise for several leaves, each from a key of its own."""
    return [
        sampler.draw(shape, key=keys.for_leaf(key, i)) for i, shape in enumerate(shapes)
    ]


def absolute_sum(coefficients: np.ndarray) -> float:
    """Returns the sum of absolute values, rounded up."""
    return float(np.abs(coefficients).sum()) * ROUNDED_UP
