"""Places in which large reports are read: few, and the slow give way to those who wait.

A place is memory for a whole report. Whoever holds one has a share of the round to send
it in; who is slower than that keeps the place while nobody else wants it.
"""

import asyncio
from collections.abc import Callable
from typing import Any

_GRACE = 3.0  # seconds before a rate means anything
_LOOK = 0.5  # seconds from one look at the slowest to the next


class Slot:
    """One place, and who reads in it.

    Args:
        now: when it was taken.
        size: bytes of the report.
        share: seconds in which it should be there.
    """

    def __init__(self, now: float, size: int = 0, share: float = 1.0):
        self._began, self._size, self._share = now, size, share
        self._bytes = 0
        self.task: asyncio.Task[Any] | None = None
        self.is_ended = False

    def came(self, count: int) -> None:
        """Notes that so many bytes came."""
        self._bytes += count

    def lag(self, now: float) -> float:
        """Returns how many bytes it is behind its share; none in its first seconds."""
        age = now - self._began
        return 0.0 if age < _GRACE else self._size * age / self._share - self._bytes

    def end(self) -> None:
        """Ends the reading in it."""
        self.is_ended = True
        if self.task is not None:
            self.task.cancel()


class Slots:
    """All places of a server.

    Args:
        count: how many.
        seconds: how long somebody waits for one.
    """

    def __init__(self, count: int, seconds: float):
        self._count, self._seconds = count, seconds
        self._held: set[Slot] = set()
        self._queue: list[object] = []
        self._freed = asyncio.Event()

    async def take(
        self, is_gone: Callable[[], bool], *, size: int, share: float
    ) -> Slot | None:
        """Waits for a place; None if there was none in time, or nobody waits any more.

        Args:
            is_gone: whether who waits has gone.
            size: bytes of the report.
            share: seconds in which it should be there.
        """
        ticket = object()
        self._queue.append(ticket)
        try:
            return await self._turn(ticket, is_gone, size, share)
        finally:
            self._queue.remove(ticket)
            self._freed.set()  # for whoever is next

    async def _turn(
        self, ticket: object, is_gone: Callable[[], bool], size: int, share: float
    ) -> Slot | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._seconds
        while len(self._held) >= self._count or self._queue[0] is not ticket:
            now = loop.time()
            if now > until or is_gone():
                return None
            if len(self._held) >= self._count:
                worst = max(self._held, key=lambda one: one.lag(now))
                if worst.lag(now) > 0 and not any(one.is_ended for one in self._held):
                    worst.end()
            self._freed.clear()
            try:
                await asyncio.wait_for(self._freed.wait(), _LOOK)
            except TimeoutError:
                continue
        found = Slot(loop.time(), size, share)
        self._held.add(found)
        return found

    def give_back(self, slot: Slot) -> None:
        """Lets the next one have a place."""
        self._held.discard(slot)
        self._freed.set()
