"""PrivUnit: a private direction, by sampling from a spherical cap or its complement.

Bhowmick et al. 2018, arXiv:1812.00984, algorithm 1, with the exact condition on cap
and probability and the best split of epsilon between them (PrivUnitOpt: Asi, Feldman
and Talwar 2022, arXiv:2205.02466). Vectors shorter than the unit first become one of
the two unit vectors on their line, unbiased: Duchi, Jordan and Wainwright 2018,
arXiv:1302.3203, section 4.2.3, step (i) of the sampling for an L2 ball.

Pure epsilon for the law that `cap` tabulates, in real arithmetic; see `PrivUnit`.
"""

import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfed import _check as check
from jaxfed import keys, tree
from jaxfed._config import Configuration

LEAST_DIMENSION = 256  # smaller vectors are padded: the tabulated law is then smooth
_STEPS = 512  # table nodes per standard deviation of the coordinate along the input
_BITS, _WORDS = 128, 4  # of the integer that decides which node is drawn
_LEAST_MASS = 2.0**-100  # of a node in its part of the sphere; the table ends there
_ROUNDING = 2.0**-17  # of the least mass to a multiple of 2**-128, at most
_LEAST_EPSILON, _MOST_EPSILON = 0.01, 32.0
_SMALL = 2.0**-40


class Cap(NamedTuple):
    """The law of one report's coordinate along its input, as the sampler draws it.

    The coordinate is `nodes[k] + step * triangular`: an interpolation of the exact
    density that is linear between nodes. All numbers are of that law, not of the one
    it approximates.
    """

    threshold: float
    """gamma: the cap is where the coordinate is at least this."""
    probability: float
    """p: how often the report lies in the cap."""
    mean: float
    """m: the mean coordinate; reports are divided by it."""
    step: float
    """The distance of two nodes."""
    nodes: np.ndarray
    """(nodes,) float64, ascending; the cap's edge is there twice."""
    masses: np.ndarray
    """(nodes,) float64 probabilities."""
    first_in_cap: int
    """The index in `nodes` of the cap's edge as a part of the cap."""
    words: np.ndarray
    """(4, nodes) uint32: cumulative mass times 2**128, highest word first."""
    epsilon: float
    """The largest log ratio of the densities of a report under two inputs."""
    delta: float
    """The chance of a report so far out that the table ends: below 2**-45."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivUnit(Configuration):
    """A random direction whose mean is the input, pure-epsilon private.

    Formal guarantee, in real arithmetic: for any two inputs of `direct` the densities
    of its outputs differ by a factor of at most e**`epsilon`, but for an event of
    probability `cap(dimension).delta` (below 2**-45) in which the tabulated law has
    no tail left. The interpolation error of the table is inside `epsilon`.

    In finite precision this is not a theorem: the direction orthogonal to the input is
    made of float32 normals and float32 sums, so that the exact set of possible outputs
    depends on the input. `privacy.local` rounds the output at random to integers,
    which hides the last bits; it does not prove them hidden. Where a proof down to the
    last bit matters, use `noise.Gaussian` or `noise.Laplace`.

    For vectors of 256 and more coordinates the mean squared error of one report of a
    unit vector is `1 / cap(dimension).mean**2 - 1`, about `dimension / epsilon` times
    0.6 to 2.5; smaller vectors are padded with zeros to 256, privatised and cut.

    Args:
        epsilon: of one report, between 0.01 and 32.
    """

    epsilon: float

    def __post_init__(self) -> None:
        remedy = "an epsilon between 2 and 10 a report is usual"
        value = check.positive(remedy, epsilon=self.epsilon)
        if not _LEAST_EPSILON <= value <= _MOST_EPSILON:
            raise ValueError(
                f"epsilon must be in [{_LEAST_EPSILON}, {_MOST_EPSILON:g}], got "
                f"{value}; {remedy}."
            )
        object.__setattr__(self, "epsilon", value)

    def cap(self, dimension: int) -> Cap:
        """Returns the law for vectors of that many coordinates."""
        check.positive_integer(dimension=dimension)
        return _best_cap(self.epsilon, max(dimension, LEAST_DIMENSION))

    def direct(self, vector: jax.Array, *, key: jax.Array) -> jax.Array:
        """Returns a private random vector of length about 1.

        Its mean is `cap(dimension).mean * vector`. (It has length 1 exactly before
        the coordinates of a padding to 256 are cut off.)

        Args:
            vector: (dimension,) float32, in the unit ball. One that is zero, below
                2**-120, not finite or longer gives a uniformly random direction, or
                counts as one of its unit vectors.
            key: a typed PRNG key.
        """
        check.key(key=key)
        (size,) = vector.shape
        law = self.cap(size)
        unit, is_usable = _unit(vector, key=keys.for_leaf(key, 0))
        unit = jnp.pad(unit, (0, max(0, LEAST_DIMENSION - size)))
        along = _draw(law, key=keys.for_leaf(key, 1))
        normal = jax.random.normal(keys.for_leaf(key, 2), unit.shape, jnp.float32)
        across = normal - _dot(normal, unit) * unit  # orthogonal to the input
        across = lax.optimization_barrier(across)  # measured and scaled: the same
        length = jnp.sqrt(tree.sum_of_squares(across))
        across = across * (jnp.sqrt(1 - along * along) / length)
        uniform = normal / jnp.sqrt(tree.sum_of_squares(normal))
        return jnp.where(is_usable, along * unit + across, uniform)[:size]


def _dot(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.sum(left * right)  # elementwise: no reduced-precision matrix unit


def _unit(vector: jax.Array, *, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns plus or minus the input's direction, and whether it has one."""
    vector = lax.optimization_barrier(vector)  # measured and scaled: the same numbers
    peak = tree.maximum_magnitude(vector)
    is_small = peak < _SMALL
    scaled = jnp.where(jnp.isfinite(peak), vector, 0.0)
    scaled = scaled * jnp.where(is_small, np.float32(2.0**80), np.float32(1))
    scaled = lax.optimization_barrier(scaled)
    length = jnp.sqrt(tree.sum_of_squares(scaled))
    is_usable = (length > _SMALL) & jnp.isfinite(length)
    unit = lax.optimization_barrier(scaled / jnp.where(is_usable, length, 1.0))
    # whatever the input was: the law below is that of a unit vector
    is_usable &= jnp.abs(tree.sum_of_squares(unit) - 1) < 1e-3
    norm = jnp.where(is_small, 0.0, length)
    is_along = jax.random.uniform(key, (), jnp.float32) < (1 + norm) / 2
    return jnp.where(is_along, unit, -unit), is_usable


def _draw(law: Cap, *, key: jax.Array) -> jax.Array:
    """Draws the coordinate along the input, reading the whole table every time."""
    bits = jax.random.bits(keys.for_leaf(key, 0), (_WORDS,), jnp.uint32)
    is_passed = jnp.ones(len(law.nodes), bool)  # cumulative mass <= the drawn integer
    for i in reversed(range(_WORDS)):
        word = jnp.asarray(law.words[i])
        is_passed = (word < bits[i]) | ((word == bits[i]) & is_passed)
    index = jnp.sum(is_passed[:-1], dtype=jnp.int32)
    one, two = jax.random.uniform(keys.for_leaf(key, 1), (2,), jnp.float32)
    offset = one - two  # triangular on (-1, 1): the hat function of a node
    edge = law.first_in_cap
    offset = jnp.where(index == edge, jnp.abs(offset), offset)
    offset = jnp.where(index == edge - 1, -jnp.abs(offset), offset)
    node = jnp.asarray(law.nodes.astype(np.float32))[index]
    return jnp.clip(node + np.float32(law.step) * offset, -1.0, 1.0)


@functools.lru_cache(maxsize=64)
def _best_cap(epsilon: float, dimension: int) -> Cap:
    """Returns the cap with the largest mean, which is the least squared error."""
    grid = _grid(0.0, 1, dimension)
    density = np.exp(_log_density(grid, dimension))
    grid, density = grid[density > 1e-200], density[density > 1e-200]
    above = np.cumsum(density[::-1])[::-1] - density / 2  # the cap's share, by sums
    first = np.cumsum((density * grid)[::-1])[::-1] - density * grid / 2
    below = 2 * above[0] - above
    odds = np.log(below / above)  # log(q / (1 - q))
    candidate = odds <= epsilon  # p >= 1/2, from epsilon = logit p + odds
    inside = 1 / (1 + np.exp(np.minimum(odds, epsilon) - epsilon))
    mean = first * (inside / above - (1 - inside) / below)
    best = int(np.argmax(np.where(candidate, mean, -np.inf)))
    return _tabulate(epsilon, dimension, float(grid[best]))


def _tabulate(epsilon: float, dimension: int, threshold: float) -> Cap:
    low, low_mass, low_lost = _part(threshold, -1, dimension)
    high, high_mass, high_lost = _part(threshold, 1, dimension)
    below, above = low_mass.sum(), high_mass.sum()  # q and 1 - q, in one unit
    error = max(_error(low, dimension), _error(high, dimension)) + _ROUNDING
    # The density over the uniform one is p / above in the cap and (1 - p) / below
    # outside of it, each good to a factor of 1 +- error.
    worst = math.log((1 + error) / (1 - error))
    logit = epsilon - math.log(below / above) - worst
    probability = 1 / (1 + math.exp(-logit))
    masses = np.concatenate(
        [(1 - probability) / below * low_mass, probability / above * high_mass]
    )
    if not masses.min() * _ROUNDING >= 2.0**-_BITS or probability < 0.5 - 1e-3:
        raise AssertionError("the table is too coarse for its own promise")
    nodes, edge = np.concatenate([low, high]), len(low)
    # a half hat has its mean a third of a step away from its node
    mean = masses @ nodes + (masses[edge] - masses[edge - 1]) * _step(dimension) / 3
    return Cap(
        threshold=threshold,
        probability=probability,
        mean=float(mean),
        step=_step(dimension),
        nodes=nodes,
        masses=masses,
        first_in_cap=edge,
        words=_cumulative_words(masses),
        epsilon=logit + math.log(below / above) + worst,
        delta=float((low_lost + high_lost) * probability / above * (1 + error)),
    )


def _part(
    threshold: float, sign: int, dimension: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns one side's nodes, ascending, their masses, and what lies beyond them."""
    nodes = _grid(threshold, sign, dimension)
    mass = np.exp(_log_density(nodes, dimension))
    mass[0] /= 2  # half a hat on either side of the edge
    keep = mass >= _LEAST_MASS * mass.sum()
    # the density is convex out there: trapezia, here whole, are above its integral
    lost = mass[~keep].sum() + mass[keep][-1]
    return nodes[keep][::sign], mass[keep][::sign], float(lost)


def _grid(start: float, sign: int, dimension: int) -> np.ndarray:
    """Returns equally spaced coordinates from `start` to almost `sign`."""
    step = _step(dimension)
    most = min((1 - sign * start) / step - 1, 40 * _STEPS)
    return start + sign * step * np.arange(int(most))


def _step(dimension: int) -> float:
    return 1 / (_STEPS * math.sqrt(dimension))


def _log_density(coordinate: np.ndarray, dimension: int) -> np.ndarray:
    """Returns the log density of one coordinate of a uniform direction, 0 at 0."""
    return (dimension - 3) / 2 * np.log1p(-np.square(coordinate))


def _error(nodes: np.ndarray, dimension: int) -> float:
    """Bounds the relative error of linear interpolation: h**2 / 8 times |f''| / f."""
    power, rest = (dimension - 3) / 2, 1 - np.square(nodes)
    slope = 2 * power * nodes / rest
    curvature = 2 * power * (1 + np.square(nodes)) / np.square(rest)
    bend = curvature + np.square(slope)  # at least |f''| / f, growing away from 0
    within = np.exp(np.abs(np.diff(_log_density(nodes, dimension)))) * 1.001
    worst = np.maximum(bend[1:], bend[:-1]) * within
    return float(worst.max() * _step(dimension) ** 2 / 8)


def _cumulative_words(masses: np.ndarray) -> np.ndarray:
    units = [int(math.ldexp(mass, _BITS)) for mass in masses]
    units[int(np.argmax(masses))] += 2**_BITS - sum(units)
    passed = list(itertools.accumulate(units))
    passed[-1] -= 1  # 2**128 has no place; it is never compared
    return np.array(
        [[(p >> shift) & 0xFFFFFFFF for p in passed] for shift in (96, 64, 32, 0)],
        np.uint32,
    )
