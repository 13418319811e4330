"""The protocol between the driver and a worker: one line each way.

The driver writes `round NUMBER TIMES` (run that round's cohort so many times),
`sum NUMBER FILE` (run it once and save what the clients' updates add up to) or
`quit`; the worker answers each with one line of JSON. Everything else that a framework
prints goes to standard error.
"""

import argparse
import json
import os
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from speed import workloads


class Request(NamedTuple):
    """What the driver asks for."""

    number: int
    times: int
    file: str | None
    """Where to save the sum, or None in a timed round."""


class Worker:
    """The options of one worker, its workload, and its end of the line."""

    def __init__(self, **options: Any):
        """Takes the line over and makes the clients.

        Args:
            **options: further options and their values by default.
        """
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what a framework prints is no answer
        parser = argparse.ArgumentParser()
        parser.add_argument("--workload", required=True)
        parser.add_argument("--exact", action="store_true")
        for name, value in options.items():
            parser.add_argument(f"--{name}", type=type(value), default=value)
        self.options = parser.parse_args()
        self.exact: bool = self.options.exact
        """In the order of the data, without dropout and noise, to be compared."""
        self.workload = workloads.WORKLOADS[self.options.workload]
        self.data = workloads.make_data(self.workload)
        self.params = workloads.initial_params(self.workload)
        self._start = 0.0

    def cohort(self, number: int) -> np.ndarray:
        """Returns the clients of a round."""
        return workloads.cohort(self.workload, number)

    def ready(self, **facts: Any) -> None:
        """Says that rounds may be asked for."""
        self._say(ready=True, **facts)

    def request(self) -> Request | None:
        """Returns the next request, or None at the end; its time runs from here."""
        words = sys.stdin.readline().split()
        if not words or words[0] == "quit":
            return None
        number, last = int(words[1]), words[2]
        self._start = time.perf_counter()
        if words[0] == "sum":
            return Request(number, 1, last)
        return Request(number, int(last), None)

    def done(self, *, examples: int, **facts: Any) -> None:
        """Answers the request; its time ends here.

        Args:
            examples: how many were processed, counted where they were.
            **facts: anything else to be recorded.
        """
        seconds = time.perf_counter() - self._start
        self._say(seconds=seconds, examples=int(examples), **facts)

    def save(self, file: str, total: dict[str, Any], *, kind: str) -> None:
        """Writes a sum for the driver to compare.

        Args:
            file: as asked.
            total: arrays by the names of `workloads.initial_params`.
            kind: `clipped sum` or `weighted mean`.
        """
        arrays = {name: np.asarray(value) for name, value in total.items()}
        np.savez(file, kind=kind, **arrays)

    def serve(self, run_round: Any, total: Any, *, kind: str) -> None:
        """Answers until the end.

        Args:
            run_round: `number -> examples`, blocking.
            total: `number -> (examples, arrays)`, blocking.
            kind: what `total` gives.
        """
        self.ready()
        while (request := self.request()) is not None:
            if request.file is not None:
                examples, arrays = total(request.number)
                self.save(request.file, arrays, kind=kind)
            else:
                examples = sum(run_round(request.number) for _ in range(request.times))
            self.done(examples=examples)

    def _say(self, **facts: Any) -> None:
        self._answers.write(json.dumps(facts) + "\n")
        self._answers.flush()
