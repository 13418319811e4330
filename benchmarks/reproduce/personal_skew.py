"""Models of clients' own above one model for all, where clients' labels differ.

Ditto: Li et al. 2021, arXiv:2012.04221. FedRep: Collins et al. 2021, arXiv:2102.07078.
Beside them APFL (Deng et al. 2020, arXiv:2003.13461), FedPer (Arivazhagan et al. 2019,
arXiv:1912.00818), fine-tuning, and clients who train alone. The task is made here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optax

import jaxfed as jf
from benchmarks.reproduce._experiment import Experiment, Row, by_name
from benchmarks.reproduce._mixture import loss_fn, predict, rows_of, start
from jaxfed import clients
from jaxfed.data import FederatedData, partition

ROUNDS, SHORT_ROUNDS, EVERY, LAST = 150, 50, 10, 3
CLIENTS, COHORT, ROWS, TEST = 100, 10, 40, 0.4  # rows of each client; share held out
BATCHES: dict = {"batch_size": 10, "epochs": 5}
HEAD_STEPS = 8  # of about 12
PULL, MIXTURE = 0.3, 0.5
RATES = (0.1, 0.3)
GLOBAL, ALONE = "FedAvg, one model", "each client alone"
SETTINGS: dict[str, Callable[..., np.ndarray]] = {
    "two classes a client": lambda y, **options: partition.classes_per_client(
        y, classes_per_client=2, **options
    ),
    "Dirichlet 0.1": lambda y, **options: partition.dirichlet_over_classes(
        y, concentration=1.0, **options
    ),
}
SHORT = ("two classes a client", (GLOBAL, "Ditto", "FedRep"))


def own(rate: float) -> dict:
    """Returns how a model of the client's own is trained beside the common one."""
    return {"personal_learning_rate": rate, **BATCHES}


def layers(rate: float, private_steps: int | None = None) -> Any:
    """Returns local work whose clients keep their heads."""
    return clients.personal_layers(
        loss_fn,
        optax.sgd(rate),
        private=["head"],
        private_steps=private_steps,
        **BATCHES,
    )


METHODS: dict[str, Callable[[float], Any]] = {
    GLOBAL: lambda rate: clients.sgd(loss_fn, optax.sgd(rate), **BATCHES),
    ALONE: lambda rate: clients.ditto(loss_fn, optax.sgd(rate), pull=0.0, **own(rate)),
    "FedAvg, fine-tuned": lambda rate: clients.fine_tuned(METHODS[GLOBAL](rate)),
    "APFL": lambda rate: clients.apfl(
        loss_fn, optax.sgd(rate), mixture=MIXTURE, **own(rate)
    ),
    "Ditto": lambda rate: clients.ditto(
        loss_fn, optax.sgd(rate), pull=PULL, **own(rate)
    ),
    "FedPer": layers,
    "FedRep": lambda rate: layers(rate, HEAD_STEPS),
}


def problem(setting: str, seed: int) -> tuple[FederatedData, FederatedData]:
    """Returns training and test rows of the same clients, the same share of each."""
    rows = rows_of(CLIENTS * ROWS, seed)
    owner = SETTINGS[setting](rows["y"], num_clients=CLIENTS, seed=seed)
    is_test = np.random.default_rng([seed, 1]).random(len(owner)) < TEST
    arrays = {**rows, "is_test": is_test}
    data = FederatedData.from_arrays(arrays, client=owner)
    return data.where(~data.arrays["is_test"]), data.where("is_test")


def curve(
    setting: str, method: str, algorithm: Any, rounds: int, seed: int
) -> np.ndarray:
    """Returns accuracies on clients' own test rows, every so many rounds."""
    train, test = problem(setting, seed)
    measure: dict = {"accuracy": jf.metrics.accuracy, "every": EVERY}
    if method == GLOBAL:
        look = jf.evaluation.federated(predict, test, **measure)
    else:
        look = jf.evaluation.personal(algorithm.local, predict, test, **measure)
    history = jf.simulate(
        algorithm,
        train,
        params=start(seed),
        rounds=rounds,
        seed=seed,
        evaluate=look,
        progress=False,
    )
    return history.curve("accuracy_mean")[1]


def best(setting: str, method: str, seeds: Sequence[int], short: bool) -> Row:
    """Returns accuracies with the rate that is best on average over seeds."""
    rounds, rates = (SHORT_ROUNDS, RATES[-1:]) if short else (ROUNDS, RATES)
    keeps_layers = method in ("FedPer", "FedRep")
    server = jf.algorithms.fedper if keeps_layers else jf.algorithms.fedavg
    sampling = jf.sampling.FixedSize(population=CLIENTS, size=COHORT)
    curves = []
    for rate in rates:
        algorithm = server(METHODS[method](rate), jf.privacy.none(sampling=sampling))
        curves.append([curve(setting, method, algorithm, rounds, s) for s in seeds])
    each = np.array(curves)
    values = each[:, :, -LAST:].mean(axis=2)
    index = int(np.argmax(values.mean(axis=1)))
    return Row(
        setting=setting,
        method=f"{method} (rate {rates[index]:g})",
        values=values[index].tolist(),
        curve=each[index].mean(axis=0).round(4).tolist(),
    )


def run(seeds: Sequence[int], short: bool, folder: Any) -> list[Row]:
    """Returns one row for each division of the labels and method."""
    del folder
    return [
        best(setting, method, seeds, short)
        for setting in (SHORT[:1] if short else SETTINGS)
        for method in (SHORT[1] if short else METHODS)
    ]


def check(rows: Sequence[Row], short: bool) -> None:
    """Own models are above one for all, and learn from others."""
    found = by_name(rows)
    for setting in SHORT[:1] if short else SETTINGS:
        at = {
            method.split(" (")[0]: row.mean
            for (where, method), row in found.items()
            if where == setting
        }
        plain = at.pop(GLOBAL)
        assert all(mean > plain + 0.02 for mean in at.values())
        alone = at.pop(ALONE, 0.0)
        assert all(mean > alone for mean in at.values())


EXPERIMENT = Experiment(
    name="personal_skew",
    title="Models of clients' own, label skew",
    metric="Accuracy on each client's own test rows, mean over clients, and over the "
    f"last {LAST} of the evaluations after every {EVERY} rounds",
    source="Li et al. 2021, arXiv:2012.04221 (Ditto), and Collins et al. 2021, "
    "arXiv:2102.07078 (FedRep, on CIFAR-10 with two classes a client, among others): "
    "both are above the one model of FedAvg; the order alone is compared.",
    recipe="Ten classes of two clusters each, in 8 of 40 directions; a perceptron with "
    f"32 hidden units. {CLIENTS} clients with about {ROWS} rows, {TEST:.0%} of them "
    f"test rows; {COHORT} clients in each of {ROUNDS} rounds, 5 epochs in batches of "
    f"10. Heads are private in FedPer and FedRep (the first {HEAD_STEPS} of about 12 "
    f"steps); Ditto pulls by {PULL}, APFL mixes by {MIXTURE}. The rate is the better "
    f"of {RATES[0]} and {RATES[1]} for each method, on the mean of what is shown. Who "
    "trains alone takes the steps of those who are chosen.",
    differs=[
        "Another task, made here: the images of both papers come in no package.",
        "Dirichlet 0.1: each client's own draw over the classes, in equal numbers.",
        "Ditto's pull and APFL's mixture are fixed; Ditto's paper lets each client "
        "choose on validation rows, APFL's learns it.",
        "How many steps of a round are the head's in FedRep, and all rates, are ours.",
    ],
    run=run,
    check=check,
    seeds=3,
    short_seeds=1,
)
