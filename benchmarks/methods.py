"""What each federated method costs beside federated averaging, in one process.

A perceptron 64-128-10, 1,000 of 10,000 clients a round with 20 to 60 examples each,
one pass in batches of 10. Methods take turns, in another order in each repeat; what is
printed is the median over repeats of each method's round over that of `fedavg` in the
same repeat, each the median of nine rounds.

What you should see: about 0.9 where the server alone differs (a round of `fedavg` is
slower than one with momentum on the server, for a reason that is not known); about
1.5 where each step adds a term or clients keep a state; about 2 where each step needs a
second gradient (SCAFFOLD's option 1, Mime, Ditto, APFL), which the mathematics asks
for; whatever sorts, rotates or keeps whole updates takes its own time beside.

    python benchmarks/methods.py --out benchmarks/results/methods.json
"""

import argparse
import json
import os
import pathlib
import platform
import random
import statistics
import time

import jaxfed as jf

jf.use_cores()

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfed import algorithms, clients, compression

POPULATION, COHORT, ROUNDS = 10_000, 1_000, 9
BATCHES = {"batch_size": 10, "epochs": 1}
RATE = {"learning_rate": 0.1, **BATCHES}
ASKED = 1.5
REASONS = {  # why a method takes more than it may
    **dict.fromkeys(("scaffold_option_1", "mimelite", "mime"), "second gradient"),
    **dict.fromkeys(("ditto", "apfl"), "gradient of a second model"),
    "ifca": "losses of two models, a pass more",
    "quantised": "a random number for each value",
    "random_k": "a random order of an update's values",
    "top_k": "order of an update's values",
    "rotated": "two transforms and a vector padded to 16,384",
    "median": "every report kept and sorted",
}


def make_data():
    """Returns the clients of the workload "small"."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(20, 61, POPULATION)
    x = draw.random((sizes.sum(), 64), np.float32) - np.float32(0.5)
    y = draw.integers(0, 10, sizes.sum(), np.int32)
    owner = np.repeat(np.arange(POPULATION), sizes)
    arrays = {"x": x, "y": y, "domain": (owner % 2).astype(np.int32)}
    return jf.data.FederatedData.from_arrays(arrays, client=owner)


def loss_fn(params, batch, key):
    """Cross-entropy of a perceptron with one hidden layer."""
    del key
    hidden = jax.nn.relu(batch["x"] @ params["w1"] + params["b1"])
    scores = hidden @ params["w2"] + params["b2"]
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, batch["y"])
    return losses.mean(), {}


def make_params():
    """Returns small random parameters."""
    draw = np.random.default_rng(1)
    shapes = {"w1": (64, 128), "b1": (128,), "w2": (128, 10), "b2": (10,)}
    return {
        name: jnp.asarray(0.1 * draw.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
    }


def methods():
    """Returns every method by name, without privacy."""
    sampling = jf.sampling.FixedSize(population=POPULATION, size=COHORT)
    none = jf.privacy.none(sampling=sampling, weighting="clients")
    sgd = clients.sgd(loss_fn, optax.sgd(0.1), **BATCHES)
    momentum = optax.sgd(0.1, momentum=0.9)

    def scaffold(option):
        local = clients.scaffold(loss_fn, option=option, **RATE)
        return algorithms.scaffold(local, none)

    def mime(lite):
        local = clients.mime(loss_fn, momentum, lite=lite, **BATCHES)
        return algorithms.mime(local, none)

    prox = clients.prox(loss_fn, optax.sgd(0.1), mu=0.1, **BATCHES)
    dyn = clients.dyn(loss_fn, optax.sgd(0.1), alpha=0.1, **BATCHES)
    nova = clients.nova(loss_fn, **RATE)
    gradient = clients.gradient(loss_fn, batch_size=10)
    own = {"personal_learning_rate": 0.1, **BATCHES}
    ditto = clients.ditto(loss_fn, optax.sgd(0.1), pull=0.1, **own)
    apfl = clients.apfl(loss_fn, optax.sgd(0.1), mixture=0.3, **own)

    def layers(private_steps):
        local = clients.personal_layers(
            loss_fn,
            optax.sgd(0.1),
            private=["w2", "b2"],
            private_steps=private_steps,
            **BATCHES,
        )
        return algorithms.fedper(local, none)

    several = clients.clustered(loss_fn, optax.sgd(0.1), clusters=2, **BATCHES)
    domains = clients.agnostic(loss_fn, optax.sgd(0.1), num_domains=2, **BATCHES)

    def shorter(compressor):
        return algorithms.fedavg(compression.compressed(sgd, compressor), none)

    median = jf.privacy.every_report(sampling=sampling, rule=jf.robust.Median())
    four_bits = compression.StochasticQuantization(bits=4)
    return {
        "fedavg": algorithms.fedavg(sgd, none),
        "fedavgm": algorithms.fedavgm(sgd, none),
        "fedadam": algorithms.fedadam(sgd, none, learning_rate=0.1),
        "fedexp": algorithms.fedexp(sgd, none),
        "fedprox": algorithms.fedprox(prox, none),
        "fednova": algorithms.fednova(nova, none),
        "feddyn": algorithms.feddyn(dyn, none),
        "qffl": algorithms.qffl(clients.fair(loss_fn, q=1.0, **RATE), none),
        "scaffold": scaffold(2),
        "scaffold_option_1": scaffold(1),
        "mimelite": mime(True),
        "mime": mime(False),
        "fedsgd": algorithms.fedsgd(gradient, none, server_optimizer=optax.sgd(0.1)),
        "afl": algorithms.afl(domains, none, domain_learning_rate=0.1),
        "fedper": layers(None),
        "fedrep": layers(2),
        "ditto": algorithms.fedavg(ditto, none),
        "apfl": algorithms.fedavg(apfl, none),
        "ifca": algorithms.ifca(several, none),
        "quantised": shorter(four_bits),
        "random_k": shorter(compression.RandomK(fraction=0.05)),
        "top_k": shorter(compression.TopK(fraction=0.05)),
        "rotated": shorter(compression.Rotated(inner=four_bits)),
        "median": algorithms.fedavg(sgd, median),
    }


def seconds(algorithm, data, params, strategy):
    """Returns the median time of a round, and processor time of all, after the first.

    A run of its own compiles nothing: its programs are those of the runs before.
    """
    start = time.process_time()
    history = jf.simulate(
        algorithm,
        data,
        params=params,
        rounds=1 + ROUNDS,
        seed=0,
        progress=False,
        strategy=strategy,
    )
    used = time.process_time() - start
    return statistics.median(r.seconds for r in history.rounds[1:]), used


def main():
    """Measures every method and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    data, one, every = make_data(), make_params(), methods()
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), one)
    strategy = jf.engine.Strategy(executor="loop", lanes=8)
    times = {name: [] for name in every}
    for repeat in range(1 + given.repeats):
        order = random.Random(repeat).sample(list(every), len(every))
        for name in order:
            params = two if name == "ifca" else one
            wall, _ = seconds(every[name], data, params, strategy)
            if repeat:  # the first one compiles
                times[name].append(wall)
    found = {}
    for name, walls in times.items():
        ratios = [a / b for a, b in zip(walls, times["fedavg"], strict=True)]
        found[name] = {
            "milliseconds": round(1e3 * statistics.median(walls), 1),
            "over fedavg": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
        }
        limit = REASONS.get(name, f"at most {ASKED}")
        print(
            f"{name:18s} {found[name]['milliseconds']:8.1f} ms  "
            f"{found[name]['over fedavg']:5.2f} of fedavg ({limit})"
        )
    about = {
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "load at the start": round(os.getloadavg()[0], 2),
        "repeats": given.repeats,
    }
    if given.out:
        text = json.dumps({"machine": about, "methods": found}, indent=2)
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
