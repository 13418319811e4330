"""The Gaussian mechanism in finite precision: discrete Gaussian noise on integers.

McMahan et al. 2018, arXiv:1710.06963, algorithm 1, with the discrete Gaussian of
Canonne, Kamath and Steinke 2020, arXiv:2004.00010, on the grid of `jaxfed.clipping`.

Theorem (domination). Let x be an integer vector and K discrete Gaussian noise with
`scale**2 = stddev**2 + 4`. Then x + K is, up to the distance below, a function of
`x + N(0, stddev**2)` and of further randomness alone: given the real vector y, draw
each coordinate from the discrete Gaussian around y_i with variance 4. Integer shifts
of x commute with that function. So whatever holds for the real Gaussian mechanism
with this stddev, for any sampling and composition, holds for x + K. Proof. The
density of the result at k is the integral over y of N(y; x, stddev**2)
exp(-(k - y)**2 / 8) / R(y), where R(y), the sum of exp(-(j - y)**2 / 8) over integers
j, is constant up to a relative `2 exp(-8 pi**2)` < 2**-112 by Poisson summation
(Micciancio and Regev 2007, lemma 4.1; Peikert 2010, theorem 3.1). What remains is
proportional to N(k; x, stddev**2 + 4), which is the discrete Gaussian.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed import keys
from jaxfed._config import Configuration
from jaxfed.noise import _discrete
from jaxfed.typing import ClippedSum, Released

SMOOTHING_VARIANCE = 4.0
SMOOTHING_DISTANCE = 2.0**-110  # a coordinate: twice the relative error of the proof


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussian(Configuration):
    """Gaussian noise whose standard deviation is `multiplier` times the sum's bound.

    Formal guarantee: releasing a `ClippedSum` costs at most what the ideal Gaussian
    mechanism with this multiplier costs, apart from a total-variation distance of
    `distance(levels)` a scalar; `jaxfed.privacy` adds it to delta.

    Args:
        multiplier: unitless, >= 0; 0 means no noise and an infinite epsilon.
    """

    MOST_MULTIPLIER: ClassVar[float] = 1e6  # that a calibration tries

    multiplier: float

    def __post_init__(self) -> None:
        value = check.non_negative(
            "calibrate one with `privacy.calibrated(epsilon=..., ...)`",
            multiplier=self.multiplier,
        )
        object.__setattr__(self, "multiplier", value)

    def largest(self, levels: int) -> int:
        """Returns the largest magnitude that the noise on such a sum can have."""
        return self._sampler(levels).largest

    def distance(self, levels: int) -> float:
        """Returns how far one scalar's noise is from its ideal law, at most."""
        return self._sampler(levels).distance + SMOOTHING_DISTANCE

    def release(self, clipped: ClippedSum, *, key: jax.Array) -> Released:
        """Adds the noise; the only way from a `ClippedSum` to a `Released`."""
        return noised(clipped, self._sampler, key=key)

    def _sampler(self, levels: int) -> Any:
        if self.multiplier == 0:
            return _discrete.gaussian(0.0)
        stddev = self.multiplier * levels
        return _discrete.gaussian(math.sqrt(stddev**2 + SMOOTHING_VARIANCE))


def noised(
    clipped: ClippedSum, sampler_of: Callable[[int], Any], *, key: jax.Array
) -> Released:
    """Adds integer noise to a sum: one draw for all leaves together.

    Args:
        clipped: the sum with its bound.
        sampler_of: the noise for a bound in grid units.
        key: of the noise.
    """
    check.instance(
        ClippedSum, "wrap the sum with its bound before adding noise", clipped=clipped
    )
    check.positive_integer(
        "it is what one client can move the sum by", levels=clipped.levels
    )
    leaves, structure = jax.tree.flatten(clipped.total)
    for leaf in leaves:
        if leaf.dtype != jnp.int32:
            raise TypeError(
                f"total must hold int32 leaves, got {leaf.dtype}; add noise to the "
                "sum itself, and divide what was released."
            )
    ends = list(itertools.accumulate((leaf.size for leaf in leaves), initial=0))
    own = keys.for_leaf(check.key(key=key), 0)
    drawn = sampler_of(clipped.levels).draw((ends[-1],), key=own)
    noisy = [
        (leaf + drawn[start:stop].reshape(leaf.shape)).astype(jnp.float32)
        * clipped.step
        for leaf, (start, stop) in zip(leaves, itertools.pairwise(ends), strict=True)
    ]
    return Released(value=structure.unflatten(noisy))
