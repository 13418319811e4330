"""Buffered asynchronous aggregation: a new model whenever enough reports have come.

FedBuff: Nguyen et al. 2022, arXiv:2106.06639, algorithm 1. Clients never wait for each
other: whoever has reported is replaced by another client, who fetches the model of that
moment. A report made from an older model counts less.
"""

import dataclasses
import heapq
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxfed import _check as check
from jaxfed.timing._fleet import FleetClients
from jaxfed.timing._release import Cohort, Release, Server, draws_of

_MOST_LOST = 100_000  # for each report of a release


class _Job(NamedTuple):
    """One client at work; jobs sort by when they end."""

    ends: float
    number: int
    client: int
    version: int
    is_lost: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buffered(Server):
    """FedBuff: the server updates its model with every `goal` reports.

    Args:
        goal: how many reports make an update (K of the paper).
        concurrency: how many clients are at work at any time.
        most_staleness: reports from models that are older, in versions, are not used.
        exponent: a report of staleness s counts (1 + s) ** -exponent; the paper's is
            0.5; with 0 all count alike.
    """

    goal: int
    concurrency: int
    most_staleness: int | None = None
    exponent: float = 0.5

    def __post_init__(self) -> None:
        check.positive_integer("reports make an update", goal=self.goal)
        check.positive_integer("clients work at a time", concurrency=self.concurrency)
        check.non_negative(exponent=self.exponent)
        if self.most_staleness is not None:
            check.non_negative_integer(most_staleness=self.most_staleness)

    @property
    def is_race(self) -> bool:
        """True: the first reports count."""
        return True

    def schedule(
        self, clients: FleetClients, steps: np.ndarray, cohort: Cohort, *, seed: int
    ) -> Iterator[Release]:
        """Yields one release for every `goal` reports; see `Server.schedule`.

        Clients are chosen uniformly from those who are there and not at work.
        """
        del cohort
        if self.concurrency > len(steps):
            raise ValueError(
                f"concurrency must be <= the {len(steps)} clients, got "
                f"{self.concurrency}; a client does one thing at a time."
            )
        clients.check_windows(steps)
        return self._releases(clients, steps, draws_of(seed))

    def weights(self, staleness: np.ndarray) -> np.ndarray:
        """Returns (1 + staleness) ** -exponent; the paper, section 3."""
        return (1.0 + np.asarray(staleness, np.float64)) ** -self.exponent

    def _releases(
        self, clients: FleetClients, steps: np.ndarray, draw: np.random.Generator
    ) -> Iterator[Release]:
        at_work, idle = list[_Job](), np.ones(len(steps), bool)
        numbers = itertools.count()
        time, version, lost, late = 0.0, 0, 0, 0
        buffer = list[_Job]()
        while True:
            while len(at_work) < self.concurrency:
                ready = np.flatnonzero(idle & clients.are_available(time))
                if len(ready) == 0:
                    break
                client = int(draw.choice(ready))
                idle[client] = False
                job = self._begun(clients, steps, client, time, version, draw)
                heapq.heappush(at_work, job._replace(number=next(numbers)))
            if not at_work:  # everybody is away
                time = clients.next_time(time)
                continue
            job = heapq.heappop(at_work)
            time, idle[job.client] = job.ends, True
            staleness = version - job.version
            if job.is_lost:
                lost += 1
                _check_lost(lost, self)
            elif self.most_staleness is not None and staleness > self.most_staleness:
                late += 1
            else:
                buffer.append(job)
            if len(buffer) == self.goal:
                whose = np.array([job.client for job in buffer])
                versions = np.array([job.version for job in buffer])
                others = np.array([job.version for job in at_work], np.int64)
                yield Release(time, whose, versions, steps[whose], lost, late, others)
                version, lost, late, buffer = version + 1, 0, 0, []

    def _begun(
        self,
        clients: FleetClients,
        steps: np.ndarray,
        client: int,
        time: float,
        version: int,
        draw: np.random.Generator,
    ) -> _Job:
        one = np.array([client])
        seconds = float(clients.seconds(one, steps[one])[0])
        stay = float(clients.stay(one, time)[0])
        is_lost = bool(draw.random() < clients.fleet.dropout) or seconds > stay
        return _Job(time + min(seconds, stay), 0, client, version, is_lost)


def _check_lost(lost: int, server: Buffered) -> None:
    if lost > _MOST_LOST * server.goal:
        raise RuntimeError(
            f"clients must report now and then, but {lost} in turn were lost while "
            f"{server!r} waited for {server.goal}; lengthen their windows, or lower "
            "dropout."
        )
