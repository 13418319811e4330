"""pfl-research: its own federated averaging with central differential privacy.

Its loop runs as its users run it; a callback after each iteration answers the driver
and waits for the next request. With `--processes 2` a second process takes part in
pfl's own all-reduce, and clients are dealt out as pfl's scheduler does: longest first,
each to the process with the least.
"""

import json
import os
import socket
import subprocess
import sys

import numpy as np

from peers.worker import Request, Worker


def start_processes(count):
    """Starts the other process and returns it and this process's rank.

    pfl reads torchrun's variables when it is imported.
    """
    if count == 1:
        return None, 0
    if "RANK" in os.environ:
        return None, int(os.environ["RANK"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "TORCHELASTIC_RUN_ID": "benchmark",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    os.environ.update(variables)
    other = subprocess.Popen(
        [sys.executable, "-m", "peers.pfl_worker", *sys.argv[1:]],
        env=os.environ | {"RANK": "1", "LOCAL_RANK": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.environ.update({"RANK": "0", "LOCAL_RANK": "0"})
    return other, 0


class Line:
    """The next request, for both processes: the first tells the second."""

    def __init__(self, worker, rank, other):
        """Takes the worker, this process's rank and the other process."""
        self.worker, self._rank, self._other = worker, rank, other

    def next(self):
        """Returns the next request, or None at the end."""
        if self._rank > 0:
            words = sys.stdin.readline().split()
            return Request(int(words[0]), int(words[1]), None) if words else None
        request = self.worker.request()
        if self._other is not None:
            if request is None:
                self._other.stdin.close()
            else:
                self._other.stdin.write(f"{request.number} {request.times}\n")
                self._other.stdin.flush()
        return request

    def done(self, examples):
        """Answers the driver with the examples of both; the second tells the first."""
        if self._other is not None:
            examples += json.loads(self._other.stdout.readline())["examples"]
        self.worker.done(examples=examples)


def main():
    """Serves rounds."""
    worker = Worker(processes=1)
    other, rank = start_processes(worker.options.processes)
    from peers import pfl_run  # after the variables: importing pfl reads them

    pfl_run.run(Line(worker, rank, other), rank=rank)


def split(sizes, clients, processes):
    """Returns each process's clients, as pfl's scheduler would deal them."""
    order = clients[np.argsort(-sizes[clients], kind="stable")]
    parts, loads = [[] for _ in range(processes)], np.zeros(processes)
    for client in order:
        least = int(np.argmin(loads))
        parts[least].append(int(client))
        loads[least] += sizes[client]
    return parts


if __name__ == "__main__":
    main()
