"""BlazeFL: its own FedAvg handler and thread pool, two threads.

Version 2.0.3; the free-threaded version 3 needs Python 3.14. A weighted mean, without
clip and noise.
"""

import threading
import types

import torch
from blazefl.contrib.fedavg import (
    FedAvgBaseServerHandler,
    FedAvgThreadPoolClientTrainer,
)
from torch.utils.data import DataLoader, TensorDataset

from peers import torch_models
from peers.worker import Worker


class Clients:
    """BlazeFL's partitioned data: a loader for each client."""

    def __init__(self, worker):
        """Makes the tensors once."""
        self._x, self._y = torch_models.make_tensors(worker.workload, worker.data)
        self._offsets, self._shuffle = worker.data.offsets, not worker.exact

    def get_dataloader(self, type_, cid, batch_size, generator):
        """Returns batches of one client's examples."""
        del type_
        rows = slice(int(self._offsets[cid]), int(self._offsets[cid + 1]))
        return DataLoader(
            TensorDataset(self._x[rows], self._y[rows]),
            batch_size=batch_size,
            shuffle=self._shuffle,
            generator=generator if self._shuffle else None,
        )


class Trainer(FedAvgThreadPoolClientTrainer):
    """Its thread pool, without the progress bar."""

    def progress_fn(self, it):
        """Returns the clients' results as they come."""
        return it


def main():
    """Serves rounds."""
    torch.set_num_threads(1)
    worker = Worker()
    workload, clients = worker.workload, Clients(worker)
    lock = threading.Lock()

    def select_model(name):
        del name
        with lock:
            return torch_models.make_model(workload, worker.params, exact=worker.exact)

    selector = types.SimpleNamespace(select_model=select_model)
    common = {
        "model_selector": selector,
        "model_name": workload.model,
        "dataset": clients,
        "num_clients": workload.population,
        "device": "cpu",
        "batch_size": workload.batch_size,
        "seed": 0,
    }
    handler = FedAvgBaseServerHandler(
        global_round=1_000_000,
        sample_ratio=(workload.cohort + 0.5) / workload.population,
        **common,
    )
    trainer = Trainer(epochs=1, lr=workload.learning_rate, num_parallels=2, **common)

    def run_round(number):
        cohort = [int(client) for client in worker.cohort(number)]
        trainer.local_process(handler.downlink_package(), cohort)
        packages = trainer.uplink_package()
        finished = [handler.load(package) for package in packages]
        assert finished[-1], "the handler waits for more clients"
        return sum(package.data_size for package in packages)

    def total(number):
        params = torch_models.trained(handler.model)
        before = [own.detach().clone() for own in params]
        examples = run_round(number)
        now = torch_models.trained(handler.model)
        change = [a.detach() - b for a, b in zip(now, before, strict=True)]
        return examples, torch_models.to_arrays(handler.model, change)

    worker.serve(run_round, total, kind="weighted mean")


if __name__ == "__main__":
    main()
