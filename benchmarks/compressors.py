"""What compressors send, and what is learned from it, on the two embedded sets.

`persons` is `rand_hie`: 4,730 persons, of whom 400 come in each of 80 rounds, a
perceptron 24-64-1, its loss on persons held out. `hospitals` is `fed_heart`: four
hospitals in each of 80 rounds, a perceptron 13-64-1, its loss on their test rows. No
privacy; the mean over seeds of starting parameters, cohorts and batches.

What you should see: quantisation costs no more than seeds differ by, down to 2 bits;
top 1 % alone is behind on persons, and with error feedback it is not; random 1 % is
better without error feedback, which brings most of an update too late.

    python benchmarks/compressors.py --out benchmarks/results/compressors.json
"""

import argparse
import json
import os
import pathlib
import platform

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf
from jaxfed.compression import (
    RandomK,
    Rotated,
    StochasticQuantization,
    TopK,
    compressed,
)

ROUNDS, HIDDEN = 80, 64


def scores(params, x):
    """A perceptron with one hidden layer."""
    hidden = jnp.tanh(x @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def loss_fn(params, batch, key):
    """Mean logistic loss."""
    del key
    labels = batch["y"].astype(jnp.float32)
    found = scores(params, batch["x"])
    return optax.sigmoid_binary_cross_entropy(found, labels).mean(), {}


def make_params(features, seed):
    """Returns small random parameters."""
    draw = np.random.default_rng(seed)
    sizes = {"w1": (features, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN,), "b2": ()}
    return {
        name: jnp.asarray(draw.normal(size=size) / 8, jnp.float32)
        for name, size in sizes.items()
    }


def tasks():
    """Returns name -> (training data, held-out arrays, sampling, local work)."""
    train, test = jf.data.rand_hie().split_clients(test=0.2, seed=0)
    heart = jf.data.fed_heart()
    is_test = heart.arrays["is_test"]
    heart, heart_test = heart.where(~is_test), heart.where(is_test)
    persons = jf.sampling.FixedSize(population=train.num_clients, size=400)
    hospitals = jf.sampling.Full(population=heart.num_clients)
    one, several = optax.sgd(0.3), optax.sgd(0.1)
    return {
        "persons": (
            train,
            test.arrays,
            persons,
            jf.clients.sgd(loss_fn, one, batch_size=5, epochs=2),
        ),
        "hospitals": (
            heart,
            heart_test.arrays,
            hospitals,
            jf.clients.sgd(loss_fn, several, batch_size=32, epochs=2),
        ),
    }


def methods():
    """Returns name -> (compressor, error feedback)."""
    found = {"none": (None, False)}
    for bits in (8, 4, 2, 1):
        plain = StochasticQuantization(bits=bits)
        found[f"{bits} bits"] = (plain, False)
        found[f"{bits} bits, rotated"] = (Rotated(inner=plain), False)
    for part in (0.1, 0.01):
        found[f"top {part:.0%}"] = (TopK(fraction=part), False)
        found[f"top {part:.0%}, feedback"] = (TopK(fraction=part), True)
        found[f"random {part:.0%}"] = (RandomK(fraction=part), False)
        unscaled = RandomK(fraction=part, unbiased=False)
        found[f"random {part:.0%}, feedback"] = (unscaled, True)
    return found


def algorithm_of(task, compressor, feedback):
    """Returns federated averaging, compressed or not."""
    *_, sampling, local = task
    if compressor is not None:
        local = compressed(local, compressor, error_feedback=feedback)
    return jf.algorithms.fedavg(local, jf.privacy.none(sampling=sampling))


def measured(task, algorithm, seed):
    """Returns bytes up for a client and round, and loss and accuracy at the end."""
    data, held_out, _, _ = task
    history = jf.simulate(
        algorithm,
        data,
        params=make_params(held_out["x"].shape[1], seed),
        rounds=ROUNDS,
        seed=seed,
        progress=False,
        strategy=jf.engine.Strategy(executor="loop", lanes=4),
    )
    rows = {name: jnp.asarray(held_out[name]) for name in ("x", "y")}
    loss, _ = loss_fn(history.params, rows, jax.random.key(0))
    right = (scores(history.params, rows["x"]) > 0) == (rows["y"] > 0)
    last = history.rounds[-1].private
    sent = last["num_bytes_up"] / last["num_clients"]
    return sent, float(loss), float(jnp.mean(right.astype(jnp.float32)))


def main():
    """Measures every compressor on both tasks and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    found = {}
    for place, task in tasks().items():
        for name, (compressor, feedback) in methods().items():
            algorithm = algorithm_of(task, compressor, feedback)
            runs = [measured(task, algorithm, seed) for seed in range(given.seeds)]
            sent, loss, accuracy = np.mean(runs, axis=0)
            spread = np.ptp([run[1] for run in runs])
            found.setdefault(place, {})[name] = {
                "bytes": round(float(sent)),
                "loss": round(float(loss), 4),
                "spread of loss": round(float(spread), 4),
                "accuracy": round(float(accuracy), 4),
            }
            print(f"{place:10s} {name:22s} {found[place][name]}", flush=True)
    about = {
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "seeds": given.seeds,
        "rounds": ROUNDS,
        "parameters": {"persons": 24 * 64 + 129, "hospitals": 13 * 64 + 129},
    }
    if given.out:
        text = json.dumps({"about": about, "tasks": found}, indent=2)
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
