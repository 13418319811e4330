"""A killed process never leaves a release that its ledger does not know.

Each kill is SIGKILL of a real process (see `launcher`), after which the ledger is read
and opened: spends on disk >= releases seen outside, at most one more for each kill, and
never a ledger that cannot be read, but one whose creation was cut off.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("shim")


def launched(what, anchored, count=0):
    """Returns what `launcher` found."""
    words = [what, "anchored" if anchored else "plain", str(count)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.faults.launcher", *words],
        env=os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("anchored", [False, True])
def test_no_kill_loses_a_spend(anchored):
    """Every fourth change of a file in a session, and two chains of restarts."""
    found = launched("sample", anchored, 60)
    assert found["wrong"] == []
    assert found["most_extra"] <= 1
    assert found["kills"] >= 80
    assert found["releases"] > 500


@pytest.mark.slow
@pytest.mark.parametrize("anchored", [False, True])
def test_no_kill_at_any_change_of_a_file_loses_a_spend(anchored):
    """Before and after each write, truncation, sync, rename and removal, in turn."""
    found = launched("every", anchored)
    assert found["wrong"] == []
    assert found["most_extra"] <= 1
    assert found["kills"] >= (750 if anchored else 450)
    assert 50 < found["unfinished"] < found["kills"] / 3


@pytest.mark.slow
@pytest.mark.parametrize("how", ["counted", "timed"])
@pytest.mark.parametrize("anchored", [False, True])
def test_no_chain_of_kills_loses_a_spend(anchored, how):
    """Each process goes on where the one before was killed, also while it opened."""
    found = launched(how, anchored, 400 if how == "timed" else 300)
    assert found["wrong"] == []
    assert found["releases"] > 1000
    assert found["kills"] >= 300


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["counted", "timed"])
@pytest.mark.parametrize("anchored", [False, True])
def test_no_kill_of_100_000_loses_a_spend(anchored, how):
    found = launched(how, anchored, 25_000)
    assert found["wrong"] == []
    assert found["kills"] == 25_000


def test_a_release_before_its_spend_is_on_disk_is_caught():
    """The power: a session that lets go inside `spending` under-counts when killed."""
    wrong = launched("too_early", False)["wrong"]
    assert len(wrong) >= 5
    assert all("under-count: 1 of" in each for each in wrong)
