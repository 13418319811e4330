"""Your own CSV file with a client column, and a flax model.

What you should see: an accuracy above .8 on clients that were not trained on.

Run: python examples/03_your_own_data.py [FILE.csv]
"""

import pathlib
import sys

import flax.linen as nn
import jax
import optax

import jaxfed as jf

default = pathlib.Path(__file__).with_name("clinics.csv")
path = sys.argv[1] if len(sys.argv) > 1 else default
data = jf.data.FederatedData.from_csv(path, client="clinic", label="readmitted")
train, test = data.split_clients(test=0.25, seed=0)

model = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(2)])
params = model.init(jax.random.key(0), train.arrays["x"][:1])["params"]
loss_fn = jf.clients.linen_loss(model, optax.softmax_cross_entropy_with_integer_labels)
evaluate = jf.evaluation.federated(
    lambda params, rows: model.apply({"params": params}, rows["x"]),
    test,
    accuracy=jf.metrics.accuracy,
)
sampling = jf.sampling.Poisson(population=train.num_clients, rate=0.5)
algorithm = jf.algorithms.fedavg(
    jf.clients.sgd(loss_fn, optax.sgd(0.1), batch_size=16, epochs=2),
    jf.privacy.none(
        sampling=sampling
    ),  # or privacy.central(...), as in the quick start
)
history = jf.simulate(
    algorithm, train, params=params, rounds=30, seed=0, evaluate=evaluate
)
print(history)
assert history.rounds[-1].evaluation["accuracy_mean"] > 0.8
