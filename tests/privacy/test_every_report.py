"""Robust aggregation in the engine: every report arrives, and nothing is claimed."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.typing import Batching, ClientResult, LocalWork
from tests.problems import logistic_loss, logistic_params, ragged_data

DATA, PARAMS = ragged_data(), logistic_params()
COUNT = DATA.num_clients


def speaks_its_first_row():
    """Each client reports the first row of its data, so that reports are known."""

    def init(shared, client_state):
        del client_state
        return shared.params

    def step(carry, batch, *, key):
        del key
        row = batch.rows["x"][0]
        row = jnp.where(row > 1e20, jnp.inf, row)
        return {"w": row, "b": row[0]}, {}

    def finish(shared, carry):
        del shared
        return ClientResult(carry, np.float32(1), ())

    return LocalWork(
        init=init, step=step, finish=finish, batching=Batching(batch_size=1, steps=1)
    )


def known_data(values):
    clients = {
        f"{i}": {"x": np.full((1, 4), v, np.float32), "y": np.zeros(1, np.int32)}
        for i, v in enumerate(values)
    }
    return jf.data.FederatedData.from_clients(clients)


def moved(rule, values, strategy="auto", sampling=None):
    data = known_data(values)
    sampling = sampling or jf.sampling.Full(population=len(values))
    privacy = jf.privacy.every_report(sampling=sampling, rule=rule)
    algorithm = jf.algorithms.fedavg(speaks_its_first_row(), privacy)
    history = jf.simulate(
        algorithm,
        data,
        params=PARAMS,
        rounds=1,
        seed=0,
        progress=False,
        strategy=strategy,
    )
    return np.asarray(history.params["w"] - PARAMS["w"]), history


VALUES = [3.0, -1.0, 1e9, 2.0, 5.0, 4.0, -2.0]


def test_the_median_of_all_reports_is_the_change():
    change, history = moved(jf.robust.Median(), VALUES)
    np.testing.assert_allclose(change, np.full(4, 3.0), rtol=1e-6)
    assert history.rounds[0].private["num_clients"] == 7


def test_a_failed_report_is_left_out():
    change, history = moved(jf.robust.Median(), [3.0, 4.0, 1e30, 5.0])
    np.testing.assert_allclose(change, np.full(4, 4.0), rtol=1e-6)
    assert history.rounds[0].private["num_failed"] == 1


@pytest.mark.parametrize("executor", ["loop", "stepped"])
@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_the_layout_changes_no_bit(executor, lanes):
    strategy = jf.engine.Strategy(executor=executor, lanes=lanes, block_clients=2)
    sampling = jf.sampling.Poisson(population=7, rate=0.8)
    for rule in (jf.robust.TrimmedMean(fraction=0.2), jf.robust.GeometricMedian()):
        one = moved(rule, VALUES, strategy, sampling)[0]
        other = moved(rule, VALUES, sampling=sampling)[0]
        assert one.tobytes() == other.tobytes()


def test_nobody_came():
    change, _ = moved(
        jf.robust.Median(),
        VALUES,
        sampling=jf.sampling.Poisson(population=7, rate=1e-6),
    )
    assert not change.any()


def local():
    return jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1)


def algorithm():
    privacy = jf.privacy.every_report(
        sampling=jf.sampling.Full(population=COUNT), rule=jf.robust.Median()
    )
    return jf.algorithms.fedavg(local(), privacy)


def test_it_claims_nothing():
    privacy = algorithm().aggregator
    assert privacy.epsilon(rounds=1, delta=1e-5) == math.inf
    assert "No privacy guarantee" in str(privacy.statement(rounds=3))
    assert "every single report" in str(privacy.statement(rounds=3))
    assert jf.privacy.from_json(privacy.to_json()) == privacy


def test_it_is_neither_trained_nor_swept(tmp_path):
    path = tmp_path / "budget.db"
    jf.Ledger.create(path, epsilon=1.0, delta=1e-5).close()
    with pytest.raises(ValueError, match="privacy must have noise"):
        jf.train(
            algorithm(), DATA, params=PARAMS, rounds=1, ledger=path, progress=False
        )
    with pytest.raises(ValueError, match=r"run jaxfed\.simulate for each setting"):
        jf.sweep(lambda: algorithm(), DATA, params=PARAMS, rounds=1, seeds=[0])


def test_methods_that_divide_sums_are_refused():
    privacy = algorithm().aggregator
    options = {"batch_size": 3, "epochs": 1}
    domains = jf.clients.agnostic(
        logistic_loss, optax.sgd(0.1), num_domains=2, **options
    )
    with pytest.raises(TypeError, match="afl must have sums of what clients send"):
        jf.algorithms.afl(domains, privacy, domain_learning_rate=0.1)
    several = jf.clients.clustered(logistic_loss, optax.sgd(0.1), clusters=2, **options)
    with pytest.raises(TypeError, match="ifca must have sums of what clients send"):
        jf.algorithms.ifca(several, privacy)


def test_no_plan_is_made_of_it():
    with pytest.raises(ValueError, match="a plan's reports are added up"):
        jf.deploy.export(algorithm(), DATA, PARAMS)


def test_cohorts_that_are_too_small_for_a_rule_are_refused():
    poisson = jf.sampling.Poisson(population=12, rate=0.5)
    krum = functools.partial(jf.robust.Krum, selected=2)
    jf.privacy.every_report(sampling=poisson, rule=krum(attackers=1))
    rounded = jf.sampling.Poisson(population=50, rate=0.58)  # 28.999999999999996
    jf.privacy.every_report(sampling=rounded, rule=krum(attackers=13))
    with pytest.raises(ValueError, match="must have 7 clients or more for Krum"):
        jf.privacy.every_report(sampling=poisson, rule=krum(attackers=2))


def test_a_wrong_rule_is_named():
    with pytest.raises(TypeError, match=r"pass for example robust\.Median"):
        jf.privacy.every_report(sampling=jf.sampling.Full(population=3), rule="median")


RULES = {
    "mean": None,
    "median": jf.robust.Median(),
    "trimmed mean": jf.robust.TrimmedMean(fraction=0.2),
    "krum": jf.robust.Krum(attackers=2),
    "multi-krum": jf.robust.Krum(attackers=2, selected=6),
    "geometric median": jf.robust.GeometricMedian(),
    "norm-bounded": jf.robust.NormBounded(norm=0.2),
}
ATTACKS = {
    "sign flip": lambda work: jf.attacks.sign_flip(work, scale=30.0),
    "noise": lambda work: jf.attacks.gaussian_noise(work, deviation=30.0),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_rules_hold_under_twenty_percent_of_attackers_and_the_mean_does_not(attack):
    """Two of ten clients are hostile; the loss is over all clients' own labels."""
    data = ragged_data([30] * 10, seed=3)
    data = jf.attacks.marked(data, attackers=["client-1", "client-6"])
    hostile, sampling = ATTACKS[attack](local()), jf.sampling.Full(population=10)
    x, y = np.asarray(data.arrays["x"]), np.asarray(data.arrays["y"])
    losses = {}
    for name, rule in RULES.items():
        privacy = jf.privacy.none(sampling=sampling)
        if rule is not None:
            privacy = jf.privacy.every_report(sampling=sampling, rule=rule)
        history = jf.simulate(
            jf.algorithms.fedavg(hostile, privacy),
            data,
            params=PARAMS,
            rounds=15,
            seed=0,
            progress=False,
        )
        params = history.params
        scores = x @ np.asarray(params["w"]) + float(params["b"])
        losses[name] = float(np.mean(np.logaddexp(0, scores) - y * scores))
    assert losses.pop("mean") > 2
    assert max(losses.values()) < 0.5, losses
