"""Whether the time of a draw tells its noise: Welch's t between small and large noise.

Reparaz, Balasch and Verbauwhede 2017, "Dude, is my code constant time?" (dudect): draws
of two classes of keys, whose noise is small and large, are timed in random order, and
the two samples of times are compared, whole and without their slowest parts (the
percentiles to which times are cropped). A |t| above 4.5 tells the classes apart.

What you should see: the sampler's largest |t| below 4.5 in every case, and that of the
control far above it. The control walks 50 steps more for each standard deviation that
it draws, some tenths of a microsecond: what is not seen beside it is smaller. A busy
machine hides small differences; the report states its load. Blocks of 4096 draws differ
little in their mean magnitude, and are timed as a whole.

    python benchmarks/noise_timing.py --out benchmarks/results/noise_timing.json
"""

import argparse
import gc
import json
import math
import os
import pathlib
import platform
import time

PERCENTILES = (100, 99, 95, 90, 75, 50)
LEVEL = 4.5
SCALE = 2.0**20
POOL = 2048  # keys that classes are chosen from: the lowest and the highest quarter


def arguments():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=100_000, help="timed, a case")
    parser.add_argument("--out", type=pathlib.Path, help="write the report as JSON")
    return parser.parse_args()


def cases():
    """Returns name -> (draw, root key): compiled functions of a key."""
    import jax
    import jax.numpy as jnp

    from jaxfed import keys
    from jaxfed.noise import _discrete

    roots = {
        "simulated": keys.simulated(0),
        "secure": keys.secure(bytes(32), context=b"benchmark"),
    }
    sampler = _discrete.gaussian(SCALE)
    found = {}
    for kind, root in roots.items():
        for size in (1, 4096):

            def draw(key, size=size):
                return sampler.draw((size,), key=key)

            found[f"{kind}, {size} draws"] = (jax.jit(draw), root)

    def walking(key):
        x = jax.random.normal(key, (1,))
        steps = (jnp.abs(x[0]) * 50).astype(jnp.int32)
        walked = jax.lax.fori_loop(0, steps, lambda i, a: a * 0.999 + i, 0.0)
        return ((x + 0 * walked) * SCALE).astype(jnp.int32)

    found["control"] = (jax.jit(walking), roots["simulated"])
    return found


def classes(draw, root):
    """Returns the keys of the smallest and of the largest noise in a pool."""
    import jax
    import numpy as np

    from jaxfed import keys

    pool = [keys.for_leaf(root, index) for index in range(POOL)]
    jax.block_until_ready(pool)
    sizes = np.array([np.abs(np.asarray(draw(key), np.float64)).mean() for key in pool])
    order = np.argsort(sizes)
    quarter = POOL // 4
    chosen = order[:quarter], order[-quarter:]
    means = [float(sizes[part].mean() / SCALE) for part in chosen]
    return [[pool[index] for index in part] for part in chosen], means


def timed(draw, small, large, draws):
    """Returns the class and the nanoseconds of every draw, in random order."""
    import numpy as np

    generator = np.random.default_rng()
    which = generator.integers(2, size=draws)
    position = generator.integers(len(small), size=draws)
    nanoseconds = np.empty(draws)
    both, clock = (small, large), time.perf_counter_ns
    gc.disable()
    for index in range(draws):
        key = both[which[index]][position[index]]
        start = clock()
        draw(key).block_until_ready()
        nanoseconds[index] = clock() - start
    gc.enable()
    return which, nanoseconds


def welch(one, other):
    """Returns Welch's t of two samples."""
    error = math.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
    return float((one.mean() - other.mean()) / error)


def measured(draw, root, draws):
    """Returns the row of one case."""
    import numpy as np

    (small, large), means = classes(draw, root)
    load = os.getloadavg()[0]
    timed(draw, small, large, draws // 20)  # warm
    which, nanoseconds = timed(draw, small, large, draws)
    values = {}
    for percentile in PERCENTILES:
        kept = nanoseconds <= np.percentile(nanoseconds, percentile)
        times = [nanoseconds[kept & (which == side)] for side in (0, 1)]
        values[str(percentile)] = round(welch(*times), 2)
    most = max(abs(value) for value in values.values())
    medians = [float(np.median(nanoseconds[which == side])) for side in (0, 1)]
    return {
        "mean_magnitude_in_scales": [round(mean, 4) for mean in means],
        "median_microseconds": [round(value / 1e3, 3) for value in medians],
        "t_at_percentile": values,
        "largest_t": most,
        "tells_apart": most > LEVEL,
        "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)],
    }


def main():
    """Measures every case, prints and writes the report."""
    import jax

    options = arguments()
    rows = {}
    for name, (draw, root) in cases().items():
        rows[name] = measured(draw, root, options.draws)
        print(f"{name:24} {json.dumps(rows[name])}", flush=True)
    report = {
        "what": "Welch's t of draw times, small against large noise; positive: small "
        "noise takes longer",
        "draws": options.draws,
        "scale": SCALE,
        "level": LEVEL,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "jax": jax.__version__,
        "cases": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
