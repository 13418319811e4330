"""The grid of a run with correlated noise, and the noise on it.

One grid serves all rounds, because the noise of earlier rounds comes back in later
ones. It is the finest on which neither sums nor noise can overflow 32 bits.
"""

import functools
import math
from typing import NamedTuple

import jax

from jaxfed import noise
from jaxfed.clipping import _lattice
from jaxfed.noise import _discrete
from jaxfed.noise._gaussian import SMOOTHING_DISTANCE, SMOOTHING_VARIANCE
from jaxfed.typing import Participation

_WORD = 2**31


class Layout(NamedTuple):
    """The grid of a run and the noise on it; static."""

    lattice: _lattice.Lattice
    stream: noise.Stream
    distance: float
    """Of one scalar of one round."""


class _Largest(NamedTuple):
    """Stands for a sampler where only the size of its noise matters."""

    largest: int

    def draw(self, shape: tuple[int, ...], *, key: jax.Array) -> jax.Array:
        raise NotImplementedError


class _Run(NamedTuple):
    """What the grid depends on."""

    strategy: noise.Strategy
    max_clients: int
    run_multiplier: float
    dimension: int

    def stddev_for(self, stream: noise.Stream, levels: int) -> float:
        """Returns the noise that is needed when a clip norm is so many grid units."""
        moved = stream.sensitivity(norm=levels, dimension=self.dimension)
        return self.run_multiplier * moved

    def fits(self, stream: noise.Stream, levels: int) -> bool:
        """Returns whether the sum and its noise stay within 32 bits."""
        return stream.largest + self.max_clients * levels < _WORD


@functools.lru_cache(maxsize=32)
def find(
    correlated: noise.Correlated,
    rounds: int,
    participation: Participation,
    *,
    max_clients: int,
    run_multiplier: float,
    dimension: int,
) -> Layout:
    """Finds the finest grid on which neither sums nor noise can overflow.

    The noise is scaled so that the run has exactly the multiplier that is accounted:
    what rounding adds to the sensitivity (`Stream.sensitivity`) is added to it.

    Args:
        correlated: the noise.
        rounds: the horizon.
        participation: the contract of the cohorts.
        max_clients: the largest cohort.
        run_multiplier: noise over the sensitivity of the whole run.
        dimension: how many scalars the model has.

    Raises:
        ValueError: no grid can hold such a run.
    """
    strategy = correlated.strategy(rounds, participation)
    run = _Run(strategy, max_clients, run_multiplier, dimension)
    levels = _lattice.choose(
        dimension=dimension,
        max_clients=max_clients,
        multiplier=run_multiplier * strategy.sensitivity,
    ).levels
    while levels >= 1:
        stddev = run.stddev_for(noise.streaming(strategy, _Largest(1)), levels)
        most = max(1, math.ceil(16 * _scale(stddev)))
        try:
            rough = noise.streaming(strategy, _Largest(most))
            is_found = run.fits(rough, levels)
        except ValueError:
            is_found = False
        if is_found:
            return _placed(run, levels)
        levels //= 2
    raise ValueError(
        f"a sum over up to {max_clients:,} clients with noise multiplier "
        f"{correlated.multiplier:g} over {rounds:,} rounds does not fit 32-bit "
        "integers; take fewer clients a round, or less noise."
    )


def _placed(run: _Run, levels: int) -> Layout:
    lattice = _lattice.at(
        levels,
        dimension=run.dimension,
        max_clients=run.max_clients,
        stddev=run.run_multiplier * run.strategy.sensitivity * levels,
    )
    bound = noise.streaming(run.strategy, _Largest(1))
    for _ in range(3):  # the rounding's part depends, a little, on the noise's size
        stddev = run.stddev_for(bound, levels)
        sampler = _discrete.gaussian(_scale(stddev))
        stream = noise.streaming(run.strategy, sampler)
        if run.stddev_for(stream, levels) <= stddev:
            break
        bound = stream
    else:
        raise AssertionError((run, levels))
    if not run.fits(stream, levels):
        raise AssertionError((run, levels))
    # a tree draws up to two nodes a round on average
    return Layout(lattice, stream, 2 * (sampler.distance + SMOOTHING_DISTANCE))


def _scale(stddev: float) -> float:
    """Returns the scale of discrete noise that dominates a Gaussian of `stddev`."""
    return math.hypot(stddev, math.sqrt(SMOOTHING_VARIANCE)) if stddev else 0.0
