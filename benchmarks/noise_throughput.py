"""How fast integer noise is drawn, beside plain writes and `jax.random.normal`.

What you should see, on two CPU devices with nothing else running: well over 30 million
draws a second at scale 2**20 from either kind of key; simulated noise about as fast as
`jax.random.normal`, and secure noise two to three times its time.

The cases run in turn, many times over, and the median of each is reported, with its
ratio to writing zeros (what memory allows) and to float32 normals of the same size.

    python benchmarks/noise_throughput.py --size 1000000 --devices 2 --out noise.json
"""

import argparse
import json
import os
import pathlib
import statistics
import time

SCALES = (10.0, 1000.0, 2.0**20, 2.0**24)


def arguments():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1_000_000, help="draws a call")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=pathlib.Path, help="write the rows as JSON")
    return parser.parse_args()


def cases(devices):
    """Returns name -> function of a key, giving `size` values over the devices."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    from jaxfed import keys
    from jaxfed.noise import _discrete

    mesh = jax.make_mesh((devices,), ("shard",))
    secret = keys.new_secret()
    roots = {
        "simulated": keys.simulated(0),
        "secure": keys.secure(secret, context=b"benchmark"),
    }

    def sharded(draw, size):
        def shard(key):
            return draw(key, size, jax.lax.axis_index("shard"))

        return jax.jit(
            jax.shard_map(
                shard,
                mesh=mesh,
                in_specs=PartitionSpec(),
                out_specs=PartitionSpec("shard"),
                check_vma=False,
            )
        )

    def zeros(key, size, part):
        del key
        return jnp.zeros(size // devices, jnp.int32) + part

    def normal(key, size, part):
        return jax.random.normal(keys.for_leaf(key, part), (size // devices,))

    found = {
        "write zeros": (zeros, "simulated"),
        "jax.random.normal": (normal, "simulated"),
    }
    for scale in SCALES:
        sampler = _discrete.gaussian(scale)
        for kind in roots:

            def draw(key, size, part, sampler=sampler):
                return sampler.draw_part(size, part=part, parts=devices, key=key)

            found[f"gaussian({scale:g}), {kind}"] = (draw, kind)
    return {
        name: (lambda size, draw=draw: sharded(draw, size), roots[kind])
        for name, (draw, kind) in found.items()
    }


def measure(size, devices, repeats):
    """Returns name -> median wall and CPU seconds a call, all cases in turn."""
    import jax

    programs = {
        name: (make(size), root) for name, (make, root) in cases(devices).items()
    }
    for program, root in programs.values():
        jax.block_until_ready(program(root))  # compile
    seconds = {name: [] for name in programs}
    for _ in range(repeats):
        for name, (program, root) in programs.items():
            wall, processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(program(root))
            seconds[name].append(
                (time.perf_counter() - wall, time.process_time() - processor)
            )
    return {
        name: tuple(map(statistics.median, zip(*times, strict=True)))
        for name, times in seconds.items()
    }


def main():
    """Prints the table and writes it where it was asked for."""
    options = arguments()
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + f" --xla_force_host_platform_device_count={options.devices}"
    )
    medians = measure(options.size, options.devices, options.repeats)
    zeros, normal = medians["write zeros"][0], medians["jax.random.normal"][0]
    rows = [
        {
            "case": name,
            "size": options.size,
            "devices": options.devices,
            "nanoseconds a draw": 1e9 * seconds / options.size,
            "CPU nanoseconds a draw": 1e9 * processor / options.size,
            "million draws a second": options.size / seconds / 1e6,
            "times write zeros": seconds / zeros,
            "times jax.random.normal": seconds / normal,
        }
        for name, (seconds, processor) in medians.items()
    ]
    print(f"{options.size:,} draws on {options.devices} device(s)")
    print(f"{'':32}{'ns':>8}{'CPU ns':>8}{'M/s':>8}{'/ zeros':>9}{'/ normal':>9}")
    for row in rows:
        name, _, _, *numbers = row.values()
        print(f"{name:32}{numbers[0]:8.1f}{numbers[1]:8.1f}{numbers[2]:8.0f}", end="")
        print(f"{numbers[3]:9.1f}{numbers[4]:9.2f}")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
