"""Which share of the cores' speed in matrix products a round reaches.

What you should see: for each workload of the engine's benchmark, the floating-point
operations of the products and convolutions in its local steps (padding not counted) a
second of a round, over what products of 1024 x 1024 reach on the same devices in turn.
The rest goes to all that is no product: gathering rows, activations, parameter updates,
clipping, noise, planning, calls. Small products cannot reach the speed of large ones.

    python benchmarks/peak.py --out benchmarks/results/peak.json
"""

import argparse
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
from engine import machine
from jax import lax
from jax.sharding import PartitionSpec as P
from peers import ours
from speed import workloads

import jaxfed as jf
from jaxfed.engine import _devices

CORES = 2
SIZE, PRODUCTS = 1024, 16
NAMES = ("mlp-100", "small-1000", "logistic-1000", "cnn-10", "lstm-10")


def operations(workload):
    """Returns how many an example takes: forward, weight and input gradients."""
    total = 0
    for name, kernel in workloads.initial_params(workload).items():
        layer = name.removesuffix("/kernel")
        if layer == name or layer == "embedding":
            continue
        uses = {"conv0": 26 * 26, "conv1": 24 * 24}.get(layer, 1)
        if workload.model == "lstm":
            uses = workloads.LENGTH
        is_first = layer == {"cnn": "conv0", "mlp": "dense0"}.get(workload.model)
        total += (4 if is_first else 6) * kernel.size * uses
    return total


def product_round():
    """Returns a call that multiplies large matrices on every device at once."""
    mesh = _devices.mesh_of(CORES)

    def multiply(matrix):
        return lax.fori_loop(
            0, PRODUCTS, lambda _, c: (c @ matrix[0]) / SIZE, matrix[0]
        )

    own = P(_devices.AXIS)
    program = jax.jit(
        jax.shard_map(
            lambda matrix: multiply(matrix)[None],
            mesh=mesh,
            in_specs=own,
            out_specs=own,
            check_vma=False,
        )
    )
    matrices = jax.device_put(jnp.ones((CORES, SIZE, SIZE)), _devices.split(mesh))
    return lambda _: jax.block_until_ready(program(matrices))


def started(name):
    """Returns a round on demand that answers with its number of examples."""
    workload = workloads.WORKLOADS[name]
    options = {
        "data": workloads.make_data(workload),
        "params": workloads.initial_params(workload),
        "cohort": lambda number: workloads.cohort(workload, number),
        "layers": "tuned",
        "exact": False,
    }
    one_round = ours.make_round(workload, options)
    return lambda number: one_round(number)[0] * operations(workload)


def speeds(calls, repeats):
    """Returns median operations a second of each; all in turn, after two to warm up."""
    found = {name: [] for name in calls}
    for number in range(repeats + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            count = call(number)
            taken = time.perf_counter() - start
            if name == "products":
                count = CORES * PRODUCTS * 2 * SIZE**3
            if number >= 2:
                found[name].append(count / taken)
    return {name: statistics.median(own) for name, own in found.items()}


def main():
    """Prints a line for each workload."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--repeats", type=int, default=7, help="rounds of each")
    parser.add_argument("--out", type=pathlib.Path, help="write the rows as JSON")
    options = parser.parse_args()
    jf.use_cores(CORES)
    rows = []
    for name in options.workloads:
        calls = {"products": product_round(), name: started(name)}
        found = speeds(calls, options.repeats)
        share = found[name] / found["products"]
        print(
            f"{name:14} {found[name] / 1e9:6.1f} of {found['products'] / 1e9:6.1f} "
            f"GF/s on {CORES} cores: {share:.0%}",
            flush=True,
        )
        rows.append(
            {
                "workload": name,
                "operations an example": operations(workloads.WORKLOADS[name]),
                "operations a second": found[name],
                "of products of 1024 x 1024": found["products"],
                "share": share,
                "repeats": options.repeats,
            }
        )
    if options.out:
        result = {"machine": machine(), "rows": rows}
        options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
