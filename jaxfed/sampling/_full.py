"""Full participation: the cross-silo setting."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed.sampling import _base
from jaxfed.sampling._base import Sampler
from jaxfed.typing import Participation

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Full(Sampler):
    """Every client takes part in every round: the cross-silo setting.

    Args:
        population: the public number of clients.
    """

    population: int

    def __post_init__(self) -> None:
        _base.checked_population(self.population)

    @property
    def max_clients(self) -> int:
        """The whole population."""
        return self.population

    @property
    def expected_clients(self) -> float:
        """The whole population."""
        return float(self.population)

    def draw(self, round_index: int, *, key: jax.Array) -> np.ndarray:
        """Returns all clients."""
        _base.round_number(round_index)
        check.key(key=key)
        return np.arange(self.population)

    def event(self, noise_multiplier: float) -> "DpEvent":
        """Returns the Gaussian, without amplification."""
        from dp_accounting import GaussianDpEvent

        return GaussianDpEvent(noise_multiplier)

    def participation(self, rounds: int) -> Participation:
        """Returns that a client takes part in every round."""
        return _base.every_round(rounds)

    def describe(self) -> str:
        """Returns one clause for a privacy statement."""
        return f"all {self.population:,} clients take part in every round"
