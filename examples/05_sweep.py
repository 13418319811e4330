"""A sweep: learning rates x clip norms x noise, three seeds, in one compiled program.

Which learning rate and clip norm suit the 5,912 persons of the RAND Health Insurance
Experiment, and what does privacy cost at each? All settings of a seed share cohorts,
batches and noise draws, so that they differ by what was set and by nothing else.

What you should see, within a minute: a table of 16 settings, best first, each with
its mean and its spread over three seeds. Small local and large server steps lead; at
epsilon 1 the smaller clip does better, and comes within .01 of the best without noise.

Choosing the best of a table looks at the data once for every setting, and no epsilon in
it covers the choice: choose on public or held-out persons, as here, or account for it.

Run: python examples/05_sweep.py
"""

import jaxfed as jf

jf.use_cores()  # before JAX starts: every core trains clients of its own

import jax.numpy as jnp
import optax

ROUNDS = 40

vaults = jf.data.rand_hie()
train, held_out = vaults.split_clients(test=0.3, seed=0)
returning = held_out.where("has_history")  # years whose previous year was observed


def predict(params, rows):
    """The log-odds of many visits."""
    return rows["x"] @ params["w"] + params["b"]


def loss_fn(params, batch, key):
    """The mean logistic loss of a linear model."""
    del key
    labels = batch["y"].astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(predict(params, batch), labels).mean(), {}


# [build]
private = jf.privacy.central(
    sampling=jf.sampling.Poisson(population=train.num_clients, rate=0.1),
    clipping=jf.clipping.Fixed(norm=0.2),
    noise=jf.noise.Gaussian(multiplier=1.0),
).calibrated(epsilon=1.0, delta=1e-5, rounds=ROUNDS)


def build(learning_rate, server_rate):
    """One algorithm of the sweep: its arguments go on to optax."""
    local = jf.clients.sgd(loss_fn, optax.sgd(learning_rate), batch_size=8, epochs=5)
    server = optax.adam(server_rate)
    return jf.algorithms.fedavg(local, private, server_optimizer=server)


# [sweep]
found = jf.sweep(
    build,
    train,
    params={"w": jnp.zeros(24), "b": jnp.zeros(())},
    rounds=ROUNDS,
    seeds=[0, 1, 2],
    settings={"learning_rate": [0.01, 0.1], "server_rate": [0.03, 0.3]},
    clip_norms=[0.05, 0.2],
    noise_multipliers=[0.0, private.noise.multiplier],
    evaluate=jf.evaluation.central(
        predict, returning, auc=jf.metrics.auc, every=ROUNDS
    ),
)
print(found)

# [best]
best = found.best("auc")
print(f"\nbest: {best.values}")
print(f"area under the curve {best.mean:.3f}, spread {best.spread:.3f}")
noisy = [row for row in found.table("auc") if row.values["noise_multiplier"] > 0]
best_private = max(noisy, key=lambda row: row.mean)
print(f"at epsilon {best_private.epsilon:.2f}: {best_private.mean:.3f}")

assert len(found.settings) == 16
assert found.curves["loss"].shape == (16, 3, ROUNDS)
assert best.mean > 0.785
assert best_private.mean > 0.775
assert best_private.values["clip_norm"] == 0.05
assert best_private.epsilon is not None
assert best_private.epsilon <= 1.001
