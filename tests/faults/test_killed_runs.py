"""Runs of 50 rounds that are killed with SIGKILL, and go on as if nothing had been.

Killed before rows are written, before their transactions begin, while checkpoints are
being written, and at random moments after; each run up to ten times. Parameters,
optimizer state, records and ledger end with the bits of the run that nobody killed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def killed(folder, kills, seed, mode):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "tests.faults.killed_runs"]
    command += [str(folder), str(kills), str(seed), mode]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] >= kills
    assert found["same"] == found["runs"]


@pytest.mark.parametrize("mode", ["train", "evaluated", "simulate"])
def test_a_killed_run_ends_with_the_same_bits(mode, tmp_path):
    killed(tmp_path, 3, 1, mode)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "mode"),
    [(2, "train"), (3, "train"), (4, "evaluated"), (5, "evaluated")],
)
def test_fifty_kills_of_a_paid_run(seed, mode, tmp_path):
    """With and without evaluations that the same ledger pays."""
    killed(tmp_path, 50, seed, mode)


@pytest.mark.slow
def test_twenty_kills_of_a_simulation(tmp_path):
    killed(tmp_path, 20, 6, "simulate")


@pytest.mark.nightly
@pytest.mark.parametrize("mode", ["train", "evaluated", "simulate"])
def test_a_thousand_kills(mode, tmp_path):
    killed(tmp_path, 1000, 7, mode)
