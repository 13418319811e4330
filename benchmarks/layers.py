"""Stock layers of flax beside ours: a training step alone, and inside a loop.

What you should see on one core: the stock convolutional network takes tens of times
longer for each step inside a loop than when the host starts every step, and ours the
same in both, no more than the stock network outside. Pooling and dropout are several
times cheaper than the stock ones, and so are the recurrent networks.

A step is what `jaxfed.clients.sgd` does for one client: the gradient of a loss taken
row by row under `vmap`, and plain gradient descent, under a `vmap` over one client.
"Host" calls one compiled step many times; "loop" is one call with a `fori_loop`. All
variants run in turn, many times over, and a figure is the median of milliseconds a
step. The stock network inside the loop takes fewer steps a run, because it is slow.

    python benchmarks/layers.py --out benchmarks/results/layers.json
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import statistics
import time

THREADS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def arguments():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="runs of each variant")
    parser.add_argument("--steps", type=int, default=10, help="steps a run")
    parser.add_argument("--slow-steps", type=int, default=2, help="of what is slow")
    parser.add_argument("--out", type=pathlib.Path, help="write the report as JSON")
    return parser.parse_args()


# --- whole networks -----------------------------------------------------------------


def networks():
    """Returns name -> (module, options of its call, one row of inputs, batch size)."""
    import flax.linen as nn
    import jax
    import numpy as np

    from jaxfed import models

    stock = {
        "convolution": jax.lax.conv_general_dilated,
        "pool": nn.max_pool,
        "dropout": nn.Dropout,
    }
    recurrent = {
        "LSTM": lambda features: nn.RNN(nn.OptimizedLSTMCell(features)),
        "GRU": lambda features: nn.RNN(nn.GRUCell(features)),
    }
    image, text = np.zeros((28, 28, 1), np.float32), np.zeros(80, np.int32)
    training = {"deterministic": False}
    found = {
        "EMNIST CNN, stock": (models.CNN(62, **stock), training, image, 20),
        "EMNIST CNN, ours": (models.CNN(62), training, image, 20),
    }
    for name, cell in recurrent.items():
        ours = models.CharacterRNN(recurrent=getattr(models, name))
        plain = models.CharacterRNN(recurrent=cell)
        found[f"character {name}, stock"] = (plain, {}, text, 4)
        found[f"character {name}, ours"] = (ours, {}, text, 4)
    return found


def network_runs(module, options, row, batch_size, steps):
    """Returns a run of many host-started steps, and one of a loop of steps."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import jaxfed as jf

    loss = jf.clients.linen_loss(
        module, optax.softmax_cross_entropy_with_integer_labels, **options
    )
    local = jf.clients.sgd(loss, optax.sgd(0.01), batch_size=batch_size, epochs=1)
    generator = np.random.default_rng(0)
    shape = (steps, 1, batch_size, *row.shape)
    if row.dtype == np.int32:
        x = y = jnp.asarray(generator.integers(0, 90, shape), jnp.int32)
    else:
        x = jnp.asarray(generator.normal(size=shape), jnp.float32)
        y = jnp.asarray(generator.integers(0, 62, shape[:3]), jnp.int32)
    is_real = jnp.ones((1, batch_size), bool)
    keys = jax.random.split(jax.random.key(0), (steps, 1))
    params = jax.jit(module.init)(jax.random.key(1), x[0, 0])["params"]
    shared = jf.typing.Shared(params=params)
    start = jax.vmap(lambda _: local.init(shared, ()))(jnp.arange(1))
    client_step = jax.vmap(local.step)

    def step(carry, x, y, key):
        count = jnp.full(1, batch_size, jnp.int32)
        batch = jf.typing.Batch({"x": x, "y": y}, is_real, count)
        return client_step(carry, batch, key=key)[0]

    @jax.jit
    def loop(carry, x, y, keys):
        return jax.lax.fori_loop(
            0, steps, lambda i, carry: step(carry, x[i], y[i], keys[i]), carry
        )

    alone = jax.jit(step, donate_argnums=0)
    pieces = [(x[i], y[i], keys[i]) for i in range(steps)]

    def host():
        carry = jax.tree.map(jnp.copy, start)
        for piece in pieces:
            carry = alone(carry, *piece)
        return carry

    return host, functools.partial(loop, start, x, y, keys)


# --- single layers: the gradient with respect to the input, in a loop -----------------


def layers():
    """Returns name -> (layer of an array and a key, shape of the array)."""
    import flax.linen as nn

    from jaxfed import models

    images, units = (20, 24, 24, 64), (20, 9216)

    def pooling(pool):
        return lambda x, key: pool(x, (2, 2), strides=(2, 2))

    def dropping(module):
        layer = module(0.25, deterministic=False)
        return lambda x, key: layer.apply({}, x, rngs={"dropout": key})

    return {
        "max pool, stock": (pooling(nn.max_pool), images),
        "max pool, ours": (pooling(models.max_pool), images),
        "dropout, stock": (dropping(nn.Dropout), units),
        "dropout, ours": (dropping(models.Dropout), units),
    }


def layer_runs(layer, shape, steps):
    """Returns a run of host-started gradients of a layer, and one of a loop."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    keys = jax.random.split(jax.random.key(0), steps)

    def step(x, key):
        outputs, back = jax.vjp(lambda a: layer(a, key), x)
        return x + 0.01 * back(outputs)[0]

    @jax.jit
    def loop(x, keys):
        return jax.lax.fori_loop(0, steps, lambda i, x: step(x, keys[i]), x)

    alone = jax.jit(step, donate_argnums=0)
    pieces = list(keys)

    def host():
        current = jnp.copy(x)
        for key in pieces:
            current = alone(current, key)
        return current

    return host, functools.partial(loop, x, keys)


# --- measuring ----------------------------------------------------------------------


def runs(steps, slow_steps):
    """Returns name -> (run, its number of steps)."""
    found = {}
    for name, (module, options, row, batch_size) in networks().items():
        host, loop = network_runs(module, options, row, batch_size, steps)
        found[f"{name}, host"], found[f"{name}, loop"] = (host, steps), (loop, steps)
        if name == "EMNIST CNN, stock":
            _, loop = network_runs(module, options, row, batch_size, slow_steps)
            found[f"{name}, loop"] = (loop, slow_steps)
    for name, (layer, shape) in layers().items():
        host, loop = layer_runs(layer, shape, steps)
        found[f"{name}, host"], found[f"{name}, loop"] = (host, steps), (loop, steps)
    return found


def medians(found, repeats):
    """Returns name -> median milliseconds a step, over interleaved runs."""
    import jax

    for run, _ in found.values():
        jax.block_until_ready(run())
    times = {name: [] for name in found}
    for _ in range(repeats):
        for name, (run, steps) in found.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append((time.perf_counter() - start) * 1e3 / steps)
    return {name: round(statistics.median(each), 3) for name, each in times.items()}


def main():
    """Measures, prints and writes the report."""
    given = arguments()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {THREADS}"
    import flax
    import jax

    load = os.getloadavg()[0]
    found = medians(runs(given.steps, given.slow_steps), given.repeats)
    for name, milliseconds in found.items():
        print(f"{name:32} {milliseconds:10.3f} ms a step")
    report = {
        "milliseconds_a_step": found,
        "repeats": given.repeats,
        "steps": given.steps,
        "slow_steps": given.slow_steps,
        "threads": 1,
        "load_at_start": round(load, 2),
        "versions": {"jax": jax.__version__, "flax": flax.__version__},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    if given.out:
        given.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
