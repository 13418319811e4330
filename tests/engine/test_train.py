"""Releases are paid first, come from secret keys, and show nothing else."""

import json
import re

import jax
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.engine import _run
from jaxfed.engine._run import Run
from jaxfed.ledger import Ledger, LedgerError
from tests.engine.paid import (
    ADAPTIVE,
    CLIENTS,
    LOOP,
    PARAMS,
    POISSON,
    averaging,
    central,
    kinds,
    ledger,
    loss,
    train,
)
from tests.engine.paid import data as data  # a fixture


def exact(params):
    del params
    return {"accuracy": 1.0}


def test_every_release_is_paid_with_its_model(data, tmp_path):
    path = ledger(tmp_path)
    history = train(data, path)
    assert history.private is True
    assert kinds(path) == ["ledger", "mechanism", "run"] + 4 * ["charge", "model"]
    with Ledger.open(path, read_only=True) as opened:
        wanted = ADAPTIVE.epsilon(rounds=4, delta=1e-3)
        assert opened.epsilon() == pytest.approx(wanted, rel=1e-3)
        assert history.epsilon == pytest.approx(wanted, rel=1e-2)
        assert history.ledger.head == opened.head


def test_the_sum_is_that_of_a_simulation_but_for_the_rounding(data):
    everybody = central(jf.sampling.Full(population=CLIENTS))
    one_batch = jf.clients.sgd(loss, optax.sgd(0.1), epochs=1, batch_size=3)
    algorithm = averaging(everybody, one_batch)
    chosen = jf.engine.choose_strategy(algorithm, data, params=PARAMS, strategy=LOOP)
    secure = jf.keys.secure(jf.keys.new_secret(), context=b"test")
    sums = [
        Run(algorithm, data, _run.host_arrays(data), PARAMS, root, 1, chosen).add_up(0)
        for root in (jf.keys.simulated(0), secure)
    ]
    simulated, released = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one.sums.encoded)])
        for one in sums
    ]
    assert np.abs(simulated).max() > 1000 * CLIENTS
    assert np.abs(simulated - released).max() <= CLIENTS


def test_nothing_private_is_in_a_released_history(data, tmp_path):
    seen = []
    path = ledger(tmp_path)
    history = train(data, path, callbacks=[lambda h: seen.append(h.rounds[-1])])
    for record in [*history.rounds, *seen]:
        assert record.private == {}
        assert record.evaluation == {}
        assert record.seconds is None
        assert set(record.released) == {"clip_norm"}
    history.to_json(tmp_path / "history.json")
    history.to_csv(tmp_path / "history.csv")
    saved = (tmp_path / "history.json").read_text()
    for word in ("num_clients", "num_failed", "loss", "seconds"):
        assert word not in saved
        assert word not in (tmp_path / "history.csv").read_text()
    assert json.loads(saved)["private"] is True
    assert "simulation" not in repr(history).lower()
    assert "Simulation" not in history.statement


def test_what_shows_exact_values_is_refused(data, tmp_path):
    path = ledger(tmp_path)
    predict = lambda params, rows: rows["x"] @ params["w"]  # noqa: E731
    on_clients = jf.evaluation.central(predict, data, auc=jf.metrics.auc)
    for evaluate in (exact, on_clients, [on_clients]):
        with pytest.raises(ValueError, match="must release public values alone"):
            train(data, path, evaluate=evaluate)
    with pytest.raises(TypeError, match="clients' data is not public"):
        jf.evaluation.public(predict, data, auc=jf.metrics.auc)
    public = jf.evaluation.public(predict, dict(data.arrays), auc=jf.metrics.auc)
    history = train(data, path, evaluate=public)
    assert len(history.curve("auc")[1]) == 4


def test_what_gives_no_guarantee_is_refused(data, tmp_path):
    path = ledger(tmp_path)
    with pytest.raises(ValueError, match="privacy must have noise"):
        train(data, path, averaging(jf.privacy.none(sampling=POISSON)))
    small = jf.sampling.FixedSize(population=CLIENTS, size=4)
    small = jf.privacy.hypothetical(ADAPTIVE, sampling=small)
    with pytest.raises(ValueError, match="must be of this run"):
        train(data, path, averaging(small))
    with pytest.raises(LedgerError, match=re.escape("Ledger.create(")):
        train(data, tmp_path / "none.db")
    with pytest.raises(TypeError, match="ledger must be a Ledger"):
        train(data, None)
    with pytest.raises(TypeError, match="seed"):
        train(data, path, seed=0)
    assert kinds(path) == ["ledger"]


def test_no_release_without_a_permit(data, tmp_path):
    algorithm, root = averaging(), jf.keys.simulated(0)
    arrays = _run.host_arrays(data)
    chosen = jf.engine.choose_strategy(algorithm, data, params=PARAMS, strategy=LOOP)
    run = Run(algorithm, data, arrays, PARAMS, root, 2, chosen)
    summed = run.add_up(0)
    for wrong in (None, 7, root, jf.keys.secure(jf.keys.new_secret(), context=b"x")):
        with pytest.raises(TypeError, match="permit must be a Permit"):
            run.release(0, summed, wrong)
    with pytest.raises(TypeError, match="must come from a ledger"):
        jf.ledger.Permit(
            None, secret=b"", commit=lambda _: "", is_replay=False, maker=None
        )
    with Ledger.open(ledger(tmp_path)) as opened:
        mechanism = opened.plan(ADAPTIVE, rounds=2)
        with (
            opened.spending(mechanism, 0, b"another sum") as permit,
            pytest.raises(LedgerError, match="the sum it was made for"),
        ):
            run.release(0, summed, permit)
