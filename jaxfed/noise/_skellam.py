"""The Skellam mechanism: the difference of two Poisson variables on integers.

Agarwal, Kairouz and Liu 2021, arXiv:2110.04995. Sums of Skellam variables are Skellam
again, which is why it is the noise of choice where many parties each add a part.
"""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxfed import _check as check
from jaxfed._config import Configuration
from jaxfed.noise import _discrete
from jaxfed.noise._gaussian import noised
from jaxfed.typing import ClippedSum, Released

_MOST_LEVELS = 2**20
_MOST_VARIANCE = 2**23  # of one table of noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skellam(Configuration):
    """Skellam noise whose standard deviation is `multiplier` times the sum's bound.

    Formal guarantee: releasing a `ClippedSum` of L = `levels` levels is, apart from a
    total-variation distance of `distance(levels)` a scalar, the Skellam mechanism of
    variance `(multiplier * L)**2` on integers that one client moves by at most L in L2
    and L**2 in L1 (for an integer vector, the sum of |x| is at most the sum of x**2).
    Theorem 3.5 of the paper then bounds its Renyi divergences: those of the Gaussian
    with this multiplier and a correction that falls with L**2. No amplification by
    sampling is known for it here, and none is counted.

    Args:
        multiplier: unitless, from 0.001 to 2896.
    """

    MOST_MULTIPLIER: ClassVar[float] = 2896.0  # on one level, all that a table holds

    multiplier: float

    def __post_init__(self) -> None:
        remedy = "calibrate one with `privacy.calibrated(epsilon=..., ...)`"
        value = check.positive(remedy, multiplier=self.multiplier)
        if not 1e-3 <= value <= self.MOST_MULTIPLIER:
            raise ValueError(
                f"multiplier must be in [0.001, {self.MOST_MULTIPLIER:g}] for Skellam "
                f"noise, got {value}; {remedy}."
            )
        object.__setattr__(self, "multiplier", value)

    @property
    def levels(self) -> int:
        """Grid steps a clip norm: the most, as a power of two, that a table can noise.

        A function of the multiplier alone, so that the event needs to know no model.
        """
        levels = _MOST_LEVELS
        while self.variance(levels) > _MOST_VARIANCE:
            levels //= 2
        return levels

    def variance(self, levels: int) -> float:
        """Returns the variance of the noise on such a sum, in grid steps squared."""
        return (self.multiplier * levels) ** 2

    def largest(self, levels: int) -> int:
        """Returns the largest magnitude that the noise on such a sum can have."""
        return self._sampler(levels).largest

    def distance(self, levels: int) -> float:
        """Returns how far one scalar's noise is from its ideal law, at most."""
        return self._sampler(levels).distance

    def release(self, clipped: ClippedSum, *, key: jax.Array) -> Released:
        """Adds the noise; the only way from a `ClippedSum` to a `Released`."""
        return noised(clipped, self._sampler, key=key)

    def _sampler(self, levels: int) -> Any:
        return _discrete.skellam(self.variance(levels))
