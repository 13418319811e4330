"""Runs that are killed again and again, in processes of their own.

Started as a program: `python -m tests.faults.killed_runs DIRECTORY KILLS SEED MODE`. It
imports everything and forks before JAX starts a backend, so that a process costs a
second; prints one line of JSON.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import dp_accounting.pld  # noqa: F401  # so that forked processes need not import it
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint  # noqa: F401  # the same

import jaxfed as jf
from jaxfed.engine import _resume
from jaxfed.ledger import _store

ROUNDS, CLIENTS, DIMENSION = 50, 40, 7
RUNS_A_DIRECTORY = 10  # kills of one run before the next begins


def problem():
    """Returns algorithm, data and parameters of a small real run."""
    draw = np.random.default_rng(5)
    x = draw.normal(size=(4 * CLIENTS, DIMENSION)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.float32)
    data = jf.data.FederatedData.from_arrays(
        {"x": x, "y": y}, client=np.repeat(np.arange(CLIENTS), 4)
    )

    def loss(params, batch, key):
        del key
        logits = batch["x"] @ params["w"]
        return optax.sigmoid_binary_cross_entropy(logits, batch["y"]).mean(), {}

    privacy = jf.privacy.central(
        sampling=jf.sampling.Poisson(population=CLIENTS, rate=0.5),
        clipping=jf.clipping.Adaptive(quantile=0.5, initial=0.1),
        noise=jf.noise.Gaussian(multiplier=1.0),
        delta=1e-3,
    )
    local = jf.clients.sgd(loss, optax.sgd(0.1), epochs=1, batch_size=2)
    algorithm = jf.algorithms.fedavg(local, privacy, server_optimizer=optax.adam(0.1))
    return algorithm, data, {"w": jnp.zeros(DIMENSION)}


def make(folder: Path) -> None:
    """Makes the ledger that every run starts from."""
    jf.Ledger.create(folder / "budget.db", epsilon=100.0, delta=1e-3).close()


def run(folder: Path, mode: str, every: int) -> None:
    """Runs, or goes on, to the end; writes what it ended with."""
    algorithm, data, params = problem()
    common = {
        "params": params,
        "rounds": ROUNDS,
        "progress": False,
        "checkpoint": jf.Checkpoint(directory=folder / "saved", every=every),
        "strategy": jf.engine.Strategy(
            executor="loop", lanes=8, devices=1, resident_bytes=2**30
        ),
    }
    if mode == "train":
        path = folder / "budget.db"
        history = jf.train(algorithm, data, ledger=path, **common)
    elif mode == "evaluated":
        history = evaluated(folder / "budget.db", algorithm, data, **common)
    else:
        history = jf.simulate(algorithm, data, seed=3, **common)
    found = {
        "params": digest(history.params),
        "state": digest(history.state),
        "records": [
            [
                *(r.round, r.epsilon),
                *(sorted(r.released.items()), sorted(r.evaluation.items())),
            ]
            for r in history.rounds
        ],
    }
    (folder / "end.json").write_text(json.dumps(found))


def evaluated(path: Path, algorithm, data, **common):
    """Trains with looks at the model that the same ledger pays for."""

    def accuracy(params, rows):
        is_right = (rows["x"] @ params["w"] > 0) == (rows["y"] == 1)
        return {"accuracy": is_right.astype(jnp.float32)}

    everybody = jf.privacy.central(
        sampling=jf.sampling.Full(population=CLIENTS),
        clipping=jf.clipping.Fixed(norm=4.0),
        noise=jf.noise.Gaussian(multiplier=5.0),
        delta=1e-3,
    )
    with jf.Ledger.open(path) as ledger:
        if not ledger.mechanisms:
            ledger.plan(algorithm.aggregator, ROUNDS, name="training")
        looks = jf.queries.evaluation(
            accuracy,
            data,
            bounds={"accuracy": (0, 1)},
            privacy=everybody,
            looks=ROUNDS // 10,
            every=10,
            ledger=ledger,
        )
        return jf.train(algorithm, data, ledger=ledger, evaluate=looks, **common)


def digest(values) -> str:
    """Returns a hash of every bit of some arrays."""
    parts = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(values)]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def deadly(after: int, delay: float) -> None:
    """Makes this process kill itself after some events, and a moment."""
    count = 0

    def kill():
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(function):
        def wrapper(*arguments, **options):
            nonlocal count
            count += 1
            if count == after:
                if delay:
                    threading.Thread(target=kill, daemon=True).start()
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapper

    # before a row is written, before its transaction begins, before a save
    _store.Store.append = counted(_store.Store.append)
    _store.Store.last = counted(_store.Store.last)
    _resume.Resumable._at_rest = counted(_resume.Resumable._at_rest)


def forked(task) -> int:
    """Runs a task in a forked process; returns how it ended."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            task()
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitpid(child, 0)[1]


def ended(folder: Path) -> dict:
    """Returns what a finished run left: results, and the ledger but for the time."""
    found = json.loads((folder / "end.json").read_text())
    if (folder / "budget.db").exists():
        with jf.Ledger.open(folder / "budget.db", read_only=True) as ledger:
            ledger.verify()
            found["ledger"] = [[e.number, e.kind, e.facts] for e in ledger.history()]
    return found


def main(root: Path, kills: int, seed: int, mode: str) -> dict:
    """Kills runs that many times; returns how many ended as the unkilled one."""
    draw = random.Random(seed)
    first = root / "first"
    first.mkdir()
    is_paid = mode != "simulate"
    if is_paid:
        forked(lambda: make(first))
    alone = root / "alone"
    shutil.copytree(first, alone)
    assert forked(lambda: run(alone, mode, 10)) == 0
    wanted, killed, runs, same = ended(alone), 0, 0, 0
    while killed < kills:
        folder = root / f"run{runs}"
        shutil.copytree(first, folder)
        every = draw.choice([1, 3, 10, 1000] if is_paid else [1, 2])
        for _ in range(RUNS_A_DIRECTORY):
            after = draw.randint(1, 40 if is_paid else 6)
            delay = draw.choice([0.0, 0.0, draw.uniform(0, 0.05)])

            def doomed(after=after, delay=delay, folder=folder, every=every):
                deadly(after, delay)
                run(folder, mode, every)

            if not os.WIFSIGNALED(forked(doomed)):
                break
            killed += 1
        assert forked(lambda f=folder, e=every: run(f, mode, e)) == 0
        runs += 1
        same += ended(folder) == wanted
        shutil.rmtree(folder)
    return {"killed": killed, "runs": runs, "same": same}


if __name__ == "__main__":
    place, kills, seed, mode = sys.argv[1:]
    print(json.dumps(main(Path(place), int(kills), int(seed), mode)))
