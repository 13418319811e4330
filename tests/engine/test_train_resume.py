"""A run that ended anywhere goes on to the same bits, or is refused."""

import dataclasses
import logging
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import jaxfed as jf
from jaxfed import _program
from jaxfed.engine import _run
from jaxfed.engine._run import Run
from jaxfed.ledger import BudgetExhausted, Ledger, LedgerError
from tests.engine.paid import (
    ADAPTIVE,
    CYCLIC,
    DIMENSION,
    LOCAL,
    LOOP,
    PARAMS,
    Killed,
    averaging,
    bits,
    central,
    dies_after,
    kinds,
    ledger,
    loss,
    train,
)
from tests.engine.paid import data as data  # a fixture

STRATEGIES = {
    "auto": "auto",
    "stepped": jf.engine.Strategy(executor="stepped", lanes=2),
    "blocks": jf.engine.Strategy(executor="loop", lanes=4, block_clients=8),
    "streamed": jf.engine.Strategy(executor="loop", lanes=4, resident_bytes=1),
}
NOISES = {
    "tree": jf.noise.Tree(multiplier=1.0),
    "banded": jf.noise.Banded(multiplier=1.0, bands=2),
    "blt": jf.noise.BLT(multiplier=1.0),
}


def replaying_otherwise(monkeypatch):
    """Makes every sum another one than before, as other hardware may."""
    digest = _run.Summed.digest
    monkeypatch.setattr(
        _run.Summed, "digest", lambda self: bytes(b ^ 1 for b in digest(self))
    )


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_second_call_repeats_the_bits_and_spends_nothing(kind, data, tmp_path):
    path = ledger(tmp_path)
    first = train(data, path, strategy=STRATEGIES[kind])
    before = kinds(path)
    second = train(data, path)  # "auto" is what the run began with
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


def scaffold():
    clip = jf.clipping.PerLayer(norms={"change": 1.0, "control": 3.0})
    local = jf.clients.scaffold(loss, learning_rate=0.1, epochs=1, batch_size=2)
    return jf.algorithms.scaffold(local, central(clipping=clip))


def feddyn():
    local = jf.clients.dyn(loss, optax.sgd(0.1), alpha=0.1, epochs=1, batch_size=2)
    return jf.algorithms.feddyn(local, central())


@pytest.mark.parametrize("build", [scaffold, feddyn])
@pytest.mark.parametrize("kind", ["auto", "stepped", "blocks", "streamed"])
def test_what_clients_keep_goes_on_too(build, kind, data, tmp_path):
    """With a state on every client, whatever executes it, after kills and again."""
    path, algorithm, place = ledger(tmp_path), build(), tmp_path / "saved"
    saved = jf.Checkpoint(directory=place, every=2, client_state=True)
    options = {"rounds": 6, "strategy": STRATEGIES[kind]}
    with pytest.raises(Killed):
        train(
            data,
            path,
            algorithm,
            checkpoint=saved,
            callbacks=[dies_after(3)],
            **options,
        )
    history = train(data, path, algorithm, checkpoint=saved, **options)
    whole = train(data, path, algorithm, **options)  # the same, for nothing
    assert bits(history.state) == bits(whole.state)
    assert history.rounds == whole.rounds
    assert kinds(path).count("charge") == 6
    assert bits(history.params) != bits(PARAMS)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_client_states_are_not_gone_on_with(damage, data, tmp_path, caplog):
    path, algorithm, place = ledger(tmp_path), scaffold(), tmp_path / "saved"
    saved = jf.Checkpoint(directory=place, every=2, client_state=True)
    train(data, path, algorithm, checkpoint=saved, rounds=7)
    files = sorted(p.name for p in (place / "client_states").iterdir())
    assert files[-2:] == ["6", "7"]
    assert len(files) <= 3
    newest = place / "client_states" / "7"
    held = bytearray(newest.read_bytes())
    held[len(held) // 2] ^= 1
    newest.unlink()
    if damage == "changed":
        newest.write_bytes(held)
    history = train(data, path, algorithm, checkpoint=saved, rounds=7)
    assert "checkpoint 7" in caplog.text
    assert [path.name for path in place.glob("damaged-*")] == ["damaged-7-1"]
    assert bits(history.state) == bits(train(data, path, algorithm, rounds=7).state)


def test_a_run_that_is_told_to_stop_saves_and_ends(data, tmp_path):
    path, saved = ledger(tmp_path), jf.Checkpoint(directory=tmp_path / "s", every=99)
    before = signal.getsignal(signal.SIGTERM)

    def told(history):
        if len(history.rounds) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        train(data, path, rounds=6, checkpoint=saved, callbacks=[told])
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    seen = []
    look = lambda h: seen.append(h.rounds[-1].round)  # noqa: E731
    history = train(data, path, rounds=6, checkpoint=saved, callbacks=[look])
    assert seen == [4, 5, 6]
    assert bits(history.state) == bits(train(data, path, rounds=6).state)


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
    with pytest.raises(LedgerError, match="its data or initial parameters changed"):
        train(other, path)
    with pytest.raises(LedgerError, match="its data or initial parameters changed"):
        train(data, path, params={"w": jnp.ones(DIMENSION)})
    louder = dataclasses.replace(ADAPTIVE, noise=jf.noise.Gaussian(multiplier=2.0))
    with pytest.raises(LedgerError, match="must cost what was planned"):
        train(data, path, averaging(louder))
    with pytest.raises(LedgerError, match="algorithm, privacy or model shape changed"):
        train(data, path, averaging(central()))
    slow = jf.clients.sgd(loss, optax.sgd(0.1), epochs=2, batch_size=2)
    with pytest.raises(LedgerError, match="algorithm, privacy or model shape changed"):
        train(data, path, averaging(local=slow))
    assert kinds(path).count("charge") == 4


def another_loss(params, batch, key):
    found, metrics = loss(params, batch, key)
    return found + 0.0 * params["w"].sum(), metrics


PROGRAMS = {
    "learning rate": averaging(
        local=jf.clients.sgd(loss, optax.sgd(0.2), epochs=1, batch_size=2)
    ),
    "loss": averaging(
        local=jf.clients.sgd(another_loss, optax.sgd(0.1), epochs=1, batch_size=2)
    ),
    "server optimizer": jf.algorithms.fedavg(
        LOCAL, ADAPTIVE, server_optimizer=optax.sgd(0.5, momentum=0.8)
    ),
}


@pytest.mark.parametrize("what", PROGRAMS)
@pytest.mark.parametrize("is_saved", [True, False])
def test_another_program_is_refused(what, is_saved, data, tmp_path):
    path, saved = ledger(tmp_path), tmp_path / "saved"
    options = {"checkpoint": saved} if is_saved else {}
    with pytest.raises(Killed):
        train(data, path, callbacks=[dies_after(2)], **options)
    before = kinds(path)
    with pytest.raises(LedgerError, match=r"its code \(loss, model or optimizer\) cha"):
        train(data, path, PROGRAMS[what], **options)
    assert kinds(path) == before
    whole = train(data, path, **options)
    assert len(whole.rounds) == 4
    simulated = {"params": PARAMS, "rounds": 4, "seed": 1, "progress": False}
    jf.simulate(averaging(), data, checkpoint=tmp_path / "other", **simulated)
    with pytest.raises(ValueError, match="must hold this run"):
        jf.simulate(PROGRAMS[what], data, checkpoint=tmp_path / "other", **simulated)


def test_a_newer_version_goes_on_and_repeats_nothing_for_free(
    data, tmp_path, monkeypatch
):
    path, saved = ledger(tmp_path), jf.Checkpoint(directory=tmp_path / "s", every=2)
    with Ledger.open(path) as opened:
        opened.plan(ADAPTIVE, rounds=10, name="training")
    with pytest.raises(Killed):
        train(data, path, rounds=6, checkpoint=saved, callbacks=[dies_after(4)])
    machine = _program.machine
    monkeypatch.setattr(_program, "machine", lambda: machine() | {"jax": "9.9"})
    train(data, path, rounds=6, checkpoint=saved)
    with Ledger.open(path, read_only=True) as opened:
        (mechanism,) = opened.mechanisms
    # of 4 rounds that were paid the checkpoint had 2
    assert [c.round for c in mechanism.charges] == [0, 1, 2, 3, 2, 3, 4, 5]
    assert [c.attempt for c in mechanism.charges] == [0, 0, 0, 0, 1, 1, 0, 0]
    assert kinds(path).count("run") == 2


def test_a_run_that_a_callback_ended_stays_ended(data, tmp_path):
    path, saved = ledger(tmp_path), tmp_path / "saved"
    for simulated in (False, True):
        patience = iter([False, False, True, False, False, False])
        options = {"rounds": 6, "checkpoint": saved / str(simulated)}

        def run(callbacks, options=options, simulated=simulated):
            options = options | {"callbacks": callbacks, "progress": False}
            if not simulated:
                return train(data, path, **options)
            return jf.simulate(averaging(), data, params=PARAMS, seed=1, **options)

        stop = lambda history: next(patience)  # noqa: B023, E731
        first, again = run([stop]), run([stop])
        assert len(first.rounds) == len(again.rounds) == 3
        assert bits(first.state) == bits(again.state)
        assert len(run([]).rounds) == 6
    assert kinds(path).count("charge") == 6


def test_fewer_rounds_than_were_saved_are_refused(data, tmp_path):
    path, saved = ledger(tmp_path), tmp_path / "saved"
    train(data, path, checkpoint=saved)
    with pytest.raises(ValueError, match="must be >= the 4 that the checkpoint holds"):
        train(data, path, rounds=2, checkpoint=saved)
    assert len(train(data, path, rounds=2).rounds) == 2


def test_a_checkpoint_of_another_run_of_the_same_ledger_is_refused(data, tmp_path):
    path, saved = ledger(tmp_path, epsilon=18.0, adaptive=True), tmp_path / "saved"
    train(data, path, checkpoint=saved)
    before = kinds(path)
    with pytest.raises(ValueError, match="must hold this run"):
        train(data, path, checkpoint=saved, name="second")
    assert kinds(path) == before
    train(data, path, name="second", rounds=2)
    with pytest.raises(ValueError, match="must hold this run"):
        train(data, path, checkpoint=saved, name="second", rounds=2)
    assert kinds(path).count("charge") == 6


def test_a_simulation_of_other_data_is_refused(data, tmp_path):
    options = {"rounds": 2, "seed": 1, "progress": False, "checkpoint": tmp_path / "s"}
    jf.simulate(averaging(), data, params=PARAMS, **options)
    changed = {**data.arrays, "x": data.arrays["x"] + 1e-3}
    other = dataclasses.replace(data, arrays=changed)
    with pytest.raises(ValueError, match="must hold this run"):
        jf.simulate(averaging(), other, params=PARAMS, **options)
    with pytest.raises(ValueError, match="must hold this run"):
        jf.simulate(averaging(), data, params={"w": jnp.ones(DIMENSION)}, **options)


def test_nothing_is_planned_for_a_call_that_is_refused(data, tmp_path):
    path, other = ledger(tmp_path), tmp_path / "other"
    other.mkdir()
    other_path = ledger(other)
    train(data, other_path, checkpoint=other / "saved")
    (tmp_path / "file").write_text("in the way")
    simulated = {"checkpoint": tmp_path / "simulated", "progress": False}
    jf.simulate(averaging(), data, params=PARAMS, rounds=1, seed=1, **simulated)
    before = kinds(path)
    for match, options in (
        ("must name a directory", {"checkpoint": tmp_path / "file"}),
        ("must hold this run", {"checkpoint": tmp_path / "simulated"}),
        ("edited, forked or swapped", {"checkpoint": other / "saved"}),
        ("name must not be empty", {"name": " "}),
        ("strategy must be one of", {"strategy": "lop"}),
        ("release public values alone", {"evaluate": lambda params: {}}),
    ):
        with pytest.raises((ValueError, LedgerError), match=match):
            train(data, path, **options)
        assert kinds(path) == before


def test_rounds_that_do_not_all_fit_are_refused_before_the_first(data, tmp_path):
    path = ledger(tmp_path, epsilon=20.0, adaptive=True)
    with Ledger.open(path) as opened:
        fits = opened.remaining(ADAPTIVE)
        assert 2 <= fits < 100
        with pytest.raises(BudgetExhausted):
            train(data, opened, rounds=fits + 1)
        assert opened.epsilon() == 0.0


def test_a_budget_that_ends_on_the_way_loses_nothing(data, tmp_path):
    path, saved = ledger(tmp_path, epsilon=20.0, adaptive=True), tmp_path / "saved"

    def spends(history):
        if len(history.rounds) == 2:
            while opened.remaining(ADAPTIVE):
                opened.charge(ADAPTIVE, name="others")

    with Ledger.open(path) as opened:
        opened.plan(ADAPTIVE, rounds=1000, name="others")
        with pytest.raises(BudgetExhausted, match="same call with rounds=2 returns"):
            train(data, opened, checkpoint=saved, callbacks=[spends])
        entries = len(opened.history())
        for options in ({"checkpoint": saved}, {}):
            assert len(train(data, opened, rounds=2, **options).rounds) == 2
        assert len(opened.history()) == entries


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


def damage(checkpoint, part="*"):
    for file in checkpoint.rglob(part):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-1] + b"\0")


@pytest.mark.parametrize("part", ["*", "facts/*", "arrays/**/*"])
def test_a_damaged_checkpoint_is_passed_over(part, data, tmp_path, caplog):
    path = ledger(tmp_path)
    saved = jf.Checkpoint(directory=tmp_path / "saved", every=1, keep=2)
    with pytest.raises(Killed):
        train(data, path, checkpoint=saved, callbacks=[dies_after(4)])
    assert sorted(p.name for p in (tmp_path / "saved").glob("[0-9]*")) == ["2", "3"]
    damage(tmp_path / "saved" / "3", part)
    saved = dataclasses.replace(saved, every=100)
    with caplog.at_level(logging.WARNING, logger="jaxfed"):
        # a run that dies before it saves again has not lost the good one
        with pytest.raises(Killed):
            train(data, path, checkpoint=saved, callbacks=[dies_after(3)])
        assert "checkpoint 3" in caplog.text
        # and what is saved below the damaged one is saved
        with pytest.raises(SystemExit):
            train(data, path, checkpoint=saved, callbacks=[terminated])
    assert [p.name for p in (tmp_path / "saved").glob("3")] == ["3"]
    history = train(data, path, checkpoint=saved)
    assert bits(history.state) == bits(train(data, path).state)
    assert kinds(path).count("charge") == 4


def terminated(history):
    del history
    os.kill(os.getpid(), signal.SIGTERM)


def test_checkpoints_that_are_all_damaged_are_kept(data, tmp_path):
    path = ledger(tmp_path)
    saved = jf.Checkpoint(directory=tmp_path / "saved", every=1)
    train(data, path, checkpoint=saved)
    damage(tmp_path / "saved")
    with pytest.raises(RuntimeError, match="all 2 are damaged"):
        train(data, path, checkpoint=saved)
    assert len(list((tmp_path / "saved").glob("[0-9]*"))) == 2


def test_a_damaged_checkpoint_still_knows_its_ledger(data, tmp_path):
    path = ledger(tmp_path)
    with pytest.raises(Killed):
        train(data, path, callbacks=[dies_after(2)])
    copies = {f: f.read_bytes() for f in tmp_path.glob("budget.db*")}
    saved = jf.Checkpoint(directory=tmp_path / "saved", every=1)
    train(data, path, checkpoint=saved)
    damage(tmp_path / "saved", "arrays/**/*")
    for file in tmp_path.glob("budget.db*"):
        file.unlink()
    for file, content in copies.items():
        file.write_bytes(content)
        file.chmod(0o600)
    with pytest.raises(LedgerError, match="it is an older copy"):
        train(data, path, checkpoint=saved)


def test_a_checkpoint_that_cannot_be_written_says_so(data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RuntimeError, match="could not be opened") as found:
        train(data, ledger(tmp_path), checkpoint=tmp_path / "file" / "saved")
    assert "no budget is spent twice" in str(found.value)


def test_clients_state_is_saved_only_if_asked(data, tmp_path):
    def finish(shared, carry):
        return LOCAL.finish(shared, carry)._replace(client_state=shared.params)

    keeps = LOCAL._replace(init_client=lambda params: params, finish=finish)
    path = ledger(tmp_path)
    with pytest.raises(ValueError, match="checkpoint needs client_state=True"):
        train(data, path, averaging(local=keeps), checkpoint=tmp_path / "saved")
    assert kinds(path).count("charge") == 0


def test_a_call_with_another_strategy_takes_nothing_back(data, tmp_path):
    """Where it cannot be paid it changes nothing, and the first one still repeats."""
    path = ledger(tmp_path)
    first = train(data, path, strategy=LOOP)
    before = kinds(path)
    other = dataclasses.replace(LOOP, lanes=2)
    with pytest.raises(
        BudgetExhausted, match="by another machine, strategy or version"
    ):
        train(data, path, strategy=other)
    assert kinds(path) == before
    assert bits(train(data, path).state) == bits(first.state)
    assert bits(train(data, path, strategy=LOOP).state) == bits(first.state)
    assert kinds(path) == before


def test_a_run_that_moves_there_and_back_pays_for_what_changed(data, tmp_path):
    path = ledger(tmp_path)
    with Ledger.open(path) as opened:
        opened.plan(ADAPTIVE, rounds=10, name="training")
    train(data, path, rounds=2, strategy=LOOP)
    other = dataclasses.replace(LOOP, lanes=2)
    with pytest.raises(Killed):
        train(data, path, rounds=2, strategy=other, callbacks=[dies_after(1)])
    assert kinds(path).count("charge") == 3
    train(data, path, rounds=2, strategy=LOOP)
    with Ledger.open(path, read_only=True) as opened:
        (mechanism,) = opened.mechanisms
    # round 1 was released elsewhere meanwhile; round 2 begins with another model now
    assert [c.round for c in mechanism.charges] == [0, 1, 0, 0, 1]
    assert kinds(path).count("run") == 3
    entries = kinds(path)
    train(data, path, rounds=2, strategy=LOOP)
    assert kinds(path) == entries


def test_a_renamed_checkpoint_is_refused(data, tmp_path):
    """Its state would get the noise of another round, of a sum that was released."""
    path, place = ledger(tmp_path), tmp_path / "checkpoint"
    saving = jf.Checkpoint(directory=place, every=2, keep=5)
    train(data, path, rounds=4, checkpoint=saving)
    shutil.rmtree(place / "4")
    (place / "2").rename(place / "1")
    with pytest.raises(ValueError, match="must be of round 1, got that of round 2"):
        train(data, path, rounds=4, checkpoint=saving)
    (place / "1").rename(place / "2")
    train(data, path, rounds=4, checkpoint=saving)


def test_rounds_from_a_checkpoint_say_what_is_spent_now(data, tmp_path, monkeypatch):
    path, place = ledger(tmp_path), tmp_path / "checkpoint"
    with Ledger.open(path) as opened:
        opened.plan(ADAPTIVE, rounds=12, name="training")
    first = train(data, path, checkpoint=place)
    with monkeypatch.context() as patch:
        replaying_otherwise(patch)
        again = train(data, path)
    last = train(data, path, checkpoint=place)
    assert first.epsilon < again.epsilon == last.epsilon
    assert last.ledger.epsilon == pytest.approx(last.epsilon, rel=1e-6)


def test_another_program_is_refused_whatever_the_strategy(data, tmp_path):
    path = ledger(tmp_path)
    train(data, path, rounds=2)
    local = jf.clients.sgd(another_loss, optax.sgd(0.1), epochs=1, batch_size=2)
    with pytest.raises(LedgerError, match="its code"):
        train(data, path, averaging(local=local), rounds=2, strategy=LOOP)
