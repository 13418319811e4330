"""Cohorts in which no client returns before a number of rounds has passed.

The participation schema "(k, b)-min-sep" of Choquette-Choo et al. 2023,
arXiv:2306.08153, section 2; the arrangement below is jaxfed's own.
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
class MinSeparation(Sampler):
    """`size` random clients a round, none twice within `separation` rounds.

    A client that took part in round t may return in round t + `separation` at the
    earliest, and takes part at most `max_participations` times. (Libraries that count
    the rounds in between call this separation - 1.)

    How, and why it holds for every key: an epoch is `E = population // size` rounds,
    cut into pools of consecutive rounds, none longer than `E - separation + 1`. Each
    client is dealt to one pool, at random, for the whole run. In every epoch each
    pool is shuffled anew and dealt out to its rounds, `size` clients each, so that a
    client takes part at most once an epoch. Within an epoch there is nothing to show.
    Two participations in different epochs, at offsets o and o' of a pool of l rounds,
    are at least `E + o' - o >= E - (l - 1) >= separation` rounds apart. After
    `max_participations` epochs the sampler refuses to go on. Who takes part is drawn
    without looking at any data and nothing is amplified.

    Clients that a pool has beyond what its rounds need, fewer than `size` in all, sit
    out an epoch, others the next time. Over the keys every client is in a round's
    cohort with probability `size / population`.

    Args:
        population: the public number of clients, at least `size * separation`.
        size: how many take part in a round.
        separation: the least number of rounds from one participation to the next.
        max_participations: the most participations of a client.
    """

    population: int
    size: int
    separation: int
    max_participations: int

    def __post_init__(self) -> None:
        population = _base.checked_population(self.population)
        size = _base.checked_size(self.size, population=population)
        separation = check.positive_integer(
            "pass the least number of rounds between two participations",
            separation=self.separation,
        )
        check.positive_integer(
            "pass the most participations of a client",
            max_participations=self.max_participations,
        )
        if size * separation > population:
            raise ValueError(
                f"size * separation must be <= population = {population}, got "
                f"{size} * {separation}; with fewer clients somebody must return "
                "earlier: lower size or separation."
            )

    @property
    def max_clients(self) -> int:
        """`size`."""
        return self.size

    @property
    def expected_clients(self) -> float:
        """`size`."""
        return float(self.size)

    @property
    def rounds_per_epoch(self) -> int:
        """The rounds in which no client takes part twice."""
        return self.population // self.size

    @property
    def max_rounds(self) -> int:
        """The longest run that keeps `max_participations`."""
        return self.rounds_per_epoch * self.max_participations

    def draw(self, round_index: int, *, key: jax.Array) -> np.ndarray:
        """Draws the cohort of a round.

        Raises:
            ValueError: the round is beyond `max_rounds`.
        """
        round_index = _base.round_number(round_index)
        self._check_horizon(round_index + 1)
        epoch, offset = divmod(round_index, self.rounds_per_epoch)
        pool, place, length = self._pool_of(offset)
        members = self._members(pool, key=key)
        order = _shuffled(_base.part_key(key, epoch, pool), len(members))
        seats = order[: length * self.size].reshape(length, self.size)
        return np.sort(members[seats[place]])

    def event(self, noise_multiplier: float) -> "DpEvent":
        """Returns the Gaussian, without amplification."""
        from dp_accounting import GaussianDpEvent

        return GaussianDpEvent(noise_multiplier)

    def participation(self, rounds: int) -> Participation:
        """Returns `separation`, and one participation an epoch.

        Raises:
            ValueError: `rounds` is beyond `max_rounds`.
        """
        rounds = _base.checked_rounds(rounds)
        self._check_horizon(rounds)
        return Participation(
            min_separation=self.separation,
            max_participations=-(-rounds // self.rounds_per_epoch),
        )

    def describe(self) -> str:
        """Returns one clause for a privacy statement."""
        return (
            f"{self.size:,} of {self.population:,} clients take part in every round, "
            f"none again before {self.separation:,} rounds have passed and none more "
            f"than {self.max_participations:,} times"
        )

    def _check_horizon(self, rounds: int) -> None:
        if rounds > self.max_rounds:
            raise ValueError(
                f"rounds must be <= max_participations * (population // size) = "
                f"{self.max_rounds}, got {rounds}; more rounds need more clients, "
                "smaller cohorts or more participations."
            )

    def _starts(self) -> np.ndarray:
        """Returns the first round of each pool in an epoch, and the epoch's end."""
        rounds = self.rounds_per_epoch
        longest = rounds - self.separation + 1
        pools = -(-rounds // longest)
        return np.arange(pools + 1) * rounds // pools

    def _pool_of(self, offset: int) -> tuple[int, int, int]:
        """Returns pool, place in the pool, and length of the pool."""
        starts = self._starts()
        pool = int(np.searchsorted(starts, offset, side="right")) - 1
        first, end = int(starts[pool]), int(starts[pool + 1])
        return pool, offset - first, end - first

    def _members(self, pool: int, *, key: jax.Array) -> np.ndarray:
        """Returns a pool's clients: its share of one shuffle of the population.

        Pools hold `size` clients a round, and the remainder of the population spread
        in proportion to their rounds.
        """
        starts, rounds = self._starts()[pool : pool + 2], self.rounds_per_epoch
        spare = self.population - rounds * self.size
        first, end = starts * self.size + starts * spare // rounds
        return _shuffled(_base.run_key(key), self.population)[first:end]


def _shuffled(key: jax.Array, count: int) -> np.ndarray:
    """Returns 0 .. count - 1 in an order that depends on the key alone."""
    return _base.kept(keys.host_order, key, count)
