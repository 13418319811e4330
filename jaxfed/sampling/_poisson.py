"""Poisson sampling up to a cap: every client joins by its own coin.

Ganesh et al. 2025, arXiv:2508.15089 (truncated Poisson sampling).
"""

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed import keys
from jaxfed.sampling import _base
from jaxfed.sampling._base import Sampler
from jaxfed.typing import Participation

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_LEAST_RATE = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Poisson(Sampler):
    """Each client joins a round independently with probability `rate`, up to a cap.

    When more than `cap` join, a uniformly random `cap` of them stay. The probability is
    the float itself, exactly, and which of them stay is uniform to 2**-129 times the
    squared number of those who joined, in total variation (`keys.host_coins`,
    `keys.host_order`).
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
        population = _base.checked_population(self.population)
        check.probability(
            "pass the share of clients in a round, for example rate=0.1", rate=self.rate
        )
        if self.rate < _LEAST_RATE:
            raise ValueError(
                f"rate must be >= {_LEAST_RATE:g}, got {self.rate}; pass the share of "
                "clients in a round, for example rate=0.1."
            )
        rate = float(self.rate)
        cap = _base.checked_cap(
            self.cap,
            mean=population * rate,
            population=population,
            formula="population * rate",
        )
        object.__setattr__(self, "rate", rate)
        object.__setattr__(self, "population", population)
        object.__setattr__(self, "cap", cap)

    @property
    def max_clients(self) -> int:
        """The largest cohort: `cap`."""
        assert self.cap is not None  # set by __post_init__
        return self.cap

    @property
    def expected_clients(self) -> float:
        """`population * rate`."""
        return self.population * self.rate

    def draw(self, round_index: int, *, key: jax.Array) -> np.ndarray:
        """Draws the cohort of a round; it may be empty."""
        round_index = _base.round_number(round_index)
        coins = keys.host_coins(
            _base.part_key(key, round_index, 0), self.rate, self.population
        )
        places = _base.part_key(key, round_index, 1)
        return _base.shortened(np.flatnonzero(coins), self.max_clients, key=places)

    def event(self, noise_multiplier: float) -> "DpEvent":
        """Returns the truncated subsampled Gaussian."""
        from dp_accounting import TruncatedSubsampledGaussianDpEvent

        return TruncatedSubsampledGaussianDpEvent(
            dataset_size=self.population,
            sampling_probability=self.rate,
            truncated_batch_size=self.max_clients,
            noise_multiplier=noise_multiplier,
        )

    def participation(self, rounds: int) -> Participation:
        """Returns that a client may take part in every round."""
        return _base.every_round(rounds)

    def describe(self) -> str:
        """Returns one clause for a privacy statement."""
        return (
            f"each of {self.population:,} clients joins a round independently with "
            f"probability {self.rate:g}, at most {self.max_clients:,} at once"
        )
