"""What Flower's actors import: a client that trains and answers.

It lies in a module of its own so that an actor keeps its data and model from one
client to the next: what is defined in a script is sent anew with each message.
"""

import functools

import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import Context, Message
from speed import workloads

from peers import torch_models

app = ClientApp()


@functools.lru_cache(maxsize=1)
def _prepared(name, exact):
    """Returns workload, data, tensors and model; once for each actor."""
    torch.set_num_threads(1)
    workload = workloads.WORKLOADS[name]
    data = workloads.make_data(workload)
    params = workloads.initial_params(workload)
    module = torch_models.make_model(workload, params, exact=exact)
    return workload, data, torch_models.make_tensors(workload, data), module


@app.train()
def train(message: Message, context: Context) -> Message:
    """Trains the cohort's client whose place is this node's."""
    config = message.content["config"]
    exact = bool(config["exact"])
    workload, data, (x, y), module = _prepared(config["workload"], exact)
    place = int(context.node_config["partition-id"])
    client = workloads.cohort(workload, int(config["number"]))[place]
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    rows = torch.arange(int(data.offsets[client]), int(data.offsets[client + 1]))
    if not exact:
        rows = rows[torch.randperm(len(rows))]
    seen = _epoch(workload, module, x[rows], y[rows])
    content = RecordDict(
        {
            "arrays": ArrayRecord(module.state_dict()),
            "metrics": MetricRecord({"num-examples": seen}),
        }
    )
    return Message(content=content, reply_to=message)


def _epoch(workload, module, x, y):
    """Trains one epoch; returns how many examples were seen."""
    loss = torch.nn.CrossEntropyLoss()
    params = torch_models.trained(module)
    optimizer = torch.optim.SGD(params, lr=workload.learning_rate)
    module.train()
    seen = 0
    for start in range(0, len(x), workload.batch_size):
        part = slice(start, start + workload.batch_size)
        optimizer.zero_grad()
        loss(module(x[part]), y[part]).backward()
        optimizer.step()
        seen += len(y[part])
    return seen
