"""A release: who has reported when the server makes its next model."""

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jaxfed.timing._fleet import FleetClients

Cohort = Callable[[int], np.ndarray]


class Release(NamedTuple):
    """The reports that one update of the server's model is made of."""

    time: float
    """When, in virtual seconds from the start."""
    clients: np.ndarray
    """(reports,) int64: whose; a client may have reported twice."""
    versions: np.ndarray
    """(reports,) int64: the number of the model that each had fetched, from 0."""
    steps: np.ndarray
    """(reports,) int64: how many local steps each has taken."""
    num_lost: int
    """How many were asked since the last release, and never report."""
    num_late: int
    """How many reports came since the last release, and too late to be used."""
    at_work: np.ndarray
    """(clients,) int64: the versions that others are still at work on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server(abc.ABC):
    """How a server waits for its clients."""

    @property
    @abc.abstractmethod
    def is_race(self) -> bool:
        """Whether who reports in time depends on how fast the others are."""

    @abc.abstractmethod
    def schedule(
        self, clients: FleetClients, steps: np.ndarray, cohort: Cohort, *, seed: int
    ) -> Iterator[Release]:
        """Yields releases without end; nothing is trained.

        Args:
            clients: from `Fleet.drawn`.
            steps: (num_clients,) how many local steps each takes in a round.
            cohort: `(round) -> numbers`, whom a sampler draws for a round, from 0.
            seed: the simulation's.
        """

    @abc.abstractmethod
    def weights(self, staleness: np.ndarray) -> np.ndarray:
        """Returns what a report counts that is so many versions old, (reports,)."""


def draws_of(seed: int) -> np.random.Generator:
    """Returns the random draws of a server in one simulation."""
    return np.random.default_rng([_OF_SERVERS, seed])


_OF_SERVERS = 0x5E12E  # tells these draws from any others of the same seed
