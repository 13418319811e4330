"""The tasks of `accuracy_at_epsilon.py` on sets that other packages carry.

Lending Club shows what it costs that nobody may be trusted to add the noise: every
record of 50 states is protected by noise that each state adds, or by noise that is
added once to the sum of all, as a trusted server or a secure aggregation would.

Fashion-MNIST is the linear model on scattering features of Tramer and Boneh 2021,
arXiv:2011.11660, with the noise that the privacy loss distribution asks for.
"""

import dataclasses
import functools
import pathlib

import _scattering
import numpy as np
import optax
from _accuracy_tasks import (
    Task,
    binary_loss,
    central,
    class_loss,
    linear,
    measured,
    silo_algorithm,
    sizes_of,
)

import jaxfed as jf


def found(folder, name):
    """Returns the first file of that name below a folder; None: where packages are."""
    files = [] if folder is None else sorted(pathlib.Path(folder).rglob(name))
    return files[0] if files else None


@functools.cache
def lending_club_data(folder, is_compact):
    """Returns the loans by state, features around the middle of their public bounds.

    The compact columns keep the numbers, the grade as one number from A1 to G5, the
    term and how the income was verified.
    """
    data = jf.data.readers.lending_club(found(folder, "lending_club.pkl.compress"))
    x = data.arrays["x"]
    if is_compact:
        names = jf.data.readers.LENDING_CLUB_FEATURES
        grades = [n.startswith("sub_grade=") for n in names]
        words = ("sub_grade=", "emp_length=", "term=term_36")
        kept = [not n.startswith(words) for n in names]
        grade = x[:, grades] @ np.linspace(0, 1, sum(grades), dtype=np.float32)
        x = np.column_stack([x[:, kept], grade])
    return dataclasses.replace(data, arrays={**data.arrays, "x": x - np.float32(0.5)})


def held_out(data, seed):
    """Returns which records are for testing: a random fifth of every state's."""
    random = np.random.default_rng(seed).random(data.num_examples)
    state = np.repeat(np.arange(data.num_clients), data.client_sizes)
    order = np.lexsort((random, state))
    position = np.arange(data.num_examples) - data.offsets[state]
    is_test = np.empty(data.num_examples, bool)
    is_test[order] = position < data.client_sizes[state] // 5
    return is_test


def each_its_own(arrays):
    """Returns data in which every record is a client, so that both are protected."""
    count = len(arrays["y"])
    return jf.data.FederatedData(
        arrays=arrays, offsets=np.arange(count + 1), client_ids=np.arange(count)
    )


@functools.cache
def record_algorithm(sampling, loss_fn, norm, epsilon, task, rate, momentum):
    """Gradient descent to which every client brings the gradient of its records."""
    privacy = jf.privacy.none(sampling=sampling)
    if epsilon is not None:
        privacy = central(sampling, norm, epsilon, task)
    local = jf.clients.sgd(loss_fn, optax.sgd(1.0), batch_size=1, epochs=1)
    optimizer = optax.sgd(rate, momentum=momentum)
    return jf.algorithms.fedavg(local, privacy, server_optimizer=optimizer)


def lending_club(epsilon, seed, folder, *, name, is_compact, is_local, rate, momentum):
    """Returns the area under the curve on a fifth of every state's records."""
    data, task = lending_club_data(folder, is_compact), TASKS[name]
    is_test = held_out(data, seed)
    train = data.where(~is_test)
    if epsilon is None:
        rate, momentum = 3.0, 0.8  # without noise nothing speaks for shorter steps
    if is_local:
        algorithm = silo_algorithm(sizes_of(train), 1.0, epsilon, task, rate, momentum)
    else:
        train = each_its_own(train.arrays)
        sampling = jf.sampling.Full(population=train.num_clients)
        algorithm = record_algorithm(
            sampling, binary_loss, 1.0, epsilon, task, rate, momentum
        )
    history = jf.simulate(
        algorithm,
        train,
        params=linear(data.arrays["x"].shape[1]),
        rounds=task.rounds,
        seed=seed,
        progress=False,
    )
    test = data.where(is_test).arrays
    return measured(history.params, test, jf.metrics.auc), history


def lending_club_task(name, **settings):
    """Returns a task on Lending Club at epsilon 1."""
    columns = 22 if settings["is_compact"] else 69
    return Task(
        data=f"Lending Club, {columns} columns",
        unit="record",
        trusted="each state" if settings["is_local"] else "server",
        metric="area under the curve",
        rounds=30,
        epsilons=(1.0,),
        seeds=20,
        run=functools.partial(lending_club, name=name, **settings),
    )


@functools.cache
def fashion_mnist_data(folder):
    """Returns the scattering features of the training and test images."""
    file = found(folder, "train-images-idx3-ubyte.gz")
    splits = []
    for split in ("train", "test"):
        images = jf.data.readers.fashion_mnist(file and file.parent, split=split)
        splits.append({"x": _scattering.scattering(images["x"]), "y": images["y"]})
    return each_its_own(splits[0]), splits[1]


def fashion_mnist(epsilon, seed, folder):
    """Returns the accuracy on the published test images; each image is a client."""
    train, test = fashion_mnist_data(folder)
    task = TASKS["fashion_mnist"]
    sampling = jf.sampling.Poisson(population=train.num_clients, rate=8192 / 60000)
    rate = 0.05 if epsilon is None else 16.0  # clipped gradients are short
    algorithm = record_algorithm(sampling, class_loss, 0.1, epsilon, task, rate, 0.9)
    history = jf.simulate(
        algorithm,
        train,
        params=linear(train.arrays["x"].shape[1], 10),
        rounds=task.rounds,
        seed=seed,
        progress=False,
    )
    return measured(history.params, test, jf.metrics.accuracy), history


TASKS = {
    "lending_club_states": lending_club_task(
        "lending_club_states", is_compact=True, is_local=True, rate=2.0, momentum=0.0
    ),
    "lending_club_sum": lending_club_task(
        "lending_club_sum", is_compact=True, is_local=False, rate=3.0, momentum=0.8
    ),
    "lending_club_states_69": lending_club_task(
        "lending_club_states_69",
        is_compact=False,
        is_local=True,
        rate=3.0,
        momentum=0.8,
    ),
    "lending_club_sum_69": lending_club_task(
        "lending_club_sum_69", is_compact=False, is_local=False, rate=3.0, momentum=0.8
    ),
    "fashion_mnist": Task(
        data="Fashion-MNIST, scattering features",
        unit="record",
        trusted="server",
        metric="accuracy",
        rounds=293,
        epsilons=(3.0,),
        seeds=1,
        run=fashion_mnist,
        published={3.0: 0.897},
        source="Tramer and Boneh 2021, arXiv:2011.11660",
    ),
}
