"""Releases are paid first, come from secret keys, and show nothing else."""

import dataclasses
import functools
import json
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.engine import _run
from jaxfed.engine._run import Run
from jaxfed.ledger import BudgetExhausted, Ledger, LedgerError

CLIENTS, DIMENSION = 40, 5
LOOP = jf.engine.Strategy(executor="loop", lanes=8, devices=1)


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(1)
    x = draw.normal(size=(3 * CLIENTS, DIMENSION)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.float32)
    return jf.data.FederatedData.from_arrays(
        {"x": x, "y": y}, client=np.repeat(np.arange(CLIENTS), 3)
    )


def loss(params, batch, key):
    del key
    logits = batch["x"] @ params["w"]
    return optax.sigmoid_binary_cross_entropy(logits, batch["y"]).mean(), {}


LOCAL = jf.clients.sgd(loss, optax.sgd(0.1), epochs=1, batch_size=2)
PARAMS = {"w": jnp.zeros(DIMENSION)}
POISSON = jf.sampling.Poisson(population=CLIENTS, rate=0.5)
CYCLIC = jf.sampling.Cyclic(population=CLIENTS, groups=4)
FIXED = jf.clipping.Fixed(norm=1.0)


def central(sampling=POISSON, clipping=FIXED, noise=None, rounds=None):
    return jf.privacy.central(
        sampling=sampling,
        clipping=clipping,
        noise=noise or jf.noise.Gaussian(multiplier=1.0),
        delta=1e-3,
        rounds=rounds,
    )


ADAPTIVE = central(clipping=jf.clipping.Adaptive(quantile=0.5, initial=0.1))


@functools.cache  # one object compiles once
def averaging(privacy=ADAPTIVE, local=LOCAL):
    return jf.algorithms.fedavg(
        local, privacy, server_optimizer=optax.sgd(0.5, momentum=0.9)
    )


def ledger(folder, epsilon=200.0, **terms):
    path = folder / "budget.db"
    Ledger.create(path, epsilon=epsilon, delta=1e-3, **terms).close()
    return path


def train(data, path, algorithm=None, rounds=4, params=PARAMS, **options):
    return jf.train(
        algorithm or averaging(),
        data,
        params=params,
        rounds=rounds,
        ledger=path,
        **({"progress": False, "strategy": LOOP} | options),
    )


def bits(values):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(values)]


def kinds(path):
    with Ledger.open(path, read_only=True) as opened:
        return [entry.kind for entry in opened.history()]


class Killed(BaseException):
    """Ends a run where it is."""


def dies_after(rounds):
    def callback(history):
        if len(history.rounds) == rounds:
            raise Killed

    return callback


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


def test_a_second_call_repeats_the_bits_and_spends_nothing(data, tmp_path):
    path = ledger(tmp_path)
    first = train(data, path)
    before = kinds(path)
    second = train(data, path)
    assert bits(first.params) == bits(second.params)
    assert bits(first.state) == bits(second.state)
    assert kinds(path) == before


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_a_run_goes_on_from_its_checkpoint(every, data, tmp_path):
    path = ledger(tmp_path)
    saved = jf.Checkpoint(directory=tmp_path / "saved", every=every)
    with pytest.raises(Killed):
        train(data, path, rounds=8, checkpoint=saved, callbacks=[dies_after(5)])
    seen = []
    history = train(
        data,
        path,
        rounds=8,
        checkpoint=saved,
        callbacks=[lambda h: seen.append(h.rounds[-1].round)],
    )
    assert seen[0] == 4 // every * every + 1  # the fifth was not saved yet
    whole = train(data, path, rounds=8)
    assert bits(history.state) == bits(whole.state)
    assert history.rounds == whole.rounds
    assert kinds(path).count("charge") == 8


NOISES = {
    "tree": jf.noise.Tree(multiplier=1.0),
    "banded": jf.noise.Banded(multiplier=1.0, bands=2),
    "blt": jf.noise.BLT(multiplier=1.0),
}


@pytest.mark.parametrize("kind", NOISES)
def test_correlated_noise_is_drawn_again_from_the_ledger(kind, data, tmp_path):
    algorithm = averaging(central(CYCLIC, noise=NOISES[kind], rounds=8))
    path = ledger(tmp_path)
    saved = jf.Checkpoint(directory=tmp_path / "saved", every=2)
    options = {"algorithm": algorithm, "rounds": 8, "checkpoint": saved}
    with pytest.raises(Killed):
        train(data, path, callbacks=[dies_after(5)], **options)
    history = train(data, path, **options)
    whole = train(data, path, algorithm, rounds=8)
    assert bits(history.state) == bits(whole.state)
    with Ledger.open(path, read_only=True) as opened:
        (mechanism,) = opened.mechanisms
        assert [charge.uses for charge in mechanism.charges] == [1] + 7 * [0]
        wanted = algorithm.aggregator.epsilon(rounds=8, delta=1e-3)
        assert opened.epsilon() == pytest.approx(wanted, rel=1e-6)


def test_a_simulation_goes_on_too(data, tmp_path):
    for number, privacy in enumerate(
        [ADAPTIVE, central(CYCLIC, noise=NOISES["blt"], rounds=6)]
    ):
        saved = jf.Checkpoint(directory=tmp_path / str(number), every=2)
        options = {"params": PARAMS, "rounds": 6, "progress": False, "strategy": LOOP}
        with pytest.raises(Killed):
            jf.simulate(
                averaging(privacy),
                data,
                seed=1,
                checkpoint=saved,
                callbacks=[dies_after(3)],
                **options,
            )
        history = jf.simulate(
            averaging(privacy), data, seed=1, checkpoint=saved, **options
        )
        whole = jf.simulate(averaging(privacy), data, seed=1, **options)
        assert bits(history.state) == bits(whole.state)
        assert [r.private for r in history.rounds] == [r.private for r in whole.rounds]
        with pytest.raises(ValueError, match="must hold this run"):
            jf.simulate(averaging(privacy), data, seed=2, checkpoint=saved, **options)


def test_other_data_are_refused(data, tmp_path):
    path = ledger(tmp_path)
    train(data, path)
    changed = {**data.arrays, "x": data.arrays["x"] + 1e-3}
    other = dataclasses.replace(data, arrays=changed)
    with pytest.raises(LedgerError, match="its data or parameters changed"):
        train(other, path)
    with pytest.raises(LedgerError, match="its data or parameters changed"):
        train(data, path, params={"w": jnp.ones(DIMENSION)})
    louder = dataclasses.replace(ADAPTIVE, noise=jf.noise.Gaussian(multiplier=2.0))
    with pytest.raises(LedgerError, match="must cost what was planned"):
        train(data, path, averaging(louder))
    with pytest.raises(LedgerError, match="its plan changed"):
        train(data, path, averaging(central()))
    slow = jf.clients.sgd(loss, optax.sgd(0.1), epochs=2, batch_size=2)
    with pytest.raises(LedgerError, match="its plan changed"):
        train(data, path, averaging(local=slow))
    assert kinds(path).count("charge") == 4


def replaying_otherwise(monkeypatch):
    """Makes every sum another one than before, as other hardware may."""
    digest = _run.Summed.digest
    monkeypatch.setattr(
        _run.Summed, "digest", lambda self: bytes(b ^ 1 for b in digest(self))
    )


def test_another_sum_has_another_cohort_and_noise_and_is_paid(
    data, tmp_path, monkeypatch, caplog
):
    path = ledger(tmp_path)
    with Ledger.open(path) as opened:
        opened.plan(ADAPTIVE, rounds=10, name="training")
    first = train(data, path)
    replaying_otherwise(monkeypatch)
    drawn = []
    draw = Run._plan

    def noted(self, index, attendance, root=None):
        drawn.append((index, root is not None))
        return draw(self, index, attendance, root)

    monkeypatch.setattr(Run, "_plan", noted)
    with caplog.at_level(logging.WARNING, logger="jaxfed"):
        second = train(data, path)
    assert "drawn and paid for anew" in caplog.text
    assert {index for index, is_new in drawn if is_new} == {0, 1, 2, 3}
    assert bits(first.params) != bits(second.params)
    with Ledger.open(path, read_only=True) as opened:
        (mechanism,) = opened.mechanisms
        assert [c.attempt for c in mechanism.charges] == 4 * [0] + 4 * [1]
        assert mechanism.uses == 8
        wanted = ADAPTIVE.epsilon(rounds=8, delta=1e-3)
        assert opened.epsilon() == pytest.approx(wanted, rel=1e-3)


def test_correlated_noise_is_never_added_to_another_sum(data, tmp_path, monkeypatch):
    algorithm = averaging(central(CYCLIC, noise=NOISES["blt"], rounds=4))
    path = ledger(tmp_path)
    train(data, path, algorithm)
    replaying_otherwise(monkeypatch)
    with pytest.raises(LedgerError, match="must have the sum it had"):
        train(data, path, algorithm)


def test_a_budget_that_is_too_small_is_refused_before_anything(data, tmp_path):
    path = ledger(tmp_path, epsilon=ADAPTIVE.epsilon(rounds=3, delta=1e-3))
    with pytest.raises(BudgetExhausted, match="3 rounds would fit"):
        train(data, path, rounds=4)
    assert kinds(path) == ["ledger"]
    train(data, path, rounds=3)
    with pytest.raises(BudgetExhausted):
        train(data, path, rounds=1, name="more")


def test_an_adaptive_ledger_stops_in_the_middle(data, tmp_path):
    path = ledger(tmp_path, epsilon=20.0, adaptive=True)
    with Ledger.open(path, read_only=True) as opened:
        left = opened.remaining(ADAPTIVE)
    assert left > 0
    with pytest.raises(BudgetExhausted, match="0 would"):
        train(data, path, rounds=left + 5)
    assert kinds(path).count("charge") == left


def test_two_runs_and_a_query_share_a_ledger(data, tmp_path):
    question = central(
        jf.sampling.Full(population=CLIENTS), jf.clipping.Fixed(norm=3.0)
    )
    with Ledger.create(tmp_path / "b.db", epsilon=99.0, delta=1e-3) as opened:
        opened.plan(ADAPTIVE, rounds=2, name="one")
        opened.plan(ADAPTIVE, rounds=2, name="two")

        def hits(params, rows):
            return {"hit": jnp.where(rows["x"] @ params["w"] > 0, rows["y"], 0.0)}

        looks = jf.queries.evaluation(
            hits,
            data,
            bounds={"hit": (0, 1)},
            privacy=question,
            looks=2,
            ledger=opened,
            every=2,
        )
        one = train(data, opened, rounds=2, name="one", evaluate=looks)
        two = train(data, opened, rounds=2, name="two", evaluate=[looks])
        assert bits(one.params) != bits(two.params)
        assert set(one.rounds[-1].evaluation) == {"hit"}
        names = [m.name.split(" [")[0] for m in opened.mechanisms]
        assert names == ["one", "two", "evaluation of hit"]
        assert [len(m.charges) for m in opened.mechanisms] == [2, 2, 2]


def exact(params):
    del params
    return {"accuracy": 1.0}


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
            None, context={}, secret=b"", commit=None, is_replay=False, maker=None
        )
    with Ledger.open(ledger(tmp_path)) as opened:
        mechanism = opened.plan(ADAPTIVE, rounds=2)
        with (
            opened.spending(mechanism, 0, b"another sum") as permit,
            pytest.raises(LedgerError, match="the sum it was made for"),
        ):
            run.release(0, summed, permit)


def test_a_checkpoint_needs_its_ledger(data, tmp_path):
    path = ledger(tmp_path)
    copies = {}
    for moment, rounds in (("start", 0), ("middle", 2)):
        if rounds:
            with pytest.raises(Killed):
                train(data, path, callbacks=[dies_after(rounds)])
        copies[moment] = {f.name: f.read_bytes() for f in tmp_path.glob("budget.db*")}
    saved = jf.Checkpoint(directory=tmp_path / "saved", every=1)
    train(data, path, checkpoint=saved)
    for old in copies.values():
        for file in tmp_path.glob("budget.db*"):
            file.unlink()
        for name, content in old.items():
            (tmp_path / name).write_bytes(content)
            (tmp_path / name).chmod(0o600)
        with pytest.raises(LedgerError, match="it is an older copy"):
            train(data, path, checkpoint=saved)
    for file in tmp_path.glob("budget.db*"):
        file.unlink()
    ledger(tmp_path)
    with pytest.raises(LedgerError, match="edited, forked or swapped"):
        train(data, path, checkpoint=saved)


def test_the_checkpoint_holds_no_secret_and_no_client(data, tmp_path):
    algorithm = averaging(central(CYCLIC, noise=NOISES["blt"], rounds=4))
    path = ledger(tmp_path)
    saved = jf.Checkpoint(directory=tmp_path / "saved", every=1)
    train(data, path, algorithm, checkpoint=saved)
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(tmp_path / "saved") as manager:
        step = manager.latest_step()
        found = ocp.StandardCheckpointer().restore(
            tmp_path / "saved" / str(step) / "arrays"
        )
    shapes = sorted(np.shape(leaf) for leaf in jax.tree.leaves(found))
    # parameters and momentum: nothing of noise or of clients
    assert shapes == [(DIMENSION,), (DIMENSION,)]
    secret = (tmp_path / "budget.db-secret").read_text().strip()
    for file in (tmp_path / "saved").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert secret.encode() not in content
            assert bytes.fromhex(secret) not in content


def test_a_damaged_checkpoint_is_passed_over(data, tmp_path, caplog):
    path = ledger(tmp_path)
    saved = jf.Checkpoint(directory=tmp_path / "saved", every=1, keep=2)
    with pytest.raises(Killed):
        train(data, path, checkpoint=saved, callbacks=[dies_after(3)])
    for newest in sorted((tmp_path / "saved").glob("[0-9]*"))[-1:]:
        for file in newest.rglob("*"):
            if file.is_file() and file.name != "commit_success.txt":
                file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with caplog.at_level(logging.WARNING, logger="jaxfed"):
        history = train(data, path, checkpoint=saved)
    assert "cannot be read" in caplog.text
    assert bits(history.state) == bits(train(data, path).state)
    assert kinds(path).count("charge") == 4
