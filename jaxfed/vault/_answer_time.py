"""When a report leaves: at a time that says next to nothing about the data.

Where a vault adds the noise itself, the server is who must not learn, and how long
local work takes follows from the data: numbers below 1e-38 take twenty times as long.
So a vault keeps a time from task to report, which it never goes below and which only
grows, by factors of two. All that a server learns is when it grew: once for each
doubling, of the few that there are from a second to a deadline, in all runs together.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from jaxfed.vault._errors import Refused

_LEAST, _MOST = 1.0, 1e7  # seconds


class AnswerTime:
    """The time that a vault takes to answer.

    Args:
        folder: where it is kept.

    Raises:
        Refused: it was damaged.
    """

    def __init__(self, folder: Path):
        self._path = folder / "answer-seconds"
        self._seconds = _LEAST
        try:
            kept = float(self._path.read_text("ascii"))
            if not _LEAST <= kept < _MOST:
                raise ValueError(f"{kept} is no such number")
            self._seconds = kept
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise Refused(
                f"{self._path} must hold a number of seconds: {error}; remove it, and "
                "it begins anew."
            ) from None

    def wait(self, began: float) -> None:
        """Waits until it is time to answer.

        Args:
            began: when work on the task began, as `time.monotonic` says.

        Raises:
            Refused: a longer time could not be written down.
        """
        taken = time.monotonic() - began
        if taken > self._seconds:
            while self._seconds < taken:
                self._seconds *= 2
            self._keep()
        time.sleep(max(0.0, began + self._seconds - time.monotonic()))

    def _keep(self) -> None:
        draft = self._path.with_name("answer-seconds.new")
        try:
            with open(draft, "w", encoding="ascii") as file:
                file.write(repr(self._seconds))
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self._path)
        except OSError as error:
            raise Refused(
                f"{self._path} could not be written: {error.strerror}; nothing was "
                "sent."
            ) from None
