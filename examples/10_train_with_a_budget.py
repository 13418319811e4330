"""Training for real: a budget on disk, a killed process, and an end to spending.

The RAND Health Insurance Experiment once more, each of 5,912 persons one client. Up to
here everything was a simulation. This run releases: its noise comes from a secret of
the operating system, every round is paid for before it leaves, and what it prints and
saves is covered by the budget.

What you should see, within a minute: a process that trains for 20 of 40 rounds and is
killed; a second one that goes on where the last checkpoint was, computes rounds 11 to
20 again for nothing, and ends with the same model bit by bit as a run that nobody
killed; an accuracy that was measured with noise from the same budget; a ledger that
adds up to epsilon 1; and one more release that is refused, because nothing is left.

Run: python examples/10_train_with_a_budget.py
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf

DELTA, ROUNDS, EVERY = 1e-5, 40, 20
LOOKS = ROUNDS // EVERY
vaults = jf.data.rand_hie()
train, test = vaults.split_clients(test=0.2, seed=0)


def predict(params, rows):
    """The log-odds of many visits."""
    return rows["x"] @ params["w"] + params["b"]


def loss_fn(params, batch, key):
    """The mean logistic loss of a linear model."""
    del key
    labels = batch["y"].astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(predict(params, batch), labels).mean(), {}


def accuracy(params, rows):
    """One value for every row."""
    is_right = (predict(params, rows) > 0) == (rows["y"] == 1)
    return {"accuracy": is_right.astype(jnp.float32)}


# [mechanisms]
def mechanism(sampling, norm, epsilon, releases):
    """Clips, sums, and adds the least noise that meets its share of the budget."""
    return jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Gaussian(multiplier=1.0),
    ).calibrated(epsilon=epsilon, delta=DELTA, rounds=releases)


a_tenth = jf.sampling.Poisson(population=train.num_clients, rate=0.1)
everybody = jf.sampling.Full(population=test.num_clients)
training = mechanism(a_tenth, norm=0.2, epsilon=0.9, releases=ROUNDS)
measuring = mechanism(everybody, norm=1.0, epsilon=0.35, releases=LOOKS)
local = jf.clients.sgd(loss_fn, optax.sgd(0.03), batch_size=8, epochs=5)
algorithm = jf.algorithms.fedavg(local, training, server_optimizer=optax.adam(0.1))
params = {"w": jnp.zeros(len(jf.data.RAND_HIE_FEATURES)), "b": jnp.zeros(())}


# [train]
def run(folder, callbacks=(), checkpoints="checkpoints"):
    """Trains, or goes on where the last process was."""
    with jf.Ledger.open(folder / "budget.db") as ledger:
        if not ledger.mechanisms:  # both are planned before the first release
            ledger.plan(training, name="training")
        evaluation = jf.queries.evaluation(
            accuracy,
            test,
            bounds={"accuracy": (0, 1)},
            privacy=measuring,
            looks=LOOKS,
            every=EVERY,
            weighting="clients",
            ledger=ledger,
        )
        return jf.train(
            algorithm,
            train,
            params=params,
            rounds=ROUNDS,
            ledger=ledger,
            checkpoint=folder / checkpoints,
            evaluate=evaluation,
            callbacks=callbacks,
            progress=False,
        )


# [kill]
def killed_half_way(history):
    """What a power cut does."""
    if len(history.rounds) == ROUNDS // 2:
        print(f"  round {len(history.rounds)}, and this process is killed", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


if len(sys.argv) > 1:  # the process that will be killed
    run(Path(sys.argv[1]), callbacks=[killed_half_way])

folder = Path(tempfile.mkdtemp())
with jf.Ledger.create(
    folder / "budget.db", epsilon=1.0, delta=DELTA, purpose="an example"
) as ledger:
    print(ledger)
print("a process trains:")
killed = subprocess.run([sys.executable, __file__, str(folder)], check=False)

# [resume]
seen = []
history = run(folder, callbacks=[lambda h: seen.append(h.rounds[-1].round)])
print(f"a second one goes on with round {seen[0]}, and ends with {seen[-1]}:")
print(history)
history.report(folder / "report.html")

# [refused]
print()
try:
    with jf.Ledger.open(folder / "budget.db") as ledger:
        ledger.charge(training)
    refused = ""
except jf.ledger.BudgetExhausted as error:
    refused = str(error)
print("one release more:", refused)
print()
show = [sys.executable, "-m", "jaxfed.ledger", "show", "budget.db", "--last", "3"]
subprocess.run(show, check=True, cwd=folder)
# [end]

with jf.Ledger.open(folder / "budget.db", read_only=True) as ledger:
    charged = [len(mechanism.charges) for mechanism in ledger.mechanisms]
    spent, is_sealed = ledger.epsilon(), ledger.verify().is_sealed
whole = run(folder, checkpoints="none")  # all 40 rounds again, which costs nothing
measured = history.curve("accuracy")[1]

assert killed.returncode == -signal.SIGKILL
assert ROUNDS // 2 - 10 < seen[0] <= ROUNDS // 2 + 1
assert charged == [ROUNDS, LOOKS]  # nothing was spent twice
assert 0.9 < spent <= 1.0
assert is_sealed
assert "Left here: nothing" in refused
assert history.private is True
assert np.array_equal(history.params["w"], whole.params["w"])
assert measured[-1] > 0.7
with jf.Ledger.open(folder / "budget.db", read_only=True) as ledger:
    assert [m.releases for m in ledger.mechanisms] == charged
