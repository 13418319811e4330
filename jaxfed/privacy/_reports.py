"""What a client sends under local privacy: integers, private before they leave it.

Canonne, Kamath and Steinke 2020, arXiv:2004.00010 (discrete noise on a grid);
`noise.PrivUnit` for directions. A report is noised on a fine grid, then rounded at
random, without bias, to the grid on which a whole cohort's sum fits int32: rounding
what is private already costs no privacy, and integer sums are exact in any order.
"""

import abc
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import keys
from jaxfed import noise as noises
from jaxfed.noise import _discrete
from jaxfed.noise._privunit import LEAST_DIMENSION
from jaxfed.typing import PyTree

_INT32 = 2**31
_FINE_SCALE = 2.0**20  # of the noise, in fine grid units: truncation is below its 1e-6
_MOST_LEVELS = 2**24  # a float32 is a whole number of fine units up to here
_COARSE_SCALE = 8.0  # of the noise, in coarse units: rounding adds 0.4 % of variance
_SHRINK = 1 - 2.0**-20  # more than float32 scaling can add to a norm
# A discrete Gaussian of variance s**2 has, to a factor of 1 +- 2**-110, the law of a
# continuous one of variance s**2 - 4 that is then rounded at random, by a discrete
# Gaussian of variance 4 around it (Peikert 2010, theorem 3.1: the sum over integers of
# exp(-(k - y)**2 / 8) is the same for all y but for a part of 2**-112). Rounding is
# post-processing, and so the continuous event holds for the integers that are sent.
_ROUNDED_VARIANCE = 4.0
_REACH = 14  # coordinates of a direction, in 1 / sqrt(dimension); see `_Direction`
_DIRECTION_STEPS = 2**10


@dataclasses.dataclass(frozen=True)
class Report(abc.ABC):
    """How one client's update becomes integers, and their sum a mean."""

    norm: float
    distance: float
    """Of one scalar's noise from its ideal law, in total variation."""

    @abc.abstractmethod
    def encode(self, update: PyTree, *, key: jax.Array) -> PyTree:
        """Returns the private report, int32 leaves; finite input or not."""

    @abc.abstractmethod
    def unit(self, size: int) -> float:
        """Returns what one unit of a report is worth, for that many parameters."""

    @property
    @abc.abstractmethod
    def largest(self) -> int:
        """The largest magnitude of any report's scalar."""

    @abc.abstractmethod
    def pure_epsilon(self) -> float | None:
        """Returns epsilon at delta 0, or None for Gaussian noise."""

    @abc.abstractmethod
    def describe(self) -> str:
        """Returns the mechanism's line of a privacy statement."""

    @abc.abstractmethod
    def describe_precision(self) -> str:
        """Returns the line that says what holds in finite precision."""


@functools.lru_cache(maxsize=64)
def report_of(clipping: Any, noise: Any, max_clients: int) -> Report:
    """Returns the report of a pair of clip and noise for cohorts up to a size.

    Raises:
        ValueError: the sum of so many reports would not fit int32.
    """
    if isinstance(noise, noises.PrivUnit):
        return _Direction.build(clipping, noise, max_clients)
    return _Additive.build(clipping, noise, max_clients)


def gaussian_over_distance(multiplier: float) -> float:
    """Returns the multiplier of a continuous Gaussian that is no more private.

    Noise over distance: two clipped updates are up to 2 levels apart.
    """
    levels = _levels(multiplier)
    stddev = math.sqrt((multiplier * levels) ** 2 - _ROUNDED_VARIANCE)
    return stddev / (2 * levels)


def _levels(multiplier: float) -> int:
    """Returns how many fine units a clip norm has for noise of this multiplier."""
    if not 1e-3 <= multiplier <= 1e4:
        raise ValueError(
            f"multiplier must be in [0.001, 10000] for local noise, got {multiplier}; "
            "calibrate one with privacy.calibrated(...), or use privacy.none(...) to "
            "run without noise."
        )
    return min(_MOST_LEVELS, 2 ** math.floor(math.log2(_FINE_SCALE / multiplier)))


@dataclasses.dataclass(frozen=True)
class _Additive(Report):
    """The clipped update on a grid, plus integer noise.

    The clipped update times `levels / norm` is cut to whole numbers towards zero:
    its norm, L1 or L2 as the clip's, is at most `levels`, in exact arithmetic.
    """

    clipping: Any
    noise: Any
    scale: float
    """The noise's, in fine units."""
    levels: int
    """Fine grid units per clip norm, a power of two."""
    shift: int
    """Reports are multiples of 2**shift fine units."""
    sampler: Any

    @classmethod
    def build(cls, clipping: Any, noise: Any, max_clients: int) -> "_Additive":
        multiplier = noise.multiplier
        levels = _levels(multiplier)
        scale = multiplier * levels
        is_gaussian = isinstance(noise, noises.Gaussian)
        sampler = (_discrete.gaussian if is_gaussian else _discrete.laplace)(scale)
        fine = levels + sampler.largest
        shift = 0
        while max_clients * ((fine >> shift) + 1) >= _INT32:
            shift += 1
        if fine >= _INT32 // 2 or scale / 2**shift < _COARSE_SCALE:
            raise ValueError(
                f"a sum of {max_clients:,} reports with noise of {multiplier:g} times "
                "the norm does not fit 32 bits; use a smaller cohort or cap."
            )
        return cls(
            norm=clipping.norm,
            distance=float(sampler.distance),
            clipping=clipping,
            noise=noise,
            scale=scale,
            levels=levels,
            shift=shift,
            sampler=sampler,
        )

    def encode(self, update: PyTree, *, key: jax.Array) -> PyTree:
        value = self.clipping.clip(update).value  # zero where not finite
        per_unit = np.float32(self.levels / self.norm * _SHRINK)
        leaves, structure = jax.tree.flatten(value)
        encoded = []
        for index, leaf in enumerate(leaves):
            leaf_key = keys.for_leaf(key, index)
            exact = jnp.trunc(leaf * per_unit).astype(jnp.int32)
            drawn = self.sampler.draw(leaf.shape, key=keys.for_leaf(leaf_key, 0))
            encoded.append(
                _coarser(exact + drawn, self.shift, key=keys.for_leaf(leaf_key, 1))
            )
        return structure.unflatten(encoded)

    def unit(self, size: int) -> float:
        del size
        return 2**self.shift * self.norm / (self.levels * _SHRINK)

    @property
    def largest(self) -> int:
        return ((self.levels + self.sampler.largest) >> self.shift) + 1

    def pure_epsilon(self) -> float | None:
        # two inputs are 2 levels apart in L1; each unit costs 1 / scale
        if isinstance(self.noise, noises.Laplace):
            return 2 * self.levels / self.scale
        return None

    def describe(self) -> str:
        law, norm = "Gaussian", "L2"
        if isinstance(self.noise, noises.Laplace):
            law, norm = "Laplace", "L1"
        return (
            f"each client clips its update to {norm} norm {self.norm:g} and "
            f"adds discrete {law} noise of {self.noise.multiplier:.4g} times that norm"
        )

    def describe_precision(self) -> str:
        return (
            "the report is a vector of integers at every stage and the clip's bound is "
            "exact. The number describes the ideal discrete noise; the noise that is "
            f"drawn is within {self.distance:.1e} of it in total variation per scalar"
        )


@dataclasses.dataclass(frozen=True)
class _Direction(Report):
    """A private direction on a grid.

    Coordinates are cut at 14 / sqrt(dimension), which no draw of the law reaches with
    a probability above 2**-60, so that all inputs have reports in one range.
    """

    clipping: Any
    noise: Any
    steps: int
    """Grid units per 1 / sqrt(dimension), the padded one."""

    @classmethod
    def build(cls, clipping: Any, noise: Any, max_clients: int) -> "_Direction":
        steps = min(_DIRECTION_STEPS, (_INT32 // max_clients - 2) // _REACH)
        if steps < _COARSE_SCALE:
            raise ValueError(
                f"a sum of {max_clients:,} reports does not fit 32 bits; use a smaller "
                "cohort or cap."
            )
        return cls(
            norm=clipping.norm,
            distance=0.0,
            clipping=clipping,
            noise=noise,
            steps=steps,
        )

    def encode(self, update: PyTree, *, key: jax.Array) -> PyTree:
        clipped = self.clipping.clip(update)
        leaves, structure = jax.tree.flatten(clipped.value)
        vector = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
        drawn = self.noise.direct(
            vector / np.float32(self.norm), key=keys.for_leaf(key, 0)
        )
        steps = np.float32(self.steps * _root(vector.size))
        offset = jax.random.uniform(keys.for_leaf(key, 1), drawn.shape, jnp.float32)
        rounded = jnp.floor(drawn * steps + offset)  # the mean is drawn * steps
        most = _REACH * self.steps
        rounded = jnp.clip(rounded, -most, most).astype(jnp.int32)
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()
        parts = jnp.split(rounded, ends)
        return structure.unflatten(
            [part.reshape(a.shape) for part, a in zip(parts, leaves, strict=True)]
        )

    def unit(self, size: int) -> float:
        mean = self.noise.cap(size).mean  # reports are unbiased for the clipped update
        return self.norm / (mean * self.steps * _root(size))

    @property
    def largest(self) -> int:
        return _REACH * self.steps

    def pure_epsilon(self) -> float | None:
        return self.noise.epsilon

    def describe(self) -> str:
        return (
            f"each client clips its update to L2 norm {self.norm:g} and "
            f"sends a random direction (PrivUnit, epsilon {self.noise.epsilon:.4g} a "
            "report) whose mean is that update"
        )

    def describe_precision(self) -> str:
        return (
            "the number describes sampling in real arithmetic. The direction is drawn "
            "in floating point and then rounded at random to integers, which hides its "
            "last bits without a proof that they are hidden"
        )


def _coarser(value: jax.Array, shift: int, *, key: jax.Array) -> jax.Array:
    """Rounds integers at random to multiples of 2**shift, and counts those."""
    if shift == 0:
        return value
    bits = jax.random.bits(key, value.shape, jnp.uint32)
    added = (bits >> np.uint32(32 - shift)).astype(jnp.int32)
    return (value + added) >> shift


def _root(size: int) -> float:
    return math.sqrt(max(size, LEAST_DIMENSION))
