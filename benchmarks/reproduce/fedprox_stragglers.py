"""FedProx with stragglers on Synthetic(alpha, beta): partial work against none.

Li et al. 2020, arXiv:1812.06127, figure 1: of the clients of each round, half or nine
in ten manage only some of their epochs. Federated averaging drops them; FedProx takes
what they have done.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf
from benchmarks.reproduce._experiment import Experiment, Row, by_name
from benchmarks.reproduce.fedprox_synthetic import (
    ACCURACY,
    CLIENTS,
    COHORT,
    LAST,
    LOSS,
    Problem,
    loss_fn,
    problem,
    scores_of,
    start,
)

ROUNDS, SHORT_ROUNDS = 200, 30
SETS = ("iid", "(0, 0)", "(0.5, 0.5)", "(1, 1)")
SHARES = (0.5, 0.9)
METHODS = {  # mu, and what becomes of who is late
    "FedAvg": (0.0, "drop"),
    "FedProx, mu = 0": (0.0, "partial"),
    "FedProx": (1.0, "partial"),
}
SHORT = "(1, 1)"


def measure_of(found: Problem) -> Any:
    """Returns `params -> accuracy on test rows and loss on training rows`."""
    train = {name: jnp.asarray(found.train.arrays[name]) for name in ("x", "y")}
    test = {name: jnp.asarray(found.test[name]) for name in ("x", "y")}

    @jax.jit
    def measured(params: Any) -> dict[str, jax.Array]:
        hits = jnp.argmax(scores_of(params, test["x"]), axis=1) == test["y"]
        return {
            ACCURACY: jnp.mean(hits.astype(jnp.float32)),
            LOSS: loss_fn(params, train, jax.random.key(0))[0],
        }

    return measured


def curves(
    found: Problem, method: str, share: float, rounds: int, seed: int
) -> dict[str, np.ndarray]:
    """Returns measure -> (rounds,)."""
    mu, late = METHODS[method]
    sampling = jf.sampling.FixedSize(population=CLIENTS, size=COHORT)
    local = jf.clients.prox(loss_fn, optax.sgd(0.01), mu=mu, batch_size=10, epochs=20)
    history = jf.simulate_in_time(
        jf.algorithms.fedprox(local, jf.privacy.none(sampling=sampling)),
        found.train,
        params=start(seed),
        rounds=rounds,
        seed=seed,
        fleet=jf.timing.Fleet(),
        server=jf.timing.Synchronous(stragglers=share, late=late),
        evaluate=measure_of(found),
        progress=False,
        strategy="loop",
    )
    return {name: history.curve(name)[1] for name in (ACCURACY, LOSS)}


def run(seeds: Sequence[int], short: bool, folder: Any) -> list[Row]:
    """Returns means over the last rounds: of each measure, set, share and method."""
    del folder
    rows, rounds = [], SHORT_ROUNDS if short else ROUNDS
    for name in [SHORT] if short else SETS:
        problems = [problem(name, seed) for seed in seeds]
        for share in SHARES[-1:] if short else SHARES:
            for method in METHODS:
                found = [
                    curves(one, method, share, rounds, seed)
                    for one, seed in zip(problems, seeds, strict=True)
                ]
                rows += [
                    Row(
                        setting=f"Synthetic {name}, {share:.0%} stragglers, {measure}",
                        method=method,
                        values=[float(one[measure][-LAST:].mean()) for one in found],
                        curve=np.mean([one[measure] for one in found], axis=0)
                        .round(4)
                        .tolist(),
                    )
                    for measure in (ACCURACY, LOSS)
                ]
    return rows


def check(rows: Sequence[Row], short: bool) -> None:
    """With nine stragglers in ten, FedProx has the lower loss where clients differ."""
    found = by_name(rows)
    for name in [SHORT] if short else SETS[1:]:
        setting = f"Synthetic {name}, 90% stragglers, {LOSS}"
        assert found[setting, "FedProx"].mean < found[setting, "FedAvg"].mean


EXPERIMENT = Experiment(
    name="fedprox_stragglers",
    title="FedProx, Synthetic(alpha, beta) with stragglers",
    metric="Means of the last 20 rounds",
    source="Li et al. 2020, arXiv:1812.06127, figure 1, as curves without numbers: "
    "with 50 and 90 % stragglers FedProx (mu = 1) is more stable and accurate than "
    "federated averaging, which drops them.",
    recipe="As without stragglers, in virtual time: how many local steps a straggler "
    "takes is uniform from one to all but one. All methods of a seed have the same "
    "set, start, cohorts and stragglers.",
    differs=[
        "Partial work is counted in steps here, in whole epochs in the repository.",
        "The sets, as without stragglers.",
        "On the iid set mu = 1 only slows down; partial work alone gains there.",
    ],
    run=run,
    check=check,
    seeds=3,
    short_seeds=1,
)
