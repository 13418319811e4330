"""FLamby's strategies on Fed-Heart-Disease: logistic regression in four hospitals.

Ogier du Terrail et al. 2022, arXiv:2210.04620; settings and results per seed are those
of the repository owkin/FLamby (`flamby/config_heart_disease.json` and
`flamby/results/results_benchmark_fed_heart_disease/`).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf
from benchmarks.reproduce._experiment import Experiment, Row, by_name
from jaxfed import algorithms, clients

ROUNDS = 15
STEPS: dict = {"batch_size": 4, "steps": 100}
ALL_HOSPITALS, POOLED = "four hospitals", "pooled"
PUBLISHED = {  # means and deviations of the repository's seeds 42 to 46
    "Adam, 50 epochs": (0.7953, 0.0028),
    "FedAvg": (0.7480, 0.0268),
    "FedProx": (0.7480, 0.0268),
    "SCAFFOLD": (0.7480, 0.0268),
    "FedAdam": (0.7787, 0.0146),
    "FedYogi": (0.7787, 0.0153),
    "FedAdagrad": (0.7787, 0.0153),
}
SHORT = ("FedAvg", "FedAdam")


def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    """Logistic loss."""
    del key
    scores = batch["x"] @ params["w"] + params["b"]
    labels = batch["y"].astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(scores, labels).mean(), {}


def standardised() -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Returns the hospitals, the pooled set, and the test rows.

    As FLamby does: each hospital by its own training rows, pooled and test rows by all
    training rows, with the sample deviation.
    """
    data = jf.data.fed_heart("none")
    x, is_test = data.arrays["x"].astype(np.float64), data.arrays["is_test"]
    own = np.empty_like(x)
    for begin, end in zip(data.offsets[:-1], data.offsets[1:], strict=True):
        rows = x[begin:end][~is_test[begin:end]]
        own[begin:end] = (x[begin:end] - rows.mean(0)) / (rows.std(0, ddof=1) + 1e-9)
    train = x[~is_test]
    pooled = (x - train.mean(0)) / (train.std(0, ddof=1) + 1e-9)
    y = data.arrays["y"]
    owner = np.repeat(data.client_ids, data.client_sizes)[~is_test]

    def made(rows: np.ndarray, client: Any) -> Any:
        arrays = {"x": rows[~is_test].astype(np.float32), "y": y[~is_test]}
        return jf.data.FederatedData.from_arrays(arrays, client=client)

    one = np.zeros(len(owner), np.int64)
    return made(own, owner), made(pooled, one), pooled[is_test], y[is_test]


def methods() -> dict[str, Any]:
    """Returns every strategy with the settings that were published."""
    sampling = jf.sampling.Full(population=4)
    none = jf.privacy.none(sampling=sampling)
    alike = jf.privacy.none(sampling=sampling, weighting="clients")

    def sgd(rate: float) -> Any:
        return clients.sgd(loss_fn, optax.sgd(rate), **STEPS)

    prox = clients.prox(loss_fn, optax.sgd(1e-3), mu=0.01, **STEPS)
    scaffold = clients.scaffold(loss_fn, learning_rate=1e-3, **STEPS)
    moments: dict = {"b1": 0.9, "b2": 0.999, "tau": 1e-8}
    return {
        "FedAvg": algorithms.fedavg(sgd(1e-3), none),
        "FedProx": algorithms.fedprox(prox, none),
        "SCAFFOLD": algorithms.scaffold(scaffold, alike),
        "FedAdam": algorithms.fedadam(sgd(0.01), none, learning_rate=0.01, **moments),
        "FedYogi": algorithms.fedyogi(
            sgd(0.003162), none, learning_rate=0.01, **moments
        ),
        "FedAdagrad": algorithms.fedadagrad(
            sgd(0.003162), none, learning_rate=0.316228, b1=0.9, tau=1e-8
        ),
        "FedAvg, hospitals alike": algorithms.fedavg(sgd(1e-3), alike),
    }


def pooled_training() -> Any:
    """Returns training on all rows at once: one client, one round."""
    local = clients.sgd(loss_fn, optax.adam(1e-3), batch_size=4, epochs=50)
    none = jf.privacy.none(sampling=jf.sampling.Full(population=1))
    return algorithms.fedavg(local, none)


def start(seed: int) -> dict[str, jax.Array]:
    """Returns the parameters that a linear layer of PyTorch begins with."""
    draw, bound = np.random.default_rng(seed), 13**-0.5
    w, b = draw.uniform(-bound, bound, 13), draw.uniform(-bound, bound)
    return {"w": jnp.asarray(w, jnp.float32), "b": jnp.asarray(b, jnp.float32)}


def run(seeds: Sequence[int], short: bool, folder: Any) -> list[Row]:
    """Returns test accuracies after 15 rounds."""
    del folder
    hospitals, pooled, x, y = standardised()

    def accuracy(algorithm: Any, data: Any, rounds: int, seed: int) -> float:
        history = jf.simulate(
            algorithm,
            data,
            params=start(seed),
            rounds=rounds,
            seed=seed,
            progress=False,
        )
        scores = x @ np.asarray(history.params["w"]) + float(history.params["b"])
        return float(np.mean((scores > 0) == y))

    def row(setting: str, name: str, values: list[float]) -> Row:
        published, stddev = PUBLISHED.get(name, (None, None))
        return Row(
            setting=setting,
            method=name,
            values=values,
            published=published,
            published_stddev=stddev,
        )

    kept = methods()
    if short:
        kept = {name: kept[name] for name in SHORT}
    rows = [
        row(
            ALL_HOSPITALS,
            name,
            [accuracy(algorithm, hospitals, ROUNDS, seed) for seed in seeds],
        )
        for name, algorithm in kept.items()
    ]
    if not short:
        (name, *_), algorithm = PUBLISHED, pooled_training()
        values = [accuracy(algorithm, pooled, 1, seed) for seed in seeds]
        rows.insert(0, row(POOLED, name, values))
    return rows


def check(rows: Sequence[Row], short: bool) -> None:
    """Levels within twice the published deviation; adaptive servers are better."""
    found = by_name(rows)
    for row in rows:
        if row.published is None or row.published_stddev is None:
            continue
        margin = 2 * max(row.published_stddev, 0.01)
        assert abs(row.mean - row.published) < margin, row
    plain = found[ALL_HOSPITALS, "FedAvg"].mean
    if not short:
        alike = found[ALL_HOSPITALS, "FedAvg, hospitals alike"].mean
        assert abs(found[ALL_HOSPITALS, "SCAFFOLD"].mean - alike) < 0.01
    for name in ("FedAdam",) if short else ("FedAdam", "FedYogi", "FedAdagrad"):
        assert found[ALL_HOSPITALS, name].mean > plain


EXPERIMENT = Experiment(
    name="fed_heart",
    title="FLamby, Fed-Heart-Disease",
    metric="Accuracy on the test rows of all hospitals together",
    source="Ogier du Terrail et al. 2022, arXiv:2210.04620; numbers of its "
    "repository, mean and deviation of five seeds.",
    recipe="Logistic regression, 13 features, 486 training and 254 test rows. In each "
    "of 15 rounds every hospital takes 100 steps of SGD with batches of 4. Rates are "
    "the repository's: 0.001 (FedAvg, FedProx with mu = 0.01, SCAFFOLD), 0.01 "
    "(FedAdam), 0.003162 (FedYogi, FedAdagrad); of the server 0.01, 0.01 and "
    "0.316228, with b1 = 0.9, b2 = 0.999, tau = 1e-8. Features are standardised as "
    "there, which is not private.",
    differs=[
        "FLamby's batches go on from round to round through one shuffled pass; ours "
        "begin a new pass in every round.",
        "FLamby's SCAFFOLD weighs hospitals by their rows, models and control variates "
        "both; ours weighs them alike, as its paper does. FedAvg with hospitals "
        "weighed alike, the last line, shows that this makes the difference.",
        "FedAdam's second moment begins at tau squared, as in its paper, not at 0.",
        "Other random numbers: starting points and batches.",
    ],
    run=run,
    check=check,
    seeds=20,
    short_seeds=5,
)
