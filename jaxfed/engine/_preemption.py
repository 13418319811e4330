"""Preemption: a run that is told to stop saves what it has, and ends."""

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM  # what shells and schedulers expect


@contextlib.contextmanager
def watched() -> Generator[Callable[[], bool]]:
    """Notes SIGTERM while the context lasts, instead of dying of it.

    Yields:
        A function that returns whether the signal came. Python handles signals in its
        main thread only; elsewhere the signal keeps its meaning.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()

    def note(number: int, frame: Any) -> None:
        del number, frame
        came.set()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
