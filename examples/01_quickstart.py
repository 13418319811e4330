"""Private training over 5,912 persons, each the owner of their own records.

The RAND Health Insurance Experiment: who will see a doctor at least four times this
year? Each person is one client. What you should see, within a minute: progress, an
accuracy curve, the budget spent, the guarantee in words, and over five splits of the
persons an area under the curve of about .79 at epsilon 1 (.80 for a pooled fit without
privacy).

Run: python examples/01_quickstart.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf

ROUNDS = 50


# [data]
vaults = jf.data.rand_hie()  # 5,912 persons with 1 to 5 yearly records each
print(vaults)


def loss_fn(params, batch, key):
    """The mean logistic loss of a linear model."""
    del key  # nothing in this loss is random
    labels = batch["y"].astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(predict(params, batch), labels).mean(), {}


def predict(params, rows):
    """The log-odds of many visits."""
    return rows["x"] @ params["w"] + params["b"]


# [algorithm]
def private_fedavg(num_clients):
    """Federated averaging under a budget of epsilon 1 for every person."""
    privacy = jf.privacy.central(
        sampling=jf.sampling.Poisson(population=num_clients, rate=0.1),
        clipping=jf.clipping.Fixed(norm=0.2),
        noise=jf.noise.Gaussian(multiplier=1.0),
    ).calibrated(epsilon=1.0, delta=1e-5, rounds=ROUNDS)
    local = jf.clients.sgd(loss_fn, optax.sgd(0.03), batch_size=8, epochs=5)
    return jf.algorithms.fedavg(local, privacy, server_optimizer=optax.adam(0.1))


# [run]
def run(seed, progress):
    """Trains on four fifths of the persons, measures on the others."""
    train, test = vaults.split_clients(test=0.2, seed=seed)
    algorithm = private_fedavg(train.num_clients)
    params = {"w": jnp.zeros(len(jf.data.RAND_HIE_FEATURES)), "b": jnp.zeros(())}
    returning = test.where("has_history")  # years whose previous year was observed
    history = jf.simulate(
        algorithm,
        train,
        params=params,
        rounds=ROUNDS,
        seed=seed,
        progress=progress,
        evaluate=[
            jf.evaluation.central(predict, returning, auc=jf.metrics.auc),
            jf.evaluation.federated(
                predict, test, every=5, groups="site", accuracy=jf.metrics.accuracy
            ),
        ],
    )
    return history, algorithm.aggregator


history, privacy = run(seed=0, progress=True)
print(history)
print()
print(privacy.statement())
# [end]

histories = [history] + [run(seed, progress=False)[0] for seed in range(1, 5)]
areas = [float(h.curve("auc")[1][-1]) for h in histories]
print()
print("area under the curve, five splits:", np.round(areas, 3))
print(f"mean {np.mean(areas):.3f} at epsilon {history.epsilon:.3f}")

assert np.mean(areas) >= 0.77
assert history.epsilon is not None
assert history.epsilon <= 1.0
assert history.delta <= 1e-5
assert history.private is False  # a simulation is never called private
assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(history.params))
