"""What Flower runs in example 12: the server's half and the clients' half.

The client's half needs NumPy and the vault; JAX is loaded by the server's half alone.
"""

import time
from pathlib import Path

from flwr.serverapp import ServerApp

from jaxfed.vault import _data, _policy
from jaxfed.vault._visit import Vault
from jaxfed.vault.flower import client_app


# [client]
def open_vault(context):
    """Opens this node's own data, policy and record."""
    node = context.node_config
    policy = _policy.read(Path(node["policy"]))
    return Vault(_data.reader(node["data"]), policy, Path(node["record"]))


client = client_app(open_vault)
server = ServerApp()


# [server]
@server.main()
def main(grid, context):
    """Runs the coordinator on the nodes that are there."""
    import jax.numpy as jnp
    import numpy as np
    import optax

    import jaxfed as jf
    from jaxfed import deploy

    folder, rounds = Path(context.run_config["folder"]), context.run_config["rounds"]
    wanted = context.run_config["nodes"]
    while len(nodes := sorted(grid.get_node_ids())) < wanted:
        time.sleep(0.5)

    def loss_fn(params, batch, key):
        del key
        logits = batch["x"] @ params["w"] + params["b"]
        labels = batch["y"].astype(jnp.float32)
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean(), {}

    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=wanted),
        clipping=jf.clipping.Fixed(norm=0.3),
        noise=jf.noise.Gaussian(multiplier=1.0),
    ).calibrated(epsilon=8.0, delta=1e-3, rounds=rounds)
    local = jf.clients.sgd(loss_fn, optax.sgd(0.05), batch_size=32, epochs=1)
    size = len(jf.data.RAND_HIE_FEATURES)
    names = [f"node-{number}" for number in nodes]
    with (
        deploy.Coordinator(
            jf.algorithms.fedavg(local, privacy, server_optimizer=optax.sgd(1.0)),
            params={"w": jnp.zeros(size), "b": jnp.zeros(())},
            examples={"x": np.zeros((1, size), np.float32), "y": np.zeros(1, np.int32)},
            clients=names,
            rounds=rounds,
            ledger=folder / "budget.db",
            folder=folder / "run",
            signing_key=bytes.fromhex((folder / "signing.key").read_text()),
            pace=deploy.Pace(deadline_seconds=60, least_cohort=3),
        ) as coordinator,
        deploy.transports.Flower(
            coordinator.desk, grid, dict(zip(names, nodes, strict=True))
        ),
    ):
        history = coordinator.run()
    history.to_json(folder / "history.json")
    params = history.params
    np.savez(folder / "model.npz", w=np.asarray(params["w"]), b=np.asarray(params["b"]))
