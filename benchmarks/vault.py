"""The vault: what a client needs, and how fast it is beside JAX on the same core.

Five families of models, one local pass each. A bare environment with NumPy alone runs
the vault's one file; JAX runs the same batches as compiled steps, in a process of its
own. Both have one core and one thread; runs are interleaved, medians reported.

    python benchmarks/vault.py [--repeats 5] [--bare PYTHON] [--gates] [--flower]

`--gates` checks what must hold on any machine, writes nothing, and is what CI runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf
from jaxfed import deploy, models
from jaxfed.vault._build import build
from jaxfed.vault._plan import Plan

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "vault.json"
BATCH, STEPS = 20, 5
LISTED = ("logistic",)  # measured without NumPy too
WITHOUT = " without NumPy"
GATES = {
    "import_seconds": 0.3,
    "cold_seconds": 1.2,
    "tabular_mb": 60.0,
    "cnn_mb": 110.0,
    "plan_bytes": 10_000,
    "steady_ratio_cnn": 2.0,
}


def families():
    """Returns model, examples and learning rate by name."""
    draw = np.random.default_rng(0)
    count = BATCH * STEPS
    digits = draw.normal(size=(count, 28, 28, 1)).astype(np.float32)
    table = draw.normal(size=(count, 30)).astype(np.float32)
    labels = draw.integers(0, 10, count).astype(np.int32)
    text = draw.integers(0, 90, (count, 33)).astype(np.int32)
    sequences = {"x": text[:, :32], "y": text[:, 1:]}
    stock = {"convolution": jax.lax.conv_general_dilated, "pool": nn.max_pool}
    cells = {"recurrent": lambda features: nn.RNN(nn.OptimizedLSTMCell(features))}
    return {
        "logistic": (models.LogisticRegression(10), {"x": table, "y": labels}),
        "perceptron": (models.MLP(10), {"x": digits, "y": labels}),
        "cnn": (models.CNN(62, **stock), {"x": digits, "y": labels}),
        "lstm": (models.CharacterRNN(**cells), sequences),
        "transformer": (models.CharacterTransformer(), sequences),
    }


def algorithm_of(model):
    """Returns one pass of SGD on a classification loss."""

    def loss(params, batch, key):
        del key
        logits = model.apply({"params": params}, batch["x"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return losses.mean(), {}

    local = jf.clients.sgd(loss, optax.sgd(0.05), epochs=1, batch_size=BATCH)
    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=8),
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=1.0),
    )
    return jf.algorithms.fedavg(local, privacy, server_optimizer=optax.sgd(1.0))


def prepare(folder):
    """Writes plans, models and data; returns the sizes of the plans."""
    sizes = {}
    for name, (model, data) in families().items():
        x = jnp.asarray(data["x"][:1])
        params = model.init(jax.random.key(0), x)["params"]
        params = jax.tree.map(jnp.asarray, params)
        algorithm = algorithm_of(model)
        plan = deploy.export(algorithm, data, params)
        sizes[name] = {
            "plan_bytes": len(plan),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "mflop_a_step": Plan(plan).step.cost.flops / 1e6,
        }
        (folder / f"{name}.plan").write_bytes(plan)
        shared = jax.tree.leaves(algorithm.broadcast(algorithm.init(params)))
        arrays = {f"{i:05d}": np.asarray(leaf) for i, leaf in enumerate(shared)}
        for what, found in (("model", arrays), ("data", data)):
            np.savez(folder / f"{name}-{what}.npz", **found)
            if name in LISTED:
                plain = {n: [a.dtype.name, a.tolist()] for n, a in found.items()}
                (folder / f"{name}-{what}.json").write_text(json.dumps(plain))
    build(folder / "vault.pyz")
    return sizes


def in_jax(name, folder, repeats):
    """Times the same pass as compiled steps; for a process of its own."""
    import time

    from jaxfed import keys
    from jaxfed.vault import _training

    model, data = families()[name]
    algorithm = algorithm_of(model)
    local = algorithm.local
    x = jnp.asarray(data["x"][:1])
    params = model.init(jax.random.key(0), x)["params"]
    shared = algorithm.broadcast(algorithm.init(params))
    kept = local.init_client(params)
    arrays = {n: jnp.asarray(a) for n, a in data.items()}
    root = jax.random.wrap_key_data(jnp.array([1, 2], jnp.uint32))

    @jax.jit
    def step(carry, arrays, chosen, is_real, number):
        rows = {n: a[chosen] for n, a in arrays.items()}
        batch = jf.typing.Batch(rows, is_real, jnp.int32(BATCH * STEPS))
        return local.step(carry, batch, key=keys.for_leaf(root, number))[0]

    finish = jax.jit(local.finish)

    def work():
        carry = local.init(shared, kept)
        order = _training.batches(BATCH * STEPS, local.batching, 5)
        for number, (chosen, is_real) in enumerate(order):
            carry = step(carry, arrays, chosen, is_real, np.int32(number))
        return jax.block_until_ready(finish(shared, carry))

    result, times = work(), []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    update = [float(jnp.abs(a).sum()) for a in jax.tree.leaves(result.update)]
    print(json.dumps({"steady_seconds": statistics.median(times), "update": update}))


def bare_python(folder):
    """Makes an environment with NumPy alone; returns its Python."""
    venv.create(folder / "bare", with_pip=True)
    python = str(folder / "bare" / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", "numpy"], check=True)
    return python


def distributions(python):
    """Returns what is installed, but for what installs."""
    command = [python, "-m", "pip", "--disable-pip-version-check", "list"]
    done = subprocess.run(
        [*command, "--format", "json"], check=True, capture_output=True, text=True
    )
    names = {one["name"].lower() for one in json.loads(done.stdout)}
    return sorted(names - {"pip", "setuptools", "wheel"})


def flower_client(folder):
    """Measures what a client of Flower needs: installed, on disk, and imported."""
    venv.create(folder / "flower", with_pip=True)
    python = str(folder / "flower" / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    before = megabytes(folder / "flower")
    subprocess.run([*pip, "install", "-q", "flwr"], check=True)
    code = (
        "import json, time; start = time.perf_counter()\n"
        "import importlib.metadata, numpy, flwr.clientapp, flwr.app\n"
        "lines = dict(l.split(':', 1) for l in open('/proc/self/status'))\n"
        "print(json.dumps({'version': importlib.metadata.version('flwr'),"
        "'import_seconds': time.perf_counter() - start,"
        "'peak_mb': int(lines['VmHWM'].split()[0]) / 1024}))"
    )
    return {
        "distributions": len(distributions(python)),
        "installed_mb": megabytes(folder / "flower") - before,
        **pinned([python, "-I", "-c", code], core=max(os.sched_getaffinity(0))),
    }


def megabytes(folder):
    """Returns how much files take on disk, without what is compiled at first use."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc")
    return sum(p.stat().st_size for p in files if not p.is_symlink()) / 1e6


def pinned(command, *, core):
    """Runs a command on one core with one thread; returns what it printed."""
    threads = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    environment = os.environ | dict.fromkeys(threads, "1") | {"XLA_FLAGS": flags}
    done = subprocess.run(
        ["taskset", "--cpu-list", str(core), *command],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder, python, repeats, inner):
    """Returns medians over interleaved runs, by family."""
    core = max(os.sched_getaffinity(0))
    names = [*families(), *(name + WITHOUT for name in LISTED)]
    runs = {name: {"vault": [], "jax": []} for name in names}
    for _ in range(repeats):
        for full in runs:
            name = full.removesuffix(WITHOUT)
            kind, flags = ("npz", ["-I"]) if name == full else ("json", ["-I", "-S"])
            files = [folder / f"{name}.plan"]
            files += [folder / f"{name}-{what}.{kind}" for what in ("model", "data")]
            child = [python, *flags, HERE / "_vault_child.py", folder / "vault.pyz"]
            runs[full]["vault"].append(
                pinned([str(c) for c in (*child, *files, inner)], core=core)
            )
            command = [sys.executable, __file__, "--jax", name, "--inner", str(inner)]
            runs[full]["jax"].append(pinned(command, core=core))
    return {name: summary(found) for name, found in runs.items()}


def summary(found):
    """Returns the medians of one family."""
    vault, other = found["vault"], found["jax"]
    result = {
        key: statistics.median(run[key] for run in vault)
        for key in (
            *("import_seconds", "load_seconds", "check_seconds", "cold_seconds"),
            *("steady_seconds", "peak_mb"),
        )
    }
    result["jax_steady_seconds"] = statistics.median(r["steady_seconds"] for r in other)
    ratios = [
        a["steady_seconds"] / b["steady_seconds"]
        for a, b in zip(vault, other, strict=True)
    ]
    result["steady_ratio"] = statistics.median(ratios)
    np.testing.assert_allclose(vault[0]["update"], other[0]["update"], rtol=2e-3)
    assert not any(run["has_jax"] for run in vault)
    return result


def check_gates(folder, python, sizes, installed, given):
    """Fails where a gate does not hold in any of three tries: machines are noisy."""
    assert installed == ["numpy"], installed
    for is_last in (False, False, True):
        found = measure(folder, python, given.repeats, given.inner)
        report(found, sizes)
        broken = list(broken_gates(found))
        if not broken:
            return
        assert not is_last, broken


def broken_gates(found):
    """Yields what is above its gate."""
    for name, one in found.items():
        for key in ("import_seconds", "cold_seconds", "plan_bytes"):
            if one[key] > GATES[key]:
                yield name, key, one[key]
    for name, key, gate in (
        ("logistic", "peak_mb", "tabular_mb"),
        ("logistic" + WITHOUT, "peak_mb", "tabular_mb"),
        ("cnn", "peak_mb", "cnn_mb"),
        ("cnn", "steady_ratio", "steady_ratio_cnn"),
    ):
        if found[name][key] > GATES[gate]:
            yield name, key, found[name][key]


def report(found, sizes):
    """Prints a line a family."""
    for name, one in found.items():
        one.update(sizes[name.removesuffix(WITHOUT)])
        print(
            f"{name:12} {one['parameters']:>9,} parameters, plan {one['plan_bytes']:,} "
            f"bytes; import {one['import_seconds']:.2f} s, first round "
            f"{one['cold_seconds']:.2f} s, {one['peak_mb']:.0f} MB; a pass takes "
            f"{one['steady_ratio']:.2f} of JAX's {one['jax_steady_seconds']:.4f} s"
        )


def main():
    """Prepares, measures, and writes or checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--inner", type=int, default=5)
    parser.add_argument("--bare", help="a Python with NumPy alone; else one is made")
    parser.add_argument("--gates", action="store_true")
    parser.add_argument("--flower", action="store_true", help="install flwr beside it")
    parser.add_argument("--jax", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.jax:
        in_jax(given.jax, None, given.inner)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = prepare(folder)
        python = given.bare or bare_python(folder)
        installed = distributions(python)
        if given.gates:
            check_gates(folder, python, sizes, installed, given)
            return
        found = measure(folder, python, given.repeats, given.inner)
        beside = {"archive_mb": (folder / "vault.pyz").stat().st_size / 1e6}
        beside["numpy_mb"] = megabytes(folder / "bare") if not given.bare else None
        beside["flower"] = flower_client(folder) if given.flower else None
    report(found, sizes)
    document = {
        "installed": beside,
        "what": "one local pass of 100 examples in batches of 20, one core",
        "distributions": installed,
        "machine": jf._program.machine(),
        "gates": GATES,
        "families": found,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
