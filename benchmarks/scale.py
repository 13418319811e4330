"""How the engine scales: clients a second, memory, empty rounds, first rounds, plans.

What is aimed at, on two quiet cores: 50,000 clients a second on the small model,
resident memory that grows by less than 150 MB from cohorts of a hundred to a million,
an empty round of a quarter of a millisecond, a first round of the multilayer
perceptron within 3 s (within 1 s where compiled programs are kept on disk), plans of
about a microsecond a client, one or two compiled programs, and
eight settings side by side within three times one run.

Every figure comes from a fresh process with two devices of one core each; a median of
several, with the least and the largest in the JSON file.

    python benchmarks/scale.py --out benchmarks/results/scale.json
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from engine import machine

PARTS = pathlib.Path(__file__).parent / "_scale_parts.py"
CACHE = "JAX_COMPILATION_CACHE_DIR"
KEEP_ALL = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
HOW = {
    "clients a second": "Run.one_round until the new model is there: planning, "
    "training 64-128-10 for one pass, clip, integer sum, noise; median round",
    "memory": "VmHWM of a process that runs rounds of a cohort out of a million "
    "clients of two rows; growth is against the smallest cohort",
    "empty round": "a cohort of nobody, 9,610 parameters, two devices",
    "first round": "784-200-200-62, 100 clients; process start and import not counted",
    "planner": "Planner.plan of whole cohorts; waste by Planner.waste",
    "programs": "Poisson cohorts of the small model; entries of the jit cache",
    "sweep": "small model, 1,000 clients; both with compiling, and rounds alone",
}


def part(name, *numbers, cache=None):
    """Runs one part in a process of its own and returns what it found."""
    environment = {n: v for n, v in os.environ.items() if n not in (CACHE, "XLA_FLAGS")}
    environment["JAX_PLATFORMS"] = "cpu"
    if cache:
        environment |= {CACHE: cache} | KEEP_ALL
    command = [sys.executable, str(PARTS), name, *map(str, numbers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def imported():
    """Seconds that the imports take, in a process of their own."""
    program = (
        "import time; a = time.perf_counter(); import jax, optax, jaxfed; "
        "print(time.perf_counter() - a)"
    )
    command = [sys.executable, "-c", program]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def spread(repeats, run):
    """Returns the median of every number of several runs, with least and largest."""
    found = [run() for _ in range(repeats)]
    names = [n for n, v in found[0].items() if isinstance(v, int | float)]
    medians = {n: statistics.median(one[n] for one in found) for n in names}
    ranges = {n: [min(o[n] for o in found), max(o[n] for o in found)] for n in names}
    return found[0] | medians | {"processes": repeats, "ranges": ranges}


def rounds_a_second(quick):
    """Clients a second at two sizes of cohort."""
    rows = []
    for cohort in (1000, 10_000):
        rounds = 5 if quick else 15
        rows.append(
            spread(1 if quick else 3, lambda c=cohort, r=rounds: part("clients", c, r))
        )
        row = rows[-1]
        print(
            f"small model, {cohort:6,} clients a round: {row['ms a round']:8.1f} ms, "
            f"{row['clients a second']:8,.0f} clients a second",
            flush=True,
        )
    return rows


def memory(quick):
    """Peak memory against the cohort."""
    sizes = (100, 10_000, 1_000_000) if quick else (100, 1000, 10**4, 10**5, 10**6)
    rows = []
    for cohort in sizes:
        rows.append(spread(1 if quick else 3, lambda c=cohort: part("memory", c, 2)))
        row = rows[-1]
        row["growth MB"] = row["peak MB"] - rows[0]["peak MB"]
        print(
            f"{cohort:9,} of a million clients: {row['peak MB']:6.0f} MB at most, "
            f"{row['growth MB']:+5.0f} MB; {row['ms a round']:8.1f} ms a round",
            flush=True,
        )
    return rows


def empty(quick):
    """A round of nobody."""
    row = spread(1 if quick else 3, lambda: part("dispatch", 100 if quick else 1000, 0))
    for name, value in row.items():
        if "ms" in name:
            print(f"empty round, {name}: {value:.3f}", flush=True)
    return row


def first(quick):
    """The first round without and with programs that are kept on disk."""
    rows = {"import": min(imported() for _ in range(3))}
    print(f"import of jaxfed, JAX and optax: {rows['import']:.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        for name, folder in (("cold", None), ("kept", cache)):
            if folder:
                part("first", 0, 0, cache=folder)  # fills it
            run = lambda folder=folder: part("first", 0, 0, cache=folder)  # noqa: E731
            rows[name] = row = spread(1 if quick else 3, run)
            shown = (
                "checks at the door",
                "strategy and set-up",
                "first round",
                "all up to the first model",
                "CPU, all up to the first model",
            )
            text = ", ".join(f"{n} {row[n]:.2f} s" for n in shown)
            print(f"multilayer perceptron, {name}: {text}", flush=True)
            for event, (seconds, count) in row["of which"].items():
                print(f"    {event:36} {seconds:6.2f} s in {count}", flush=True)
    return rows


def planner(quick):
    """Plans and waste."""
    rows = part("planner", 10 if quick else 30, 0)
    for name, row in rows.items():
        print(
            f"plan of {name}: {row['us a client']:.2f} us a client of "
            f"{row['examples a client']:.0f} examples, scheduling waste "
            f"{row['scheduling waste']:.1%}, all waste {row['all waste']:.1%}",
            flush=True,
        )
    return rows


def programs(quick):
    """Compiled programs."""
    row = part("programs", 20 if quick else 50, 0)
    print(
        f"{row['rounds']} rounds of changing cohorts: {row['whole rounds compiled']} "
        f"programs, {row['other compiles after the first round']} other compiles",
        flush=True,
    )
    return row


def sweep(quick):
    """A sweep of eight learning rates beside one run."""
    row = part("sweep", 20 if quick else 50, 8)
    print(
        f"{row['rounds']} rounds of {row['settings']} settings: {row['ratio']:.1f} "
        f"times one run, {row['ratio of a round']:.1f} times without compiling",
        flush=True,
    )
    return row


def main():
    """Prints the figures and writes them where it was asked for."""
    parts = {
        "clients a second": rounds_a_second,
        "memory": memory,
        "empty round": empty,
        "first round": first,
        "planner": planner,
        "programs": programs,
        "sweep": sweep,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(parts), choices=list(parts))
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--out", type=pathlib.Path, help="write the rows as JSON")
    options = parser.parse_args()
    result = {"machine": machine(), "quick": options.quick, "parts": {}}
    if options.out and options.out.exists():  # other parts of the same machine stay
        before = json.loads(options.out.read_text("utf-8"))
        if before["machine"]["processor"] == result["machine"]["processor"]:
            result["parts"] = before["parts"]
    for name in options.parts:
        found = parts[name](options.quick)
        result["parts"][name] = {"how": HOW[name], "found": found}
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
