"""Real clients: eight vaults, each a process with Python and NumPy, over TLS.

The persons of the RAND Health Insurance Experiment once more, split over eight clinics
whose data may not move. The algorithm is written as for a simulation. Here a server
signs a plan of it, a few kilobytes of data, and eight processes of one file, the vault,
fetch it, check it against their own policy, train on their own files, clip, and answer.
The server checks what comes, pays for each round, adds the noise, and releases.

What you should see, within a minute: what a vault says of the plan, in words; ten
rounds; a model released at epsilon 8 for each clinic, all that it has in all rounds;
and about the accuracy of the same algorithm in a simulation: the two differ by noise.

The privacy of one clinic among eight is dear. With hundreds of vaults, or with noise at
the level of persons (example 08), the same steps give a smaller epsilon.

Run: python examples/11_vaults.py (needs: pip install 'jaxfed[server]')
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf
from jaxfed import deploy
from jaxfed.vault import _signature

EPSILON, DELTA, ROUNDS, VAULTS = 8.0, 1e-3, 10, 8
persons = jf.data.rand_hie()
train, test = persons.split_clients(test=0.2, seed=0)


def predict(params, rows):
    """The log-odds of many visits."""
    return rows["x"] @ params["w"] + params["b"]


def loss_fn(params, batch, key):
    """The mean logistic loss of a linear model."""
    del key
    labels = batch["y"].astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(predict(params, batch), labels).mean(), {}


# [algorithm]
privacy = jf.privacy.central(
    sampling=jf.sampling.Full(population=VAULTS),
    clipping=jf.clipping.Fixed(norm=0.3),
    noise=jf.noise.Gaussian(multiplier=1.0),
).calibrated(epsilon=EPSILON, delta=DELTA, rounds=ROUNDS)
local = jf.clients.sgd(loss_fn, optax.sgd(0.05), batch_size=32, epochs=1)
algorithm = jf.algorithms.fedavg(local, privacy, server_optimizer=optax.sgd(1.0))
params = {"w": jnp.zeros(len(jf.data.RAND_HIE_FEATURES)), "b": jnp.zeros(())}

# every person's rows are in one clinic
clinic = np.repeat(np.arange(train.num_clients) % VAULTS, train.client_sizes)
clinics = jf.data.FederatedData.from_arrays(dict(train.arrays), client=clinic)
names = [f"clinic-{number}" for number in range(VAULTS)]
auc = jf.evaluation.central(predict, test, auc=jf.metrics.auc)


# [vault]
def start(name, number, folder, server, policy):
    """Starts a vault on its own file; it needs Python and NumPy, and no jaxfed."""
    rows = slice(clinics.offsets[number], clinics.offsets[number + 1])
    arrays, data = clinics.arrays, folder / f"{name}.npz"
    np.savez(data, x=arrays["x"][rows], y=arrays["y"][rows])
    command = [sys.executable, str(folder / "vault.pyz"), "join", server]
    options = {
        "data": data,
        "policy": policy,
        "cert": folder / "pki" / f"{name}.pem",
        "key": folder / "pki" / f"{name}.key",
        "authority": folder / "pki" / "authority.pem",
        "record": folder / f"{name}-record",
    }
    for option, value in options.items():
        command += [f"--{option}", str(value)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


# [server]
def run(folder):
    """Runs the server and all vaults; returns the history."""
    module = [sys.executable, "-m"]
    pki = [*module, "jaxfed.deploy", "pki", str(folder / "pki"), "--clients", *names]
    subprocess.run(pki, check=True)
    subprocess.run(
        [*module, "jaxfed.vault", "build", str(folder / "vault.pyz")], check=True
    )
    signing_key = _signature.new_key()
    policy = folder / "policy.json"
    limits = {
        "signers": [_signature.public_key(signing_key).hex()],
        "least_cohort": 5,
        "least_noise": 0.5,
        "most_epsilon": EPSILON,
    }
    policy.write_text(json.dumps(limits))
    jf.Ledger.create(folder / "budget.db", epsilon=EPSILON, delta=DELTA).close()
    with (
        deploy.Coordinator(
            algorithm,
            params=params,
            examples={name: array[:1] for name, array in clinics.arrays.items()},
            clients=names,
            rounds=ROUNDS,
            ledger=folder / "budget.db",
            folder=folder / "run",
            signing_key=signing_key,
            pace=deploy.Pace(deadline_seconds=60, least_cohort=5),
        ) as coordinator,
        deploy.transports.Http(
            coordinator.desk,
            certificate=folder / "pki/server.pem",
            key=folder / "pki/server.key",
            authority=folder / "pki/authority.pem",
            revoked=folder / "pki/revoked.txt",
        ) as server,
    ):
        plan = folder / "run" / "plan"
        audit = [sys.executable, str(folder / "vault.pyz"), "audit", str(plan)]
        subprocess.run([*audit, "--policy", str(policy)], check=True)
        vaults = [
            start(name, number, folder, server.url, policy)
            for number, name in enumerate(names)
        ]
        history = coordinator.run()
        coordinator.farewell(seconds=30)
        for vault in vaults:
            _, log = vault.communicate(timeout=60)
            assert vault.returncode == 0, log
    print(log.splitlines()[-1])
    return history


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        history = run(Path(name))
        print(history)
        ledger = history.ledger
    # [compare]
    simulated = jf.simulate(
        algorithm, clinics, params=params, rounds=ROUNDS, seed=0, progress=False
    )
    quiet = jf.algorithms.fedavg(
        local,
        jf.privacy.none(sampling=privacy.sampling),
        server_optimizer=optax.sgd(1.0),
    )
    exact = jf.simulate(
        quiet, clinics, params=params, rounds=ROUNDS, seed=0, progress=False
    )
    found = auc(history.params)["auc"]
    print(f"AUC by eight vaults       {found:.3f}")
    print(f"AUC in a simulation       {auc(simulated.params)['auc']:.3f}")
    print(f"AUC without any privacy   {auc(exact.params)['auc']:.3f}")
    assert len(history.rounds) == ROUNDS
    assert history.private
    assert ledger.epsilon <= EPSILON
    assert abs(found - auc(simulated.params)["auc"]) < 0.03
