"""Cyclic participation: public groups of clients take turns.

Kairouz et al. 2021, arXiv:2103.00039, and Choquette-Choo et al. 2023,
arXiv:2211.06530 (fixed order, k epochs with separation b).
"""

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
class Cyclic(Sampler):
    """Client i belongs to group `i % groups`; round t is the turn of `t % groups`.

    Who takes part when is public and fixed: a client takes part exactly every
    `groups` rounds, nothing is amplified, and correlated noise can rely on the
    separation. Number clients in an order that says nothing about their data.

    Args:
        population: the public number of clients.
        groups: how many groups take turns, at most `population`.
    """

    population: int
    groups: int

    def __post_init__(self) -> None:
        population = _base.checked_population(self.population)
        check.positive_integer("pass how many groups take turns", groups=self.groups)
        if self.groups > population:
            raise ValueError(
                f"groups must be <= population = {population}, got {self.groups}; "
                "every group needs a client."
            )

    @property
    def max_clients(self) -> int:
        """The largest group."""
        return -(-self.population // self.groups)

    @property
    def expected_clients(self) -> float:
        """The mean group; groups differ by at most one client."""
        return self.population / self.groups

    def draw(self, round_index: int, *, key: jax.Array) -> np.ndarray:
        """Returns the group whose turn it is; the key has no influence."""
        check.key(key=key)
        turn = _base.round_number(round_index) % self.groups
        return np.arange(turn, self.population, self.groups)

    def event(self, noise_multiplier: float) -> "DpEvent":
        """Returns the Gaussian, without amplification."""
        from dp_accounting import GaussianDpEvent

        return GaussianDpEvent(noise_multiplier)

    def participation(self, rounds: int) -> Participation:
        """Returns one participation in every `groups` rounds."""
        rounds = _base.checked_rounds(rounds)
        return Participation(
            min_separation=self.groups, max_participations=-(-rounds // self.groups)
        )

    def describe(self) -> str:
        """Returns one clause for a privacy statement."""
        return (
            f"{self.population:,} clients in {self.groups:,} public groups take turns, "
            f"each client exactly every {self.groups:,} rounds"
        )
