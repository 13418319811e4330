"""What a released history claims of other units, of repeats, and of its budget."""

import dataclasses

import optax
import pytest

import jaxfed as jf
from jaxfed.engine import _run
from jaxfed.ledger import Ledger
from tests.engine.paid import (
    ADAPTIVE,
    CLIENTS,
    CYCLIC,
    FIXED,
    averaging,
    central,
    ledger,
    loss,
    train,
)
from tests.engine.paid import data as data  # a fixture

ALONE = jf.engine.Strategy(executor="loop", lanes=1, devices=1)
QUIET = jf.noise.Gaussian(multiplier=9.0)
EVERYBODY = jf.sampling.Full(population=CLIENTS)


def replaying_otherwise(monkeypatch):
    digest = _run.Summed.digest
    monkeypatch.setattr(_run.Summed, "digest", lambda self: digest(self)[::-1])


@pytest.mark.parametrize("sampling", [EVERYBODY, CYCLIC], ids=["full", "cyclic"])
def test_other_units_are_under_the_relation_of_the_ledger(sampling, data, tmp_path):
    """An example moves a client anywhere: as replacing it does, and no further."""
    privacy = central(sampling, noise=QUIET)
    path = ledger(tmp_path, relation="replace_one")
    history = train(data, path, averaging(privacy), rounds=5)
    claim = history._claimed([("client", 1), ("client", 2), ("example", 1)])
    one, two, example = [epsilon for _, _, epsilon in claim.units]
    assert claim.epsilon == pytest.approx(history.ledger.epsilon, rel=1e-6)
    assert one == pytest.approx(claim.epsilon, rel=1e-6)
    assert example == pytest.approx(claim.epsilon, rel=1e-6)
    assert 2 * claim.epsilon < two < 3 * claim.epsilon
    with pytest.raises(TypeError, match="units must hold pairs"):
        history._claimed(["client"])


APART = jf.sampling.MinSeparation(
    population=CLIENTS, size=10, separation=2, max_participations=1
)


@pytest.mark.parametrize("sampling", [CYCLIC, APART], ids=["cyclic", "apart"])
def test_turns_that_are_repeated_cost_a_use_more(sampling, data, tmp_path, monkeypatch):
    privacy = central(sampling, noise=QUIET)
    path = ledger(tmp_path, epsilon=20.0, adaptive=True)
    with Ledger.open(path) as opened:
        opened.plan(privacy, rounds=4, name="training")
    train(data, path, averaging(privacy), rounds=2)
    replaying_otherwise(monkeypatch)
    history = train(data, path, averaging(privacy), rounds=2)
    claim = history._claimed([("client", 2)])
    event = privacy.cost(2).event
    assert claim.epsilon == pytest.approx(
        jf.accounting.epsilon(event, 3, delta=1e-3, distance=2.0**-46)
    )
    twice = jf.accounting.group_epsilon(event, 3, delta=1e-3, size=2, distance=2.0**-46)
    assert claim.units[0][2] == pytest.approx(twice)


def test_no_claim_is_above_the_budget(data, tmp_path):
    path = ledger(tmp_path, epsilon=20.0, adaptive=True)
    many = dataclasses.replace(ADAPTIVE, rounds=10_000)
    claim = train(data, path, averaging(many), rounds=1)._claimed()
    assert claim.epsilon == 20.0
    assert "are (20, 0.001)-differentially private" in claim.claim


def test_repeats_are_in_what_a_plan_holds(data, tmp_path, monkeypatch):
    path = ledger(tmp_path, epsilon=ADAPTIVE.epsilon(rounds=8, delta=1e-3))
    with Ledger.open(path) as opened:
        opened.plan(ADAPTIVE, rounds=8, name="training")
    train(data, path, rounds=3)
    replaying_otherwise(monkeypatch)
    stop = lambda history: len(history.rounds) == 3  # noqa: E731
    history = train(data, path, rounds=7, callbacks=[stop])
    claim = history._claimed([("client", 2)])  # 7 rounds and 3 repeats have no room
    assert claim.epsilon == pytest.approx(ADAPTIVE.epsilon(rounds=8, delta=1e-3))
    twice = ADAPTIVE.epsilon_of("client", count=2, rounds=8, delta=1e-3)
    assert claim.units[0][2] == pytest.approx(twice, rel=1e-6)


def test_a_claim_stays_as_it_was_when_its_run_ended(data, tmp_path, monkeypatch):
    with Ledger.open(ledger(tmp_path)) as opened:
        opened.plan(ADAPTIVE, rounds=8, name="training")
        first = train(data, opened)
        before = first.statement
        replaying_otherwise(monkeypatch)
        second = train(data, opened)
        assert "4 that were released again" in second.statement
        assert first.statement == before


def test_a_ledger_is_summed_up_once_for_every_state(data, tmp_path, monkeypatch):
    asked, epsilon = [], Ledger.epsilon
    monkeypatch.setattr(
        Ledger, "epsilon", lambda self: asked.append(1) or epsilon(self)
    )

    def look(history):
        history.to_json(tmp_path / "h.json")
        history.report(tmp_path / "r.html")

    train(data, ledger(tmp_path), rounds=3, callbacks=[look])
    assert len(asked) == 3


def test_silos_and_reports_say_other_units_as_without_a_ledger(data, tmp_path):
    silos = jf.privacy.example_level(
        sampling=EVERYBODY,
        sizes=data.client_sizes,
        rate=0.5,
        steps=2,
        clipping=FIXED,
        noise=jf.noise.Gaussian(multiplier=2.0),
        delta=1e-3,
    )
    reports = jf.privacy.local(
        sampling=EVERYBODY,
        clipping=FIXED,
        noise=jf.noise.PrivUnit(epsilon=2.0),
        delta=1e-3,
    )
    local = silos.sgd(loss, optax.sgd(0.1))
    for privacy, algorithm, unit in (
        (silos, averaging(silos, local), "example"),
        (reports, averaging(reports), "client"),
    ):
        folder = tmp_path / unit
        folder.mkdir()
        path = ledger(folder, unit=unit)
        history = train(data, path, algorithm, rounds=2, strategy=ALONE)
        units = [("client", 2), ("example", 1), ("example", 2)]
        own = privacy.statement(rounds=2, units=units)
        assert history._claimed(units).units == own.units
