"""Statistics, scaling and evaluation that spend the same budget as training.

The RAND Health Insurance Experiment again, each of 5,912 persons one client. Nothing
below looks at the records except through a mechanism: features are scaled by noisy
means and deviations, ages are counted and incomes ranked with noise, a model is
trained, and its accuracy is measured with noise on persons who were held out.

What you should see, within a minute: a histogram within a few dozen persons of the
exact one, quantiles of the income that rise, accuracies within about .02 of the exact
ones, an area under the curve of about .78, and one epsilon below 1 for all of it
together, little more than half the sum of its parts.

Run: python examples/09_private_statistics.py
"""

import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf

DELTA, ROUNDS, EVERY = 1e-5, 40, 10
FEATURES = jf.data.RAND_HIE_FEATURES
AGE, INCOME = FEATURES.index("xage"), FEATURES.index("linc")
train, test = jf.data.rand_hie().split_clients(test=0.2, seed=0)


# [mechanism]
def mechanism(data, epsilon, norm, releases=1):
    """A query of all persons; the clip norm says how many years each counts for."""
    return jf.privacy.central(
        sampling=jf.sampling.Full(population=data.num_clients),
        clipping=jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Gaussian(multiplier=1.0),
    ).calibrated(epsilon=epsilon, delta=DELTA, rounds=releases)


# [statistics]
# A key is a seed here because this is a simulation. One for all queries is enough: the
# noise depends on the question, too.
key = jf.keys.simulated(0)

# Public bounds, by definition of the features and never from the records.
lower = np.full(len(FEATURES), -1.0)
upper = np.where(np.array(FEATURES) == "last_year_visits", 4.0, 1.0)
scaling = jf.queries.scaling(
    train,
    "x",
    lower=lower,
    upper=upper,
    privacy=mechanism(train, epsilon=0.2, norm=1.0),  # each person counts once
    key=key,
)

# Ages 0 to 70 are stored as -1 to 1: bins of ten years.
ages = jf.queries.histogram(
    train,
    "x",
    columns=AGE,
    edges=np.linspace(-1, 1, 8),
    privacy=mechanism(train, epsilon=0.2, norm=1.0),
    key=key,
    weighting="clients",
)
incomes = jf.queries.quantile(
    train,
    "x",
    [0.1, 0.5, 0.9],
    columns=INCOME,
    lower=-1,
    upper=1,
    privacy=mechanism(train, epsilon=0.2, norm=1.0),
    key=key,
    weighting="clients",
)
dollars = np.exp(6 * (incomes.value + 1))  # stored as a logarithm, 0 to 12

print(scaling)
print()
print("persons by decade of age:", np.round(ages.value).astype(int))
print(f"  +- {ages.standard_error[0]:.0f}; {ages.cost()}")
print("yearly income, tenth, middle and ninetieth percent:", np.round(dollars, -2))
print(f"  {incomes.cost()}")
# [end]


def loss_fn(params, batch, key):
    """The mean logistic loss of a linear model."""
    del key
    labels = batch["y"].astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(predict(params, batch), labels).mean(), {}


def predict(params, rows):
    """The log-odds of many visits."""
    return rows["x"] @ params["w"] + params["b"]


# [evaluation]
def metrics(params, rows):
    """One value for every row; their bounds are given beside."""
    is_right = (predict(params, rows) > 0) == (rows["y"] == 1)
    return {"accuracy": is_right.astype(jnp.float32)}


held_out = scaling.apply(test)
looks = ROUNDS // EVERY
evaluation = jf.queries.evaluation(
    metrics,
    held_out,
    bounds={"accuracy": (0, 1)},
    privacy=mechanism(test, epsilon=0.5, norm=1.0, releases=looks),
    looks=looks,
    every=EVERY,
    key=key,
    weighting="clients",
)

# [training]
training = jf.privacy.central(
    sampling=jf.sampling.Poisson(population=train.num_clients, rate=0.1),
    clipping=jf.clipping.Fixed(norm=0.2),
    noise=jf.noise.Gaussian(multiplier=1.0),
).calibrated(epsilon=0.7, delta=DELTA, rounds=ROUNDS)
local = jf.clients.sgd(loss_fn, optax.sgd(0.03), batch_size=8, epochs=5)
exact = jf.evaluation.federated(
    predict, held_out, every=EVERY, exact=jf.metrics.accuracy
)
area = jf.evaluation.central(
    predict, held_out.where("has_history"), every=EVERY, auc=jf.metrics.auc
)
history = jf.simulate(
    jf.algorithms.fedavg(local, training, server_optimizer=optax.adam(0.1)),
    scaling.apply(train),
    params={"w": jnp.zeros(len(FEATURES)), "b": jnp.zeros(())},
    rounds=ROUNDS,
    seed=0,
    evaluate=[evaluation, exact, area],
    progress=False,
)
print()
noisy, known = (history.curve(name)[1] for name in ("accuracy", "exact_mean"))
error = evaluation.answers[-1].standard_error["accuracy"]
print("accuracy with noise:", np.round(noisy, 3), f"+- {error:.3f}")
print("without, for comparison:", np.round(known, 3))
print(evaluation)

# [budget]
parts = [scaling, ages, incomes, training, evaluation]
epsilon = jf.queries.composed_epsilon(parts, delta=DELTA)
costs = [part.epsilon or 0.0 for part in (scaling, ages, incomes, evaluation)]
added = float(np.sum(costs)) + training.epsilon()
print()
print(f"all of it together: epsilon {epsilon:.3f} at delta {DELTA:g}")
print(f"  (added up part by part it would be {added:.2f}, at five times that delta)")
# [end]

first = train.offsets[:-1]
persons = np.add.reduceat(
    np.eye(7)[
        np.clip(np.digitize(train.arrays["x"][:, AGE], np.linspace(-1, 1, 8)) - 1, 0, 6)
    ],
    first,
)
persons = (persons / train.client_sizes[:, None]).sum(axis=0)
years = train.arrays["x"][:, INCOME]
shares = [(years <= value).mean() for value in incomes.value]
auc = history.curve("auc")[1][-1]
print(f"area under the curve: {auc:.3f}")

assert np.abs(ages.value - persons).max() < 5 * ages.standard_error[0]
assert np.abs(np.array(shares) - [0.1, 0.5, 0.9]).max() < 0.05
assert (np.diff(dollars) > 0).all()
assert np.abs(noisy - known).max() < 5 * error
assert auc > 0.76
assert len(evaluation.answers) == looks
assert max(training.epsilon(), 0.5) < epsilon < min(added, 1.0)
