"""The same vaults over Flower: a SuperLink, four SuperNodes, one ServerApp.

For organisations that run Flower already. It carries the messages; the privacy is ours:
the plan, the vault, the clip, the checks, the ledger and the noise are those of example
11, and nothing of Flower's strategies or privacy wrappers takes part. The two halves
are in `flower_app/`.

What you should see, within two minutes: three rounds, released, paid for by a ledger of
epsilon 8; and a model that is better than a coin. Without flwr the example says so and
ends.

On real machines: give nodes keys (`flwr supernode register`), so that a node keeps its
number; run the SuperLink with `--isolation process`, its database in memory or on
tmpfs, since it keeps raw reports; let no client reach `/v1/control`.

Run: python examples/12_flower.py (needs: pip install 'jaxfed[flower]')
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import jaxfed as jf
from jaxfed.vault import _signature

HERE = Path(__file__).resolve().parent
NODES, ROUNDS = 4, 3
persons = jf.data.rand_hie()
train, test = persons.split_clients(test=0.2, seed=0)


def predict(params, rows):
    """The log-odds of many visits."""
    return rows["x"] @ params["w"] + params["b"]


def prepare(folder):
    """Writes keys, policy, ledger, and each node's own data."""
    secret = _signature.new_key()
    (folder / "signing.key").write_text(secret.hex())
    limits = {"signers": [_signature.public_key(secret).hex()], "least_cohort": 3}
    (folder / "policy.json").write_text(json.dumps(limits))
    jf.Ledger.create(folder / "budget.db", epsilon=8.0, delta=1e-3).close()
    nodes = np.repeat(np.arange(train.num_clients) % NODES, train.client_sizes)
    for node in range(NODES):
        x, y = (train.arrays[name][nodes == node] for name in ("x", "y"))
        np.savez(folder / f"node-{node}.npz", x=x, y=y)


# [processes]
def free_ports(count):
    """Returns ports that nobody uses."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def started(folder, processes, name, *arguments):
    """Starts one of Flower's programs; its log goes to the folder."""
    program = str(Path(sys.executable).parent / name)
    log = folder / f"{name}-{len(processes)}.log"
    with log.open("wb") as file:
        processes.append(
            subprocess.Popen(
                [program, *arguments], stdout=file, stderr=file, cwd=folder
            )
        )


def run(folder, processes):
    """Starts everything, and waits until the model is there."""
    programs = str(Path(sys.executable).parent)  # Flower starts its own by name
    os.environ |= {
        "PATH": programs + os.pathsep + os.environ.get("PATH", ""),
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "JAX_PLATFORMS": "cpu",
    }
    port, *others = free_ports(1 + NODES)
    (folder / "home").mkdir()
    (folder / "home/config.toml").write_text(
        '[superlink]\ndefault = "local"\n\n[superlink.local]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    link = ["--insecure", "--host", "127.0.0.1", "--port", str(port)]
    link.append("--disable-runtime-dependency-installation")
    started(folder, processes, "flower-superlink", *link)
    time.sleep(3)
    for node, other in enumerate(others):
        own = {"data": f"node-{node}.npz", "policy": "policy.json"}
        own["record"] = f"record-{node}"
        config = " ".join(f'{name}="{folder / file}"' for name, file in own.items())
        place = ["--superlink", f"127.0.0.1:{port}", "--port", str(other)]
        options = ["--insecure", *place, "--node-config", config]
        started(folder, processes, "flower-supernode", *options)
    values = f'folder="{folder}" nodes={NODES} rounds={ROUNDS}'
    app = str(HERE / "flower_app")
    started(folder, processes, "flwr", "run", app, "local", "--run-config", values)
    until = time.monotonic() + 180
    while not (folder / "model.npz").exists():
        assert time.monotonic() < until, "Flower released no model within 3 minutes"
        assert not any(one.poll() for one in processes), "one of Flower's programs died"
        time.sleep(0.5)
    time.sleep(1)


def main():
    """Runs the example, and says what it found."""
    if importlib.util.find_spec("flwr") is None:
        print("skipped: flwr is not installed; pip install 'jaxfed[flower]'")
        return
    with tempfile.TemporaryDirectory() as name:
        folder, processes = Path(name), []
        prepare(folder)
        try:
            run(folder, processes)
        except BaseException:
            for log in sorted(folder.glob("*.log")):
                print(f"-- {log.name}\n{log.read_text(errors='replace')[-3000:]}")
            raise
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait(30)
        history = json.loads((folder / "history.json").read_text())
        with np.load(folder / "model.npz", allow_pickle=False) as model:
            params = {name: jnp.asarray(model[name]) for name in ("w", "b")}
    auc = jf.evaluation.central(predict, test, auc=jf.metrics.auc)(params)["auc"]
    print(history["statement"].splitlines()[0])
    print(f"{len(history['rounds'])} rounds over Flower, AUC {auc:.3f}")
    assert len(history["rounds"]) == ROUNDS
    assert history["private"]
    assert history["ledger"]["epsilon"] <= 8
    assert auc > 0.55


if __name__ == "__main__":
    main()
