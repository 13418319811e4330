"""What `scale.py` measures, each in a process of its own: a number or a few, as JSON.

python benchmarks/_scale_parts.py clients 1000 5
"""

import itertools
import json
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from speed import workloads

import jaxfed as jf
from jaxfed.engine import _devices
from jaxfed.engine._planner import Planner
from jaxfed.engine._run import Run, host_arrays
from jaxfed.engine._simulate import _example_rows
from jaxfed.typing import Batching

CORES = 2


def network(params, x):
    """A multilayer perceptron."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def loss_fn(params, batch, key):
    """The mean cross-entropy."""
    del key
    outputs = network(params, batch["x"])
    return optax.softmax_cross_entropy_with_integer_labels(
        outputs, batch["y"]
    ).mean(), {}


def layers(sizes):
    """Weights of a multilayer perceptron."""
    generator = np.random.default_rng(0)
    return [
        {
            "kernel": jnp.asarray(
                generator.normal(0, (2 / m) ** 0.5, (m, n)), jnp.float32
            ),
            "bias": jnp.zeros(n),
        }
        for m, n in itertools.pairwise(sizes)
    ]


def central(sampling, multiplier=1.0):
    """Central privacy over any sampler."""
    return jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )


def averaging(sampling, *, batch_size, multiplier=1.0):
    """Private federated averaging, one pass over each client's examples."""
    local = jf.clients.sgd(loss_fn, optax.sgd(0.1), batch_size=batch_size, epochs=1)
    return jf.algorithms.fedavg(local, central(sampling, multiplier))


def made(name):
    """Returns the clients of a workload of the engine's benchmark, and the workload."""
    workload = workloads.WORKLOADS[name]
    data = workloads.make_data(workload)
    return workload, jf.data.FederatedData(
        arrays={"x": data.x, "y": data.y.astype(np.int32)},
        offsets=data.offsets,
        client_ids=np.arange(len(data.sizes)),
    )


def started(algorithm, data, params, rounds):
    """Returns a run and the strategy that `simulate` would choose."""
    chosen = jf.engine.choose_strategy(algorithm, data, params=params)
    root = jf.keys.simulated(0)
    run = Run(algorithm, data, host_arrays(data), params, root, rounds, chosen)
    return run, chosen


def seconds_a_round(run, rounds):
    """Returns wall seconds of each round after the first one."""
    found = []
    for index in range(rounds + 1):
        start = time.perf_counter()
        run.one_round(index)
        jax.block_until_ready(run.state)
        found.append(time.perf_counter() - start)
    return found[1:]


def clients(cohort, rounds):
    """Clients per second of the small model, whole rounds of `Run.one_round`."""
    workload, data = made("small-10000")
    sampling = jf.sampling.FixedSize(population=data.num_clients, size=cohort)
    algorithm = averaging(sampling, batch_size=workload.batch_size)
    run, chosen = started(algorithm, data, layers(workload.layers), rounds + 2)
    seconds = seconds_a_round(run, rounds)
    return {
        "clients": cohort,
        "ms a round": 1e3 * statistics.median(seconds),
        "clients a second": cohort / statistics.median(seconds),
        "fastest": cohort / min(seconds),
        "examples a client": float(data.client_sizes.mean()),
        "rounds": rounds,
        "strategy": chosen.explain(),
    }


def memory(cohort, rounds):
    """Peak resident memory of rounds of a cohort out of a million tiny clients."""
    population, generator = 1_000_000, np.random.default_rng(0)
    rows = 2 * population
    data = jf.data.FederatedData(
        arrays={
            "x": generator.standard_normal((rows, 8), np.float32),
            "y": generator.integers(0, 2, rows, dtype=np.int32),
        },
        offsets=np.arange(0, rows + 1, 2),
        client_ids=np.arange(population),
    )
    sampling = jf.sampling.FixedSize(population=population, size=cohort)
    if cohort == population:
        sampling = jf.sampling.Full(population=population)
    algorithm = averaging(sampling, batch_size=2)
    before = status("VmHWM")
    run, _ = started(algorithm, data, layers((8, 2)), rounds + 2)
    seconds = seconds_a_round(run, rounds)
    return {
        "clients": cohort,
        "peak MB": status("VmHWM"),
        "peak MB before the run": before,
        "ms a round": 1e3 * statistics.median(seconds),
    }


def status(name):
    """Megabytes by a line of this process's status."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return float(dict(a.split(":", 1) for a in lines)[name].split()[0]) / 1024


def dispatch(rounds, _):
    """A round to which nobody comes: the compiled call alone, and all of it."""
    workload, data = made("small-1000")
    found = {}
    for name, multiplier in (("without noise", 0.0), ("with noise", 1.0)):
        sampling = jf.sampling.Poisson(
            population=data.num_clients, rate=1e-9, cap=workload.cohort
        )
        algorithm = averaging(
            sampling, batch_size=workload.batch_size, multiplier=multiplier
        )
        run, _ = started(algorithm, data, layers(workload.layers), 10**6)
        whole = [1e3 * s for s in seconds_a_round(run, rounds)]
        number, blocks, _ = run._planned(rounds + 1)
        (block,) = list(blocks)
        execute, root = run._executor.run, run._root_everywhere
        state, call = run.state, []
        for _ in range(rounds):
            start = time.perf_counter()
            state, _ = execute(state, [block], number, root)
            jax.block_until_ready(state)
            call.append(1e3 * (time.perf_counter() - start))
        found[f"compiled call, ms, {name}"] = statistics.median(call)
        found[f"least of these, ms, {name}"] = min(call)
        found[f"Run.one_round, ms, {name}"] = statistics.median(whole)
    return found | {"devices": jax.device_count(), "rounds": rounds}


def first(_, __):
    """The first round of the multilayer perceptron, and where its seconds go."""
    spent, calls = {}, {}

    def listen(event, seconds, **_):
        name = event.rpartition("/")[2]
        spent[name] = spent.get(name, 0.0) + seconds
        calls[name] = calls.get(name, 0) + 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    workload, data = made("mlp-100")
    sampling = jf.sampling.FixedSize(population=data.num_clients, size=workload.cohort)
    algorithm = averaging(sampling, batch_size=workload.batch_size)
    params = layers(workload.layers)
    jax.block_until_ready(params)
    spent.clear()
    calls.clear()
    marks = [clocks()]
    algorithm.local.validate(params, _example_rows(host_arrays(data)))
    algorithm.aggregator.validate(
        params=params, rounds=2, local=algorithm.local, client_sizes=data.client_sizes
    )
    marks.append(clocks())
    run, _ = started(algorithm, data, params, 2)
    marks.append(clocks())
    for index in range(2):
        run.one_round(index)
        jax.block_until_ready(run.state)
        marks.append(clocks())
    seconds, processor = np.diff(marks, axis=0).T.tolist()
    return {
        "CPU, all up to the first model": sum(processor[:3]),
        "checks at the door": seconds[0],
        "strategy and set-up": seconds[1],
        "first round": seconds[2],
        "second round": seconds[3],
        "all up to the first model": sum(seconds[:3]),
        "of which": {n: [s, calls[n]] for n, s in spent.items() if s > 0.005},
    }


def clocks():
    """Wall and processor seconds."""
    return time.perf_counter(), time.process_time()


def planner(repeats, _):
    """Microseconds a client, and waste, on the benchmark's log-normal clients."""
    found = {}
    for name, lanes in (("cnn-10", 1), ("mlp-100", 1), ("small-10000", 8)):
        workload, data = made(name)
        batching = Batching(batch_size=workload.batch_size, epochs=1)
        width = min(workload.batch_size, int(data.client_sizes.max()))
        plans = Planner(
            data,
            batching,
            max_clients=workload.cohort,
            lanes=lanes,
            widths=(width, width // 2),
            devices=CORES,
        )
        seconds, waste = [], []
        for number in range(repeats):
            chosen = workloads.cohort(workload, number)
            key = jax.block_until_ready(jf.keys.simulated(number))
            start = time.perf_counter()
            for _ in plans.plan(chosen, key=key):
                pass
            seconds.append(time.perf_counter() - start)
            waste.append(plans.waste(chosen))
        found[name] = {
            "us a client": 1e6 * statistics.median(seconds) / workload.cohort,
            "examples a client": float(data.client_sizes.mean()),
            "scheduling waste": statistics.mean(w["scheduling"] for w in waste),
            "all waste": statistics.mean(w["padding"] for w in waste),
        }
    return found


def programs(rounds, _):
    """How many programs rounds of changing cohorts compile."""
    workload, data = made("small-1000")
    sampling = jf.sampling.Poisson(population=data.num_clients, rate=0.1)
    algorithm = averaging(sampling, batch_size=workload.batch_size)
    run, _ = started(algorithm, data, layers(workload.layers), rounds)
    compiled = []

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(seconds)

    after_first = 0
    jax.monitoring.register_event_duration_secs_listener(listen)
    for index in range(rounds):
        run.one_round(index)
        if index == 0:
            after_first = len(compiled)
    program = run._executor._programs["whole"]
    return {
        "rounds": rounds,
        "whole rounds compiled": program._cache_size(),
        "other compiles after the first round": len(compiled) - after_first,
    }


def sweep(rounds, settings):
    """Seconds of one run, and of that many learning rates side by side."""
    workload, data = made("small-1000")
    sampling = jf.sampling.FixedSize(population=data.num_clients, size=workload.cohort)
    params = layers(workload.layers)

    def build(rate):
        local = jf.clients.sgd(
            loss_fn, optax.sgd(rate), batch_size=workload.batch_size, epochs=1
        )
        return jf.algorithms.fedavg(local, central(sampling))

    def alone(count):
        options = {"params": params, "rounds": count, "seed": 0, "progress": False}
        jf.simulate(build(0.1), data, **options)

    def together(count):
        rates = [0.02 * (1 + index) for index in range(settings)]
        options = {"params": params, "rounds": count, "seeds": [0]}
        jf.sweep(build, data, settings={"rate": rates}, **options)

    found = {"rounds": rounds, "settings": settings}
    for name, run in (("one run", alone), ("sweep", together)):
        seconds = {}
        for count in (2, rounds // 5, rounds):  # the first one to warm up
            start = time.perf_counter()
            run(count)
            seconds[count] = time.perf_counter() - start
        found[f"{name}, s"] = seconds[rounds]
        more = seconds[rounds] - seconds[rounds // 5]
        found[f"{name}, ms a round"] = 1e3 * more / (rounds - rounds // 5)
    found["ratio"] = found["sweep, s"] / found["one run, s"]
    found["ratio of a round"] = (
        found["sweep, ms a round"] / found["one run, ms a round"]
    )
    return found


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    jf.use_cores(CORES)
    assert _devices.mesh_of().size == CORES
    print(json.dumps(globals()[name](*map(int, numbers))))
