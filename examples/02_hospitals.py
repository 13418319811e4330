"""Four hospitals, published numbers: Fed-Heart-Disease of FLamby, without privacy.

What you should see: training on the pooled records reaches the published accuracy of
.795 +- .005; federated averaging with 100 local steps and 15 rounds is within the
published .748 +- .027; and both agree, weight by weight, with a slow loop in NumPy
float64.

Ogier du Terrail et al. 2022, arXiv:2210.04620, table of Fed-Heart-Disease baselines.
Features are scaled as published: for training by each hospital's own training mean and
deviation, for pooled training and for the test by the common ones. That is not
private; `jf.data.fed_heart()` scales by public bounds.

Run: python examples/02_hospitals.py
"""

import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf

SEEDS = 5
hospitals = jf.data.fed_heart(scaling="none")


def loss_fn(params, batch, key):
    """The mean logistic loss of a linear model."""
    del key
    labels = batch["y"].astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(predict(params, batch), labels).mean(), {}


def predict(params, rows):
    """The log-odds of heart disease."""
    return rows["x"] @ params["w"] + params["b"]


def initial(seed):
    """Uniform in +- 1 / sqrt(13), as the published model starts."""
    draw = np.random.default_rng(seed).uniform(-1, 1, 14) / np.sqrt(13)
    return {"w": jnp.asarray(draw[:13], jnp.float32), "b": jnp.float32(draw[13])}


def standardised(groups):
    """Scales rows by the training mean and deviation of their group."""
    x = hospitals.arrays["x"].astype(np.float64)
    training = ~hospitals.arrays["is_test"]
    for group in np.unique(groups):
        rows = groups == group
        known = x[rows & training]
        x[rows] = (x[rows] - known.mean(axis=0)) / (known.std(axis=0, ddof=1) + 1e-9)
    arrays = dict(hospitals.arrays, x=x.astype(np.float32), is_train=training)
    return jf.data.FederatedData.from_arrays(arrays, client=groups)


def parts(data):
    """Splits into the published training and test records."""
    return data.where("is_train"), data.where(data.arrays["is_test"])


def train(data, algorithm, rounds, seed):
    """Returns the final parameters, from a run without a progress bar."""
    return jf.simulate(
        algorithm, data, params=initial(seed), rounds=rounds, seed=seed, progress=False
    ).params


def accuracy(params):
    """The share of right answers on the pooled test records, as published."""
    outputs = predict(params, {"x": jnp.asarray(pooled_test.arrays["x"])})
    return jf.metrics.accuracy(np.asarray(outputs), pooled_test.arrays["y"])


# --- the slow twins: one example at a time, as the papers write it ------------------


def gradient(weights, x, y):
    """The gradient of the mean logistic loss, row by row."""
    total = np.zeros(14)
    for row, label in zip(x, y, strict=True):
        z = row @ weights[:13] + weights[13]
        total += (1 / (1 + np.exp(-z)) - label) * np.append(row, 1.0)
    return total / len(x)


def batches(data, client, key, batching):
    """A client's batches of one round, from the planner that the engine uses."""
    from jaxfed.engine._block import unpack
    from jaxfed.engine._planner import Planner

    planner = Planner(data, batching, max_clients=data.num_clients)
    (block,) = planner.plan(np.arange(data.num_clients), key=key)
    plan = unpack(block.layout, block.packed[0])
    place = int(np.flatnonzero(np.asarray(plan.clients)[:, 0] == client)[0])
    first = int(plan.first_step[place, 0])
    for line in np.asarray(plan.rows)[first : first + int(plan.num_steps[place, 0])]:
        rows = line[line >= 0]
        yield data.arrays["x"][rows].astype(np.float64), data.arrays["y"][rows]


def shuffling_key(seed, index):
    """The key of the round's batches, the same as the engine's."""
    root = jf.keys.for_purpose(jf.keys.simulated(seed), jf.keys.Purpose.SHUFFLING)
    return jf.keys.for_round(root, index)


def start(seed):
    """The initial weights as one float64 vector."""
    params = initial(seed)
    return np.append(np.asarray(params["w"], np.float64), float(params["b"]))


def slow_pooled(data, batching, seed):
    """Adam (Kingma and Ba 2015, algorithm 1) on one pooled client."""
    weights, mean, square = start(seed), np.zeros(14), np.zeros(14)
    steps = batches(data, 0, shuffling_key(seed, 0), batching)
    for t, (x, y) in enumerate(steps, 1):
        g = gradient(weights, x, y)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
        step = (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        weights = weights - 0.001 * step
    return weights


def slow_fedavg(data, batching, rounds, seed):
    """McMahan et al. 2017, algorithm 1, with every hospital in every round."""
    weights, sizes = start(seed), data.client_sizes
    for index in range(rounds):
        total = np.zeros(14)
        for client in range(data.num_clients):
            local = weights.copy()
            for x, y in batches(data, client, shuffling_key(seed, index), batching):
                local = local - 0.001 * gradient(local, x, y)
            total += sizes[client] / sizes.sum() * (local - weights)
        weights = weights + total
    return weights


def furthest(params, weights):
    """The largest difference between the fast weights and the slow ones."""
    fast = np.append(np.asarray(params["w"], np.float64), float(params["b"]))
    return np.abs(fast - weights).max()


owner = np.repeat(np.arange(4), hospitals.client_sizes)
none = jf.privacy.none

pooled_train, pooled_test = parts(standardised(np.zeros_like(owner)))
pooled = jf.clients.sgd(loss_fn, optax.adam(1e-3), batch_size=4, epochs=50)
algorithm = jf.algorithms.fedavg(pooled, none(sampling=jf.sampling.Full(population=1)))
results = [train(pooled_train, algorithm, rounds=1, seed=s) for s in range(SEEDS)]
pooled_accuracy = np.mean([accuracy(p) for p in results])
pooled_gap = furthest(results[0], slow_pooled(pooled_train, pooled.batching, seed=0))
print(f"pooled Adam: accuracy {pooled_accuracy:.3f} (published .795 +- .003)")
print(f"  furthest weight from the slow twin: {pooled_gap:.1e}")

fed_train, _ = parts(standardised(owner))
local = jf.clients.sgd(loss_fn, optax.sgd(1e-3), batch_size=4, steps=100)
algorithm = jf.algorithms.fedavg(local, none(sampling=jf.sampling.Full(population=4)))
results = [train(fed_train, algorithm, rounds=15, seed=s) for s in range(SEEDS)]
federated = [accuracy(p) for p in results]
fed_gap = furthest(results[0], slow_fedavg(fed_train, local.batching, 15, seed=0))
print(
    f"federated averaging: accuracy {np.mean(federated):.3f} +- "
    f"{np.std(federated):.3f} (published .748 +- .027)"
)
print(f"  furthest weight from the slow twin: {fed_gap:.1e}")

assert abs(pooled_accuracy - 0.795) <= 0.005
assert abs(np.mean(federated) - 0.748) <= 0.027
assert pooled_gap < 1e-4  # Adam divides by small numbers: float32 shows
assert fed_gap < 1e-5
