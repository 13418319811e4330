"""Every kind of privacy costs in a ledger what it says it costs."""

import json

import jax.numpy as jnp
import optax
import pytest

import jaxfed as jf
from jaxfed.engine import _run
from jaxfed.ledger import BudgetExhausted, Ledger
from jaxfed.privacy._statement import up
from tests.engine.paid import (
    ADAPTIVE,
    CLIENTS,
    CYCLIC,
    FIXED,
    PARAMS,
    POISSON,
    averaging,
    bits,
    central,
    kinds,
    ledger,
    loss,
    train,
)
from tests.engine.paid import data as data  # a fixture


def locally(noise, clipping=FIXED):
    return jf.privacy.local(
        sampling=POISSON, clipping=clipping, noise=noise, delta=1e-3
    )


LOCAL_NOISES = {
    "gaussian": locally(jf.noise.Gaussian(multiplier=4.0)),
    "laplace": locally(jf.noise.Laplace(multiplier=4.0), jf.clipping.FixedL1(norm=1.0)),
    "privunit": locally(jf.noise.PrivUnit(epsilon=2.0)),
}
ALONE = jf.engine.Strategy(executor="loop", lanes=1, devices=1)


@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
@pytest.mark.parametrize("kind", LOCAL_NOISES)
def test_local_noise_costs_the_same_under_both_relations(
    kind, relation, data, tmp_path
):
    privacy = LOCAL_NOISES[kind]
    path = ledger(tmp_path, relation=relation)
    first = train(data, path, averaging(privacy), rounds=2, strategy=ALONE)
    second = train(data, path, averaging(privacy), rounds=2, strategy=ALONE)
    assert bits(first.state) == bits(second.state)
    with Ledger.open(path, read_only=True) as opened:
        wanted = jf.accounting.epsilon(privacy.event(2), 1, delta=1e-3)
        assert opened.epsilon() == pytest.approx(wanted, rel=1e-3)


def test_examples_of_silos_have_a_ledger_of_their_own(data, tmp_path):
    privacy = jf.privacy.example_level(
        sampling=jf.sampling.Full(population=CLIENTS),
        sizes=data.client_sizes,
        rate=0.5,
        steps=2,
        clipping=FIXED,
        noise=jf.noise.Gaussian(multiplier=2.0),
        delta=1e-3,
    )
    algorithm = averaging(privacy, privacy.sgd(loss, optax.sgd(0.1)))
    with pytest.raises(ValueError, match="must protect each client"):
        train(data, ledger(tmp_path), algorithm, strategy=ALONE)
    (tmp_path / "other").mkdir()
    path = ledger(tmp_path / "other", unit="example")
    first = train(data, path, algorithm, strategy=ALONE)
    second = train(data, path, algorithm, strategy=ALONE)
    assert bits(first.state) == bits(second.state)
    with Ledger.open(path, read_only=True) as opened:
        wanted = privacy.epsilon(rounds=4, delta=1e-3)
        assert opened.epsilon() == pytest.approx(wanted, rel=1e-3)


def test_fixed_cohorts_need_a_ledger_of_their_relation(data, tmp_path):
    privacy = central(jf.sampling.FixedSize(population=CLIENTS, size=9))
    with pytest.raises(ValueError, match="relation must be 'replace_one'"):
        train(data, ledger(tmp_path), averaging(privacy))
    (tmp_path / "other").mkdir()
    path = ledger(tmp_path / "other", relation="replace_one")
    train(data, path, averaging(privacy))
    with Ledger.open(path, read_only=True) as opened:
        wanted = privacy.epsilon(rounds=4, delta=1e-3)
        assert opened.epsilon() == pytest.approx(wanted, rel=1e-3)


def test_clients_who_take_turns_are_charged_once_a_turn(data, tmp_path):
    privacy = central(CYCLIC)
    path = ledger(tmp_path)
    train(data, path, averaging(privacy), rounds=6)
    with Ledger.open(path, read_only=True) as opened:
        (mechanism,) = opened.mechanisms
        assert [charge.uses for charge in mechanism.charges] == [1, 0, 0, 0, 1, 0]
        wanted = privacy.epsilon(rounds=6, delta=1e-3)
        assert opened.epsilon() == pytest.approx(wanted, rel=1e-3)


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
    assert left > 2
    with Ledger.open(path) as opened:
        opened.charge(ADAPTIVE, name="before")

        def spends(history):
            if len(history.rounds) == 1:
                opened.charge(ADAPTIVE, name="meanwhile")

        with pytest.raises(BudgetExhausted):
            train(data, opened, rounds=left - 1, callbacks=[spends])
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


def test_evaluations_are_paid_by_the_ledger_of_the_run(data, tmp_path):
    full = central(jf.sampling.Full(population=CLIENTS), jf.clipping.Fixed(norm=3.0))

    def looks(ledger, count):
        return jf.queries.evaluation(
            lambda params, rows: {"hit": rows["y"]},
            data,
            bounds={"hit": (0, 1)},
            privacy=full,
            looks=count,
            **({"key": jf.keys.simulated(1)} if ledger is None else {"ledger": ledger}),
        )

    budget = {"epsilon": 99.0, "delta": 1e-3}
    with (
        Ledger.create(tmp_path / "a.db", **budget) as ours,
        Ledger.create(tmp_path / "b.db", **budget) as theirs,
    ):
        for evaluate, match in (
            (looks(theirs, 4), "got one that 'b.db' serves"),
            (looks(None, 4), "got one that a key serves"),
            (looks(ours, 3), "looks must be >= the 4 that 4 rounds take with every=1"),
            (3, "evaluation.public"),
            (lambda params: {"x": 1.0}, "release public values alone"),
        ):
            entries = len(ours.history())
            with pytest.raises((TypeError, ValueError), match=match):
                train(data, ours, evaluate=evaluate)
            assert len(ours.history()) == entries
        options = {"params": PARAMS, "rounds": 4, "seed": 1, "progress": False}
        with pytest.raises(ValueError, match="looks must be >= the 4"):
            jf.simulate(averaging(), data, evaluate=looks(None, 3), **options)


@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_a_history_claims_what_its_ledger_counts(relation, data, tmp_path, monkeypatch):
    """Under the ledger's relation, and with what was repeated."""
    path = ledger(tmp_path, relation=relation)
    with Ledger.open(path) as opened:
        opened.plan(ADAPTIVE, rounds=8, name="training")
    once = train(data, path)
    digest = _run.Summed.digest
    monkeypatch.setattr(_run.Summed, "digest", lambda self: digest(self)[::-1])
    twice = train(data, path)
    event = ADAPTIVE.event(1)
    for history, uses in ((once, 4), (twice, 8)):
        wanted = jf.accounting.epsilon(event, uses, delta=1e-3, relation=relation)
        assert history.epsilon == pytest.approx(wanted, rel=1e-3)
        assert up(history.epsilon) in history.statement
        assert history.ledger.epsilon == pytest.approx(wanted, rel=1e-3)
    assert "4 that were released again" in twice.statement
    assert "again" not in once.statement
    other = {"zero_out": "replaced by zero", "replace_one": "replaced by any other"}
    assert other[relation] in once.statement
    assert "all that budget.db pays for" in once.statement
    twice.report(tmp_path / "r.html", units=[("client", 2)])
    page = (tmp_path / "r.html").read_text()
    assert "4 that were released again" in page
    least = jf.accounting.group_epsilon(
        event, 8, delta=1e-3, size=2, relation="zero_out"
    )
    claim = twice._claimed(units=[("client", 2)])
    assert claim.units[0][2] >= least * (1 - 1e-6)


def test_a_run_that_stops_early_claims_what_was_planned(data, tmp_path):
    path = ledger(tmp_path)
    history = train(data, path, rounds=6, callbacks=[lambda h: len(h.rounds) == 2])
    assert len(history.rounds) == 2
    wanted = ADAPTIVE.epsilon(rounds=6, delta=1e-3)
    assert "After 6 rounds" in history.statement
    assert history._claimed().epsilon == pytest.approx(wanted, rel=1e-6)


def test_callbacks_see_what_pays(data, tmp_path):
    seen = []

    def look(history):
        history.report(tmp_path / "r.html")
        history.to_json(tmp_path / "h.json")
        seen.append(history.ledger)

    train(data, ledger(tmp_path), rounds=3, callbacks=[look])
    assert [facts.entries for facts in seen] == [5, 7, 9]
    assert len({facts.head for facts in seen}) == 3
    assert seen[-1].head in (tmp_path / "r.html").read_text()
    written = json.loads((tmp_path / "h.json").read_text())
    assert written["ledger"]["head"] == seen[-1].head
