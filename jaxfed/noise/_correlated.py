"""Correlated noise as settings: how much, and of which kind.

Kairouz et al. 2021, arXiv:2103.00039 (tree); Choquette-Choo et al. 2023,
arXiv:2306.08153 (banded); McMahan et al. 2024, arXiv:2408.08868 (buffered linear
Toeplitz).

Nothing here relies on sampling: the guarantee holds for every sequence of cohorts that
keeps the contract of participation, and is charged in full before the first round.
"""

import abc
import dataclasses

from jaxfed import _check as check
from jaxfed._config import Configuration
from jaxfed.noise import _strategies
from jaxfed.noise._strategies import (
    BandedStrategy,
    BLTStrategy,
    Strategy,
    TreeStrategy,
)
from jaxfed.typing import Participation

_MOST_BUFFERS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Correlated(Configuration, abc.ABC):
    """Noise whose rounds partly cancel; see the classes that derive from it.

    `multiplier` is the standard deviation of the independent noise before it is
    correlated, over the norm of one contribution. A run is one Gaussian mechanism of
    multiplier `multiplier / sensitivity(rounds, participation)`.
    """

    multiplier: float

    @abc.abstractmethod
    def strategy(self, rounds: int, participation: Participation) -> Strategy:
        """Returns the matrix that correlates the noise of `rounds` rounds.

        Args:
            rounds: how many will be run; none beyond them is covered.
            participation: what `sampler.participation(rounds)` returned.
        """

    def sensitivity(self, rounds: int, participation: Participation) -> float:
        """Returns how far a client of unit contributions moves C x, rounded up.

        Of the ideal strategy; `noise.streaming(...).sensitivity(...)` adds what
        rounding to a grid can add.
        """
        return self.strategy(rounds, participation).sensitivity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree(Correlated):
    """Noise on the nodes of a binary tree over the rounds.

    Holds one buffer the size of the model for each power of two up to the horizon. It
    needs no optimisation and no rounding; BLT noise is more accurate in most settings.

    Args:
        multiplier: unitless, >= 0; see `Correlated`.
    """

    multiplier: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "multiplier", _multiplier(self.multiplier))

    def strategy(self, rounds: int, participation: Participation) -> TreeStrategy:
        """See `Correlated`."""
        return _strategies.tree(rounds, participation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Banded(Correlated):
    """Noise that is correlated over the last `bands` rounds.

    Holds `bands - 1` buffers the size of the model. Best with as many bands as the
    contract has rounds between participations.

    Args:
        multiplier: unitless, >= 0; see `Correlated`.
        bands: how many rounds are correlated, this one included, >= 1; of a run with
            fewer rounds, all of them.
    """

    multiplier: float
    bands: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "multiplier", _multiplier(self.multiplier))
        check.positive_integer(
            "pass how many rounds are correlated, at most the separation of "
            "participations",
            bands=self.bands,
        )

    def strategy(self, rounds: int, participation: Participation) -> BandedStrategy:
        """See `Correlated`."""
        return _strategies.banded(rounds, participation, self.bands)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLT(Correlated):
    """Noise correlated over all rounds through a few buffers.

    With two buffers its error is within 3 % of a banded matrix of hundreds of bands
    (McMahan et al. 2024), at the memory of two models: the default where no sampling
    can be relied on.

    Args:
        multiplier: unitless, >= 0; see `Correlated`.
        buffers: how many buffers the size of the model, 1 to 8.
    """

    multiplier: float
    buffers: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "multiplier", _multiplier(self.multiplier))
        remedy = "two or three are usual"
        buffers = check.positive_integer(remedy, buffers=self.buffers)
        if buffers > _MOST_BUFFERS:
            raise ValueError(
                f"buffers must be <= {_MOST_BUFFERS}, got {buffers}; {remedy}."
            )

    def strategy(self, rounds: int, participation: Participation) -> BLTStrategy:
        """See `Correlated`."""
        return _strategies.blt(rounds, participation, self.buffers)


def _multiplier(multiplier: float) -> float:
    return check.non_negative(
        "calibrate one with `privacy.calibrated(epsilon=..., ...)`",
        multiplier=multiplier,
    )
