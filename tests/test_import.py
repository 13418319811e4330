"""What importing the library costs, and what it does not load."""

import json
import os
import statistics
import subprocess
import sys

import pytest

import jaxfed as jf

HEAVY = ("scipy", "dp_accounting", "orbax", "flax", "optax", "jax_privacy", "rich")
ATTEMPTS, REPEATS, MOST = 3, 3, 1.3


def loaded_by(code):
    """Returns which heavy packages a fresh interpreter loads by running `code`."""
    report = (
        f"import json, sys; print(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(ran.stdout)


def test_the_test_sees_what_is_loaded():
    assert loaded_by("import optax, rich") == ["optax", "rich"]


@pytest.mark.parametrize(
    "code", ["import jaxfed", "import jax, jaxfed; dir(jaxfed); jaxfed.__version__"]
)
def test_importing_loads_nothing_heavy(code):
    assert loaded_by(code) == []


@pytest.mark.parametrize(
    "module",
    [
        *("typing", "tree", "keys", "sampling", "clipping", "noise"),
        *("metrics", "data", "robust", "attacks"),
    ],
)
def test_small_parts_load_nothing_heavy(module):
    assert loaded_by(f"import jaxfed.{module}") == []


@pytest.mark.parametrize(
    "module", ["clients", "privacy", "algorithms", "queries", "engine"]
)
def test_large_parts_load_accounting_and_files_only_when_used(module):
    assert set(loaded_by(f"import jaxfed.{module}")) <= {"optax"}


def cpu_seconds(code):
    process = subprocess.Popen([sys.executable, "-c", code])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_importing_costs_little_more_than_jax():
    """CPU time, interleaved and in the median; a busy machine gets three attempts."""
    ratios = []
    for _ in range(ATTEMPTS):
        pairs = [
            (cpu_seconds("import jax"), cpu_seconds("import jax, jaxfed"))
            for _ in range(REPEATS)
        ]
        jax_alone, both = map(statistics.median, zip(*pairs, strict=True))
        ratios.append(both / jax_alone)
        if ratios[-1] < MOST:
            return
    pytest.fail(f"import jaxfed costs {min(ratios):.2f} times import jax")


def test_every_public_name_resolves():
    names = [name for name in dir(jf) if not name.startswith("_")]
    assert {"simulate", "History", "data", "privacy", "sampling"} <= {*names}
    for name in names:
        value = getattr(jf, name)
        assert value.__name__.rpartition(".")[2] == name
        assert value is getattr(jf, name)
    assert jf.__version__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'jaxfed' has no attribute 'simu'"):
        jf.simu  # noqa: B018
