"""NIID-Bench on Fashion-MNIST, labels divided by Dirichlet(0.5), as Flower ran it.

Li et al. 2022, arXiv:2102.02079; settings and numbers are those of Flower's baseline
`niid_bench` (repository adap/flower).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf
from benchmarks.reproduce._experiment import Experiment, Row, by_name
from jaxfed import algorithms, clients

ROUNDS, CLIENTS = 10, 10  # of 50 rounds
BATCHES: dict = {"batch_size": 64, "epochs": 10}
SETTING = "Dirichlet 0.5"
PUBLISHED = {
    "FedAvg": 0.8809,
    "SCAFFOLD": 0.8844,
    "FedProx": 0.8815,
    "FedNova": 0.8822,
}


class Network(nn.Module):
    """Two convolutions of 5 x 5 with 6 and 16 channels, then 120, 84 and 10 units."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits `(n, 10)` of images `(n, 28, 28, 1)`."""
        for features in (6, 16):
            x = nn.Conv(
                features,
                (5, 5),
                padding="VALID",
                conv_general_dilated=jf.models.conv_general_dilated,
            )(x)
            x = jf.models.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for width in (120, 84):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


def images(folder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images from 0 to 1 and their labels."""
    found = jf.data.readers.fashion_mnist(folder, split=split)
    return found["x"][..., None], found["y"]


def methods() -> dict[str, Any]:
    """Returns the four methods."""
    loss = clients.linen_loss(
        Network(), optax.softmax_cross_entropy_with_integer_labels
    )
    sampling = jf.sampling.Full(population=CLIENTS)
    none = jf.privacy.none(sampling=sampling)
    alike = jf.privacy.none(sampling=sampling, weighting="clients")
    momentum = optax.sgd(0.01, momentum=0.9)
    nova = clients.nova(loss, learning_rate=0.01, momentum=0.9, **BATCHES)
    scaffold = clients.scaffold(loss, learning_rate=0.03, **BATCHES)
    return {
        "FedAvg": algorithms.fedavg(clients.sgd(loss, momentum, **BATCHES), none),
        "SCAFFOLD": algorithms.scaffold(scaffold, alike),
        "FedProx": algorithms.fedprox(
            clients.prox(loss, momentum, mu=0.01, **BATCHES), none
        ),
        "FedNova": algorithms.fednova(nova, none),
    }


def run(seeds: Sequence[int], short: bool, folder: Any) -> list[Row]:
    """Returns test accuracies after the last round, and the curves."""
    del short
    x, y = images(folder, "train")
    test, labels = (jnp.asarray(part) for part in images(folder, "test"))
    network = Network()

    @jax.jit
    def accuracy(params: Any) -> dict[str, jax.Array]:
        hits = jnp.argmax(network.apply({"params": params}, test), axis=1) == labels
        return {"accuracy": jnp.mean(hits.astype(jnp.float32))}

    curves: dict[str, list[np.ndarray]] = {name: [] for name in PUBLISHED}
    for seed in seeds:
        client = jf.data.partition.dirichlet_over_clients(
            y,
            num_clients=CLIENTS,
            concentration=0.5,
            seed=seed,
            min_examples=10,
            self_balancing=True,
        )
        data = jf.data.FederatedData.from_arrays({"x": x, "y": y}, client=client)
        params = network.init(jax.random.key(seed), test[:1])["params"]
        for name, algorithm in methods().items():
            history = jf.simulate(
                algorithm,
                data,
                params=params,
                rounds=ROUNDS,
                seed=seed,
                evaluate=accuracy,
                progress=False,
            )
            found = [record.evaluation["accuracy"] for record in history.rounds]
            curves[name].append(np.array(found))
            print(name, seed, np.round(found, 4).tolist(), flush=True)
    return [
        Row(
            setting=SETTING,
            method=name,
            values=[float(curve[-1]) for curve in found],
            published=PUBLISHED[name],
            curve=np.mean(found, axis=0).round(4).tolist(),
        )
        for name, found in curves.items()
    ]


def check(rows: Sequence[Row], short: bool) -> None:
    """Every method is near what was published after fifty rounds."""
    del short
    for row in by_name(rows).values():
        assert row.published is not None
        assert abs(row.mean - row.published) < 0.02, row


EXPERIMENT = Experiment(
    name="fashion_mnist",
    title="NIID-Bench, Fashion-MNIST",
    metric=f"Test accuracy, ours after {ROUNDS} rounds and the published after 50",
    source="Li et al. 2022, arXiv:2102.02079, as run by the baseline niid_bench of "
    "Flower, whose page is quoted; another version of that page has .884, .884, .886 "
    "and .881. One run each.",
    recipe="The benchmark's network, 44,426 parameters; all of 10 clients in every "
    "round, each with 10 epochs of SGD, batches of 64, rate 0.01, momentum 0.9. The "
    "curves are in the results file.",
    differs=[
        f"{ROUNDS} rounds of 50: a round is ten passes over 60,000 images.",
        "SCAFFOLD has no momentum here, a rate of 0.03, and weighs clients alike. At "
        "0.1, which is what 0.01 with momentum comes to, its accuracies were .561, "
        ".819, .850, .860, .864, .628, .126 and then .100: it diverged.",
        "FedProx has mu = 0.01, the default there; the published number is the best of "
        "four.",
        "Without the weight decay of 1e-5. Another division of the labels.",
    ],
    run=run,
    check=check,
    seeds=1,
    short_seeds=0,
    needs_data=True,
)
