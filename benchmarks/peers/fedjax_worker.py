"""FedJAX: its own federated averaging with its own models where it has them.

FedJAX fills each client's last batch with examples of the next shuffle, by design, and
weights clients by examples. Version 0.0.17 is from before names that JAX removed; two
are put back before it is imported, and nothing else is touched.
"""

import jax
import jax.numpy as jnp
import numpy as np

jax.tree_map = jax.tree.map  # removed from JAX; FedJAX calls them
jnp.NINF = -jnp.inf

import fedjax  # noqa: E402
import haiku as hk  # noqa: E402

from peers.worker import Worker  # noqa: E402


def make_model(workload):
    """Returns a FedJAX model; of EMNIST's, the one that it comes with."""
    if workload.model == "cnn":
        return fedjax.models.emnist.create_conv_model(only_digits=False)

    def forward(batch):
        layers = []
        for units in workload.layers[1:]:
            layers += [hk.Linear(units), jax.nn.relu]
        return hk.Sequential(layers[:-1])(batch["x"])

    sample = {"x": np.zeros((1, *workload.example), np.float32), "y": np.zeros(1)}
    return fedjax.create_model_from_haiku(
        transformed_forward_pass=hk.transform(forward),
        sample_batch=sample,
        train_loss=lambda b, p: fedjax.metrics.unreduced_cross_entropy_loss(b["y"], p),
        eval_metrics={},
    )


def fill(template, params):
    """Returns FedJAX's parameters with the values of all, and its names for them."""
    names = {}
    order = [n for n in params if n.endswith("kernel")]
    convolutions = sorted(m for m in template if "conv2_d" in m)
    dense = sorted(m for m in template if "linear" in m)
    for module, kernel in zip([*convolutions, *dense], order, strict=True):
        owner = kernel.removesuffix("/kernel")
        names[module, "w"], names[module, "b"] = kernel, f"{owner}/bias"
    filled = {
        module: {leaf: jnp.asarray(params[names[module, leaf]]) for leaf in leaves}
        for module, leaves in template.items()
    }
    for module, leaves in template.items():
        for leaf, value in leaves.items():
            assert value.shape == filled[module][leaf].shape, (module, leaf)
    return filled, names


def make_algorithm(model, worker):
    """Returns federated averaging and the state of its start."""
    if worker.exact:  # the evaluation's pass is the training's without dropout

        def loss(params, batch, rng):
            del rng
            return jnp.mean(
                model.train_loss(batch, model.apply_for_eval(params, batch))
            )

        gradient = jax.jit(jax.grad(loss))
    else:
        gradient = fedjax.model_grad(model)
    return fedjax.algorithms.fed_avg.federated_averaging(
        gradient,
        fedjax.optimizers.sgd(learning_rate=worker.workload.learning_rate),
        fedjax.optimizers.sgd(learning_rate=1.0),
        fedjax.ShuffleRepeatBatchHParams(
            batch_size=worker.workload.batch_size,
            num_epochs=1,
            skip_shuffle=worker.exact,
        ),
    )


def main():
    """Serves rounds."""
    worker = Worker()
    model = make_model(worker.workload)
    params, names = fill(model.init(jax.random.PRNGKey(0)), worker.params)
    algorithm = make_algorithm(model, worker)
    state = {"server": algorithm.init(params)}
    seen = {"examples": 0}

    def count(batch):
        seen["examples"] += len(batch["y"])
        return batch

    counting = fedjax.BatchPreprocessor([count])

    def run_round(number):
        seen["examples"] = 0
        clients = worker.cohort(number)
        keys = jax.random.split(jax.random.PRNGKey(number), len(clients))
        chosen = []
        for client, key in zip(clients, keys, strict=True):
            x, y = worker.data.of(client)
            dataset = fedjax.ClientDataset({"x": x, "y": y}, counting)
            chosen.append((int(client), dataset, key))
        state["server"], _ = algorithm.apply(state["server"], chosen)
        jax.block_until_ready(state["server"].params)
        return seen["examples"]

    def total(number):
        before = state["server"].params
        examples = run_round(number)
        change = jax.tree.map(jnp.subtract, state["server"].params, before)
        return examples, {names[m, n]: change[m][n] for m, n in names}

    worker.serve(run_round, total, kind="weighted mean")


if __name__ == "__main__":
    main()
