"""A policy limits what plans may cost, and no misspelt limit goes unnoticed."""

import json
import tracemalloc
import zlib

import numpy as np
import pytest

import jaxfed as jf
from jaxfed.vault import _lattice, _noise, _operations, _plan, _policy, _rules
from jaxfed.vault._errors import PlanError, PolicyError
from jaxfed.vault._plan import Plan
from jaxfed.vault._program import Program
from jaxfed.vault._types import Type

RULES = {
    "mechanism": "central gaussian",
    "unit": "client",
    "relation": "zero_out",
    "epsilon": 2.0,
    "delta": 1e-5,
    "noise_multiplier": 1.0,
    "rounds": 10,
    "clients": 8,
    "least_cohort": 4,
    "least_separation": 2,
    "most_participations": 5,
    "clip_is_fixed": True,
    "count_levels": 0,
    "noise_scale": 0.0,
    "shift": 0,
    "groups": [
        {
            "indices": [0],
            "norm": 0.5,
            "levels": 1000,
            "target": 1000,
            "is_random": False,
        }
    ],
}


def plan(steps=None, epochs=None, rules=RULES):
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
        "start": [],
        "carry": [["float32", [2]]],
        "update": [["w", "float32", [2]]],
        "metrics": [],
        "rows": [["x", "float32", [3]]],
        "batching": {"batch_size": 4, "epochs": epochs, "steps": steps},
        "check": {},
        "rules": rules,
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
        ({"most_flops": "many"}, "must be a whole number >= 0"),
        ({"most_flops": -1}, "must be a whole number >= 0"),
        ({"most_flops": True}, "must be a whole number >= 0"),
        ({"most_flops": 1.5}, "must be a whole number >= 0"),
        ({"most_bytes": float("nan")}, "must be a whole number >= 0"),
        ({"least_noise": float("nan")}, "must be a number >= 0"),
        ({"most_epsilon": "8"}, "must be a number >= 0"),
        ({"signers": ["ab"]}, "64 hexadecimal digits"),
        ({"signers": ["G" * 64]}, "64 hexadecimal digits"),
        ({"operations": "ab"}, "must be a list of words"),
        ({"operations": [1]}, "must be a list of words"),
        ({"operations": ["ad"]}, "did you mean 'pad'"),
        ({"mechanisms": ["local gausian"]}, "did you mean 'local gaussian'"),
        ({"mechanisms": ["none"]}, "kinds of noise that are enough"),
    ],
)
def test_a_wrong_policy_is_refused(given, match):
    with pytest.raises(PolicyError, match=match):
        _policy.checked(given)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        *((None, "must be at"), ("{", "must be JSON"), ("[]", "name")),
        ('{"most_epsilon": 1, "most_epsilon": 99}', "got 'most_epsilon' twice"),
    ],
)
def test_a_wrong_file_is_refused(text, match, tmp_path):
    path = tmp_path / "policy.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PolicyError, match=match):
        _policy.read(path)


def test_a_round_costs_its_steps():
    assert _policy.cost_of(plan(epochs=3), 9).calls == 119  # nine steps
    assert _policy.cost_of(plan(epochs=3), 9).flops == 2 * 3 * 3
    assert _policy.cost_of(plan(steps=5), 9).calls == 75
    step = plan(steps=5).step.cost
    slots = 24 * 4  # places of a batch
    assert _policy.cost_of(plan(steps=5), 9).peak_bytes == step.peak_bytes + slots


def measured(run):
    """Returns the bytes that were taken at once."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("leaves", [1, 7])
@pytest.mark.parametrize("mechanism", ["central", "local gaussian", "local laplace"])
def test_a_report_takes_no_more_than_is_counted(mechanism, leaves):
    size = 60_000
    update = [np.linspace(-1, 1, size, dtype=np.float32) for _ in range(leaves)]
    group = _lattice.Group(tuple(range(leaves)), 0.5, 1000, 900, is_random=True)
    if mechanism == "central":
        key = np.array([1, 2], np.uint32)
        taken = measured(lambda: _lattice.encode(update, [group], key))
        block = 0
    else:
        wide = group._replace(levels=1 << 16)._asdict() | {"indices": [0]}
        rules = plan(epochs=1).rules._replace(
            mechanism=mechanism,
            groups=(_lattice.Group(**wide),),
            noise_scale=float(1 << 16),
            shift=8,
        )
        _noise.report(update[:1], rules, b"1" * 32)  # the table is there
        taken = measured(lambda: _noise.report(update, rules, b"1" * 32))
        block = _policy._A_BLOCK
    assert taken < _policy._A_REPORT * 4 * size * leaves + block


def loop(turns, carried, given):
    """A program of one loop, that carries and gives so many numbers each turn."""
    names, outputs = list(range(carried)), list(range(carried, carried + given))
    body = {
        "inputs": names,
        "outputs": names + outputs,
        "equations": [["add", [0, 0], [one], {}] for one in outputs],
    }
    results = list(range(1000, 1000 + carried + given))
    attributes = {
        "length": turns,
        "reverse": False,
        "num_constants": 0,
        "num_carried": carried,
        "body": body,
    }
    program = {
        "inputs": names,
        "outputs": results[carried:],
        "equations": [["scan", names, results, attributes]],
    }
    return Program(program, [Type("float32", ())] * carried, [])


def test_what_a_loop_collects_is_counted():
    program = loop(30_000, 1, 4)
    taken = measured(lambda: program(np.asarray(1, np.float32)))
    assert 16 * 30_000 < taken < 1.1 * program.cost.peak_bytes


def test_what_a_loop_hands_over_is_counted():
    few, many = loop(100, 2, 1).cost.calls, loop(100, 500, 1).cost.calls
    assert many > few + 100 * 60  # sixteen arrays in the time of an operation


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        (
            {"most_flops": 17},
            "takes 18 floating-point operations, more than most_flops",
        ),
        ({"most_calls": 8}, "takes 119 operations carried out"),
        ({"most_bytes": 10}, "bytes at once"),
        ({"operations": ["add"]}, r"not allowed: \['mul'\]"),
    ],
)
def test_what_costs_too_much_is_refused_in_words(limits, match):
    three_passes = plan(epochs=3)
    (found,) = _policy.refusals(_policy.checked(limits), three_passes, 9)
    assert match.replace("\\", "") in found
    assert _policy.refusals(_policy.checked({}), three_passes, 9) == []


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({"mechanisms": ["central skellam"]}, "'central gaussian' is not in"),
        ({"least_cohort": 5}, "a cohort of 4, and least_cohort = 5"),
        ({"least_noise": 1.5}, "in clip norms, 1, and least_noise = 1.5"),
        ({"most_epsilon": 1}, "its epsilon is 2, and most_epsilon = 1"),
        ({"most_delta": 1e-6}, "its delta is 1e-05, and most_delta = 1e-06"),
    ],
)
def test_what_promises_too_little_is_refused_in_words(limits, match):
    one = plan(epochs=1)
    assert _policy.refusals(_policy.checked({}), one, 9) == []
    (found,) = _policy.refusals(_policy.checked(limits), one, 9)
    assert match in found
    nothing = plan(epochs=1, rules=None)
    assert "promises nothing" in _policy.refusals(_policy.checked({}), nothing, 9)[0]


def test_the_stricter_limit_counts():
    rules = plan(epochs=1).rules
    assert _policy.limits_of(_policy.checked({}), rules) == (5, 2, 1000, 10)
    strict = _policy.checked({"most_rounds": 3, "least_separation": 4})
    assert _policy.limits_of(strict, rules) == (3, 4, 1000, 10)


@pytest.mark.parametrize(
    "change",
    [
        {"mechanism": "none"},
        {"unit": 3},
        {"epsilon": 0},
        {"epsilon": float("inf")},
        {"delta": "1"},
        {"noise_multiplier": True},
        {"rounds": 0},
        {"least_cohort": 9},
        {"count_levels": -1},
        {"clip_is_fixed": 1},
        {"groups": []},
        {"groups": [{**RULES["groups"][0], "indices": []}]},
        {"groups": [{**RULES["groups"][0], "target": 1001}]},
        {"groups": [{**RULES["groups"][0], "levels": 1 << 31}]},
        {"groups": [{**RULES["groups"][0], "norm": -1.0}]},
        {"groups": [*RULES["groups"], *RULES["groups"]]},
        {"more": 1},
        {"noise_scale": 3.0},
        {"shift": 1},
        {"mechanism": "local gaussian"},
        {"mechanism": "local gaussian", "noise_scale": 999.0},
        {"mechanism": "local laplace", "noise_scale": 1000.0, "shift": 25},
        {"mechanism": "local gaussian", "noise_scale": 1000.0, "count_levels": 1},
        {"mechanism": "local gaussian", "noise_scale": 0.1, "noise_multiplier": 1e-4},
    ],
)
def test_rules_that_are_none_are_refused(change):
    given = {**RULES, **change}
    with pytest.raises(PlanError):
        _rules.read(given, 1)
    assert _rules.read(RULES, 1).groups[0].norm == 0.5


def test_a_fixed_clip_stays_and_another_may_move():
    rules = _rules.read(RULES, 1)
    norms = np.array([0.5], np.float32)
    assert _rules.with_norms(rules, norms) == list(rules.groups)
    for bad in ([0.6], [0.5, 0.5], [-0.5], []):
        with pytest.raises(PlanError):
            _rules.with_norms(rules, np.array(bad, np.float32))
    moving = rules._replace(clip_is_fixed=False)
    (group,) = _rules.with_norms(moving, np.array([0.75], np.float32))
    assert group.norm == 0.75


def test_the_plan_of_these_tests_runs():
    one = plan(epochs=1)
    rows = np.zeros((4, 3), np.float32)
    real, key = np.ones(4, bool), np.zeros(2, np.uint32)
    (found,) = one.step(np.full(2, 3.0, np.float32), rows, real, np.int32(4), key)
    assert found.tolist() == [9.0, 9.0]


def test_loops_and_choices_can_be_forbidden():
    body = {"inputs": [0], "outputs": [0], "equations": []}
    loop = {"length": 2, "reverse": False, "num_constants": 0, "num_carried": 1}
    made = plan(steps=1)
    program = {
        "inputs": [0, 1],
        "outputs": [2],
        "equations": [["scan", [1], [2], {**loop, "body": body}]],
    }
    types = [Type("int32", ()), Type("float32", (2,))]
    made.step = Program(program, types, [])
    others = [name for name in _policy.LIMITS["operations"][0] if name != "scan"]
    limits = _policy.checked({"operations": others})
    assert "['scan']" in " ".join(_policy.refusals(limits, made, 9))
    program["equations"] = [["cond", [0, 1], [2], {"branches": [body, body]}]]
    made.step = Program(program, types, [])
    everything = _policy.checked({})
    assert "chooses by data" not in " ".join(_policy.refusals(everything, made, 9))
    made.rules = made.rules._replace(mechanism="local gaussian")
    assert "chooses by data" in " ".join(_policy.refusals(everything, made, 9))


@pytest.mark.parametrize("name", ["epsilon", "delta", "noise_multiplier"])
def test_numbers_beyond_all_floats_are_a_wrong_plan(name):
    with pytest.raises(PlanError):
        plan(steps=1, rules={**RULES, name: 10**400})


def test_steps_without_operations_take_time():
    made = plan(steps=2**31 - 1)
    made.step = made.begin
    assert "operations carried out" in " ".join(
        _policy.refusals(_policy.checked({}), made, 9)
    )


def test_batches_take_time_to_put_together():
    """Eight million places for ten examples, again and again."""
    few, many = (plan(steps=3), plan(steps=3000))
    for made in (few, many):
        made.batching = made.batching._replace(batch_size=8_000_000)
    policy = _policy.checked({"most_bytes": 10**12, "most_flops": 10**17})
    assert "operations carried out" in " ".join(_policy.refusals(policy, many, 9))
    assert _policy.cost_of(few, 9).calls > 3 * 8_000_000 * 20 // 2000


def local_rules(law, multiplier, epsilon, rounds, delta=1e-5):
    """Returns the rules of a plan whose noise vaults add."""
    group = {**RULES["groups"][0], "levels": 4000, "target": 4000}
    return RULES | {
        "mechanism": f"local {law}",
        "relation": "replace_one",
        "noise_multiplier": multiplier,
        "noise_scale": multiplier * 4000,
        "epsilon": epsilon,
        "delta": delta,
        "rounds": rounds,
        "most_participations": rounds,
        "groups": [group],
    }


@pytest.mark.parametrize("rounds", [1, 7, 60])
@pytest.mark.parametrize(("law", "multiplier"), [("gaussian", 8.0), ("laplace", 30.0)])
def test_a_promise_about_a_vaults_own_noise_is_reckoned(law, multiplier, rounds):
    """By closed forms, against the accountant of the server: a little above them."""
    kind, clip = {
        "gaussian": (jf.noise.Gaussian, jf.clipping.Fixed),
        "laplace": (jf.noise.Laplace, jf.clipping.FixedL1),
    }[law]
    privacy = jf.privacy.local(
        sampling=jf.sampling.Full(population=8),
        clipping=clip(norm=0.5),
        noise=kind(multiplier=multiplier),
    )
    epsilon = privacy.epsilon(rounds=rounds, delta=1e-5)
    for factor, is_true in ((1.0, True), (0.98, False)):
        given = local_rules(law, multiplier, factor * epsilon, rounds)
        one = plan(epochs=1, rules=given)
        assert (_rules.delta_of(one.rules, rounds) <= 1e-5) == is_true
        found = _policy.refusals(_policy.checked({"most_epsilon": 99}), one, 9)
        assert (found == []) == is_true
        if not is_true:
            assert "its noise gives delta" in found[0]
    # who takes part in fewer rounds is promised less than is true
    fewer = _policy.checked({"most_epsilon": 99, "most_rounds": max(1, rounds // 2)})
    assert (_policy.refusals(fewer, one, 9) == []) == (rounds > 1)


def test_a_promise_of_nothing_is_refused():
    lie = local_rules("gaussian", 0.5, 0.01, 1000)
    found = _policy.refusals(_policy.checked({}), plan(epochs=1, rules=lie), 9)
    assert found == [
        "its noise gives delta 1 at epsilon 0.01 in 1000 rounds, and it promises 1e-05"
    ]
    for change, match in (
        ({"unit": "pixel"}, "no such unit"),
        ({"relation": "none at all"}, "no such relation"),
        ({"most_participations": 11}, "more rounds than there are"),
    ):
        with pytest.raises(PlanError, match=match):
            plan(epochs=1, rules=RULES | change)


def test_a_grid_so_coarse_that_closed_forms_are_wrong_is_refused():
    coarse = local_rules("gaussian", 1.0, 50.0, 1)
    coarse["groups"] = [{**coarse["groups"][0], "levels": 8, "target": 8}]
    coarse["noise_scale"] = 8.0
    with pytest.raises(PlanError, match="noise must be as promised"):
        plan(epochs=1, rules=coarse)
