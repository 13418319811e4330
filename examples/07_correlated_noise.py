"""Correlated noise: private training that needs no random sampling.

Devices come when they are plugged in, not when a coin says so, and then nothing is
amplified. Noise that partly cancels from round to round makes up for much of it: what
a model sees is the sum of all rounds so far, and that sum carries less noise.

What you should see, within a minute: at epsilon 1 and under one contract (no client
twice within 20 rounds, at most 3 times), the sum of 60 rounds carries a third of the
noise with BLT (McMahan et al. 2024, arXiv:2408.08868) that it carries with independent
noise, although the first round carries more; and a model trained over 2,400 made-up
clients is right in about .89 of cases instead of .87.

Run: python examples/07_correlated_noise.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf

CLIENTS, SIZE, SEPARATION, TIMES = 2400, 40, 20, 3
ROUNDS, EPSILON, DELTA, SEEDS = 60, 1.0, 1e-5, 3
DIMENSION = 50

sampling = jf.sampling.MinSeparation(
    population=CLIENTS, size=SIZE, separation=SEPARATION, max_participations=TIMES
)
contract = sampling.participation(ROUNDS)
print(sampling.describe())


# [privacy]
def private(noise):
    """The same clip, contract and budget with one noise or the other."""
    return jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=noise,
        rounds=ROUNDS,
    ).calibrated(epsilon=EPSILON, delta=DELTA, rounds=ROUNDS)


independent = private(jf.noise.Gaussian(multiplier=1.0))
correlated = private(jf.noise.BLT(multiplier=1.0, buffers=2))


# [error]
def noise_of_sums(privacy, size=4000):
    """The noise on the mean update, summed over the rounds so far: (rounds, size)."""
    nothing = jf.typing.ClientResult(
        update=jnp.zeros(size), weight=jnp.ones(()), client_state=()
    )
    root = jf.keys.simulated(0)
    total = privacy.encode(
        privacy.init(nothing.update), nothing, key=jf.keys.for_client(root, 0)
    )
    release = jax.jit(privacy.release)
    state, sums = privacy.init(nothing.update), []
    for index in range(ROUNDS):
        key = jf.keys.for_round(root, index)
        state, released = release(state, total, key=key)
        sums.append(np.asarray(released.value, np.float64))
    return np.cumsum(sums, axis=0)


errors = {}
for name, privacy in (("independent", independent), ("BLT", correlated)):
    drawn = noise_of_sums(privacy).std(axis=1)
    errors[name] = drawn
    print(
        f"{name}: epsilon {privacy.epsilon(rounds=ROUNDS):.3f}, noise on the sum of 1, "
        f"10 and {ROUNDS} rounds: "
        + ", ".join(f"{drawn[index]:.3f}" for index in (0, 9, ROUNDS - 1))
    )

# ... which is what the matrix promised, before anything was drawn.
strategy = correlated.noise.strategy(ROUNDS, contract)
expected = (
    correlated.noise.multiplier
    * correlated.clipping.norm
    * np.sqrt(strategy.prefix_errors())
    / sampling.expected_clients
)


# [training]
def made_up(seed):
    """Clients with eight examples each of one noisy linear rule, and test rows."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=DIMENSION) / np.sqrt(DIMENSION)

    def rows(count):
        x = rng.normal(size=(count, DIMENSION)).astype(np.float32)
        y = (x @ truth + 0.3 * rng.normal(size=count) > 0).astype(np.int32)
        return {"x": x, "y": y}

    clients = jf.data.FederatedData.from_arrays(
        rows(8 * CLIENTS), client=np.repeat(np.arange(CLIENTS), 8)
    )
    return clients, rows(5000)


def predict(params, rows):
    """The log-odds of a linear model."""
    return rows["x"] @ params


def loss_fn(params, batch, key):
    """The mean logistic loss."""
    del key
    labels = batch["y"].astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(predict(params, batch), labels).mean(), {}


def accuracies(privacy):
    """The accuracy after the last round, for each seed."""
    local = jf.clients.sgd(loss_fn, optax.sgd(1.0), batch_size=8, epochs=1)
    algorithm = jf.algorithms.fedavg(local, privacy)
    results = []
    for seed in range(SEEDS):
        clients, test = made_up(seed)
        history = jf.simulate(
            algorithm,
            clients,
            params=jnp.zeros(DIMENSION),
            rounds=ROUNDS,
            seed=seed,
            progress=False,
        )
        outputs = np.asarray(predict(history.params, {"x": jnp.asarray(test["x"])}))
        results.append(jf.metrics.accuracy(outputs, test["y"]))
    return np.array(results)


right = {"independent": accuracies(independent), "BLT": accuracies(correlated)}
for name, found in right.items():
    print(f"{name}: accuracy {found.mean():.3f} ({np.round(found, 3)})")
# [end]

assert independent.epsilon(rounds=ROUNDS) <= EPSILON
assert correlated.epsilon() <= EPSILON
assert errors["BLT"][-1] < 0.4 * errors["independent"][-1]
assert abs(errors["BLT"] / expected - 1).max() < 0.06  # 4,000 draws a round
assert right["BLT"].mean() > right["independent"].mean() + 0.005
