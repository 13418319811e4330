"""A worker as the driver sees it: its line, its processor time, its memory.

Processor time is that of the worker and all processes below it, in nanoseconds, from
each process's own clock: a worker cannot see the time of children that still run.
"""

import contextlib
import json
import os
import pathlib
import queue
import subprocess
import threading
import time
from typing import Any

import psutil

BENCHMARKS = pathlib.Path(__file__).resolve().parent.parent
_PATH = os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS.parent)])  # this jaxfed


class WorkerError(Exception):
    """A worker ended, or took too long; the message has its last words."""


class Process:
    """One running worker."""

    def __init__(
        self, command: list[str], *, log: pathlib.Path, variables: dict[str, str]
    ):
        """Starts a worker and waits for nothing.

        Args:
            command: interpreter and arguments.
            log: where its standard error goes.
            variables: added to the environment.
        """
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=BENCHMARKS,
                env=os.environ | {"PYTHONPATH": _PATH} | variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def answer(self, timeout: float) -> dict[str, Any]:
        """Returns the worker's next line.

        Args:
            timeout: seconds to wait.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise WorkerError(f"no answer in {timeout:.0f} s") from None
        if not line:
            words = self._log.read_text("utf-8", errors="replace").strip()
            raise WorkerError("ended: " + " | ".join(words.splitlines()[-4:])[-600:])
        return json.loads(line)

    def ask(self, request: str, *, timeout: float) -> dict[str, Any]:
        """Sends a line, returns the answer with `cpu seconds` and `other cpu`.

        `other cpu` is the share of all cores that other processes kept busy meanwhile.
        """
        assert self._process.stdin is not None
        start, busy, own = time.perf_counter(), busy_seconds(), self.cpu_seconds()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        answer = self.answer(timeout)
        own, busy = self.cpu_seconds() - own, busy_seconds() - busy
        capacity = (time.perf_counter() - start) * (os.cpu_count() or 1)
        other = max(busy - own, 0.0) / capacity
        return answer | {"cpu seconds": own, "other cpu": round(other, 3)}

    def cpu_seconds(self) -> float:
        """Returns the processor time of the worker and all below it so far."""
        total = 0.0
        for one in self._family():
            with contextlib.suppress(OSError):  # it has just ended
                # the number of a process's clock: see clock_getcpuclockid(3)
                total += time.clock_gettime((~one.pid << 3) | 2)
        return total

    def memory(self) -> dict[str, int]:
        """Returns MB: resident, summed, and with shared pages counted once."""
        resident = proportional = 0
        for one in self._family():
            with contextlib.suppress(psutil.Error):
                facts = one.memory_full_info()
                resident, proportional = resident + facts.rss, proportional + facts.pss
        return {"rss MB": resident >> 20, "pss MB": proportional >> 20}

    def close(self) -> None:
        """Asks the worker to end, and ends it and all below it if it does not."""
        family = self._family()
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.write("quit\n")
            self._process.stdin.close()
        psutil.wait_procs(family, timeout=10)
        for one in family:
            with contextlib.suppress(psutil.Error):
                one.kill()
        self._process.wait()

    def _family(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.Error:
            return []

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")


def busy_seconds() -> float:
    """Returns how long all cores together have been busy since the machine started."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    counted_twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return sum(times) - idle - counted_twice
