"""Your own CSV file with a client column, and a flax model.

What you should see: an accuracy above .8 on clinics that were not trained on. The file
beside this script is made up: 24 clinics, 912 stays, four features.

Run: python examples/03_your_own_data.py [FILE.csv CLIENT_COLUMN LABEL_COLUMN]
"""

import pathlib
import sys

import flax.linen as nn
import jax
import optax

import jaxfed as jf

made_up = [f"{pathlib.Path(__file__).parent}/clinics.csv", "clinic", "readmitted"]
path, client, label = sys.argv[1:4] or made_up
data = jf.data.FederatedData.from_csv(path, client=client, label=label)
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
privacy = jf.privacy.none(sampling=sampling)  # or privacy.central(...), as in 01
local = jf.clients.sgd(loss_fn, optax.sgd(0.1), batch_size=16, epochs=2)
algorithm = jf.algorithms.fedavg(local, privacy)
history = jf.simulate(
    algorithm, train, params=params, rounds=30, seed=0, evaluate=evaluate
)
print(history)
assert sys.argv[1:] or history.rounds[-1].evaluation["accuracy_mean"] > 0.8
