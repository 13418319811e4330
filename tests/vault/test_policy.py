"""A policy limits what plans may cost, and no misspelt limit goes unnoticed."""

import json
import zlib

import numpy as np
import pytest

from jaxfed.vault import _operations, _plan, _policy
from jaxfed.vault._errors import PolicyError
from jaxfed.vault._plan import Plan


def plan(steps=None, epochs=None):
    """Returns a plan of two parameters, whose step multiplies."""
    body = {
        "inputs": [0, 1, 2, 3, 4],
        "outputs": [5],
        "equations": [["mul", [0, 0], [5], {}]],
    }
    same = {"inputs": [0], "outputs": [0], "equations": []}
    finish = {
        "inputs": [0, 1],
        "outputs": [1, 2],
        "equations": [["constant", [], [2], {"number": 0}]],
    }
    document = {
        "format": _plan.FORMAT,
        "version": _plan.VERSION,
        "operations": _operations.VERSION,
        "producer": {},
        "constants": [["float32", [], "AACAPw=="]],
        "programs": {"begin": same, "step": body, "finish": finish},
        "shared": [["w", "float32", [2]]],
        "kept": [],
        "carry": [["float32", [2]]],
        "update": [["w", "float32", [2]]],
        "metrics": [],
        "rows": [["x", "float32", [3]]],
        "batching": {"batch_size": 4, "epochs": epochs, "steps": steps},
        "check": {},
        "rules": {},
    }
    return Plan(zlib.compress(_plan.canonical(document)))


def test_the_defaults_are_a_policy_and_every_limit_is_explained(tmp_path):
    policy = _policy.checked({})
    assert policy == _policy.Policy(**policy._asdict())
    assert set(_policy.LIMITS) == set(_policy.Policy._fields)
    (tmp_path / "policy.json").write_text(json.dumps({"most_flops": 5}))
    assert _policy.read(tmp_path / "policy.json") == policy._replace(most_flops=5)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"most_flop": 1}, "did you mean 'most_flops'"),
        ({"colour": 1}, "leave it out"),
        ({"most_flops": "many"}, "must be a number >= 0"),
        ({"most_flops": -1}, "must be a number >= 0"),
        ({"most_flops": True}, "must be a number >= 0"),
        ({"most_flops": 1.5}, "must be a number >= 0"),
        ({"most_bytes": float("nan")}, "must be a number >= 0"),
        ({"operations": "ab"}, "must be a list of words"),
        ({"operations": [1]}, "must be a list of words"),
    ],
)
def test_a_wrong_policy_is_refused(given, match):
    with pytest.raises(PolicyError, match=match):
        _policy.checked(given)


@pytest.mark.parametrize(
    ("text", "match"), [(None, "must be at"), ("{", "must be JSON"), ("[]", "name")]
)
def test_a_wrong_file_is_refused(text, match, tmp_path):
    path = tmp_path / "policy.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PolicyError, match=match):
        _policy.read(path)


def test_a_round_costs_its_steps():
    assert _policy.cost_of(plan(epochs=3), 9).calls == 3 * 3  # three batches a pass
    assert _policy.cost_of(plan(epochs=3), 9).flops == 2 * 3 * 3
    assert _policy.cost_of(plan(steps=5), 9).calls == 5
    step = plan(steps=5).step.cost
    assert _policy.cost_of(plan(steps=5), 9).peak_bytes == step.peak_bytes


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        (
            {"most_flops": 17},
            "takes 18 floating-point operations, more than most_flops",
        ),
        ({"most_calls": 8}, "takes 9 operations carried out"),
        ({"most_bytes": 10}, "bytes at once"),
        ({"operations": ["add"]}, r"not allowed: \['mul'\]"),
    ],
)
def test_what_costs_too_much_is_refused_in_words(limits, match):
    three_passes = plan(epochs=3)
    (found,) = _policy.refusals(_policy.checked(limits), three_passes, 9)
    assert match.replace("\\", "") in found
    assert _policy.refusals(_policy.checked({}), three_passes, 9) == []


def test_the_plan_of_these_tests_runs():
    one = plan(epochs=1)
    rows = np.zeros((4, 3), np.float32)
    real, key = np.ones(4, bool), np.zeros(2, np.uint32)
    (found,) = one.step(np.full(2, 3.0, np.float32), rows, real, np.int32(4), key)
    assert found.tolist() == [9.0, 9.0]
