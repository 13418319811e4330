"""The part of the pfl worker that imports pfl: model, data, algorithm, callback."""

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDatasetBase
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from pfl.privacy.gaussian_mechanism import GaussianMechanism
from pfl.privacy.privacy_mechanism import (
    CentrallyAppliedPrivacyMechanism,
    NormClippingOnly,
)

from peers import torch_models
from peers.pfl_worker import split

_ROUNDS_AT_MOST = 1_000_000


class Clients(FederatedDatasetBase):
    """The clients of whichever round the callback has set, this process's share."""

    def __init__(self, worker, processes, rank):
        super().__init__()
        self._worker, self._processes, self._rank = worker, processes, rank
        self._x, self._y = torch_models.make_tensors(worker.workload, worker.data)
        self.number = 0

    def __next__(self):
        raise NotImplementedError("whole cohorts only")

    def get_cohort(self, cohort_size):
        """Yields this process's clients and a seed for each."""
        clients = self._worker.cohort(self.number)
        assert len(clients) == cohort_size
        offsets = self._worker.data.offsets
        mine = split(self._worker.data.sizes, clients, self._processes)[self._rank]
        for client in mine:
            rows = torch.arange(int(offsets[client]), int(offsets[client + 1]))
            if not self._worker.exact:
                rows = rows[torch.randperm(len(rows))]
            raw = [self._x[rows], self._y[rows]]
            yield Dataset(raw, user_id=str(client)), self._get_seed()


class Gate(TrainingProcessCallback):
    """Answers after each iteration and waits for what to run next."""

    def __init__(self, line, clients, rank, seen):
        self._line, self._clients, self._rank, self._seen = line, clients, rank, seen
        self._left, self._request, self._before = 0, None, None

    def on_train_begin(self, *, model):
        """Says that all is ready and waits for the first request."""
        if self._rank == 0:
            self._line.worker.ready()
        self._wait(model)
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """Counts, answers, waits; stops when there is nothing to wait for."""
        del aggregate_metrics, central_iteration
        self._left -= 1
        if self._left == 0:
            self._answer(model)
            return self._wait(model), Metrics()
        return False, Metrics()

    def _answer(self, model):
        if self._request.file is not None:
            worker = self._line.worker
            now = torch_models.trained(model.pytorch_model)
            change = [
                worker.workload.cohort * (a.detach() - b)
                for a, b in zip(now, self._before, strict=True)
            ]
            arrays = torch_models.to_arrays(model.pytorch_model, change)
            worker.save(self._request.file, arrays, kind="clipped sum")
        self._line.done(self._seen["examples"])

    def _wait(self, model):
        """Returns whether the end has come."""
        self._request = self._line.next()
        if self._request is None:
            return True
        self._clients.number = self._request.number
        self._seen["examples"] = 0
        self._left = self._request.times
        if self._request.file is not None:
            params = torch_models.trained(model.pytorch_model)
            self._before = [own.detach().clone() for own in params]
        return False


def make_model(worker, seen):
    """Returns pfl's model around the module that all PyTorch peers share.

    Args:
        worker: whose workload and parameters.
        seen: a dict in which examples are counted, where the loss is taken.
    """
    module = torch_models.make_model(worker.workload, worker.params, exact=worker.exact)
    loss = torch.nn.CrossEntropyLoss()

    def of_batch(x, y):
        module.train()
        seen["examples"] += len(y)
        return loss(module(x), y)

    module.loss = of_batch
    module.metrics = lambda x, y: {}
    central = torch.optim.SGD(torch_models.trained(module), lr=1.0)
    return PyTorchModel(module, torch.optim.SGD, central)


def run(line, *, rank):
    """Runs pfl's loop until the driver's line ends."""
    torch.set_num_threads(1)
    worker = line.worker
    workload = worker.workload
    seen = {"examples": 0}
    model = make_model(worker, seen)
    clients = Clients(worker, worker.options.processes, rank)
    if worker.exact:
        mechanism = NormClippingOnly(2, workload.clip)
    else:
        mechanism = GaussianMechanism(workload.clip, 1.0)
    privacy = CentrallyAppliedPrivacyMechanism(mechanism)
    backend = SimulatedBackend(clients, None, postprocessors=[privacy])
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=_ROUNDS_AT_MOST,
            evaluation_frequency=_ROUNDS_AT_MOST,
            train_cohort_size=workload.cohort,
            val_cohort_size=0,
        ),
        backend,
        model,
        NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=workload.learning_rate,
            local_batch_size=workload.batch_size,
        ),
        callbacks=[Gate(line, clients, rank, seen)],
    )
