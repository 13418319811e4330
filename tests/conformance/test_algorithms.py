"""The laws that every federated algorithm obeys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed.engine import _loop, _round
from jaxfed.engine._planner import Planner
from jaxfed.typing import Batch, FederatedAlgorithm, Released, Shared
from tests.conformance.cases import (
    ALGORITHMS,
    DATA,
    POPULATION,
    assert_trees_equal,
    distance,
)
from tests.problems import cohort_of

ROOT = jf.keys.simulated(7)
COHORTS = [[0, 1, 2], [3], [], [5, 4, 3, 2, 1, 0]]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}

pytestmark = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.nightly] * case.is_nightly, id=case.name)
        for case in ALGORITHMS
    ],
)


class Bench:
    """An algorithm on the shared data, with its round compiled once."""

    def __init__(self, case, data=DATA, lanes=2, max_clients=POPULATION):
        self.algorithm = case.build()
        self.planner = Planner(
            data, self.algorithm.local.batching, max_clients=max_clients, lanes=lanes
        )
        self.arrays = {n: jnp.asarray(a) for n, a in data.arrays.items()}
        self.start = _round.init_state(self.algorithm, case.params, data.num_clients)
        self.traces = 0

        def run(state, cohort, index):
            self.traces += 1
            return _round.run_round(
                self.algorithm, state, cohort, self.arrays, index, key=ROOT
            )

        self.run = run
        self.compiled = jax.jit(run)

    def plan(self, clients, seed=11):
        return cohort_of(self.planner, clients, key=jf.keys.simulated(seed))

    def after(self, *cohorts, state=None, first=0):
        state = self.start if state is None else state
        for index, cohort in enumerate(cohorts, start=first):
            state, _ = self.compiled(state, self.plan(cohort), jnp.int32(index))
        return state

    def params(self, state):
        return self.algorithm.broadcast(state.server).params


@functools.cache
def bench_of(name, lanes=2):
    """Returns one bench a case, so that its round is compiled once for all laws."""
    (case,) = (c for c in ALGORITHMS if c.name == name)
    return Bench(case, lanes=lanes)


def test_protocol(case):
    algorithm = case.build()
    assert isinstance(algorithm, FederatedAlgorithm)
    server = algorithm.init(case.params)
    shared = algorithm.broadcast(server)
    assert isinstance(shared, Shared)
    assert_trees_equal(shared.params, case.params)
    zero = Released(
        value=jax.tree.map(jnp.zeros_like, algorithm.local.sends(case.params))
    )
    after = algorithm.apply(server, zero)
    assert jax.tree.structure(after) == jax.tree.structure(server)
    assert algorithm.name in repr(algorithm)
    assert repr(algorithm.local) in repr(algorithm)
    hash(algorithm)  # or its round could not be cached


def test_local_work_protocol(case):
    algorithm = case.build()
    local, shared = algorithm.local, algorithm.broadcast(algorithm.init(case.params))
    client_state = local.init_client(case.params)
    carry = local.init(shared, client_state)
    x = jnp.asarray(DATA.arrays["x"][:4])
    rows = {"x": x, "y": jnp.array([0, 1, 1, 0]), "domain": jnp.ones(4, jnp.int32)}
    batch = Batch(rows, jnp.ones(4, bool), jnp.int32(4))
    new, metrics = local.step(carry, batch, key=jf.keys.simulated(1))
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, carry)
    assert all(jnp.shape(m) == () for m in metrics.values())
    result = local.finish(shared, new)
    sent = local.sends(case.params)
    assert jax.tree.structure(result.update) == jax.tree.structure(sent)
    assert jax.tree.map(jnp.shape, result.update) == jax.tree.map(jnp.shape, sent)
    assert result.weight.shape == ()
    assert jax.tree.structure(result.client_state) == jax.tree.structure(client_state)


def test_jit_changes_nothing(case):
    bench = bench_of(case.name)
    cohort = bench.plan([0, 3, 4])
    with jax.disable_jit():
        plain, _ = bench.run(bench.start, cohort, jnp.int32(0))
    jitted, _ = bench.compiled(bench.start, cohort, jnp.int32(0))
    assert_trees_equal(jitted, plain, **CLOSE)


def test_scan_over_rounds_equals_a_loop(case):
    bench = bench_of(case.name)
    plans = [bench.plan(c) for c in COHORTS]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *plans)

    def body(state, xs):
        return bench.run(state, *xs)

    indices = jnp.arange(len(COHORTS), dtype=jnp.int32)
    scanned, _ = jax.lax.scan(body, bench.start, (stacked, indices))
    assert_trees_equal(scanned, bench.after(*COHORTS), **CLOSE)


def test_one_trace_for_changing_cohorts(case):
    bench = Bench(case)
    bench.after(*COHORTS)
    assert bench.traces == 1


def test_simulation_traces_the_round_once(case, monkeypatch):
    calls = []
    original = _round.close
    monkeypatch.setattr(
        _round, "close", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    _loop._compiled.cache_clear()
    algorithm = case.build()
    for seed in (0, 1):
        jf.simulate(
            algorithm, DATA, params=case.params, rounds=4, seed=seed, progress=False
        )
    assert len(calls) == 1


def test_padding_rows_of_nan_change_nothing(case):
    algorithm = case.build()
    local, shared = algorithm.local, algorithm.broadcast(algorithm.init(case.params))
    carry = local.init(shared, local.init_client(case.params))
    x = np.asarray(DATA.arrays["x"][:4])
    y = np.array([0, 1, 1, 0], np.int32)
    is_real = jnp.array([False, True, True, False])
    step = jax.jit(local.step)

    def with_padding(value, label):
        rows = {"x": x.copy(), "y": y.copy(), "domain": np.ones(4, np.int32)}
        rows["x"][[0, 3]] = value
        for name in ("y", "domain"):
            rows[name][[0, 3]] = label
        batch = Batch(jax.tree.map(jnp.asarray, rows), is_real, jnp.int32(2))
        return step(carry, batch, key=jf.keys.simulated(1))

    reference = with_padding(0.0, 0)
    assert_trees_equal(with_padding(np.nan, 1), reference)
    assert_trees_equal(with_padding(np.inf, -(2**31)), reference)
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(reference))


def test_clients_outside_the_cohort_change_nothing(case):
    bench = bench_of(case.name)
    reference = bench.after([0, 3])
    arrays = {n: a.copy() for n, a in DATA.arrays.items()}
    outside = np.ones(DATA.num_examples, bool)
    for client in (0, 3):
        outside[DATA.offsets[client] : DATA.offsets[client + 1]] = False
    arrays["x"][outside] = np.nan  # put on the device past the door's check
    poisoned = Bench(case)
    poisoned.arrays = {n: jnp.asarray(a) for n, a in arrays.items()}
    assert_trees_equal(poisoned.after([0, 3]), reference)


@pytest.mark.parametrize("lanes", [1, 3, 6])
def test_lanes_and_spare_places_change_nothing(case, lanes):
    reference = bench_of(case.name).after(*COHORTS)
    assert_trees_equal(bench_of(case.name, lanes).after(*COHORTS), reference, **CLOSE)


def test_order_of_clients_changes_nothing(case):
    bench = bench_of(case.name)
    forward, back = bench.after([0, 1, 2, 3, 4]), bench.after([4, 2, 3, 1, 0])
    assert_trees_equal(forward, back, **CLOSE)


def test_a_clients_keys_do_not_depend_on_the_others(case):
    """Contributions add up: together is the sum of each alone."""
    if not case.adds_up:
        pytest.skip("every report is read by itself")
    bench = bench_of(case.name)
    algorithm = bench.algorithm

    def encoded(clients):
        caught = []
        spy = algorithm._replace(aggregator=_Spy(algorithm.aggregator, caught))
        _round.run_round(
            spy, bench.start, bench.plan(clients), bench.arrays, jnp.int32(0), key=ROOT
        )
        return caught[-1]

    together = encoded([0, 3, 5])
    alone = [encoded([i]) for i in (0, 3, 5)]
    total = jax.tree.map(lambda *a: sum(a[1:], a[0]), *alone)
    assert_trees_equal(together, total, **CLOSE)


class _Spy:
    """An aggregator that keeps the sum it is asked to release."""

    def __init__(self, inner, caught):
        self.inner, self.caught = inner, caught
        self.init, self.encode, self.sampling = inner.init, inner.encode, inner.sampling

    def release(self, state, total, *, key):
        self.caught.append(total)
        return self.inner.release(state, total, key=key)


def test_keys_matter_exactly_where_randomness_is_claimed(case):
    bench = bench_of(case.name)
    cohort = bench.plan([0, 3, 4])

    def run(index):
        return bench.params(bench.compiled(bench.start, cohort, jnp.int32(index))[0])

    same = distance(run(0), run(0))
    other = distance(run(0), run(1))
    assert same == 0
    assert (other > 1e-4) == case.is_random


def test_checkpoint_round_trip_continues_bit_for_bit(case, tmp_path):
    from orbax import checkpoint

    bench = bench_of(case.name)
    halfway = bench.after(*COHORTS[:2])
    leaves, structure = jax.tree.flatten(halfway)
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", leaves)
        saver.wait_until_finished()
        restored = structure.unflatten(saver.restore(tmp_path / "state", leaves))
    assert_trees_equal(restored, halfway)
    resumed = bench.after(*COHORTS[2:], state=restored, first=2)
    assert_trees_equal(resumed, bench.after(*COHORTS))


def test_client_state_moves_only_for_those_who_took_part(case):
    bench = bench_of(case.name)
    state = bench.after([0, 3], [3])
    if not case.keeps_client_state:
        assert jax.tree.leaves(state.clients) == []
        return
    once = bench.after([0, 3])
    for before, first, last in zip(
        *map(jax.tree.leaves, (bench.start.clients, once.clients, state.clients)),
        strict=True,
    ):
        rows = [np.reshape(one, (POPULATION, -1)) for one in (before, first, last)]
        moved = [(rows[i] != rows[i + 1]).any(axis=1).tolist() for i in (0, 1)]
        came = [
            [True, False, False, True, False, False],
            [False, False, False, True, False, False],
        ]
        if case.may_keep_the_same:
            assert any(moved[0])
            came = np.logical_and(came, moved).tolist()
        assert moved == came


def test_event_is_accepted_by_an_accountant_or_not_private(case):
    privacy = case.build().aggregator
    epsilon = privacy.epsilon(rounds=3, delta=1e-3)
    assert epsilon > 0
    assert np.isinf(epsilon) != (case.has_noise or case.has_local_noise)
