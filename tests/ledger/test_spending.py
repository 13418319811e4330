"""What a ledger pays for is what was planned, and its entries tell nothing else."""

import copy
import dataclasses
import hashlib
import pickle

import dp_accounting
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.ledger import BudgetExhausted, Ledger, LedgerError

RUN = {"plan": "0" * 64, "inputs": b"data", "program": b"code", "execution": {}}
CYCLIC = jf.sampling.Cyclic(population=40, groups=4)


def central(sampling, multiplier=4.0, rounds=None):
    return jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=multiplier),
        delta=1e-3,
        rounds=rounds,
    )


def digest(value):
    return hashlib.sha256(str(value).encode()).digest()


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(tmp_path / "b.db", epsilon=9.0, delta=1e-3) as opened:
        yield opened


def test_repeated_rounds_never_pass_what_was_planned(ledger):
    plan = ledger.plan(central(CYCLIC), rounds=8)  # two uses of the event
    planned = central(CYCLIC).epsilon(rounds=8, delta=1e-3)
    for attempt in range(2):
        with ledger.spending(plan, 0, digest(attempt)):
            pass
    with pytest.raises(
        BudgetExhausted, match="3 uses of its event would be more than the 2"
    ):
        ledger.spending(plan, 0, digest("third")).__enter__()
    assert ledger.epsilon() == pytest.approx(planned, rel=1e-6)
    with ledger.spending(plan, 1, digest("covered by the first")):
        pass


def test_equal_sums_do_not_show_as_equal(ledger):
    full = central(jf.sampling.Full(population=40))
    for name in ("one", "two"):
        plan = ledger.plan(full, rounds=3, name=name)
        run = ledger.begin(plan, **RUN)
        assert run.mechanism is plan
        if name == "one":
            plans = [plan]
    plans.append(plan)
    for each in plans:
        for index in (0, 1):
            with ledger.spending(each, index, digest("the same")):
                pass
    found = [c.commitment for m in ledger.mechanisms for c in m.charges]
    assert len(set(found)) == len(found) == 4


def test_an_event_is_not_paid_by_a_mechanism_with_other_terms(ledger):
    ledger.plan(central(CYCLIC), rounds=8, name="turns")
    ledger.plan(dp_accounting.GaussianDpEvent(4.0), rounds=2, name="mine")
    for _ in range(2):
        ledger.charge(dp_accounting.GaussianDpEvent(4.0))
    turns, mine = ledger.mechanisms
    assert [c.uses for c in mine.charges] == [1, 1]
    assert turns.charges == ()


def test_a_run_is_not_charged_by_hand(ledger):
    plan = ledger.plan(central(CYCLIC), rounds=8, name="training")
    ledger.begin(plan, **RUN)
    with pytest.raises(ValueError, match="belongs to a run"):
        ledger.charge("training")


def test_a_run_goes_on_with_its_own_program(ledger):
    plan = ledger.plan(central(CYCLIC), rounds=8, name="training")
    ledger.begin(plan, **RUN)
    for part, value, what in (
        ("plan", "1" * 64, "algorithm, privacy or model shape"),
        ("inputs", b"other", "data or initial parameters"),
        ("program", b"other", r"code \(loss, model or optimizer\)"),
    ):
        with pytest.raises(LedgerError, match=f"but its {what} changed"):
            ledger.begin(plan, **RUN | {part: value})
    entries = len(ledger.history())
    ledger.begin(plan, **RUN)
    assert len(ledger.history()) == entries
    moved = RUN | {"execution": {"machine": {"jax": "newer"}}}
    for part, value in (("plan", "1" * 64), ("inputs", b"other")):
        with pytest.raises(LedgerError, match="must go on as it began"):
            ledger.begin(plan, **moved | {part: value})
    run = ledger.begin(plan, **moved | {"program": b"traced by a newer version"})
    assert len(ledger.history()) == entries  # nothing happened yet
    with run.spending(0, digest("sum")):
        pass
    kinds = [entry.kind for entry in ledger.history()[entries:]]
    assert kinds == ["run", "charge"]
    assert not run.is_moved


@pytest.mark.parametrize("changes", [{"execution": {"machine": {"jax": "newer"}}}, {}])
def test_equal_sums_of_two_programs_do_not_show_as_equal(ledger, changes):
    """Or whether they are would be told for nothing."""
    plan = ledger.plan(central(CYCLIC), rounds=8, name="training")
    for options in (RUN, RUN | changes):
        run = ledger.begin(plan, **options)
        is_same = run.repeats(0, digest("sum"))
        with run.spending(0, digest("sum")) as permit:
            pass
    assert (is_same, permit.is_replay) == (not changes, not changes)


def test_mechanisms_of_other_ledgers_are_refused(ledger, tmp_path):
    with Ledger.create(tmp_path / "other.db", epsilon=9.0, delta=1e-3) as other:
        foreign = other.plan(central(CYCLIC), rounds=8)
        for call in (
            lambda: ledger.spending(foreign, 0).__enter__(),
            lambda: ledger.begin(foreign, **RUN),
        ):
            with pytest.raises(ValueError, match="must be this ledger's own"):
                call()
    plan = ledger.plan(central(CYCLIC), rounds=8)
    with pytest.raises(ValueError, match="round_index must be an integer >= 0"):
        ledger.spending(plan, -1).__enter__()


def test_a_permit_is_for_one_release(ledger):
    ledger.plan(dp_accounting.GaussianDpEvent(4.0), rounds=1, name="mine")
    permit = ledger.charge("mine")
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="must not be copied"):
            duplicate(permit)
    permit.key(digest("one"))
    with pytest.raises(LedgerError, match="the sum it was made for"):
        permit.key(digest("two"))


def test_every_look_of_an_evaluation_has_a_cohort_of_its_own(ledger, monkeypatch):
    cohorts, original = [], jf.sampling.Poisson.draw

    def noted(self, round_index, *, key):
        cohorts.append(original(self, round_index, key=key))
        return cohorts[-1]

    monkeypatch.setattr(jf.sampling.Poisson, "draw", noted)
    draw = np.random.default_rng(0)
    data = jf.data.FederatedData.from_arrays(
        {"x": draw.normal(size=(400, 1)).astype(np.float32)}, client=np.arange(400)
    )
    sampled = jf.sampling.Poisson(population=400, rate=0.1)
    looks = jf.queries.evaluation(
        lambda params, rows: {"x": rows["x"][:, 0]},
        data,
        bounds={"x": (-5, 5)},
        privacy=central(sampled, multiplier=2.0),
        looks=6,
        ledger=ledger,
    )
    found = [looks(np.float32(number))["x"] for number in range(6)]
    assert len({cohort.tobytes() for cohort in cohorts}) == len(cohorts) == 6
    assert len(set(found)) == 6
    (mechanism,) = ledger.mechanisms
    assert [c.round for c in mechanism.charges] == [0, 1, 2, 3, 4, 5]
    assert looks(np.float32(3))["x"] == found[3]
    with pytest.raises(ValueError, match="draw every look's cohort anew"):
        jf.queries.evaluation(
            lambda params, rows: {"x": rows["x"][:, 0]},
            data,
            bounds={"x": (-5, 5)},
            privacy=central(jf.sampling.Cyclic(population=400, groups=4)),
            looks=6,
            ledger=ledger,
        )


def data_of(values):
    return jf.data.FederatedData.from_arrays(
        {"x": np.asarray(values, np.float32)}, client=np.arange(len(values)) % 40
    )


MEAN = jf.privacy.central(
    sampling=jf.sampling.Full(population=40),
    clipping=jf.clipping.Fixed(norm=2.0),
    noise=jf.noise.Gaussian(multiplier=4.0),
    delta=1e-3,
)


def mean(values, ledger, name="x", privacy=MEAN):
    return jf.queries.mean(
        data_of(values), name, lower=0.0, upper=1.0, privacy=privacy, ledger=ledger
    ).value


def test_queries_that_were_planned_ahead_come_in_any_order(ledger):
    values = np.linspace(0, 1, 80)
    ahead = ledger.plan(MEAN, rounds=1, name="mean of 'x'")
    ledger.plan(central(CYCLIC), rounds=8, name="mine")
    ledger.charge("mine")  # from here on nothing new may be planned
    first = mean(values, ledger)
    assert len(ahead.charges) == 1
    assert mean(values, ledger) == first  # the same again
    assert len(ahead.charges) == 1
    with pytest.raises(BudgetExhausted, match=r"name=\"mean of 'x'\""):
        mean(values + 1e-3, ledger)


def test_what_was_planned_ahead_serves_no_other_mechanism(ledger):
    ledger.plan(MEAN, rounds=1, name="mean of 'x'")
    louder = dataclasses.replace(MEAN, noise=jf.noise.Gaussian(multiplier=2.0))
    with pytest.raises(LedgerError, match="must cost what was planned"):
        mean(np.linspace(0, 1, 80), ledger, privacy=louder)
    assert ledger.epsilon() == 0.0


def test_a_mechanism_has_a_name(ledger):
    for name in ("", "  "):
        with pytest.raises(ValueError, match="name must not be empty"):
            ledger.plan(MEAN, rounds=1, name=name)


def test_what_is_planned_is_checked_first(ledger):
    for what, rounds, match in (
        (
            jf.privacy.none(sampling=jf.sampling.Full(population=3)),
            None,
            "have privacy",
        ),
        (3, None, "event must be one that can be accounted, got int"),
        (MEAN, None, "rounds must be an integer >= 1, got None"),
        (MEAN, 10**12, "rounds must be <= 1,073,741,824"),
    ):
        with pytest.raises(ValueError, match=match):
            ledger.plan(what, rounds)


def test_what_is_left_is_asked_by_name(ledger):
    ledger.plan(MEAN, rounds=3, name="mine")
    assert ledger.remaining("mine") == ledger.remaining(MEAN) == 3
    ledger.charge("mine")
    assert ledger.remaining("mine") == 2
    for call in (ledger.remaining, ledger.charge):
        with pytest.raises(
            ValueError, match=r"known are 'mine'; did you mean 'mine'\?"
        ):
            call("mien")
    ledger.charge("mine")
    ledger.charge("mine")
    with pytest.raises(BudgetExhausted, match="all 3 planned releases of 'mine' were"):
        ledger.charge("mine")


def test_many_rounds_of_turns_are_few_uses(tmp_path):
    """Beyond what is looked at round by round, and with a use more than fits."""
    cost = central(CYCLIC).cost(10**6)
    assert (cost.every, cost.uses(10**6)) == (4, 250_000)
    wide = jf.sampling.Cyclic(population=10**5, groups=20_000)
    found = jf.privacy.central(
        sampling=wide, clipping=jf.clipping.Fixed(norm=1.0), noise=MEAN.noise
    ).cost(10**6)
    assert all(
        found.uses(rounds) >= wide.participation(rounds).max_participations
        for rounds in (1, 2, 20_000, 20_001, 40_001, 10**6)
    )


def looking(values, ledger, looks=2):
    return jf.queries.evaluation(
        lambda params, rows: {"x": rows["x"] * params},
        data_of(values),
        bounds={"x": (0, 1)},
        privacy=MEAN,
        looks=looks,
        ledger=ledger,
    )


def test_an_evaluation_takes_its_place_when_it_is_made(ledger):
    """Or a second one would find it taken in the middle of a run."""
    values = np.linspace(0, 1, 80)
    ahead = ledger.plan(MEAN, rounds=2, name="evaluation of x")
    with pytest.raises(LedgerError, match="looks must be <= the 2"):
        looking(values, ledger, looks=3)
    first, second = looking(values, ledger), looking(values / 2, ledger)
    assert ahead.run is not None
    for evaluation in (second, first):
        evaluation(np.float32(1))
    assert [len(m.charges) for m in ledger.mechanisms] == [1, 1]


def lost(path, how):
    if how == "removed":
        path.unlink()
    elif how == "moved":
        path.rename(path.with_name("elsewhere"))
    elif how == "replaced":
        copy_of = path.with_name("copy")
        copy_of.write_bytes(path.read_bytes())
        copy_of.replace(path)
    else:
        path.with_name(path.name + "-wal").unlink()


@pytest.mark.parametrize("how", ["removed", "moved", "replaced", "log removed"])
def test_a_file_that_is_taken_away_permits_nothing(how, tmp_path):
    """What is written to it would be gone with the process."""
    path = tmp_path / "b.db"
    opened = Ledger.create(path, epsilon=9.0, delta=1e-3)
    plan = opened.plan(central(CYCLIC), rounds=8)
    opened.charge(plan.name)
    lost(path, how)
    for _ in range(2):
        with pytest.raises(LedgerError, match="moved, removed or replaced"):
            opened.charge(plan.name)
    opened.close()
    assert not path.with_name("b.db-seal").exists()


@pytest.mark.parametrize("name", ["b.db", "b.db-secret", "b.db-seal", "b.db-wal"])
def test_an_anchor_has_a_file_of_its_own(name, tmp_path):
    with pytest.raises(LedgerError, match="anchor must not be one of the ledger's own"):
        Ledger.create(
            tmp_path / "b.db", epsilon=9.0, delta=1e-3, anchor=tmp_path / name
        )
    assert not list(tmp_path.iterdir())
    Ledger.create(
        tmp_path / "b.db", epsilon=9.0, delta=1e-3, anchor=tmp_path / "anchor"
    ).close()
    before = {place: place.read_bytes() for place in tmp_path.iterdir()}
    with pytest.raises(LedgerError, match="anchor must not be one of the ledger's own"):
        Ledger.open(tmp_path / "b.db", anchor=tmp_path / name)
    assert {place: place.read_bytes() for place in tmp_path.iterdir()} == before


def test_a_charge_is_for_something(ledger):
    for charge in (ledger.charge, ledger.plan):
        with pytest.raises(ValueError, match="must be an event, got an empty list"):
            charge([])
    assert len(ledger.history()) == 1


def test_words_in_a_ledger_are_one_line(ledger, tmp_path):
    for word in ("a\nb", "\x1b[2J", "\u202e"):
        with pytest.raises(ValueError, match="must be one printable line"):
            ledger.plan(central(CYCLIC), rounds=8, name=word)
        with pytest.raises(ValueError, match="must be one printable line"):
            Ledger.create(tmp_path / "n.db", epsilon=1.0, delta=1e-5, purpose=word)
    assert not (tmp_path / "n.db").exists()


@pytest.mark.parametrize("field", ["uses", "attempt", "round"])
def test_a_charge_follows_from_its_plan(field, tmp_path, monkeypatch):
    """Also of whoever has the secret: a reader sees that entries do not add up."""
    with Ledger.create(tmp_path / "b.db", epsilon=9.0, delta=1e-3) as opened:
        plan = opened.plan(central(CYCLIC), rounds=8)
        writer, mechanism = opened._writer, plan.number
        facts = {
            **{"mechanism": mechanism, "round": 0, "attempt": 0, "uses": 1},
            **{"about": "", "commitment": ""},
        }
        facts[field] = {"uses": 0, "attempt": 3, "round": -1}[field]
        with (
            pytest.raises(ValueError, match=r"does not follow|holds counts"),
            writer.transaction() as written,
        ):
            writer.append(written, "charge", facts)
    with pytest.raises(LedgerError, match="does not follow from what is before it"):
        Ledger.open(tmp_path / "b.db", read_only=True)


def test_more_looks_than_were_planned_are_refused(ledger):
    values = np.linspace(0, 1, 80)
    looking(values, ledger, looks=2)
    with pytest.raises(LedgerError, match="looks must be <= the 2"):
        looking(values, ledger, looks=3)


def test_an_answer_says_whether_it_was_paid(ledger):
    data = data_of(np.linspace(0, 1, 80))
    asked = {"lower": 0.0, "upper": 1.0, "privacy": MEAN}
    paid = jf.queries.mean(data, "x", ledger=ledger, **asked)
    looked = jf.queries.mean(data, "x", key=jf.keys.simulated(1), **asked)
    assert (paid.private, looked.private) == (True, False)
    assert "simulated" not in repr(paid)
    assert "simulated" in repr(looked)


def test_a_simulation_takes_no_evaluation_that_a_ledger_pays(ledger):
    """It would release what it finds in models without noise."""
    data = data_of(np.linspace(0, 1, 80))
    local = jf.clients.sgd(
        lambda params, batch, key: (((batch["x"] - params) ** 2).mean(), {}),
        optax.sgd(0.1),
        epochs=1,
        batch_size=2,
    )
    nothing = jf.privacy.none(sampling=jf.sampling.Full(population=40))
    algorithm = jf.algorithms.fedavg(local, nothing)
    options = {
        "params": jnp.float32(0),
        "rounds": 1,
        "evaluate": looking(np.linspace(0, 1, 80), ledger),
    }
    entries = len(ledger.history())
    with pytest.raises(ValueError, match="must not be paid by a ledger in a simul"):
        jf.simulate(algorithm, data, seed=0, progress=False, **options)
    with pytest.raises(ValueError, match="must not be paid by a ledger in a simul"):
        jf.sweep(lambda: algorithm, data, seeds=[0], **options)
    assert len(ledger.history()) == entries


def test_a_metric_sees_one_row_at_a_time(ledger):
    """Or one client's rows could move the values of all the others."""
    values = np.linspace(0, 1, 80)
    seen = []

    def centred(params, rows):
        seen.append(rows["x"].shape)
        return {"x": rows["x"] - rows["x"].mean() + params}

    evaluate = jf.queries.evaluation(
        centred,
        data_of(values),
        bounds={"x": (0, 1)},
        privacy=dataclasses.replace(MEAN, noise=jf.noise.Gaussian(multiplier=0.05)),
        looks=1,
        key=jf.keys.simulated(0),
    )
    assert evaluate(jnp.float32(0.5))["x"] == pytest.approx(0.5, abs=0.05)
    assert set(seen) == {(1,)}
