"""The desk: where clients fetch tasks and hand in reports, whatever carries them.

Transports call its methods from any thread. It believes nothing: every report is
checked against the plan, array by array and in exact integers, before it is added to
the one running sum; no report is kept. What it says to a client depends on that client
and on public things alone.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxfed.vault import _lattice, _noise, _task, _wire
from jaxfed.vault._errors import WireError
from jaxfed.vault._plan import Plan
from jaxfed.vault._task import Task
from jaxfed.vault._visit import Ended

ACCEPTED, DUPLICATE, STALE = "accepted", "duplicate", "stale"
_DECODING = 2  # reports that are read at once: what bounds memory


class Stranger(PermissionError):
    """A client that nobody enrolled, or asked."""


class Total(NamedTuple):
    """What a round has gathered. Private."""

    values: list[np.ndarray]
    """int32, in the order of the update."""
    count: int
    """The sum of what clients said of their clip."""
    num_reports: int


class _Open(NamedTuple):
    """A round that clients can take part in."""

    tasks: dict[str, Task]
    blobs: dict[str, bytes]
    until: float
    goal: int


class Desk:
    """One run's desk.

    Args:
        clients: all that are enrolled, in the order of their numbers.
        plan: what they run.
        sealed: the plan as it is sent.
    """

    def __init__(self, clients: Sequence[str], plan: Plan, sealed: bytes):
        assert plan.rules is not None
        self._clients, self._plan, self._rules = set(clients), plan, plan.rules
        self.plan_hash = _task.digest(sealed)
        self._sealed = sealed
        self._expected = _task.report_types(
            plan.update, counts=plan.rules.count_levels > 0
        )
        self._most_value, self._most_norm = None, 0.0
        if self._rules.is_local:
            size = sum(one.type.size for one in plan.update)
            self._most_value = _noise.most_value(self._rules)
            self._most_norm = _noise.most_norm(self._rules, size)
        self._changed = threading.Condition()
        self._reading = threading.Semaphore(_DECODING)
        self._open: _Open | None = None
        self._reported: set[str] = set()
        self._total: Total | None = None
        self._is_ended, self._told = False, set[str]()
        self._listeners: list[Callable[[], None]] = []

    @property
    def most_report(self) -> int:
        """How many bytes a report has at most."""
        return _wire.size_of(self._expected)

    def knows(self, client: str) -> bool:
        """Returns whether a client is enrolled."""
        return client in self._clients

    def listen(self, listener: Callable[[], None]) -> None:
        """Has a function called, from any thread, when a round opens or closes."""
        self._listeners.append(listener)

    def task(self, client: str) -> bytes | None:
        """Returns what a client is asked for; None if nothing for now.

        Raises:
            Ended: nothing any more.
            Stranger: nobody enrolled it.
        """
        self._check_known(client)
        with self._changed:
            if self._is_ended:
                self._told.add(client)
                self._changed.notify_all()
                raise Ended
            now = self._open
            if now is None or client in self._reported or client not in now.tasks:
                return None
            left = now.until - time.monotonic()
            if left <= 0:
                return None
            return _task.encode_task(now.tasks[client]._replace(seconds=left))

    def wait_for_task(self, client: str, seconds: float) -> bytes | None:
        """Waits for a task; see `task`."""
        until = time.monotonic() + seconds
        while True:
            found = self.task(client)
            left = until - time.monotonic()
            if found is not None or left <= 0:
                return found
            with self._changed:
                self._changed.wait(min(left, 1.0))

    def blob(self, client: str, digest: str) -> bytes | None:
        """Returns the plan, or the model of the open round, by its hash."""
        self._check_known(client)
        if digest == self.plan_hash:
            return self._sealed
        with self._changed:
            return None if self._open is None else self._open.blobs.get(digest)

    def submit(self, client: str, data: bytes) -> str:
        """Takes a report; returns what became of it.

        Raises:
            WireError: it is not what the plan says; nothing was added.
            Stranger: this client was not asked.
        """
        self._check_known(client)
        with self._reading:
            values, words = _task.decode_report(data, self._expected)
            with self._changed:
                state = self._state(client, words)
            if state != ACCEPTED:
                return state
            update, count = self._checked(values)
            with self._changed:
                state = self._state(
                    client, words
                )  # the round may have closed meanwhile
                if state == ACCEPTED:
                    self._add(client, update, count)
                    self._changed.notify_all()
        return state

    def early_answer(self, client: str) -> str | None:
        """Returns what any report of a client would be told now, if it is known."""
        with self._changed:
            now = self._open
            if now is None or client not in now.tasks:
                return STALE
            return DUPLICATE if client in self._reported else None

    def open(
        self, tasks: dict[str, Task], model: bytes, *, seconds: float, goal: int
    ) -> None:
        """Opens an attempt at a round.

        Args:
            tasks: by client.
            model: what comes with them.
            seconds: until it closes at the latest.
            goal: reports after which it closes.
        """
        zeros = [np.zeros(one.type.shape, np.int32) for one in self._plan.update]
        blobs = {_task.digest(model): model}
        with self._changed:
            until = time.monotonic() + seconds
            self._open = _Open(tasks, blobs, until, min(goal, len(tasks)))
            self._reported, self._total = set(), Total(zeros, 0, 0)
        self._notify()

    def gather(self) -> Total:
        """Waits until the attempt closes, closes it, and returns what came."""
        with self._changed:
            now = self._open
            assert now is not None
            while len(self._reported) < now.goal:
                left = now.until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            found = self._total
            assert found is not None
            self._open, self._total = None, None
        self._notify()
        return found

    def end(self) -> None:
        """Tells all clients that the run is over."""
        with self._changed:
            self._is_ended, self._open = True, None
        self._notify()

    def wait_for_farewell(self, seconds: float) -> None:
        """Waits until every client was told of the end, or so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._told >= self._clients, seconds)

    def waiting_for(self) -> tuple[list[str], int, float]:
        """Returns who has not reported, of how many, and the seconds left. Private."""
        with self._changed:
            if self._open is None:
                return [], 0, 0.0
            left = max(0.0, self._open.until - time.monotonic())
            missing = [one for one in self._open.tasks if one not in self._reported]
            return missing, len(self._open.tasks), left

    def _check_known(self, client: str) -> None:
        if client not in self._clients:
            raise Stranger("this client is not enrolled")

    def _state(self, client: str, words: dict[str, str]) -> str:
        now = self._open
        if now is None or time.monotonic() >= now.until:
            return STALE
        task = now.tasks.get(client)
        if task is None:
            asked = next(iter(now.tasks.values())).header()
            if any(words[name] != asked[name] for name in asked):
                return STALE  # of a round before, which asked it
            raise Stranger("this client was not asked")
        if words != task.header():
            return STALE
        if client in self._reported:
            return DUPLICATE
        # more than the goal would make their number depend on who is fast
        return ACCEPTED if len(self._reported) < now.goal else STALE

    def _checked(self, values: dict[str, np.ndarray]) -> tuple[list[np.ndarray], int]:
        update = [values[f"update/{one.name}"] for one in self._plan.update]
        if self._most_value is not None:
            fits = all(_within(array, self._most_value) for array in update)
            if not (fits and self._norm(update) <= self._most_norm):
                raise WireError("a report is beyond its clip norm and all noise")
            return update, 0
        for group in self._rules.groups:
            try:
                _lattice.check([update[i] for i in group.indices], group.levels)
            except ArithmeticError:
                raise WireError("a report is beyond its clip norm") from None
        count, levels = int(values.get("count", 0)), self._rules.count_levels
        if count not in (levels, 0, -levels):
            raise WireError("a report of a clip is one client's, or none")
        return update, count

    def _norm(self, update: Sequence[np.ndarray]) -> float:
        """Returns the L1 or L2 norm of a report, as its noise's law bounds it."""
        wide = [np.asarray(one, np.float64) for one in update]
        if self._rules.law == "laplace":
            return float(sum(np.abs(one).sum() for one in wide))
        return float(np.sqrt(sum(np.square(one).sum() for one in wide)))

    def _add(self, client: str, update: list[np.ndarray], count: int) -> None:
        assert self._total is not None
        for total, one in zip(self._total.values, update, strict=True):
            total += one
        self._reported.add(client)
        self._total = self._total._replace(
            count=self._total.count + count, num_reports=len(self._reported)
        )

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
        for listener in self._listeners:
            listener()


def _within(array: np.ndarray, most: int) -> bool:
    return array.size == 0 or (int(array.max()) <= most and int(array.min()) >= -most)
