"""FedBuff reaches an accuracy in less virtual time than synchronous rounds.

Nguyen et al. 2022, arXiv:2106.06639, against synchronous rounds with and without
over-selection (Bonawitz et al. 2019, arXiv:1902.01046), all with as many clients at
work at a time. The task is made here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optax

import jaxfed as jf
from benchmarks.reproduce._experiment import Experiment, Row, by_name
from benchmarks.reproduce._mixture import loss_fn, predict, rows_of, start
from jaxfed.data import FederatedData, partition

CLIENTS, ROWS, TEST_ROWS, AT_WORK, GOAL = 200, 20, 2000, 50, 10
OVER = 1.3  # times as many clients as reports that are waited for
RATE, SERVER_RATES = 0.1, (1.0, 3.0)
TARGET, SHORT_TARGET = 0.7, 0.5
FLEETS = {
    "all clients alike": jf.timing.Fleet(),
    "speeds spread by 1": jf.timing.Fleet(speed_spread=1.0),
}
STRAGGLERS = "speeds spread by 1"
SYNC, FIRST, FEDBUFF = "synchronous", "over-selection", "FedBuff"
SERVERS = {  # and how many updates suffice, in a full and in a short run
    SYNC: (jf.timing.Synchronous(), 80, 15),
    FIRST: (jf.timing.Synchronous(goal=round(AT_WORK / OVER)), 80, 15),
    FEDBUFF: (jf.timing.Buffered(goal=GOAL, concurrency=AT_WORK), 400, 60),
}
MINUTES, TRAINED = "minutes", "thousands of clients"


def problem(seed: int) -> tuple[FederatedData, dict[str, np.ndarray]]:
    """Returns clients, each with its own Dirichlet(0.5) draw of labels, and a test."""
    rows = rows_of(CLIENTS * ROWS + TEST_ROWS, seed)
    train = {name: array[TEST_ROWS:] for name, array in rows.items()}
    owner = partition.dirichlet_over_classes(
        train["y"], num_clients=CLIENTS, concentration=5.0, seed=seed
    )
    data = FederatedData.from_arrays(train, client=owner)
    return data, {name: array[:TEST_ROWS] for name, array in rows.items()}


def algorithm_of(server_rate: float) -> Any:
    """Returns federated averaging of cohorts as large as are at work at a time."""
    local = jf.clients.sgd(loss_fn, optax.sgd(RATE), batch_size=5, epochs=2)
    sampling = jf.sampling.FixedSize(population=CLIENTS, size=AT_WORK)
    return jf.algorithms.fedavg(
        local,
        jf.privacy.none(sampling=sampling, weighting="clients"),
        server_optimizer=optax.sgd(server_rate),
    )


def until_target(
    algorithm: Any, server: str, fleet: str, seed: int, short: bool
) -> tuple[float, float]:
    """Returns minutes, and thousands of clients who trained; infinite if never."""
    data, test = problem(seed)
    how, updates, few = SERVERS[server]
    history = jf.simulate_in_time(
        algorithm,
        data,
        params=start(seed),
        rounds=few if short else updates,
        seed=seed,
        fleet=FLEETS[fleet],
        server=how,
        evaluate=jf.evaluation.central(predict, test, accuracy=jf.metrics.accuracy),
        progress=False,
    )
    target = SHORT_TARGET if short else TARGET
    seconds = jf.timing.seconds_to(history, "accuracy", at_least=target)
    if seconds is None:
        return float("inf"), float("inf")
    trained = sum(
        history.curve(name)[1] for name in ("num_clients", "num_late", "num_lost")
    )
    first = int(np.argmax(history.curve("accuracy")[1] >= target))
    return seconds / 60, float(np.sum(trained[: first + 1])) / 1000


def run(seeds: Sequence[int], short: bool, folder: Any) -> list[Row]:
    """Returns time and work with the server rate that takes the least mean time."""
    del folder
    rates = SERVER_RATES[:1] if short else SERVER_RATES
    algorithms = [algorithm_of(rate) for rate in rates]
    rows = []
    for fleet in [STRAGGLERS] if short else FLEETS:
        for server in SERVERS:
            each = np.array(
                [
                    [until_target(one, server, fleet, seed, short) for seed in seeds]
                    for one in algorithms
                ]
            )
            index = int(np.argmin(each[:, :, 0].mean(axis=1)))
            rows += [
                Row(
                    setting=f"{fleet}, {measure}",
                    method=f"{server} (server rate {rates[index]:g})",
                    values=values.tolist(),
                )
                for measure, values in zip(
                    (MINUTES, TRAINED), each[index].T, strict=True
                )
            ]
    return rows


def check(rows: Sequence[Row], short: bool) -> None:
    """With stragglers FedBuff takes half the time of either kind of rounds, or less."""
    del short
    found = {(key[0], key[1].split(" (")[0]): row for key, row in by_name(rows).items()}
    assert all(np.isfinite(row.mean) for row in rows)
    at = {name: found[f"{STRAGGLERS}, {MINUTES}", name].mean for name in SERVERS}
    assert at[FEDBUFF] < at[FIRST] / 2
    assert at[FIRST] < at[SYNC]


EXPERIMENT = Experiment(
    name="fedbuff_time",
    title="FedBuff, virtual time",
    metric=f"Until a test accuracy of {TARGET} is first reached: minutes of virtual "
    "time, and thousands of clients who were asked to train",
    source="Nguyen et al. 2022, arXiv:2106.06639: FedBuff is 3.3 times more efficient "
    "than synchronous rounds, on tasks of its own; the order alone is compared.",
    recipe="Ten classes of two clusters each, in 8 of 40 directions; a perceptron with "
    f"32 hidden units. {CLIENTS} clients with {ROWS} rows, of whom {AT_WORK} are at "
    f"work at a time: a cohort; a cohort of which the first {round(AT_WORK / OVER)} "
    f"count; or a new model with every {GOAL} reports. Two epochs in batches of 5 at "
    f"rate {RATE}, a second a step. Server rates are the better of "
    f"{SERVER_RATES[0]:g} and {SERVER_RATES[1]:g}. Labels are skewed: each client's "
    "own Dirichlet(0.5) draw. Speeds are log-normal, 1 being the standard deviation of "
    "their logarithm.",
    differs=[
        "Another task, made here: the papers' data come in no package. Accuracy is "
        "looked at after every update, which are more with FedBuff.",
        "Durations are log-normal over clients, which is a choice of this library; a "
        "client's speed has nothing to do with its data.",
        "With clients that are all alike nobody is late, and FedBuff gains nothing: "
        "synchronous rounds are faster there.",
        "Two server rates alone, of which nearly all take the higher: a wider grid may "
        "give other times.",
    ],
    run=run,
    check=check,
    seeds=3,
    short_seeds=1,
)
