"""Synchronous rounds: the server waits for a cohort, a goal, or a deadline.

Over-selection: Bonawitz et al. 2019, arXiv:1902.01046, section 9: ask more clients than
are needed, and go on with those who are first. Partial work: Li et al. 2020 (FedProx),
arXiv:1812.06127, section 5.2.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from jaxfed import _check as check
from jaxfed.timing._fleet import FleetClients
from jaxfed.timing._release import Cohort, Release, Server, draws_of

LATE = ("drop", "partial")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synchronous(Server):
    """A round after the other; all of a round's clients start from one model.

    A round ends when all who will report have, or earlier by `goal` or `deadline`. That
    somebody is lost is noticed at once; if everybody is away, the server waits until
    the next client's window opens.

    Args:
        goal: go on with the first so many reports; the sampler asks more clients.
        deadline: seconds after which a round ends.
        late: who is not done by the deadline is dropped (`"drop"`), or reports the
            steps that it has taken (`"partial"`), if one.
        stragglers: the share of each cohort, in [0, 1], that by the deadline manages
            only some of its work, whatever its speed: uniformly from one step to all
            but one.
    """

    goal: int | None = None
    deadline: float | None = None
    late: str = "drop"
    stragglers: float = 0.0

    def __post_init__(self) -> None:
        if self.goal is not None:
            check.positive_integer("go on with so many reports", goal=self.goal)
        if self.deadline is not None:
            check.positive("in seconds", deadline=self.deadline)
        check.one_of(LATE, late=self.late)
        if check.non_negative(stragglers=self.stragglers) > 1:
            raise ValueError(
                f"stragglers must be a share <= 1, got {self.stragglers}; pass for "
                "example 0.5."
            )
        if self.goal is not None and (self.late == "partial" or self.stragglers):
            raise ValueError(
                f'late="partial" and stragglers must not go with goal={self.goal}: a '
                "round that ends with the first reports has no deadline at which the "
                "others report; leave one of them out."
            )

    @property
    def is_race(self) -> bool:
        """Whether the first reports count."""
        return self.goal is not None

    def schedule(
        self, clients: FleetClients, steps: np.ndarray, cohort: Cohort, *, seed: int
    ) -> Iterator[Release]:
        """Yields one release a round; see `Server.schedule`."""
        clients.check_windows(steps)
        return self._releases(clients, steps, cohort, draws_of(seed))

    def _releases(
        self,
        clients: FleetClients,
        steps: np.ndarray,
        cohort: Cohort,
        draw: np.random.Generator,
    ) -> Iterator[Release]:
        time, version = 0.0, 0
        while True:
            release = self._round(clients, steps, cohort(version), time, version, draw)
            yield release
            time, version = release.time, version + 1

    def weights(self, staleness: np.ndarray) -> np.ndarray:
        """Returns ones: all start from the newest model."""
        return np.ones(len(staleness))

    def _round(
        self,
        clients: FleetClients,
        steps: np.ndarray,
        asked: np.ndarray,
        time: float,
        version: int,
        draw: np.random.Generator,
    ) -> Release:
        todo = steps[asked]
        seconds = clients.seconds(asked, todo)
        is_lost = draw.random(len(asked)) < clients.fleet.dropout
        is_lost |= seconds > clients.stay(asked, time)
        waited = np.where(is_lost, np.inf, seconds)
        limit = np.inf if self.deadline is None else self.deadline
        is_late = ~is_lost & (waited > limit)
        if self.goal is not None:  # equally fast ones in no order of their numbers
            order = np.lexsort((draw.random(len(asked)), waited))
            is_late[order[self.goal :]] = True
            is_late &= ~is_lost
        done = np.where(is_lost | is_late, 0, todo)
        if self.late == "partial":
            within = limit - clients.exchange_seconds[asked[is_late]]
            taken = within / clients.step_seconds[asked[is_late]]
            done[is_late] = np.maximum(taken, 0).astype(np.int64)
        is_slow = self._straggle(done, todo, is_lost | is_late, draw)
        came = done > 0
        if self.goal is not None and came.any():
            limit = min(limit, float(np.max(waited[came])))
        ends = min(limit, float(np.max(waited[~is_lost], initial=0.0)))
        if is_slow.any() and np.isfinite(limit):  # they are at work until then
            ends = limit
        end = time + ends
        if end == time and clients.fleet.available < 1:  # everybody is away
            end = clients.next_time(time)
        return Release(
            end,
            asked[came],
            np.full(int(came.sum()), version),
            done[came],
            num_lost=int(is_lost.sum()),
            num_late=int(((is_late | is_slow) & ~came).sum()),
            at_work=np.zeros(0, np.int64),
        )

    def _straggle(
        self,
        done: np.ndarray,
        todo: np.ndarray,
        is_out: np.ndarray,
        draw: np.random.Generator,
    ) -> np.ndarray:
        """Lets a share of the cohort do less, in `done`; returns who."""
        count = round(self.stragglers * len(todo))
        is_slow = np.zeros(len(todo), bool)
        is_slow[draw.permutation(len(todo))[:count]] = True
        part = 1 + np.floor(draw.random(len(todo)) * np.maximum(todo - 1, 1))
        is_slow &= ~is_out
        done[is_slow] = part[is_slow] if self.late == "partial" else 0
        return is_slow
