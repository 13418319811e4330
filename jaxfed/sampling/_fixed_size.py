"""Cohorts of a fixed size, drawn without replacement.

Wang, Balle and Kasiviswanathan 2019, arXiv:1808.00087 (amplification under the
replace-one relation, by Renyi divergences).
"""

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxfed import keys
from jaxfed.sampling import _base
from jaxfed.sampling._base import Sampler
from jaxfed.typing import Participation

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedSize(Sampler):
    """`size` distinct clients, uniformly at random (`keys.host_subset`), every round.

    Its amplification is known under the replace-one relation only: a client's data
    are replaced by another's, which moves the sum by up to twice the norm of one
    contribution. `event` contains that factor: give it the same noise multiplier as
    any other sampler, noise over the norm of one contribution.

    Args:
        population: the public number of clients.
        size: how many take part in a round.
    """

    population: int
    size: int

    def __post_init__(self) -> None:
        population = _base.checked_population(self.population)
        _base.checked_size(self.size, population=population)

    @property
    def max_clients(self) -> int:
        """`size`."""
        return self.size

    @property
    def expected_clients(self) -> float:
        """`size`."""
        return float(self.size)

    @property
    def relation(self) -> str:
        """`"replace_one"`: no amplification is known under zero-out."""
        return "replace_one"

    def draw(self, round_index: int, *, key: jax.Array) -> np.ndarray:
        """Draws the cohort of a round."""
        own = _base.part_key(key, _base.round_number(round_index), 0)
        return keys.host_subset(own, self.population, self.size)

    def event(self, noise_multiplier: float) -> "DpEvent":
        """Returns sampling without replacement of the Gaussian at twice the norm.

        For accountants by Renyi divergences under REPLACE_ONE. They take the inner
        multiplier as noise over the sensitivity of that relation, hence the half.
        """
        from dp_accounting import GaussianDpEvent, SampledWithoutReplacementDpEvent

        return SampledWithoutReplacementDpEvent(
            source_dataset_size=self.population,
            sample_size=self.size,
            event=GaussianDpEvent(noise_multiplier / 2),
        )

    def participation(self, rounds: int) -> Participation:
        """Returns that a client may take part in every round."""
        return _base.every_round(rounds)

    def describe(self) -> str:
        """Returns one clause for a statement."""
        return f"{self.size:,} of {self.population:,} clients take part in every round"
