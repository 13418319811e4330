"""A million clients: cohorts of ten thousand, from a file larger than any of them.

Each client has three to eight rows of 64 bytes; together they are a file of 0.35 GB in
a temporary folder, which is mapped into memory and never loaded: of a million clients
the engine itself holds a few integers each. Every round each client joins with
probability 0.01, trains a network of 9,610 parameters, and its update is clipped,
rounded to integers and summed; the sum gets noise.

What you should see, within a minute: some ten thousand clients a second and core,
resident memory that grows by less than 500 MB over all rounds, the pages of the file
that were read not counted, and an accuracy above .5, where guessing gives .1, at an
epsilon below 1 for every client.

Run: python examples/04_scale.py
"""

import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf

cores = jf.use_cores()  # before JAX starts: each core is a device that trains clients
CLIENTS, FEATURES, CLASSES, HIDDEN = 1_000_000, 64, 10, 128
RATE, ROUNDS, DELTA, EPSILON = 0.01, 6, 1e-7, 1.0
ROWS_AT_ONCE = 1 << 18


def write(folder, generator):
    """Writes all clients' rows, block by block; returns them memory-mapped."""
    sizes = generator.integers(3, 9, CLIENTS)
    total = int(sizes.sum())
    centres = 16 * generator.standard_normal((CLASSES, FEATURES))
    centres = np.clip(centres, -70, 70).astype(np.int8)
    x = np.lib.format.open_memmap(
        folder / "x.npy", mode="w+", dtype=np.int8, shape=(total, FEATURES)
    )
    y = generator.integers(0, CLASSES, total).astype(np.int8)
    for start in range(0, total, ROWS_AT_ONCE):
        labels = y[start : start + ROWS_AT_ONCE]
        x[start : start + len(labels)] = rows_of(labels, centres, generator)
    x.flush()
    arrays = {"x": np.load(folder / "x.npy", mmap_mode="r"), "y": y}
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    data = jf.data.FederatedData(
        arrays=arrays, offsets=offsets, client_ids=np.arange(CLIENTS)
    )
    labels = generator.integers(0, CLASSES, 4000)
    return data, {"x": rows_of(labels, centres, generator), "y": labels}


def rows_of(labels, centres, generator):
    """Draws one row around the centre of each label, in sixteenths."""
    shape = (len(labels), FEATURES)
    return centres[labels] + generator.integers(-56, 57, shape, dtype=np.int8)


def network(params, rows):
    """One hidden layer."""
    x = rows["x"].astype(jnp.float32) / 16
    hidden = jax.nn.relu(x @ params["in"] + params["in_bias"])
    return hidden @ params["out"] + params["out_bias"]


def loss_fn(params, batch, key):
    """The mean cross-entropy."""
    del key
    outputs = network(params, batch)
    labels = batch["y"].astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    return losses.mean(), {}


def resident():
    """Megabytes that this process holds, pages of mapped files not counted."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return float(lines["RssAnon"].split()[0]) / 1024


generator = np.random.default_rng(0)
params = {
    "in": jnp.asarray(generator.normal(0, 0.15, (FEATURES, HIDDEN)), jnp.float32),
    "in_bias": jnp.zeros(HIDDEN),
    "out": jnp.asarray(generator.normal(0, 0.1, (HIDDEN, CLASSES)), jnp.float32),
    "out_bias": jnp.zeros(CLASSES),
}
private = jf.privacy.central(
    sampling=jf.sampling.Poisson(population=CLIENTS, rate=RATE),
    clipping=jf.clipping.Fixed(norm=1.0),
    noise=jf.noise.Gaussian(multiplier=1.0),
).calibrated(epsilon=EPSILON, delta=DELTA, rounds=ROUNDS)
algorithm = jf.algorithms.fedavg(
    jf.clients.sgd(loss_fn, optax.sgd(0.3), batch_size=8, epochs=2),
    private,
    server_optimizer=optax.sgd(1.0, momentum=0.7),
)

folder = tempfile.TemporaryDirectory()
started = time.perf_counter()
data, test = write(Path(folder.name), generator)
size = sum(array.nbytes for array in data.arrays.values()) / 1e9
taken = time.perf_counter() - started
print(f"{CLIENTS:,} clients, {data.num_examples:,} rows, {size:.2f} GB on disk")
print(f"made in {taken:.0f} s")

# A tenth of the data is more than these devices may hold, so that it is streamed.
strategy = jf.engine.choose_strategy(
    algorithm, data, params=params, strategy=jf.Strategy(resident_bytes=10**8)
)
print(strategy.explain())
before = resident()
memory = []
history = jf.simulate(
    algorithm,
    data,
    params=params,
    rounds=ROUNDS,
    seed=0,
    evaluate=jf.evaluation.central(network, test, accuracy=jf.metrics.accuracy),
    callbacks=[lambda history: memory.append(resident()) or False],
    progress=False,
    strategy=strategy,
)
after_first = history.rounds[1:]
trained = sum(record.private["num_clients"] for record in after_first)
speed = trained / sum(record.seconds or 0.0 for record in after_first)
accuracy = history.rounds[-1].evaluation["accuracy"]
print(f"{trained / len(after_first):,.0f} clients a round, {speed:,.0f} a second")
print(f"on {cores} cores; the first round, with compiling, is not counted")
print(f"resident {before:.0f} MB before, {max(memory):.0f} MB at most")
print(f"epsilon {history.epsilon:.3f} at delta {DELTA:g}, accuracy {accuracy:.2f}")
folder.cleanup()

cap = private.sampling.max_clients
assert all(0.9e4 < r.private["num_clients"] <= cap for r in history.rounds)
assert all(record.private["num_failed"] == 0 for record in history.rounds)
assert max(memory) - before < 500
assert memory[-1] - memory[1] < 100  # no round leaves anything behind
assert accuracy > 0.5
assert history.epsilon is not None
assert history.epsilon <= EPSILON
