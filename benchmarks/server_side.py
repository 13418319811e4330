"""The server's side: clip and sum ready updates, against what memory can deliver.

What you should see: how many bytes of updates a second each way of clipping and adding
takes in, as a share of the fastest plain sum of the same array on the same devices.
The integer lattice reads an update more than once (its squares, then rounding), so that
it is bound by memory only where an update stays in a cache between.

Every device adds up its part of the clients, one after the other, in one program; the
sum over devices, once a round, is not counted. Noise is drawn for that many parameters
by one device, and by all of them in shares. Median of several calls, in turn.

    python benchmarks/server_side.py --out benchmarks/results/server_side.json
"""

import argparse
import functools
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from engine import machine
from jax import lax
from jax.sharding import PartitionSpec as P

import jaxfed as jf
from jaxfed import noise, tree
from jaxfed.engine import _devices
from jaxfed.typing import ClientResult

CORES = 2
SIZES = ((100, 10**6), (32, 10**7))
NORM = 1.0


def aggregator(clients, multiplier):
    """Central privacy; much noise makes it truncate, little makes it round randomly."""
    return jf.privacy.central(
        sampling=jf.sampling.Full(population=clients),
        clipping=jf.clipping.Fixed(norm=NORM),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )


def lattice(privacy, key, update):
    """What the engine adds for one client."""
    result = ClientResult(update, jnp.float32(1), ())
    encoded, _ = privacy.encode_counted(privacy.init(update), result, key=key)
    return encoded.update


def float_clip(update):
    """The usual clip in floating point, of finite updates."""
    squared = jnp.sum(jnp.square(update.reshape(-1, 8)), axis=0).sum()
    return update * jnp.minimum(1.0, NORM / jnp.sqrt(squared))


def rounded(update):
    """The last pass of the lattice alone: scale by a number that is known, round."""
    return (update * jnp.float32(2**20)).astype(jnp.int32)


def squares(update):
    """The norm of the lattice alone."""
    return tree.sum_of_squares(update)[None]


def added(function, mesh, updates, *, dtype, donated):
    """Returns a timed call that adds what `function` makes of every update."""

    def on_one_device(total, rows):
        def add(index, total):
            return total + function(rows[index]).astype(dtype)

        return lax.fori_loop(0, rows.shape[0], add, total[0])[None]

    run = jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=P(_devices.AXIS),
        out_specs=P(_devices.AXIS),
        check_vma=False,
    )
    program = jax.jit(run, donate_argnums=0 if donated else ())
    shape = jax.eval_shape(function, jax.ShapeDtypeStruct(updates.shape[1:], "float32"))
    zeros = np.zeros((mesh.size, *shape.shape), dtype)
    total = jax.device_put(zeros, _devices.split(mesh))

    def call():
        nonlocal total
        result = jax.block_until_ready(program(total, updates))
        total = result if donated else total

    return call


def plain_sum(mesh, updates, axis):
    """Returns a timed call that reads every update once."""
    run = jax.shard_map(
        lambda rows: jnp.sum(rows, axis=axis).reshape(-1)[None],
        mesh=mesh,
        in_specs=P(_devices.AXIS),
        out_specs=P(_devices.AXIS),
        check_vma=False,
    )
    program = jax.jit(run)
    return lambda: jax.block_until_ready(program(updates))


def medians(calls, repeats):
    """Returns name -> median seconds; all in turn, after a call each to compile."""
    seconds = {name: [] for name in calls}
    for index in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if index > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(own) for name, own in seconds.items()}


def made_updates(mesh, clients, parameters):
    """Random updates of norms around the clip, each on its device."""
    scale = np.float32(parameters**-0.5)
    block = np.random.default_rng(0).standard_normal(parameters, np.float32) * scale
    host = _devices.empty((clients, parameters), np.float32)
    for index in range(clients):  # made anew each: rolled, and of another length
        host[index] = np.roll(block, 977 * index) * (0.5 + index / clients)
    return jax.device_put(host, _devices.split(mesh))


def clip_and_sum(clients, parameters, repeats):
    """Returns rows: bytes of updates a second, and the share of the plain sum."""
    mesh = _devices.mesh_of(CORES)
    updates = made_updates(mesh, clients, parameters)
    key = jf.keys.simulated(0)
    truncates = aggregator(clients, clients / 0.14 / 2**18)
    engine = functools.partial(lattice, truncates, key)
    at_random = functools.partial(lattice, aggregator(clients, 0.0), key)
    of = functools.partial(added, mesh=mesh, updates=updates)
    sums = {
        "plain sum, over clients": plain_sum(mesh, updates, 0),
        "plain sum, of everything": plain_sum(mesh, updates, None),
    }
    calls = sums | {
        "lattice, donated": of(engine, dtype=np.int32, donated=True),
        "lattice, not donated": of(engine, dtype=np.int32, donated=False),
        "lattice, random rounding": of(at_random, dtype=np.int32, donated=True),
        "float clip, donated": of(float_clip, dtype=np.float32, donated=True),
        "float clip, not donated": of(float_clip, dtype=np.float32, donated=False),
        "of the lattice: squares": of(squares, dtype=np.float32, donated=True),
        "of the lattice: rounding": of(rounded, dtype=np.int32, donated=True),
    }
    seconds = medians(calls, repeats)
    best = min(seconds[name] for name in sums)
    return [
        {
            "clients": clients,
            "parameters": parameters,
            "what": name,
            "ms": 1e3 * taken,
            "GB of updates a second": updates.nbytes / taken / 1e9,
            "share of the plain sum": best / taken,
        }
        for name, taken in seconds.items()
    ]


def noise_rows(parameters, repeats):
    """Returns rows: how long the noise of a round takes, on one device and shared."""
    rows = []
    for devices in (1, CORES):
        mesh = _devices.mesh_of(devices)
        total = jax.device_put(
            np.zeros(parameters, np.int32), _devices.replicated(mesh)
        )
        gaussian = jf.noise.Gaussian(multiplier=1.0)

        def noised(total, data, mesh=mesh, gaussian=gaussian):
            key = jax.random.wrap_key_data(data)
            clipped = jf.typing.ClippedSum(total=total, step=1.0, levels=2**20)
            with noise.shared_over(mesh):
                return gaussian.release(clipped, key=key).mean_over(1.0).value

        program = jax.jit(noised, out_shardings=_devices.replicated(mesh))
        data = jax.device_put(
            np.asarray(jax.random.key_data(jax.random.key(0))),
            _devices.replicated(mesh),
        )
        call = functools.partial(
            lambda p, t, d: jax.block_until_ready(p(t, d)), program, total, data
        )
        taken = medians({"noise": call}, repeats)["noise"]
        rows.append(
            {
                "parameters": parameters,
                "devices": devices,
                "ms": 1e3 * taken,
                "ns a parameter": 1e9 * taken / parameters,
            }
        )
    return rows


def main():
    """Prints the figures and writes them where it was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    parser.add_argument("--out", type=pathlib.Path, help="write the rows as JSON")
    options = parser.parse_args()
    jf.use_cores(CORES)
    result = {"machine": machine(), "clip and sum": [], "noise": []}
    for clients, whole in SIZES:
        parameters = whole // 10 if options.quick else whole
        rows = clip_and_sum(
            clients, parameters, 3 if options.quick else options.repeats
        )
        result["clip and sum"] += rows
        for row in rows:
            print(
                f"{clients:4} x {parameters:10,} {row['what']:28} {row['ms']:9.1f} ms "
                f"{row['GB of updates a second']:6.1f} GB/s "
                f"{row['share of the plain sum']:6.1%}",
                flush=True,
            )
        found = noise_rows(parameters, 3)
        result["noise"] += found
        for row in found:
            print(
                f"noise of {parameters:,} parameters on {row['devices']} devices: "
                f"{row['ms']:.1f} ms, {row['ns a parameter']:.1f} ns each",
                flush=True,
            )
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
