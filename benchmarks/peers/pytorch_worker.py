"""Federated averaging by hand in PyTorch: a loop, a clip, a sum.

What a good programmer would write: one model, trained in place for one client after
the other, one thread for each process. With `--processes 2` each process takes the
longest client left for the one with less to do, and the sums meet in shared memory.
It clips and adds no noise.
"""

from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp

from peers import torch_models
from peers.worker import Worker


class Trainer:
    """One process's model and its loop over clients."""

    def __init__(self, worker_facts: tuple[Any, Any, Any, bool]):
        """Builds the model.

        Args:
            worker_facts: workload, data, initial parameters, whether exact.
        """
        torch.set_num_threads(1)
        workload, data, params, self._exact = worker_facts
        self._workload, self._offsets = workload, data.offsets
        self._x, self._y = torch_models.make_tensors(workload, data)
        self.module = torch_models.make_model(workload, params, exact=self._exact)
        self.params = torch_models.trained(self.module)
        self._loss = torch.nn.CrossEntropyLoss()
        self._optimizer = torch.optim.SGD(self.params, lr=workload.learning_rate)

    def clipped_sum(
        self, server: torch.Tensor, clients: np.ndarray
    ) -> tuple[torch.Tensor, int]:
        """Returns the sum of the clients' clipped updates, and their examples."""
        total, examples = torch.zeros_like(server), 0
        for client in clients:
            self.load(server)
            examples += self._train(int(client))
            with torch.no_grad():
                update = flat(self.params).sub_(server)
                norm = float(update.norm())
                total.add_(update, alpha=min(1.0, self._workload.clip / norm))
        return total, examples

    def load(self, server: torch.Tensor) -> None:
        """Copies a flat vector into the model."""
        with torch.no_grad():
            for own, part in zip(self.params, self.split(server), strict=True):
                own.copy_(part)

    def split(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Returns views of a vector in the shapes of the parameters."""
        parts = vector.split([own.numel() for own in self.params])
        return [p.view_as(own) for p, own in zip(parts, self.params, strict=True)]

    def _train(self, client: int) -> int:
        """Trains one epoch; returns how many examples were seen."""
        first, last = int(self._offsets[client]), int(self._offsets[client + 1])
        x, y = self._x[first:last], self._y[first:last]
        if not self._exact:
            order = torch.randperm(last - first)
            x, y = x[order], y[order]
        self.module.train()
        seen = 0
        for start in range(0, len(x), self._workload.batch_size):
            part = slice(start, start + self._workload.batch_size)
            self._optimizer.zero_grad()
            self._loss(self.module(x[part]), y[part]).backward()
            self._optimizer.step()
            seen += len(y[part])
        return seen


def flat(params: list[torch.Tensor]) -> torch.Tensor:
    """Returns all parameters as one new vector."""
    return torch.cat([own.detach().reshape(-1) for own in params])


def shares(data: Any, clients: np.ndarray, processes: int) -> list[np.ndarray]:
    """Deals clients out, longest first, each to who has the fewest examples."""
    order = clients[np.argsort(-data.sizes[clients], kind="stable")]
    loads, parts = [0] * processes, [[] for _ in range(processes)]
    for client in order:
        least = int(np.argmin(loads))
        parts[least].append(client)
        loads[least] += int(data.sizes[client])
    return [np.array(part) for part in parts]


def helper(facts: Any, shared: torch.Tensor, result: torch.Tensor, pipe: Any) -> None:
    """The second process: trains whom it is told to."""
    trainer = Trainer(facts)
    pipe.send("ready")
    while (clients := pipe.recv()) is not None:
        total, examples = trainer.clipped_sum(shared.clone(), clients)
        result.copy_(total)
        pipe.send(examples)


class Team:
    """One or two processes."""

    def __init__(self, worker: Worker, processes: int):
        """Starts the second process, if there is to be one."""
        facts = (worker.workload, worker.data, worker.params, worker.exact)
        self.trainer = Trainer(facts)
        self._worker, self._processes = worker, processes
        self.server = flat(self.trainer.params)
        self._pipe = None
        if processes == 2:
            self.server.share_memory_()
            self._result = torch.zeros_like(self.server).share_memory_()
            context = mp.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            arguments = (facts, self.server, self._result, theirs)
            context.Process(target=helper, args=arguments, daemon=True).start()
            self._pipe.recv()

    def clipped_sum(self, number: int) -> tuple[torch.Tensor, int]:
        """Returns the cohort's clipped sum and examples."""
        clients = self._worker.cohort(number)
        if self._pipe is None:
            return self.trainer.clipped_sum(self.server, clients)
        own, other = shares(self._worker.data, clients, 2)
        self._pipe.send(other)
        total, examples = self.trainer.clipped_sum(self.server.clone(), own)
        examples += self._pipe.recv()
        return total.add_(self._result), examples

    def run_round(self, number: int) -> int:
        """Runs a round; returns the examples."""
        total, examples = self.clipped_sum(number)
        self.server.add_(total, alpha=1 / self._worker.workload.cohort)
        return examples

    def total(self, number: int) -> tuple[int, dict[str, np.ndarray]]:
        """Returns the examples and the sum by name."""
        total, examples = self.clipped_sum(number)
        parts = self.trainer.split(total)
        return examples, torch_models.to_arrays(self.trainer.module, parts)


def main() -> None:
    """Serves rounds."""
    worker = Worker(processes=1)
    team = Team(worker, worker.options.processes)
    worker.serve(team.run_round, team.total, kind="clipped sum")


if __name__ == "__main__":
    main()
