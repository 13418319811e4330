"""What a charge and a budget check cost, beside the accountant of Flower.

A charge is durable: it includes what the disk takes to confirm a write. Both are timed
early and late in a run, since an accountant that replays its history slows down. What
Flower's accountant does in a round, a check, a spend and a reading that are kept in
memory alone, is timed where benchmarks/engine.py has installed Flower.

Run `python benchmarks/ledger.py [charges] [--out benchmarks/results/ledger.json]`.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import jaxfed as jf

DELTA, FLOWER_ROUNDS = 1e-5, 300


def mechanism(rounds):
    """Returns the mechanism that all accounts are about."""
    return jf.privacy.central(
        sampling=jf.sampling.Full(population=10_000),
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=1.0),
    ).calibrated(epsilon=4.0, delta=DELTA, rounds=rounds)


def milliseconds(work):
    """Returns how long a call takes."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def fsync(folder):
    """Returns what forcing one small write to disk takes: the floor of a charge."""
    found = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            found.append(milliseconds(lambda: os.fsync(file.fileno())))
    return statistics.median(found)


def charges(folder, adaptive, rounds):
    """Returns the times of charges, of budget checks, and of opening at the end."""
    privacy = mechanism(rounds)
    path = folder / f"{adaptive}.db"
    times, checks = [], []
    # the filter of an adaptive ledger is a little looser than the plan
    budget = 6.0 if adaptive else 4.001
    with jf.Ledger.create(path, epsilon=budget, delta=DELTA, adaptive=adaptive) as one:
        planned = one.plan(privacy, rounds, name="training")
        budget = one._book.budget
        budget.check(planned, 1)
        for index in range(rounds):
            inputs = hashlib.sha256(str(index).encode()).digest()

            def charge(index=index, inputs=inputs):
                with one.spending(planned, index, inputs) as permit:
                    permit.pays_for(inputs.hex())

            checks.append(milliseconds(lambda: budget.check(planned, 1)))
            times.append(milliseconds(charge))
    opened = milliseconds(lambda: jf.Ledger.open(path).close())
    part = max(1, min(100, rounds // 4))
    return {
        "charge, ms, first hundred": statistics.median(times[:part]),
        "charge, ms, last hundred": statistics.median(times[-part:]),
        "charge, ms, 99th of 100": sorted(times)[int(0.99 * len(times))],
        "check, ms, first hundred": statistics.median(checks[:part]),
        "check, ms, last hundred": statistics.median(checks[-part:]),
        "open, verify and close, ms": opened,
    }


def flower(rounds):
    """Returns what Flower's accountant takes in its rounds, or None without it."""
    python = Path.home() / ".cache/jaxfed-benchmarks/flower/bin/python"
    if not python.exists():
        return None
    script = Path(__file__).parent / "peers" / "flower_accountant.py"
    command = [str(python), str(script), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    times = found.pop("ms")
    kept = [n for n in (1, 10, 30, 100, 300, 1000) if n <= rounds]
    return found | {f"round {n}, ms": times[n - 1] for n in kept}


def main():
    """Measures and prints; writes a file if asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("charges", type=int, nargs="?", default=2000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        found = {
            "charges": given.charges,
            "fsync of 4 kB, ms": fsync(folder),
            "planned": charges(folder, False, given.charges),
            "adaptive": charges(folder, True, given.charges),
            "flower": flower(FLOWER_ROUNDS),
        }
    text = json.dumps(found, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
