"""Whether a worker did the work: its examples, and its sum beside the reference."""

import pathlib
import subprocess
import sys
from typing import Any

import numpy as np

from speed import workloads
from speed.frameworks import Framework


def count_problem(
    framework: Framework,
    workload: workloads.Workload,
    data: workloads.Data,
    *,
    number: int,
    examples: int,
    times: int = 1,
) -> str | None:
    """Returns what is wrong with a count of examples, or None.

    Args:
        framework: who counted.
        workload: what was run.
        data: of all clients.
        number: of the round.
        examples: the count.
        times: how often the round was run.
    """
    count = workloads.expected_examples
    if framework.fills_batches:
        count = workloads.filled_examples
    expected = times * count(workload, data, number)
    if examples == expected:
        return None
    return f"round {number}: {examples} examples processed, {expected} expected"


def write_reference(workload: workloads.Workload, folder: pathlib.Path) -> pathlib.Path:
    """Returns a file with the slow reference's sums of round 0."""
    file = folder / f"reference-{workload.name}.npz"
    command = [sys.executable, "-m", "speed.reference", workload.name, "0", str(file)]
    subprocess.run(command, cwd=pathlib.Path(__file__).parent.parent, check=True)
    return file


def compare(
    framework: Framework, reference: pathlib.Path, file: pathlib.Path
) -> dict[str, Any]:
    """Returns how far a worker's sum is from the reference, relative to its norm."""
    right, own = np.load(reference), np.load(file)
    kind = str(own["kind"])
    prefix = f"{framework.fills_batches}:{kind}:"
    names = [n.removeprefix(prefix) for n in right.files if n.startswith(prefix)]
    missing = set(names) ^ (set(own.files) - {"kind"})
    if missing:
        return {"kind": kind, "same": False, "missing": sorted(missing)}
    distance = norm = 0.0
    for name in names:
        wanted = right[prefix + name]
        if wanted.shape != own[name].shape:
            return {"kind": kind, "same": False, "missing": [name]}
        distance += float(np.square(own[name].astype(np.float64) - wanted).sum())
        norm += float(np.square(wanted).sum())
    relative = (distance / norm) ** 0.5
    return {
        "kind": kind,
        "relative distance": relative,
        "tolerance": framework.tolerance,
        "same": relative <= framework.tolerance,
        "clients clipped": float(right["above"]),
    }
