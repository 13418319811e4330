"""Training along a schedule: equal to rounds where it should be, and to a slow twin."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.timing import Buffered, Fleet, Synchronous
from tests.conformance.cases import scaffold
from tests.problems import logistic_loss, logistic_params, ragged_data

DATA, PARAMS = ragged_data(), logistic_params()
COUNT = DATA.num_clients
SLOW = Fleet(speed_spread=1.0, seconds_of_exchange=2.0)


def fedavg(sampling=None, weighting="clients", batch_size=100, **steps):
    steps = steps or {"steps": 3}
    local = jf.clients.sgd(
        logistic_loss, optax.sgd(0.2), batch_size=batch_size, **steps
    )
    sampling = sampling or jf.sampling.Full(population=COUNT)
    none = jf.privacy.none(sampling=sampling, weighting=weighting)
    return jf.algorithms.fedavg(local, none)


def run(algorithm, server, fleet=SLOW, rounds=5, strategy="auto", seed=1):
    return jf.simulate_in_time(
        algorithm,
        DATA,
        params=PARAMS,
        rounds=rounds,
        seed=seed,
        fleet=fleet,
        server=server,
        progress=False,
        strategy=strategy,
    )


def assert_close(one, two, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), **tolerance)


@pytest.mark.parametrize("kind", ["none", "central", "scaffold", "median"])
def test_synchronous_rounds_are_those_of_simulate(kind):
    """Whoever waits for everybody trains what the plain simulation trains."""
    poisson = jf.sampling.Poisson(population=COUNT, rate=0.6)
    algorithm = fedavg(poisson, epochs=2, batch_size=4)
    if kind == "scaffold":
        algorithm = scaffold(2)
    if kind == "central":
        privacy = jf.privacy.central(
            sampling=poisson,
            clipping=jf.clipping.Fixed(norm=0.5),
            noise=jf.noise.Gaussian(multiplier=1.0),
            delta=1e-3,
        )
        algorithm = jf.algorithms.fedavg(algorithm.local, privacy)
    if kind == "median":
        rule = jf.robust.Median()
        privacy = jf.privacy.every_report(sampling=poisson, rule=rule)
        algorithm = jf.algorithms.fedavg(algorithm.local, privacy)
    timed = run(algorithm, Synchronous())
    plain = jf.simulate(
        algorithm, DATA, params=PARAMS, rounds=5, seed=1, progress=False
    )
    assert_close(timed.params, plain.params, rtol=1e-6, atol=1e-7)
    assert [r.epsilon for r in timed.rounds] == [r.epsilon for r in plain.rounds]
    for one, other in zip(timed.rounds, plain.rounds, strict=True):
        assert one.private["num_clients"] == other.private["num_clients"]
        assert one.private["loss"] == pytest.approx(other.private["loss"], rel=1e-5)
    seconds = timed.curve("virtual_seconds")[1]
    assert (np.diff(seconds) >= 0).all()


def gradient(params, x, y):
    scores = x @ params["w"] + params["b"]
    error = 1 / (1 + np.exp(-scores)) - y
    return {"w": x.T @ error / len(y), "b": error.mean()}


def trained(params, client, steps):
    """Full-batch descent in float64."""
    rows = slice(DATA.offsets[client], DATA.offsets[client + 1])
    x = np.asarray(DATA.arrays["x"][rows], np.float64)
    y = np.asarray(DATA.arrays["y"][rows], np.float64)
    now = dict(params)
    for _ in range(steps):
        slope = gradient(now, x, y)
        now = {name: now[name] - 0.2 * slope[name] for name in now}
    return {name: now[name] - params[name] for name in now}


PARTIAL = Synchronous(deadline=5.0, late="partial")


@pytest.mark.parametrize(
    ("server", "executor", "lanes"),
    [
        (Buffered(goal=3, concurrency=5), "loop", 2),
        (Buffered(goal=4, concurrency=2, exponent=1.0, most_staleness=3), "stepped", 3),
        (PARTIAL, "loop", 1),
        (PARTIAL, "loop", 3),
        (PARTIAL, "stepped", 2),
        (Synchronous(goal=2), "loop", 2),
    ],
)
def test_it_equals_a_slow_twin(server, executor, lanes):
    rounds, strategy = 7, jf.engine.Strategy(executor=executor, lanes=lanes)
    history = run(fedavg(), server, rounds=rounds, strategy=strategy)
    clients = SLOW.drawn(COUNT, 1)
    cohort = lambda index: np.arange(COUNT)  # noqa: E731
    source = server.schedule(clients, np.full(COUNT, 3), cohort, seed=1)
    start = {name: np.asarray(a, np.float64) for name, a in PARAMS.items()}
    models, times, staleness = [start], [], []
    for index, release in enumerate(itertools.islice(source, rounds)):
        total = {name: np.zeros_like(a) for name, a in start.items()}
        ages = index - release.versions
        for client, version, steps, weight in zip(
            release.clients,
            release.versions,
            release.steps,
            server.weights(ages),
            strict=True,
        ):
            change = trained(models[version], client, steps)
            total = {name: total[name] + weight * change[name] for name in total}
        count = max(1, len(release.clients))
        models.append({n: models[-1][n] + total[n] / count for n in start})
        times.append(release.time)
        staleness.append(ages.mean() if len(ages) else 0.0)
    assert_close(history.params, models[-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(history.curve("virtual_seconds")[1], times)
    np.testing.assert_allclose(history.curve("staleness")[1], staleness)
    if isinstance(server, Buffered):
        assert max(staleness) > 0  # the test is about stale models


@pytest.mark.parametrize(
    "server",
    [
        Synchronous(goal=2),
        Synchronous(deadline=5.0),
        Buffered(goal=4, concurrency=2, most_staleness=0),
    ],
)
def test_bytes_are_those_of_all_who_were_asked(server):
    history = run(fedavg(), server, fleet=dataclasses.replace(SLOW, dropout=0.2))
    sent = 4 * sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    wasted = 0
    for record in history.rounds:
        facts = record.private
        late, lost = facts["num_late"], facts["num_lost"]
        assert facts["num_bytes_up"] == sent * (facts["num_clients"] + late)
        assert facts["num_bytes_down"] == facts["num_bytes_up"] + sent * lost
        wasted += late + lost
    assert wasted > 0


def test_models_that_nobody_works_on_are_forgotten(monkeypatch):
    from jaxfed.engine import _virtual_time

    held = []
    original = _virtual_time._TimedRun.one_round

    def spied(self, index):
        facts = original(self, index)
        held.append(len(self._models))
        return facts

    monkeypatch.setattr(_virtual_time._TimedRun, "one_round", spied)
    run(fedavg(), Buffered(goal=1, concurrency=2), rounds=30)
    assert max(held) <= 3


def test_partial_work_changes_what_is_learned():
    late = {"deadline": 4.0}
    drop = run(fedavg(), Synchronous(**late))
    part = run(fedavg(), Synchronous(**late, late="partial"))
    assert sum(drop.curve("num_clients")[1]) < sum(part.curve("num_clients")[1])


def test_seconds_to_a_target():
    history = run(fedavg(), Synchronous(), rounds=4)
    seconds = history.curve("virtual_seconds")[1]
    losses = history.curve("loss")[1]
    highest = float(losses.max())
    place = int(np.argmax(losses >= highest))
    assert jf.timing.seconds_to(history, "loss", at_least=highest) == seconds[place]
    assert jf.timing.seconds_to(history, "loss", at_least=1e9) is None
    with pytest.raises(ValueError, match="no round recorded 'accuracy'"):
        jf.timing.seconds_to(history, "accuracy", at_least=0.5)


def noisy():
    return jf.privacy.central(
        sampling=jf.sampling.Poisson(population=COUNT, rate=0.6),
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=jf.noise.Gaussian(multiplier=1.0),
        delta=1e-3,
    )


@pytest.mark.parametrize(
    ("build", "server", "message"),
    [
        (
            lambda: jf.algorithms.fedavg(fedavg().local, noisy()),
            Buffered(goal=2, concurrency=2),
            "privacy must be none where the first reports count",
        ),
        (
            lambda: jf.algorithms.fedavg(fedavg().local, noisy()),
            Synchronous(goal=2),
            "privacy must be none where the first reports count",
        ),
        (lambda: scaffold(2), Buffered(goal=2, concurrency=2), "keep a state that"),
        (
            lambda: jf.algorithms.fedavg(
                fedavg().local,
                jf.privacy.every_report(
                    sampling=jf.sampling.Full(population=COUNT),
                    rule=jf.robust.Median(),
                ),
            ),
            Buffered(goal=2, concurrency=2),
            "needs all reports of one model",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(build, server, message):
    with pytest.raises(ValueError, match=message):
        run(build(), server)


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match=r"pass timing\.Fleet"):
        run(fedavg(), Synchronous(), fleet=3)
    with pytest.raises(TypeError, match=r"pass timing\.Synchronous"):
        run(fedavg(), "synchronous")


def test_a_buffer_is_faster_than_rounds_with_stragglers():
    """The same number of reports takes less virtual time when nobody is waited for."""
    fleet = Fleet(speed_spread=1.5)
    rounds = run(fedavg(), Synchronous(), fleet=fleet, rounds=5)
    buffered = run(
        fedavg(), Buffered(goal=COUNT, concurrency=COUNT), fleet=fleet, rounds=5
    )
    last = [h.curve("virtual_seconds")[1][-1] for h in (rounds, buffered)]
    assert last[1] < 0.7 * last[0]
    assert bool(jnp.isfinite(buffered.params["w"]).all())
