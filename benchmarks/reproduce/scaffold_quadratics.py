"""SCAFFOLD does not slow down as clients differ more, and federated averaging does.

Karimireddy et al. 2020, arXiv:1910.06378, section 7 and figure 3, on the two functions
of its theorem II.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf
from benchmarks.reproduce._experiment import Experiment, Row, by_name

ROUNDS, RATE, START = 50, 0.1, 1.0
DIFFERENCES = (1, 10, 100)  # G
STEPS = (2, 10)  # K


def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    """`curvature * w**2 + slope * w`: w**2 + G w for one client, -G w for the other."""
    del key
    w = params["w"]
    return jnp.mean(batch["curvature"] * w**2 + batch["slope"] * w), {}


def data_of(difference: float) -> Any:
    """Returns the two clients, of one row each; their mean is w**2 / 2."""
    arrays = {
        "curvature": np.array([1, 0], np.float32),
        "slope": np.array([difference, -difference], np.float32),
    }
    return jf.data.FederatedData.from_arrays(arrays, client=[0, 1])


def run(seeds: Sequence[int], short: bool, folder: Any) -> list[Row]:
    """Returns log10 of the loss; nothing is random."""
    del seeds, short, folder
    sampling = jf.sampling.Full(population=2)
    none = jf.privacy.none(sampling=sampling, weighting="clients")

    def loss(algorithm: Any, difference: float) -> float:
        history = jf.simulate(
            algorithm,
            data_of(difference),
            params={"w": jnp.float32(START)},
            rounds=ROUNDS,
            seed=0,
            progress=False,
        )
        return float(np.log10(float(history.params["w"]) ** 2 / 2 + 1e-12))

    rows = []
    for steps in (1, *STEPS):
        batches: dict = {"batch_size": 1, "steps": steps}
        plain = jf.clients.sgd(loss_fn, optax.sgd(RATE), **batches)
        scaffold = jf.clients.scaffold(loss_fn, learning_rate=RATE, **batches)
        methods = {
            "FedAvg": jf.algorithms.fedavg(plain, none),
            "SCAFFOLD": jf.algorithms.scaffold(scaffold, none),
        }
        if steps == 1:  # then all are gradient descent
            methods = {"gradient descent": methods["FedAvg"]}
        rows += [
            Row(
                setting=f"G = {difference}, K = {steps}",
                method=name,
                values=[loss(algorithm, difference)],
            )
            for difference in DIFFERENCES
            for name, algorithm in methods.items()
        ]
    return rows


def check(rows: Sequence[Row], short: bool) -> None:
    """FedAvg is worse for more steps and differences; SCAFFOLD is not."""
    del short
    found = {key: row.mean for key, row in by_name(rows).items()}
    few, many = STEPS

    def at(difference: int, steps: int, method: str) -> float:
        return found[f"G = {difference}, K = {steps}", method]

    for difference in DIFFERENCES:
        descent = at(difference, 1, "gradient descent")
        assert at(difference, many, "FedAvg") > at(difference, few, "FedAvg")
        assert at(difference, few, "SCAFFOLD") < descent
        assert at(difference, many, "SCAFFOLD") < at(difference, many, "FedAvg") - 2
    for less, more in itertools.pairwise(DIFFERENCES):
        for steps in STEPS:
            assert at(more, steps, "FedAvg") > at(less, steps, "FedAvg") + 1


EXPERIMENT = Experiment(
    name="scaffold_quadratics",
    title="SCAFFOLD, two quadratics",
    metric=f"log10 of the distance to the least loss after {ROUNDS} rounds",
    source="Karimireddy et al. 2020, arXiv:1910.06378, figure 3, as curves without "
    "numbers: federated averaging is slower the more the clients differ (G), and worse "
    "with more local steps (K); SCAFFOLD gains by local steps whatever G is.",
    recipe="Clients with losses w^2 + G w and -G w; exact gradients, both clients in "
    "every round, one rate for all.",
    differs=[
        f"Rate {RATE} and start {START} are ours.",
        "In float32 SCAFFOLD ends where G times the rounding of w does; below 1e-12 "
        "nothing is shown.",
    ],
    run=run,
    check=check,
    seeds=1,
    short_seeds=1,
)
