"""One vault in a bare environment: import, first round, later rounds, memory.

Run as `python -I _vault_child.py VAULT.PYZ PLAN MODEL DATA REPEATS`; prints JSON. With
`-S` it finds no NumPy, and model and data are JSON.
"""

import json
import resource
import statistics
import sys
import time

started = time.perf_counter()
archive, plan_path, model_path, data_path, repeats = sys.argv[1:]
sys.path.insert(0, archive)
from jaxfed.vault import __main__ as command_line  # noqa: E402
from jaxfed.vault import _lattice, _training  # noqa: E402
from jaxfed.vault._numpy import HAS_NUMPY, np  # noqa: E402
from jaxfed.vault._plan import Plan  # noqa: E402

imported = time.perf_counter() - started
assert command_line.main

with open(plan_path, "rb") as file:
    plan = Plan(file.read())
loaded = time.perf_counter() - started
plan.check_itself()
checked = time.perf_counter() - started


def arrays(path):
    """Returns the arrays of a file by name."""
    if HAS_NUMPY:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    with open(path) as file:
        found = json.load(file)
    return {name: np.array(values, kind) for name, (kind, values) in found.items()}


examples = arrays(data_path)
shared = [array for _, array in sorted(arrays(model_path).items())]
key = np.array([1, 2], np.uint32)
size = sum(one.type.size for one in plan.update)
group = _lattice.Group(tuple(range(len(plan.update))), 1.0, 1 << 20, 1 << 20, False)


def one_round():
    """Trains, clips, and rounds onto the grid."""
    trained = _training.train(plan, examples, shared, plan.start, key=key, order=5)
    return trained, _lattice.encode(trained.update, [group], key)


def work():
    """Trains alone: what the compiled program does."""
    return _training.train(plan, examples, shared, plan.start, key=key, order=5)


trained, _ = one_round()
cold = time.perf_counter() - started
times = []
for _ in range(int(repeats)):
    start = time.perf_counter()
    work()
    times.append(time.perf_counter() - start)
# the operating system counts pages; some kernels keep a parent's peak over exec
with open("/proc/self/status") as file:
    lines = dict(line.split(":", 1) for line in file)
print(
    json.dumps(
        {
            "import_seconds": imported,
            "load_seconds": loaded - imported,
            "check_seconds": checked - loaded,
            "cold_seconds": cold,
            "steady_seconds": statistics.median(times) if times else None,
            "peak_mb": int(lines["VmHWM"].split()[0]) / 1024,
            "rusage_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "has_numpy": HAS_NUMPY,
            "has_jax": any(name.startswith("jax.") for name in sys.modules),
            "update": [float(np.abs(a).sum()) for a in trained.update],
        }
    )
)
