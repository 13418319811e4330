"""Sampling of cohorts: which clients take part in a round.

Each sampler is both the generator of cohorts and the only source of its part of the
privacy accounting, so that what is accounted is what was drawn.
"""

import abc
import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed import keys
from jaxfed._config import Configuration

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_LEAST_CAP = 16  # a cohort of mean 1 exceeds it with probability 1e-15
_LEAST_RATE = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler(Configuration, abc.ABC):
    """A rule that draws cohorts from a public population of clients 0, 1, ..."""

    population: int

    @property
    @abc.abstractmethod
    def max_clients(self) -> int:
        """The largest cohort that can be drawn: the static size of a round."""

    @property
    @abc.abstractmethod
    def expected_clients(self) -> float:
        """The public constant by which a released sum is divided."""

    @abc.abstractmethod
    def draw(self, *, key: jax.Array) -> np.ndarray:
        """Draws one cohort: distinct client numbers, (count,) int64, ascending."""

    @abc.abstractmethod
    def event(self, noise_multiplier: float) -> "DpEvent":
        """Returns one round's event for noise of that multiple of the sensitivity.

        Valid under the zero-out relation (one client's contribution is replaced by
        zero; the population is public).

        Raises:
            ValueError: this sampler has no accounting under that relation.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """Returns one clause for a privacy statement."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Poisson(Sampler):
    """Each client joins a round independently with probability `rate`, up to a cap.

    When more than `cap` join, a uniformly random `cap` of them stay.
    The event says so: Ganesh et al. 2025, arXiv:2508.15089 (truncated Poisson).

    Args:
        population: the public number of clients.
        rate: the probability of joining, in (0, 1].
        cap: the largest cohort, at least the mean; if not given mean + 5 sqrt(mean),
            at least 16, at which truncation costs under 1 % of epsilon for delta
            1e-6 or more. For a smaller delta give a larger cap.
    """

    population: int
    rate: float
    cap: int | None = None

    def __post_init__(self) -> None:
        check.positive_integer("pass data.num_clients", population=self.population)
        check.probability(
            "pass the share of clients in a round, for example rate=0.1", rate=self.rate
        )
        if self.rate < _LEAST_RATE:
            raise ValueError(
                f"rate must be >= {_LEAST_RATE:g}, got {self.rate}; pass the share of "
                "clients in a round, for example rate=0.1."
            )
        mean = self.population * float(self.rate)
        cap = self.cap
        if cap is None:
            cap = max(_LEAST_CAP, math.ceil(mean + 5 * math.sqrt(mean)))
            cap = min(self.population, cap)
        check.positive_integer(cap=cap)
        if cap < mean * (1 - 1e-12):
            raise ValueError(
                f"cap must be >= population * rate = {mean:g}, got {cap}; "
                "below the mean cohort the accounting loses most of the benefit of "
                "sampling: leave it out for mean + 5 sqrt(mean)."
            )
        if cap > self.population:
            raise ValueError(
                f"cap must be <= population = {self.population}, got {cap}; "
                "a cohort cannot hold more clients than exist."
            )
        object.__setattr__(self, "rate", float(self.rate))
        object.__setattr__(self, "population", int(self.population))
        object.__setattr__(self, "cap", int(cap))

    @property
    def max_clients(self) -> int:
        """The largest cohort: `cap`."""
        assert self.cap is not None  # set by __post_init__
        return self.cap

    @property
    def expected_clients(self) -> float:
        """`population * rate`."""
        return self.population * self.rate

    def draw(self, *, key: jax.Array) -> np.ndarray:
        """Draws one cohort; it may be empty."""
        generator = keys.host_generator(check.key(key=key))
        # A binomial count, then that many distinct clients, is Poisson sampling; a
        # uniformly random `cap` of them is again a uniformly random subset.
        count = min(
            int(generator.binomial(self.population, self.rate)), self.max_clients
        )
        return np.sort(generator.choice(self.population, count, replace=False))

    def event(self, noise_multiplier: float) -> "DpEvent":
        """Returns the truncated subsampled Gaussian."""
        from dp_accounting import TruncatedSubsampledGaussianDpEvent

        return TruncatedSubsampledGaussianDpEvent(
            dataset_size=self.population,
            sampling_probability=self.rate,
            truncated_batch_size=self.max_clients,
            noise_multiplier=noise_multiplier,
        )

    def describe(self) -> str:
        """Returns one clause for a privacy statement."""
        return (
            f"each of {self.population:,} clients joins a round independently with "
            f"probability {self.rate:g}, at most {self.max_clients:,} at once"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Full(Sampler):
    """Every client takes part in every round: the cross-silo setting.

    Args:
        population: the public number of clients.
    """

    population: int

    def __post_init__(self) -> None:
        check.positive_integer("pass data.num_clients", population=self.population)

    @property
    def max_clients(self) -> int:
        """The whole population."""
        return self.population

    @property
    def expected_clients(self) -> float:
        """The whole population."""
        return float(self.population)

    def draw(self, *, key: jax.Array) -> np.ndarray:
        """Returns all clients."""
        check.key(key=key)
        return np.arange(self.population)

    def event(self, noise_multiplier: float) -> "DpEvent":
        """Returns the Gaussian, without amplification."""
        from dp_accounting import GaussianDpEvent

        return GaussianDpEvent(noise_multiplier)

    def describe(self) -> str:
        """Returns one clause for a privacy statement."""
        return f"all {self.population:,} clients take part in every round"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedSize(Sampler):
    """`size` distinct clients, uniformly at random, every round.

    The usual choice of simulations without privacy. Under the zero-out relation it
    has no amplification result here, so that `privacy.central` refuses it.

    Args:
        population: the public number of clients.
        size: how many take part in a round.
    """

    population: int
    size: int

    def __post_init__(self) -> None:
        check.positive_integer("pass data.num_clients", population=self.population)
        check.positive_integer("pass how many clients a round has", size=self.size)
        if self.size > self.population:
            raise ValueError(
                f"size must be <= population = {self.population}, got {self.size}; "
                "a cohort cannot hold more clients than exist."
            )

    @property
    def max_clients(self) -> int:
        """`size`."""
        return self.size

    @property
    def expected_clients(self) -> float:
        """`size`."""
        return float(self.size)

    def draw(self, *, key: jax.Array) -> np.ndarray:
        """Draws one cohort."""
        generator = keys.host_generator(check.key(key=key))
        return np.sort(generator.choice(self.population, self.size, replace=False))

    def event(self, noise_multiplier: float) -> "DpEvent":
        """Raises: there is no accounting for this sampler under zero-out."""
        raise ValueError(
            "FixedSize has no accounting under the zero-out relation; use "
            "sampling.Poisson (amplified) or sampling.Full (not amplified) with "
            "privacy.central."
        )

    def describe(self) -> str:
        """Returns one clause for a statement."""
        return f"{self.size:,} of {self.population:,} clients take part in every round"
