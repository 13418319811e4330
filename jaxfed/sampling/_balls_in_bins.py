"""Balls-in-bins sampling: each client keeps one random round of every epoch.

Choquette-Choo et al. 2024, arXiv:2410.06266; Chua et al. 2024, arXiv:2412.16802.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class BallsInBins(Sampler):
    """Each client picks one of `bins` rounds and takes part in it in every epoch.

    An epoch is `bins` rounds; the pick is uniform (`keys.host_integers`), independent
    of other clients, and stays the same in all epochs. Where more than `cap` clients
    picked a round, a uniformly random `cap` of them, drawn anew each epoch, take part.

    The amplification of this scheme is known only as a Monte Carlo estimate, which is
    no bound to build a claim on. What is accounted here is not amplified: a Gaussian
    for each of the `ceil(rounds / bins)` participations, at separation `bins`.

    Args:
        population: the public number of clients.
        bins: the rounds of an epoch.
        cap: the largest cohort, at least the mean; if not given mean + 5 sqrt(mean),
            at least 16.
    """

    population: int
    bins: int
    cap: int | None = None

    def __post_init__(self) -> None:
        population = _base.checked_population(self.population)
        bins = check.positive_integer("pass the rounds of an epoch", bins=self.bins)
        cap = _base.checked_cap(
            self.cap,
            mean=population / bins,
            population=population,
            formula="population / bins",
        )
        object.__setattr__(self, "cap", cap)

    @property
    def max_clients(self) -> int:
        """The largest cohort: `cap`."""
        assert self.cap is not None  # set by __post_init__
        return self.cap

    @property
    def expected_clients(self) -> float:
        """`population / bins`."""
        return self.population / self.bins

    def draw(self, round_index: int, *, key: jax.Array) -> np.ndarray:
        """Draws the cohort of a round; it may be empty."""
        round_index = _base.round_number(round_index)
        picks = _base.kept(_picks, _base.run_key(key), self.bins, self.population)
        cohort = np.flatnonzero(picks == round_index % self.bins)
        places = _base.part_key(key, round_index, 0)
        return _base.shortened(cohort, self.max_clients, key=places)

    def event(self, noise_multiplier: float) -> "DpEvent":
        """Returns the Gaussian, without amplification."""
        from dp_accounting import GaussianDpEvent

        return GaussianDpEvent(noise_multiplier)

    def participation(self, rounds: int) -> Participation:
        """Returns at most one participation in every `bins` rounds."""
        rounds = _base.checked_rounds(rounds)
        return Participation(
            min_separation=self.bins, max_participations=-(-rounds // self.bins)
        )

    def describe(self) -> str:
        """Returns one clause for a privacy statement."""
        return (
            f"each of {self.population:,} clients keeps one random round of every "
            f"{self.bins:,} (not counted as amplification), at most "
            f"{self.max_clients:,} clients at once"
        )


def _picks(key: jax.Array, bins: int, population: int) -> np.ndarray:
    return keys.host_integers(key, bins, population).astype(np.uint32)
