"""SCAFFOLD with a million clients: what their states take, in a file and in memory.

A model of 1,000 numbers, a million clients with two examples each, 1,000 of them a
round: all states together are 4 GB. Each kind runs in a process of its own.

What you should see: with a file, the memory of a process of federated averaging and a
little more, however many clients there are; in memory, more with every client that has
taken part.

    python benchmarks/client_states.py --out benchmarks/results/client_states.json
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

POPULATION, COHORT, SIZE = 1_000_000, 1_000, 1_000
KINDS = ("fedavg", "scaffold in a file", "scaffold in memory")


def child(kind, rounds, directory):
    """Runs one kind; prints its facts as JSON."""
    import jaxfed as jf

    jf.use_cores()

    import jax.numpy as jnp
    import numpy as np
    import optax

    draw = np.random.default_rng(0)
    place = draw.integers(0, SIZE, 2 * POPULATION, np.int32)
    y = draw.normal(size=2 * POPULATION).astype(np.float32)
    owner = np.repeat(np.arange(POPULATION), 2)
    data = jf.data.FederatedData.from_arrays({"place": place, "y": y}, client=owner)

    def loss_fn(params, batch, key):
        del key
        return jnp.mean((params["w"][batch["place"]] - batch["y"]) ** 2), {}

    sampling = jf.sampling.FixedSize(population=POPULATION, size=COHORT)
    none = jf.privacy.none(sampling=sampling, weighting="clients")
    batches = {"batch_size": 1, "epochs": 1}
    if kind == "fedavg":
        local = jf.clients.sgd(loss_fn, optax.sgd(0.1), **batches)
        algorithm = jf.algorithms.fedavg(local, none)
    else:
        local = jf.clients.scaffold(loss_fn, learning_rate=0.1, **batches)
        algorithm = jf.algorithms.scaffold(local, none)
    in_file = 1 << 28 if kind.endswith("file") else 1 << 40
    history = jf.simulate(
        algorithm,
        data,
        params={"w": jnp.zeros(SIZE)},
        rounds=rounds,
        seed=0,
        progress=False,
        strategy=jf.engine.Strategy(
            executor="loop",
            lanes=8,
            resident_bytes=in_file,
            state_directory=directory,
        ),
    )
    seconds = [record.seconds for record in history.rounds[1:]]
    with open("/proc/self/status") as file:  # ru_maxrss may be a parent's
        status = dict(line.split(":", 1) for line in file)
    print(
        json.dumps(
            {
                "peak megabytes": int(status["VmHWM"].split()[0]) // 1024,
                "milliseconds a round": round(1e3 * statistics.median(seconds), 1),
            }
        )
    )


def main():
    """Measures every kind and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--directory", help="for the file; the usual one if not given")
    given = parser.parse_args()
    if given.kind:
        child(given.kind, given.rounds, given.directory)
        return
    found = {}
    for kind in KINDS:
        command = [sys.executable, __file__, "--kind", kind]
        command += ["--rounds", str(given.rounds)]
        command += ["--directory", given.directory or tempfile.gettempdir()]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[kind] = json.loads(done.stdout.splitlines()[-1])
        print(f"{kind:20s} {found[kind]}")
    about = {
        "clients": POPULATION,
        "a round": COHORT,
        "rounds": given.rounds,
        "bytes of all states": 4 * SIZE * POPULATION,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load at the start": round(os.getloadavg()[0], 2),
    }
    if given.out:
        text = json.dumps({"about": about, "kinds": found}, indent=2)
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
