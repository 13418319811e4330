"""Strategies of correlated noise: the matrix C, its sensitivity and its error.

With a strategy C, a run releases its inputs plus C^-1 Z, Z independent Gaussian: the
noise of later rounds takes back part of that of earlier ones, and prefix sums, which
are what a model is made of, stay accurate without any sampling. The run as a whole is
one Gaussian mechanism for C x, whose sensitivity is that of C under the contract of
participation (Choquette-Choo et al. 2023, arXiv:2306.08153).

A strategy's numbers are dyadic rationals, and the arithmetic of `streaming` works with
exactly these: what is accounted is the matrix that runs.
"""

import abc
import dataclasses
import functools

import numpy as np

from jaxfed import _check as check
from jaxfed.noise import _optimise, _toeplitz, _tree_nodes
from jaxfed.typing import Participation

COEFFICIENT_BITS = 15
MANTISSA_BITS = 15
_SLOWEST = 2.0**-30  # a buffer that decays more slowly does not decay


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strategy(abc.ABC):
    """A matrix C for a number of rounds and a contract of participation.

    Args:
        rounds: the horizon, >= 1: the noise covers no round beyond it.
        participation: what `sampler.participation(rounds)` returned.
    """

    rounds: int
    participation: Participation

    @property
    @abc.abstractmethod
    def sensitivity(self) -> float:
        """The largest norm of C u, where u is one client's part in the run.

        u has norm at most 1 in each round of a participation. Rounded up.
        """

    @abc.abstractmethod
    def prefix_errors(self) -> np.ndarray:
        """Returns the noise variance of each prefix sum, (rounds,) float64.

        For independent noise Z of variance 1 before the correlation.
        """

    @property
    def max_loss(self) -> float:
        """Sensitivity times the largest standard error of a prefix sum."""
        return self.sensitivity * float(np.sqrt(self.prefix_errors().max()))

    @property
    def rms_loss(self) -> float:
        """Sensitivity times the root of the mean variance of prefix sums."""
        return self.sensitivity * float(np.sqrt(self.prefix_errors().mean()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandedStrategy(Strategy):
    """A Toeplitz matrix of a few bands.

    Args:
        coefficients: c_0 = 1, c_1, ..., each a multiple of 2^-15.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        scaled = np.array(self.coefficients) * 2**COEFFICIENT_BITS
        is_whole = (scaled == np.round(scaled)).all() and np.abs(scaled).max() < 2**30
        if self.coefficients[0] != 1 or not is_whole:
            raise ValueError(
                "coefficients must start with 1 and be multiples of 2**-15, got "
                f"{self.coefficients[:3]}...; build the strategy with "
                "`noise.Banded(...).strategy(...)`."
            )

    @property
    def sensitivity(self) -> float:
        """See `Strategy`."""
        return _toeplitz.sensitivity(
            np.array(self.coefficients), self.rounds, self.participation
        )

    def prefix_errors(self) -> np.ndarray:
        """See `Strategy`."""
        return _toeplitz.prefix_errors(np.array(self.coefficients), self.rounds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLTStrategy(Strategy):
    """A buffered linear Toeplitz matrix: a sum of a few geometric series.

    c_0 = 1 and c_j = sum_i scales_i (1 - rates_i)^(j - 1).

    Args:
        rates: the share that each buffer forgets a round, in [0, 1]; each a whole
            number of 16 bits times a power of two.
        scales: what each buffer weighs, > 0; whole numbers of 16 bits times one power
            of two.
    """

    rates: tuple[float, ...]
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        is_range = all(0 <= r <= 1 for r in self.rates)
        if not is_range or not all(s > 0 for s in self.scales) or not self.rates:
            raise ValueError(
                "rates must be in [0, 1] and scales > 0, got "
                f"{self.rates} and {self.scales}; build the strategy with "
                "`noise.BLT(...).strategy(...)`."
            )

    def coefficients(self) -> np.ndarray:
        """Returns c_0, ..., c_(rounds - 1), float64."""
        decays = 1 - np.array(self.rates)[:, None]
        terms = decays ** np.arange(self.rounds - 1)
        return np.append(1.0, np.array(self.scales) @ terms)

    @property
    def sensitivity(self) -> float:
        """See `Strategy`."""
        return _toeplitz.sensitivity(
            self.coefficients(), self.rounds, self.participation
        )

    def prefix_errors(self) -> np.ndarray:
        """See `Strategy`."""
        return _toeplitz.prefix_errors(self.coefficients(), self.rounds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeStrategy(Strategy):
    """Noise on the nodes of a binary tree, combined from below (Honaker 2015)."""

    @property
    def sensitivity(self) -> float:
        """See `Strategy`; C has one row for each complete node of the tree."""
        return float(
            np.sqrt(_tree_nodes.squared_sensitivity(self.rounds, self.participation))
        ) * (1 + 2.0**-50)

    def prefix_errors(self) -> np.ndarray:
        """See `Strategy`."""
        return _tree_nodes.prefix_errors(self.rounds)


def tree(rounds: int, participation: Participation) -> TreeStrategy:
    """Returns the tree over `rounds` rounds."""
    rounds, participation = _checked(rounds, participation)
    return TreeStrategy(rounds=rounds, participation=participation)


@functools.lru_cache(maxsize=64)
def banded(rounds: int, participation: Participation, bands: int) -> BandedStrategy:
    """Returns the banded Toeplitz matrix of least mean error, on a grid of 2^-15."""
    rounds, participation = _checked(rounds, participation)
    bands = min(check.positive_integer(bands=bands), rounds)
    unit = 2.0**-COEFFICIENT_BITS
    found = np.round(_optimise.banded(rounds, bands) / unit) * unit
    return BandedStrategy(
        rounds=rounds, participation=participation, coefficients=tuple(found.tolist())
    )


@functools.lru_cache(maxsize=64)
def blt(rounds: int, participation: Participation, buffers: int) -> BLTStrategy:
    """Returns the BLT matrix of least maximum error, its numbers of 16 bits."""
    rounds, participation = _checked(rounds, participation)
    buffers = check.positive_integer(buffers=buffers)
    if rounds == 1:
        rates, scales = np.full(1, 0.5), np.full(1, 0.5)
    else:
        rates, scales = _optimise.buffered(rounds, buffers, participation)
    rates = np.where(rates < _SLOWEST, 0.0, rates)
    return BLTStrategy(
        rounds=rounds,
        participation=participation,
        rates=tuple(_short(rates, np.maximum(rates, _SLOWEST)).tolist()),
        scales=tuple(_short(scales, np.full(len(scales), scales.max())).tolist()),
    )


def _short(values: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Rounds to multiples of the power of two that gives `largest` 16 bits at most."""
    unit = 2.0 ** (np.floor(np.log2(largest)) - MANTISSA_BITS + 1)
    return np.maximum(np.round(values / unit), np.where(values > 0, 1, 0)) * unit


def _checked(rounds: int, participation: Participation) -> tuple[int, Participation]:
    rounds = check.positive_integer("pass how many rounds you will run", rounds=rounds)
    check.instance(
        Participation,
        "pass sampler.participation(rounds)",
        participation=participation,
    )
    return rounds, participation
