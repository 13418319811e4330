"""A server of many vaults on one machine: time of a round, and memory of large updates.

200 vaults are 200 clients over TLS with a small model, in a few processes of threads:
what is measured is the server. Then a few vaults send updates of 50 MB: the server's
memory must not grow with the cohort.

    python benchmarks/vaults.py [--vaults 200] [--rounds 10]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf
from jaxfed import deploy
from jaxfed.deploy._pki import Authority
from jaxfed.typing import Batching, ClientResult, LocalWork
from jaxfed.vault import _policy, _signature
from jaxfed.vault._http import Http
from jaxfed.vault._visit import Vault

RESULTS = Path(__file__).resolve().parent / "results" / "vaults.json"
SIGNING = bytes(32)
PROCESSES = 4


def memory_mb():
    """Returns what this process holds now."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmRSS"].split()[0]) / 1024


def small():
    """Logistic regression with 24 features: algorithm, params, one client's data."""

    def loss(params, batch, key):
        del key
        logits = batch["x"] @ params["w"]
        return optax.sigmoid_binary_cross_entropy(logits, batch["y"]).mean(), {}

    draw = np.random.default_rng(0)
    data = {
        "x": draw.normal(size=(40, 24)).astype(np.float32),
        "y": draw.integers(0, 2, 40).astype(np.float32),
    }
    local = jf.clients.sgd(loss, optax.sgd(0.1), epochs=1, batch_size=8)
    return local, {"w": jnp.zeros(24)}, data


def large():
    """An update of 12.5 million numbers, 50 MB, that takes no work."""
    local = LocalWork(
        init=lambda shared, kept: shared.params["w"],
        step=lambda carry, batch, *, key: (carry + batch.rows["x"][0], {}),
        finish=lambda shared, carry: ClientResult(
            {"w": carry - shared.params["w"]}, jnp.float32(1), ()
        ),
        batching=Batching(batch_size=1, epochs=None, steps=1),
    )
    return local, {"w": jnp.zeros(12_500_000)}, {"x": np.full(1, 1e-5, np.float32)}


KINDS = {"small": small, "large": large}


def vaults(folder, url, kind, names):
    """Lives as some clients until the run is over; for a process of its own."""
    _, _, data = KINDS[kind]()
    public = _signature.public_key(SIGNING).hex()
    limits = {"signers": [public], "most_epsilon": 1e6, "most_bytes": 1 << 30}
    policy = _policy.checked(limits)

    def live(name):
        way = Http(
            url,
            certificate=folder / f"pki/{name}.pem",
            key=folder / f"pki/{name}.key",
            authority=folder / "pki/authority.pem",
        )
        vault = Vault(lambda rows: data, policy, folder / f"record-{name}")
        while vault.visit(way, seconds=30).state != "ended":
            pass
        way.close()
        vault.close()

    threads = [threading.Thread(target=live, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(kind, count, rounds, processes):
    """Runs a server and its vaults; returns times of rounds, and memory."""
    local, params, data = KINDS[kind]()
    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=count),
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=8.0),
    )
    names = [f"vault-{number:04d}" for number in range(count)]
    times, memory = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority(folder / "pki")
        authority.server(["127.0.0.1"])
        for one in names:
            authority.enroll(one)
        path = folder / "budget.db"
        jf.Ledger.create(path, epsilon=20.0, delta=1e-5).close()

        def look(history):
            del history
            times.append(time.perf_counter())
            memory.append(memory_mb())

        with (
            deploy.Coordinator(
                jf.algorithms.fedavg(local, privacy, server_optimizer=optax.sgd(1.0)),
                params=params,
                examples={n: a[:1] for n, a in data.items()},
                clients=names,
                rounds=rounds,
                ledger=path,
                folder=folder / "run",
                signing_key=SIGNING,
                pace=deploy.Pace(deadline_seconds=300),
                callbacks=[look],
            ) as running,
            deploy.transports.Http(
                running.desk,
                certificate=folder / "pki/server.pem",
                key=folder / "pki/server.key",
                authority=folder / "pki/authority.pem",
            ) as server,
        ):
            command = [sys.executable, __file__, "--live", str(folder), server.url]
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
            started = [
                subprocess.Popen(
                    [*command, kind, *names[part::processes]], env=environment
                )
                for part in range(processes)
            ]
            peak = Peak()
            history = running.run()
            running.farewell(60)
            for process in started:
                process.wait(120)
            most = peak.stop()
    assert len(history.rounds) == rounds
    seconds = np.diff(times)
    return {
        "vaults": count,
        "rounds": rounds,
        "median_seconds": statistics.median(seconds),
        "worst_seconds": float(max(seconds)),
        "memory_mb_after_first_round": memory[0],
        "memory_mb_after_last_round": memory[-1],
        "peak_mb": most,
    }


class Peak:
    """Watches the memory of this process."""

    def __init__(self):
        self._most, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self):
        """Returns the most it held."""
        self._stop.set()
        self._thread.join()
        return self._most

    def _run(self):
        while not self._stop.wait(0.02):
            self._most = max(self._most, memory_mb())


def main():
    """Measures, prints, and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vaults", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--live", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.live:
        folder, url, kind, *names = given.live
        vaults(Path(folder), url, kind, names)
        return
    if given.measure:
        kind, count, rounds = given.measure
        print(json.dumps(measure(kind, int(count), int(rounds), PROCESSES)))
        return
    found = {}
    for kind, count, rounds in (
        ("small", given.vaults, given.rounds),
        *(("large", count, 4) for count in (3, 6, 12)),
    ):
        command = [sys.executable, __file__, "--measure", kind, str(count), str(rounds)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[f"{kind}_{count}"] = json.loads(done.stdout.splitlines()[-1])
        print(kind, json.dumps(found[f"{kind}_{count}"], indent=1))
    document = {"machine": jf._program.machine(), "runs": found}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
