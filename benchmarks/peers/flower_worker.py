"""Flower's simulation with Ray: two actors, one client for each message.

There are as many nodes as a cohort has clients; a message names the round, and each
node takes the client of its place. Flower goes on when clients fail and reports a
round; here one failure ends the worker.
"""

import contextlib
import os

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import torch
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from peers import flower_app, torch_models
from peers.worker import Worker

_ROUNDS_AT_MOST = 1_000_000


class Stop(Exception):
    """The driver wants no more rounds."""


class Gate(FedAvg):
    """Its federated averaging, which waits for the driver before each round."""

    def __init__(self, worker, module):
        nodes = worker.workload.cohort
        super().__init__(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=nodes,
            min_available_nodes=nodes,
        )
        self._worker, self._module = worker, module
        self._left, self._request, self._before = 0, None, None
        self._examples = 0

    def configure_train(self, server_round, arrays, config, grid):
        """Waits for the next request, unless one is still to be repeated."""
        if self._left == 0:
            if server_round == 1:
                self._worker.ready()
            self._request = self._worker.request()
            if self._request is None:
                raise Stop
            self._left, self._examples = self._request.times, 0
        self._before = arrays
        config["number"] = self._request.number
        config["workload"] = self._worker.workload.name
        config["exact"] = int(self._worker.exact)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        """Counts, averages, answers."""
        replies = list(replies)
        failures = [reply for reply in replies if reply.has_error()]
        expected = self._worker.workload.cohort
        if failures or len(replies) != expected:
            reason = failures[0].error.reason if failures else "no reply"
            raise RuntimeError(
                f"{len(failures)} failures and {len(replies)} replies of {expected}: "
                f"{reason}"
            )
        counts = [reply.content["metrics"]["num-examples"] for reply in replies]
        self._examples += int(sum(counts))
        arrays, metrics = super().aggregate_train(server_round, replies)
        self._left -= 1
        if self._left == 0:
            if self._request.file is not None:
                self._save(arrays)
            self._worker.done(examples=self._examples, failures=0)
        return arrays, metrics

    def _save(self, arrays):
        before, after = self._before.to_torch_state_dict(), arrays.to_torch_state_dict()
        named = self._module.named_parameters()
        names = [name for name, own in named if own.requires_grad]
        change = [after[name] - before[name] for name in names]
        total = torch_models.to_arrays(self._module, change)
        self._worker.save(self._request.file, total, kind="weighted mean")


def main():
    """Serves rounds."""
    torch.set_num_threads(1)
    worker = Worker()
    module = torch_models.make_model(worker.workload, worker.params, exact=worker.exact)
    server = ServerApp()

    @server.main()
    def serve(grid, context):
        del context
        with contextlib.suppress(Stop):
            Gate(worker, module).start(
                grid=grid,
                initial_arrays=ArrayRecord(module.state_dict()),
                num_rounds=_ROUNDS_AT_MOST,
            )

    run_simulation(
        server_app=server,
        client_app=flower_app.app,
        num_supernodes=worker.workload.cohort,
        backend_config={
            "init_args": {"num_cpus": 2},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main()
