"""The engine's benchmark: its workloads and table, without any peer."""

import importlib
import json
import pathlib
import sys

import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).parent.parent.parent / "benchmarks"

pytestmark = pytest.mark.skipif(
    not BENCHMARKS.is_dir(), reason="a source archive holds no benchmarks"
)

QUICK = ("cnn-10", "mlp-100", "lstm-10")


@pytest.fixture
def module(monkeypatch):
    """Imports a module of the benchmark as its scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("speed", "peers"):
            del sys.modules[name]


@pytest.fixture
def workloads(module):
    return module("speed.workloads")


@pytest.mark.parametrize("name", QUICK)
def test_the_same_workload_every_time(workloads, name):
    workload = workloads.WORKLOADS[name]
    first, second = (workloads.make_data(workload) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    once, again = (workloads.initial_params(workload) for _ in range(2))
    assert once.keys() == again.keys()
    assert all(np.array_equal(once[key], again[key]) for key in once)
    assert np.array_equal(workloads.cohort(workload, 3), workloads.cohort(workload, 3))
    assert not np.array_equal(
        workloads.cohort(workload, 3), workloads.cohort(workload, 4)
    )


@pytest.mark.parametrize("name", QUICK)
def test_sizes_and_cohorts_are_as_declared(workloads, name):
    workload = workloads.WORKLOADS[name]
    data = workloads.make_data(workload)
    assert data.sizes.min() >= workload.smallest
    assert data.sizes.max() <= workload.largest
    assert abs(data.sizes.mean() / workload.mean_size - 1) < 0.15
    assert data.x.shape == (data.sizes.sum(), *workload.example)
    clients = workloads.cohort(workload, 0)
    assert len(np.unique(clients)) == workload.cohort
    assert clients.max() < workload.population


def test_small_and_large_cohorts_have_the_same_clients(workloads):
    small, large = (workloads.WORKLOADS[name] for name in ("cnn-10", "cnn-50"))
    np.testing.assert_array_equal(
        workloads.make_data(small).sizes, workloads.make_data(large).sizes
    )


def test_expected_counts(workloads):
    workload = workloads.WORKLOADS["mlp-100"]
    data = workloads.make_data(workload)
    expected = filled = 0
    for client in workloads.cohort(workload, 5):
        x, y = data.of(client)
        assert len(x) == len(y)
        expected += len(y)
        filled += workload.batch_size * -(-len(y) // workload.batch_size)
    assert workloads.expected_examples(workload, data, 5) == expected
    assert workloads.filled_examples(workload, data, 5) == filled > expected


def test_a_wrong_count_is_told(module, workloads):
    comparison = module("speed.comparison")
    frameworks = module("speed.frameworks").FRAMEWORKS
    workload = workloads.WORKLOADS["mlp-100"]
    data = workloads.make_data(workload)

    def problem(name, examples, times=1):
        return comparison.count_problem(
            frameworks[name],
            workload,
            data,
            number=1,
            examples=examples,
            times=times,
        )

    right = workloads.expected_examples(workload, data, 1)
    filled = workloads.filled_examples(workload, data, 1)
    assert problem("pytorch", right) is None
    assert problem("pytorch", 3 * right, times=3) is None
    assert "expected" in problem("pytorch", right - 1)
    assert problem("fedjax", filled) is None
    assert "expected" in problem("fedjax", right)


def sample(seconds, other=0.0):
    return {"seconds": seconds, "cpu seconds": 2 * seconds, "other cpu": other}


def row(framework, seconds, workload="small-1000", error=None):
    return {
        "workload": workload,
        "framework": framework,
        "error": error,
        "samples": [sample(seconds), sample(seconds), sample(seconds)],
    }


def test_table(module):
    table = module("speed.table")
    rows = [row("ours", 0.1), row("fedjax", 1.25), row("pytorch-2", 0.5)]
    rows.append(row("blazefl", 1.0) | {"error": "no such package", "samples": []})
    text = table.markdown(rows)
    assert "| small-1000 | ours | fedjax | 12.50 | 12.50 | 10 wall | yes |" in text
    assert "| small-1000 | ours | pytorch-2 | 5.00 | 5.00 | 8 wall | no |" in text
    assert "| small-1000 | ours | blazefl | - | - | - | - |" in text
    assert "- small-1000, blazefl: no such package" in text


def test_pages_show_what_was_measured(module):
    table = module("speed.table")
    root = pathlib.Path(__file__).parents[2]
    results = root / "benchmarks" / "results" / "engine.json"
    rows = json.loads(results.read_text("utf-8"))["rows"]
    page = (root / "README.md").read_text("utf-8")
    assert table.between(page, rows) == page
    fragment = (root / "docs" / "speed_table.md").read_text("utf-8")
    assert fragment == table.markdown(rows) + "\n"
    made = table.compact([row("ours", 0.1), row("fedjax", 1.25)])
    assert made.splitlines()[2] == "| small-1000 | 100 ms | 12 x |"


def test_new_rows_replace_old_ones(module):
    table = module("speed.table")
    old = [row("ours", 0.1), row("fedjax", 1.0)]
    new = [row("fedjax", 2.0), row("fedjax", 3.0, workload="mlp-100")]
    rows = table.merged(old, new)
    assert [table.summary(one).wall for one in rows] == [0.1, 2.0, 3.0]


def test_disturbed_samples_are_left_out(module):
    table = module("speed.table")
    quiet, loud = [sample(1.0)] * 3, [sample(9.0, other=0.5)] * 4
    one = {"error": None, "samples": quiet + loud}
    assert table.summary(one) == (1.0, 2.0, 3, 7)
    few = {"error": None, "samples": quiet[:2] + loud}
    assert table.summary(few).wall == 9.0  # two are too few


def test_every_goal_is_of_something_that_runs(module, workloads):
    table = module("speed.table")
    frameworks = module("speed.frameworks").FRAMEWORKS
    for (workload, peer), goals in table.GOALS.items():
        assert workload in workloads.WORKLOADS
        for name in (peer, *(goal.ours for goal in goals)):
            assert workload not in frameworks[name].skips


@pytest.mark.parametrize("layers", ["tuned", "stock"])
@pytest.mark.parametrize("name", ["cnn-10", "lstm-10"])
def test_parameters_survive_flax(module, workloads, name, layers):
    models = module("peers.ours_models")
    params = workloads.initial_params(workloads.WORKLOADS[name])
    back = models.from_flax(models.to_flax(params, layers=layers), layers=layers)
    assert back.keys() == params.keys()
    for key, value in params.items():
        np.testing.assert_array_equal(back[key], value)
