"""What privacy costs a round, beside the same round with a float clip and no noise.

What you should see on two cores: a private round in simulation within 1.15 times the
baseline's CPU time on every workload, and with secure noise within 1.15 on the
convolutional network and the small model.

All three variants run the engine's own compiled round on the same plan, in turn, many
times over; the plan is drawn before. The baseline clips each update in floating point
(u * min(1, norm / |u|)), adds floats, and divides. A ratio is the median over rounds of
the ratio to the baseline's round of the same turn. The data is random, of the
workload's shapes and with ragged clients.

    python benchmarks/private_round.py --repeats 9 --out round.json
"""

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf
from jaxfed.engine import _devices, _feed
from jaxfed.engine._loop import Loop
from jaxfed.engine._planner import Planner
from jaxfed.engine._round import init_state

NORM, MULTIPLIER = 0.5, 1.0
CLASSES = 62
VOCABULARY, LENGTH, HIDDEN = 90, 80, 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloatClip:
    """The baseline: a clip in floating point, a sum of floats, no noise."""

    sampling: jf.sampling.Sampler

    def init(self, params):
        """Returns `()`: there is no state."""
        del params
        return ()

    def encode(self, state, result, *, key):
        """Returns the clipped update; zero where not finite."""
        del state, key
        squares = [jnp.sum(jnp.square(a)) for a in jax.tree.leaves(result.update)]
        squared = sum(squares)
        factor = jnp.minimum(1.0, NORM / jnp.sqrt(jnp.maximum(squared, 1e-24)))
        clipped = jf.tree.scale(result.update, factor)
        return jf.tree.where(
            jnp.isfinite(squared), clipped, jf.tree.zeros_like(clipped)
        )

    def release(self, state, total, *, key):
        """Divides by the expected number of clients."""
        del key
        mean = jf.tree.scale(total, 1 / self.sampling.expected_clients)
        return state, jf.typing.Released(value=mean)


# --- models: each gives parameters and the outputs of a batch -----------------------


def dense_params(generator, sizes):
    """Weights of a multilayer perceptron."""
    return [
        {
            "kernel": jnp.asarray(
                generator.normal(0, (2 / m) ** 0.5, (m, n)), jnp.float32
            ),
            "bias": jnp.zeros(n),
        }
        for m, n in itertools.pairwise(sizes)
    ]


def dense(params, x):
    """A multilayer perceptron with rectifiers."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def mlp(params, x, key):
    """Images or vectors to the outputs of a multilayer perceptron."""
    del key
    return dense(params, pixels(x))


def cnn_params(generator):
    """1.2 million weights: two convolutions of 3 x 3, two dense layers."""
    return {
        "convolutions": dense_params(generator, (9, 32))
        + dense_params(generator, (9 * 32, 64)),
        "dense": dense_params(generator, (12 * 12 * 64, 128, CLASSES)),
    }


def convolution(layer, x):
    """A 3 x 3 convolution as nine slices and one product.

    The gradient of a stock convolution inside a loop takes a path of XLA on CPU that is
    some thirty times slower, which would hide what this script measures.
    """
    height, width = x.shape[1] - 2, x.shape[2] - 2
    slices = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(slices, axis=-1) @ layer["kernel"] + layer["bias"]


def cnn(params, x, key):
    """The network of LEAF's and FedJAX's EMNIST, with dropout."""
    x = pixels(x).reshape(-1, 28, 28, 1)
    for layer in params["convolutions"]:
        x = jax.nn.relu(convolution(layer, x))
    x = jnp.maximum(x[:, ::2], x[:, 1::2])  # a maximum over squares of 2 x 2
    x = jnp.maximum(x[:, :, ::2], x[:, :, 1::2]).reshape(-1, 12 * 12 * 64)
    first, second = jax.random.split(key)
    x = dropout(x, 0.25, key=first)
    x = jax.nn.relu(dense(params["dense"][:1], x))
    return dense(params["dense"][1:], dropout(x, 0.5, key=second))


def dropout(x, rate, *, key):
    """Drops units, and scales what remains."""
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0.0)


def lstm_params(generator):
    """Two LSTM layers of 256 over an embedding of 8 characters' dimensions."""
    return {
        "embedding": jnp.asarray(generator.normal(0, 1, (VOCABULARY, 8)), jnp.float32),
        "cells": dense_params(generator, (8 + HIDDEN, 4 * HIDDEN))
        + dense_params(generator, (2 * HIDDEN, 4 * HIDDEN)),
        "dense": dense_params(generator, (HIDDEN, VOCABULARY)),
    }


def lstm(params, x, key):
    """Next-character outputs of two LSTM layers."""
    del key
    x = params["embedding"][x].swapaxes(0, 1)  # (length, batch, 8)
    for layer in params["cells"]:
        x = lstm_layer(layer, x)
    return dense(params["dense"], x.swapaxes(0, 1))


def lstm_layer(layer, x):
    """One layer over time; the product with the input is taken out of the loop."""
    inputs = x.shape[-1]
    projected = x @ layer["kernel"][:inputs] + layer["bias"]

    def step(carry, own):
        hidden, cell = carry
        gates = own + hidden @ layer["kernel"][inputs:]
        into, forget, out, new = jnp.split(gates, 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(into) * jnp.tanh(new)
        hidden = jax.nn.sigmoid(out) * jnp.tanh(cell)
        return (hidden, cell), hidden

    zero = jnp.zeros((x.shape[1], HIDDEN))
    return jax.lax.scan(step, (zero, zero), projected)[1]


def pixels(x):
    """Pixels as floats; other inputs as they are."""
    return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x


# --- workloads ----------------------------------------------------------------------


def ragged(generator, clients):
    """Log-normal sizes around 100 examples, from 10 to 500."""
    return np.clip(generator.lognormal(np.log(100), 0.7, clients), 10, 500).astype(int)


def vectors(generator, sizes):
    """64 features, 10 classes."""
    total = sizes.sum()
    x = generator.normal(size=(total, 64)).astype(np.float32)
    return {"x": x, "y": generator.integers(0, 10, total, np.int32)}


def images(generator, sizes):
    """784 pixels, 62 classes."""
    total = sizes.sum()
    x = generator.integers(0, 256, (total, 784), np.uint8)
    return {"x": x, "y": generator.integers(0, CLASSES, total, np.int32)}


def texts(generator, sizes):
    """80 characters and those that follow."""
    text = generator.integers(0, VOCABULARY, (sizes.sum(), LENGTH + 1), np.int32)
    return {"x": text[:, :-1], "y": text[:, 1:]}


def workload(name):
    """Returns data, parameters, model and batch size of one workload."""
    generator = np.random.default_rng(0)
    if name == "small":
        sizes = generator.integers(20, 61, 1000)
        arrays, params = vectors(generator, sizes), (64, 128, 10)
        return sizes, arrays, dense_params(generator, params), mlp, 20
    if name == "mlp":
        sizes, params = ragged(generator, 100), (784, 200, 200, CLASSES)
        return sizes, images(generator, sizes), dense_params(generator, params), mlp, 20
    if name == "logistic":
        sizes, params = ragged(generator, 1000), (784, CLASSES)
        return sizes, images(generator, sizes), dense_params(generator, params), mlp, 20
    if name == "cnn":
        sizes = ragged(generator, 10)
        return sizes, images(generator, sizes), cnn_params(generator), cnn, 20
    sizes = generator.integers(8, 33, 10)
    return sizes, texts(generator, sizes), lstm_params(generator), lstm, 4


WORKLOADS = ("small", "mlp", "logistic", "cnn", "lstm")


def programs(name):
    """Returns variant -> function of a round's number that runs it, and the facts."""
    sizes, arrays, params, model, batch_size = workload(name)

    def loss_fn(params, batch, key):
        outputs = model(params, batch["x"], key)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"])
        return losses.mean(), {}

    data = jf.data.FederatedData.from_arrays(
        arrays, client=np.repeat(np.arange(len(sizes)), sizes)
    )
    local = jf.clients.sgd(loss_fn, optax.sgd(0.01), batch_size=batch_size, epochs=1)
    sampling = jf.sampling.Full(population=len(sizes))
    chosen = jf.engine.choose_strategy(
        jf.algorithms.fedavg(local, jf.privacy.none(sampling=sampling)),
        data,
        params=params,
        strategy=jf.Strategy(executor="loop", devices=1),
    )
    planner = Planner(
        data,
        local.batching,
        max_clients=len(sizes),
        lanes=chosen.lanes,
        widths=chosen.batch_widths,
    )
    mesh = _devices.mesh_of(1)
    plan = list(planner.plan(np.arange(len(sizes)), key=jf.keys.simulated(7)))
    blocks = list(_feed.Resident(mesh, arrays).feed(plan))
    private = jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=NORM),
        noise=jf.noise.Gaussian(multiplier=MULTIPLIER),
    )
    simulated = jf.keys.simulated(0)
    secure = jf.keys.secure(jf.keys.new_secret(), context=b"benchmark")

    def runner(aggregator, key):
        algorithm = jf.algorithms.fedavg(local, aggregator)
        loop = Loop(algorithm, mesh, chosen.batch_widths, is_streamed=False)
        state = init_state(algorithm, params, len(sizes))

        def run(index):
            nonlocal state
            state, _ = loop.run(state, blocks, np.int32(index), key)
            jax.block_until_ready(state)

        return run

    facts = {
        "workload": name,
        "clients": len(sizes),
        "examples": int(sizes.sum()),
        "parameters": jf.tree.size(params),
        "clients side by side": chosen.lanes,
        "batch widths": chosen.batch_widths,
    }
    return facts, {
        "float clip, no noise": runner(FloatClip(sampling=sampling), simulated),
        "private, simulated key": runner(private, simulated),
        "private, secure key": runner(private, secure),
    }


def measure(variants, repeats):
    """Returns variant -> (repeats, 2) wall and CPU seconds, all in turn."""
    for run in variants.values():
        run(0)  # compile
    seconds = {name: [] for name in variants}
    order = list(variants)
    for index in range(repeats):
        for name in order:
            wall, processor = time.perf_counter(), time.process_time()
            variants[name](index + 1)
            seconds[name].append(
                (time.perf_counter() - wall, time.process_time() - processor)
            )
        order = order[1:] + order[:1]  # nobody always comes after the same one
    return {name: np.array(times) for name, times in seconds.items()}


def machine():
    """Describes the machine by its processor and versions."""
    model = platform.processor() or platform.machine()
    about = pathlib.Path("/proc/cpuinfo")
    if about.exists():
        named = [
            a for a in about.read_text().splitlines() if a.startswith("model name")
        ]
        model = named[0].partition(":")[2].strip() if named else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load at the start": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
    }


def main():
    """Prints the table and writes it where it was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", default=WORKLOADS, choices=WORKLOADS)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=pathlib.Path, help="write the rows as JSON")
    options = parser.parse_args()
    result = {"machine": machine(), "rows": []}
    print(
        f"{'':10}{'':26}{'wall ms':>9}{'CPU ms':>9}{'wall x':>8}{'CPU x':>8}  quartiles"
    )
    for name in options.workloads:
        facts, variants = programs(name)
        seconds = measure(variants, options.repeats)
        base = next(iter(seconds.values()))
        for variant, own in seconds.items():
            wall, processor = np.median(own, axis=0)
            ratios = np.median(own / base, axis=0)
            low, high = np.percentile(own[:, 1] / base[:, 1], (25, 75))
            row = facts | {
                "variant": variant,
                "repeats": options.repeats,
                "wall ms": float(1e3 * wall),
                "CPU ms": float(1e3 * processor),
                "times wall": float(ratios[0]),
                "times CPU": float(ratios[1]),
                "times CPU, quartiles": [float(low), float(high)],
            }
            result["rows"].append(row)
            print(
                f"{name:10}{variant:26}{1e3 * wall:9.1f}{1e3 * processor:9.1f}", end=""
            )
            print(f"{row['times wall']:8.3f}{row['times CPU']:8.3f}", end="")
            print(f"  {low:.3f} to {high:.3f}", flush=True)
        if options.out:  # after each workload: the long ones come last
            options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
