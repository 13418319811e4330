"""Places in which large reports are read: few, and the slow give way to those who wait.

A place is memory for a whole report. Whoever holds one and sends slowly keeps it while
nobody else wants it.
"""

import asyncio
from collections.abc import Callable
from typing import Any

_FAIR_RATE = 1_000_000  # bytes in a second that keep a place while others wait
_GRACE = 3.0  # seconds before a rate means anything
_LOOK = 0.5  # seconds from one look at the slowest to the next


class Slot:
    """One place, and who reads in it."""

    def __init__(self, now: float):
        self._began, self._bytes = now, 0
        self.task: asyncio.Task[Any] | None = None
        self.is_ended = False

    def came(self, count: int) -> None:
        """Notes that so many bytes came."""
        self._bytes += count

    def is_slow(self, now: float) -> bool:
        """Returns whether it may be ended for others."""
        age = now - self._began
        return age > _GRACE and self._bytes < _FAIR_RATE * age

    def rate(self, now: float) -> float:
        """Returns bytes in a second."""
        return self._bytes / max(1e-3, now - self._began)

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
        self._freed = asyncio.Event()

    async def take(self, is_gone: Callable[[], bool]) -> Slot | None:
        """Waits for a place; None if there was none in time, or nobody waits any more.

        Args:
            is_gone: whether who waits has gone.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._seconds
        while len(self._held) >= self._count:
            now = loop.time()
            if now > until or is_gone():
                return None
            slow = [one for one in self._held if one.is_slow(now) and not one.is_ended]
            if slow:
                min(slow, key=lambda one: one.rate(now)).end()
            self._freed.clear()
            try:
                await asyncio.wait_for(self._freed.wait(), _LOOK)
            except TimeoutError:
                continue
        found = Slot(loop.time())
        self._held.add(found)
        return found

    def give_back(self, slot: Slot) -> None:
        """Lets the next one have a place."""
        self._held.discard(slot)
        self._freed.set()
