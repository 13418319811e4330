"""Rounds come in order, one at a time, and every entry follows from those before."""

import dp_accounting
import jax
import pytest

import jaxfed as jf
from jaxfed import accounting
from jaxfed.ledger import BudgetExhausted, Ledger, LedgerError, _book
from tests.ledger.test_spending import CYCLIC, RUN, central, digest

GAUSSIAN = dp_accounting.GaussianDpEvent
TREE = jf.privacy.central(
    sampling=CYCLIC,
    clipping=jf.clipping.Fixed(norm=1.0),
    noise=jf.noise.Tree(multiplier=9.0),
    delta=1e-3,
    rounds=8,
)


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(tmp_path / "b.db", epsilon=9.0, delta=1e-3) as opened:
        yield opened


def test_rounds_are_released_in_order(ledger):
    """Every fourth round asks the same group: out of order they would cost more."""
    plan = ledger.plan(central(CYCLIC), rounds=8)
    for index in (0, 1):
        with ledger.spending(plan, index, digest(index)):
            pass
    for index in (4, 8, 10**9):
        with pytest.raises(ValueError, match="or the next one, 2, got"):
            ledger.spending(plan, index, digest(index)).__enter__()
    assert plan.uses == 1
    with ledger.spending(plan, 0, digest("again")):
        pass
    assert (plan.uses, plan.rounds, plan.releases) == (2, 2, 3)


def test_one_release_is_finished_before_the_next(ledger):
    plan = ledger.plan(GAUSSIAN(9.0), 3)
    outer, inner = ledger.spending(plan, 0), ledger.spending(plan, 0)
    with pytest.raises(LedgerError, match="one inside another"), outer:
        inner.__enter__()
    assert plan.releases == 0
    ledger.charge(plan.name)


def test_what_is_not_committed_does_not_verify(ledger):
    plan = ledger.plan(GAUSSIAN(9.0), 3)
    try:
        with ledger.spending(plan, 0):
            assert ledger.verify().entries == 2
            raise KeyError
    except KeyError:
        pass
    assert ledger.verify() == (2, ledger.head, False, True)


def test_a_name_is_found_that_nobody_took(ledger):
    ledger.plan(GAUSSIAN(9.0), 3, name="mechanism 2")
    assert ledger.plan(GAUSSIAN(9.1), 1).name == "mechanism 3"
    assert ledger.plan(GAUSSIAN(9.2), 1).name == "mechanism 4"


def test_what_a_ledger_gives_is_no_way_to_change_it(ledger):
    ledger.charge(GAUSSIAN(9.0))
    ledger.history()[-1].facts["uses"] = 0
    (mechanism,) = ledger.mechanisms
    assert isinstance(mechanism.charges, tuple)
    assert ledger.history()[-1].facts["uses"] == 1


def test_a_closed_ledger_pays_for_nothing(ledger):
    plan = ledger.plan(central(CYCLIC), rounds=8)
    run = ledger.begin(plan, **RUN)
    with run.spending(0, digest(0)):
        pass
    ledger.close()
    for index in (0, 1):
        with pytest.raises(LedgerError, match="was closed"):
            run.spending(index, digest(index)).__enter__()


def test_a_reader_plans_nothing(ledger, tmp_path):
    ledger.charge(GAUSSIAN(9.0))
    with (
        Ledger.open(tmp_path / "b.db", read_only=True) as reader,
        pytest.raises(LedgerError, match="read_only=True"),
    ):
        reader.plan(GAUSSIAN(9.0), 2)


@pytest.mark.parametrize(
    "event",
    [
        GAUSSIAN(1e-3),
        GAUSSIAN(0.0),
        dp_accounting.LaplaceDpEvent(1e-4),
        accounting.PureEpsilon(epsilon=1000.0),
        dp_accounting.SelfComposedDpEvent(GAUSSIAN(0.03), 1000),
        dp_accounting.PoissonSampledDpEvent(0.01, GAUSSIAN(1e-4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("adaptive", [False, True])
def test_far_too_little_noise_does_not_fit(event, adaptive, tmp_path):
    with Ledger.create(
        tmp_path / "n.db", epsilon=2.0, delta=1e-5, adaptive=adaptive
    ) as opened:
        with pytest.raises(BudgetExhausted, match="would fit"):
            opened.charge(event)
        assert opened.num_entries == 1


def test_many_small_reports_fit(ledger):
    """Their losses are far below any grid's interval, and add up to epsilon .1."""
    plan = ledger.plan(accounting.PureEpsilon(epsilon=1e-4), 50_000)
    assert plan.left == 50_000


def test_a_restored_backup_gives_no_key_twice(tmp_path):
    """What a charge costs decides on its key: two noises of one sum have two keys."""
    path, found = tmp_path / "b.db", []
    Ledger.create(path, epsilon=9.0, delta=1e-3).close()
    copies = {f: f.read_bytes() for f in tmp_path.glob("b.db*")}
    for multiplier in (10.0, 20.0):
        for file, content in copies.items():
            file.write_bytes(content)
        with Ledger.open(path) as opened:
            permit = opened.charge(GAUSSIAN(multiplier))
            assert permit.number == 2
            found.append(jax.random.key_data(permit.key(digest("sum"))).tolist())
    assert found[0] != found[1]


def mechanism_facts(opened, **changes):
    plan = opened.mechanisms[0]
    return plan.facts() | {"name": "late"} | changes


def charge_facts(**changes):
    return {
        **{"mechanism": 1, "round": 0, "attempt": 0, "uses": 1},
        **{"about": "", "commitment": ""},
        **changes,
    }


RUN_FACTS = {"mechanism": 1, "plan": "0", "inputs": "0", "program": "0"}
RUN_FACTS |= {"execution": {"machine": {}}}
MOVED = {"execution": {"machine": {"jax": "1"}}}
FORGERIES = {
    "a plan after the first release": [
        ("charge", charge_facts()),
        ("mechanism", {}),
    ],
    "a second name": [("mechanism", {"name": "mine"})],
    "half a round": [("mechanism", {"rounds": 2.5})],
    "no group": [("mechanism", {"every": 0})],
    "less than no distance": [("mechanism", {"distance": -1.0})],
    "a round beyond the next": [("charge", charge_facts(round=3))],
    "truth for a number": [("charge", charge_facts(uses=True))],
    "a number for a hash": [("charge", charge_facts(commitment=5))],
    "a model of nothing": [("model", {"charge": 7, "sha256": "00"})],
    "two models of one charge": [
        ("charge", charge_facts()),
        ("model", {"charge": 2, "sha256": "00"}),
        ("model", {"charge": 2, "sha256": "11"}),
    ],
    "a run of other data": [
        ("run", RUN_FACTS),
        ("run", RUN_FACTS | MOVED | {"inputs": "1"}),
    ],
    "a run of another program": [
        ("run", RUN_FACTS),
        ("run", RUN_FACTS | {"program": "1"}),
    ],
    "a run after a release": [("charge", charge_facts()), ("run", RUN_FACTS)],
}


@pytest.mark.parametrize("forged", FORGERIES)
def test_entries_that_do_not_follow_are_refused_whoever_wrote_them(
    forged, tmp_path, monkeypatch
):
    path = tmp_path / "b.db"
    with Ledger.create(path, epsilon=9.0, delta=1e-3) as opened:
        opened.plan(central(CYCLIC), rounds=8, name="mine")
        entries = [
            (kind, mechanism_facts(opened, **facts) if kind == "mechanism" else facts)
            for kind, facts in FORGERIES[forged]
        ]
        monkeypatch.setattr(_book.Book, "take", lambda self, e: self.entries.append(e))
        for kind, facts in entries:
            with opened._writer.transaction() as written:
                opened._writer.append(written, kind, facts)
    monkeypatch.undo()
    with pytest.raises(LedgerError, match=r"does not follow from what is|as it began"):
        Ledger.open(path, read_only=True)


def test_a_run_may_move_and_its_entries_follow(ledger, tmp_path):
    plan = ledger.plan(central(CYCLIC), rounds=8, name="mine")
    run = ledger.begin(plan, **RUN | {"execution": {"machine": {"jax": "1"}}})
    with run.spending(0, digest(0)):
        pass
    moved = RUN | {"program": b"other", "execution": {"machine": {"jax": "2"}}}
    run = ledger.begin(plan, **moved)
    with run.spending(1, digest(1)) as permit:
        permit.pays_for("0" * 64)
    with Ledger.open(tmp_path / "b.db", read_only=True) as reader:
        assert [e.kind for e in reader.history()][-3:] == ["run", "charge", "model"]


def test_correlated_noise_is_not_repeated_by_any_entry(tmp_path, monkeypatch):
    path = tmp_path / "b.db"
    with Ledger.create(path, epsilon=9.0, delta=1e-3) as opened:
        opened.plan(TREE, rounds=8, name="mine")
        opened.charge("mine")
        monkeypatch.setattr(_book.Book, "take", lambda self, e: self.entries.append(e))
        with opened._writer.transaction() as written:
            again = charge_facts(attempt=1, uses=1)
            opened._writer.append(written, "charge", again)
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="does not follow from what is before it"):
        Ledger.open(path, read_only=True)
