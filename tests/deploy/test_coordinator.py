"""A run over vaults is the run of a simulation, and charges what `train` charges."""

import dataclasses
import json
import shutil
import threading
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed import keys
from jaxfed.clipping import _lattice
from jaxfed.deploy import (
    Coordinator,
    Pace,
    RoundAbandoned,
    StoreError,
    _begin,
    transports,
)
from jaxfed.deploy import _releases as releasing
from jaxfed.deploy._releases import Releases
from jaxfed.deploy._store import Store
from jaxfed.engine import _run
from jaxfed.ledger import Ledger, LedgerError, PaidRun
from jaxfed.typing import Batching, ClientResult, LocalWork
from jaxfed.vault import _noise, _policy, _training
from jaxfed.vault._errors import DataError, Refused, TooSoon, WireError
from jaxfed.vault._kept import Kept
from jaxfed.vault._plan import Named, canonical, compressed
from jaxfed.vault._types import Type
from jaxfed.vault._visit import Vault
from tests.deploy.running import (
    CYCLIC,
    EXAMPLES,
    FULL,
    NAMES,
    PACE,
    POLICY,
    SIGNING,
    Vaults,
    arrays_of,
    averaging,
    central,
    coordinator,
    data,
    ledger,
    report_of,
)
from tests.deploy.running import opened as opened  # a fixture
from tests.engine.paid import PARAMS, Killed, bits, dies_after, loss

ADAPTIVE = jf.clipping.Adaptive(quantile=0.5, initial=0.1)
LOUD = jf.noise.Gaussian(multiplier=2.0)


def copied(path, folder):
    """Returns a copy of a ledger with its secret: the same keys."""
    folder.mkdir()
    for place in path.parent.glob("budget.db*"):
        shutil.copy(place, folder / place.name)
    return folder / path.name


def in_vaults(folder, path, algorithm, rounds=3, **options):
    with coordinator(folder, path, algorithm, rounds, **options) as running:
        vaults = Vaults(folder, running.desk)
        try:
            history = running.run()
        finally:
            running.desk.end()
            vaults.join()
    return history


def sums_of(monkeypatch):
    """Notes the integers of every sum, here and in the engine."""
    found = []
    digest = _run.digest_of_sum

    def noting(leaves):
        leaves = [np.array(leaf) for leaf in leaves]
        found.append(leaves)
        return digest(leaves)

    monkeypatch.setattr(_run, "digest_of_sum", noting)
    monkeypatch.setattr(releasing, "digest_of_sum", noting)
    return found


def the_same_root(monkeypatch):
    """Gives all runs the root key of a simulation; else it is of the plan, too."""
    root = keys.simulated(5)
    monkeypatch.setattr(PaidRun, "key", lambda self, attempt: root)


def noisy(params, batch, key):
    """A loss with randomness of its own, as dropout has."""
    found, metrics = loss(params, batch, key)
    return found + params["w"] @ jax.random.normal(key, (5,)) / 10, metrics


RANDOM = jf.clients.sgd(noisy, optax.sgd(0.1), epochs=2, batch_size=2)


def facts(path):
    """Returns what a ledger says was spent, but for hashes of plans and sums."""
    with Ledger.open(path, read_only=True) as opened:
        (mechanism,) = opened.mechanisms
        charges = [(c.round, c.attempt, c.uses) for c in mechanism.charges]
        kinds = [entry.kind for entry in opened.history()]
        return mechanism.cost, charges, kinds, opened.epsilon()


def test_a_model_of_many_arrays(tmp_path):
    """A hundred of them, and an optimizer that keeps another for each."""
    params = {f"w{number:02d}": jnp.zeros(5) for number in range(100)}

    def summed(params, batch, key):
        return loss({"w": sum(params.values(), jnp.zeros(5))}, batch, key)

    optimizer = optax.sgd(0.1, momentum=0.9)
    local = jf.clients.sgd(summed, optimizer, epochs=1, batch_size=2)
    algorithm = jf.algorithms.fedavg(local, central())
    history = in_vaults(tmp_path, ledger(tmp_path), algorithm, 2, params=params)
    moved = [float(jnp.abs(leaf).max()) for leaf in history.params.values()]
    assert len(moved) == 100
    assert min(moved) > 0


def test_states_of_very_late_rounds_are_found_and_removed(tmp_path):
    kept = Kept(tmp_path)

    def at(number):
        return types.SimpleNamespace(run="a" * 64, round=number)

    plan = types.SimpleNamespace(
        kept=[Named("n", Type("int32", ()))], start=[np.int32(0)]
    )
    rounds = [7, 99_999_999, 100_000_000, 100_000_001, 1_000_000_000]
    for number in rounds:
        assert kept.before(at(number), plan)[0] == rounds.index(number)
        kept.after(at(number), plan, [np.asarray(1 + rounds.index(number), np.int32)])
    assert len(list(tmp_path.iterdir())) == 2


def test_that_data_do_not_fit_is_written_down(tmp_path, opened):
    """Silence tells a server something: it costs a participation, once."""

    def other(rows):
        raise DataError("there is no such column")

    vault = Vault(other, POLICY, tmp_path / "vault-0")
    way = transports.Memory(opened.desk, NAMES[0])
    for _ in range(2):
        with pytest.raises(DataError):
            vault.visit(way, seconds=1.0)
        assert len(vault._record.tasks()) == 1
    vault.close()


def test_an_old_round_is_not_answered_again(tmp_path):
    """Or today's data with an older round's noise would be a second release."""
    local = jf.privacy.local(
        sampling=FULL,
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=3.0),
        delta=1e-3,
    )
    asked, blobs = [], {}

    class Noting(transports.Memory):
        def task(self, seconds):
            asked.append(super().task(seconds))
            return asked[-1]

        def blob(self, digest, most):
            blobs[digest] = super().blob(digest, most)
            return blobs[digest]

    class Replaying(transports.Memory):
        def task(self, seconds):
            return asked[0]

        def blob(self, digest, most):
            return blobs[digest]

    with coordinator(tmp_path, ledger(tmp_path), averaging(local)) as running:
        vaults = Vaults(tmp_path, running.desk, NAMES[1:])
        thread = threading.Thread(target=running.run)
        thread.start()
        vault = Vault(lambda rows: arrays_of(0), POLICY, tmp_path / "vault-0")
        way = Noting(running.desk, NAMES[0])
        rounds = [vault.visit(way, seconds=60.0).round for _ in range(3)]
        assert rounds == [0, 1, 2]
        thread.join(60)
        running.desk.end()
        vaults.join()
        with pytest.raises(Refused, match="comes after a later one"):
            vault.visit(Replaying(running.desk, NAMES[0]), seconds=1.0)
        vault.close()


@pytest.mark.parametrize(
    "privacy",
    [
        central(),
        central(CYCLIC),
        central(clipping=ADAPTIVE),
        central(clipping=jf.clipping.PerLayer(norms={"w": 0.2})),
        central(noise=LOUD),
        central(CYCLIC, noise=jf.noise.BLT(multiplier=1.0), rounds=4),
    ],
    ids=["full", "cyclic", "adaptive", "per layer", "randomised", "correlated"],
)
def test_a_round_is_that_of_the_simulator(privacy, tmp_path, monkeypatch):
    """Floats differ in their last bits, and integers by rounding at the most."""
    path = ledger(tmp_path, epsilon=1e4)
    other = copied(path, tmp_path / "other")
    found = sums_of(monkeypatch)
    the_same_root(monkeypatch)
    if privacy.noise == LOUD:  # as if the grid were coarse beside the noise
        monkeypatch.setattr(_lattice, "_BIAS", 1e-9)
        assert privacy._joint(PARAMS).parts[0].lattice.is_random
    check_parity(averaging(privacy, RANDOM), path, other, found, tmp_path)


def check_parity(algorithm, path, other, found, tmp_path, params=PARAMS):
    """Runs an algorithm in the engine and on vaults, and compares sums and charges."""
    jf.train(algorithm, data(), params=params, rounds=3, ledger=other, progress=False)
    simulated = list(found[::2])  # the engine asks twice for each
    found.clear()
    history = in_vaults(tmp_path, path, algorithm, params=params)
    assert len(found) == len(simulated) == len(history.rounds) == 3
    for one, wanted in zip(found[:1], simulated[:1], strict=True):  # then noise differs
        for mine, theirs in zip(one, wanted, strict=True):
            assert np.abs(theirs).max() > 0
            limit = 2 + 2e-6 * np.abs(theirs).max()
            assert np.abs(mine.astype(np.int64) - theirs).max() <= limit
    assert facts(path) == facts(other)
    assert history.private
    assert "client" in history.statement


BATCHES = {"batch_size": 2, "epochs": 2}
MOMENTUM = optax.sgd(0.1, momentum=0.5)


def shifted(params, batch, key):
    """A common part, and one that stays with the client."""
    return noisy({"w": params["w"] + params["shift"]}, batch, key)


METHODS = {
    "scaffold": lambda p: jf.algorithms.scaffold(
        jf.clients.scaffold(noisy, learning_rate=0.1, **BATCHES), p
    ),
    "feddyn": lambda p: jf.algorithms.feddyn(
        jf.clients.dyn(noisy, optax.sgd(0.1), alpha=0.1, **BATCHES), p
    ),
    "fednova": lambda p: jf.algorithms.fednova(
        jf.clients.nova(noisy, learning_rate=0.1, **BATCHES), p
    ),
    "mimelite": lambda p: jf.algorithms.mime(
        jf.clients.mime(noisy, MOMENTUM, **BATCHES), p
    ),
    "fedexp": lambda p: jf.algorithms.fedexp(RANDOM, p),
    "qffl": lambda p: jf.algorithms.qffl(
        jf.clients.fair(noisy, q=2.0, learning_rate=0.1, **BATCHES), p
    ),
    "afl": lambda p: jf.algorithms.afl(
        jf.clients.agnostic(noisy, optax.sgd(0.1), num_domains=2, **BATCHES),
        p,
        domain_learning_rate=0.5,
    ),
    "ditto": lambda p: jf.algorithms.fedavg(
        jf.clients.ditto(
            noisy, optax.sgd(0.1), pull=0.5, personal_learning_rate=0.1, **BATCHES
        ),
        p,
    ),
    "apfl": lambda p: jf.algorithms.fedavg(
        jf.clients.apfl(
            noisy,
            optax.sgd(0.1),
            mixture=0.3,
            personal_learning_rate=0.1,
            **BATCHES,
        ),
        p,
    ),
    "fedrep": lambda p: jf.algorithms.fedper(
        jf.clients.personal_layers(
            shifted, optax.sgd(0.1), private=["shift"], private_steps=2, **BATCHES
        ),
        p,
    ),
    "ifca": lambda p: jf.algorithms.ifca(
        jf.clients.clustered(noisy, optax.sgd(0.1), clusters=2, batch_size=2, epochs=1),
        p,
    ),
    "fedprox": lambda p: jf.algorithms.fedprox(
        jf.clients.prox(noisy, optax.sgd(0.1), mu=0.3, **BATCHES), p
    ),
}


def with_domains(monkeypatch):
    """Gives clients the domains 0 and 1 in turn."""

    def found(number):
        arrays = arrays_of(number)
        return arrays | {"domain": np.full(len(arrays["y"]), number % 2, np.int32)}

    examples = EXAMPLES | {"domain": np.zeros(2, np.int32)}
    monkeypatch.setattr("tests.deploy.running.arrays_of", found)
    monkeypatch.setattr("tests.deploy.running.EXAMPLES", examples)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_on_vaults_as_in_the_simulator(name, tmp_path, monkeypatch):
    """Also what methods send beside a change, and what clients keep."""
    path = ledger(tmp_path, epsilon=1e4)
    other = copied(path, tmp_path / "other")
    found = sums_of(monkeypatch)
    the_same_root(monkeypatch)
    if name == "afl":
        with_domains(monkeypatch)
    clip = jf.clipping.PerLayer(norms={"change": 0.2, "": 3.0})
    if name in ("apfl", "ditto", "feddyn", "fedprox", "fedrep"):
        clip = jf.clipping.Fixed(norm=0.2)
    params = PARAMS
    if name == "fedrep":
        params = {**PARAMS, "shift": jnp.full((), 0.1)}
    if name == "ifca":
        params = {"w": jnp.stack([PARAMS["w"] - 1, PARAMS["w"] + 1])}
    algorithm = METHODS[name](central(clipping=clip))
    check_parity(algorithm, path, other, found, tmp_path, params=params)


def dense(params, batch, key):
    """Two layers, of which adapters are trained."""
    first = params["first"]
    hidden = jnp.tanh(batch["x"] @ first["kernel"] + first["bias"][None])
    return noisy({"w": params["last"]}, {**batch, "x": hidden}, key)


def test_a_part_runs_on_vaults_as_in_the_simulator(tmp_path, monkeypatch):
    """The frozen part is in the plan, and what is sent has the trained one alone."""
    draw = np.random.default_rng(3)
    first = {"kernel": draw.normal(size=(5, 5)), "bias": draw.normal(size=5)}
    model = jax.tree.map(jnp.float32, {"first": first, "last": draw.normal(size=5)})
    adapters = jf.parts.lora.init(model, "first", rank=2, key=keys.simulated(0))
    trained, frozen = jf.parts.split(adapters, "b")
    adapted = jf.parts.hold(jf.parts.lora.hold(dense, model, alpha=4.0), frozen)
    path = ledger(tmp_path, epsilon=1e4)
    other = copied(path, tmp_path / "other")
    found = sums_of(monkeypatch)
    the_same_root(monkeypatch)
    clip = jf.clipping.Fixed(norm=0.2)
    local = jf.clients.sgd(adapted, optax.sgd(0.1), **BATCHES)
    algorithm = averaging(central(clipping=clip), local)
    check_parity(algorithm, path, other, found, tmp_path, params=trained)
    assert [leaf.size for leaf in found[0]] == [10]


def whole(params, rows, real, key):
    """A local step in exact arithmetic: sums of small whole numbers."""
    total = jnp.where(real[:, None], rows["x"], 0).sum(axis=0)
    return params + total / 1024


EXACT = LocalWork(
    init=lambda shared, kept: shared.params["w"],
    step=lambda carry, batch, *, key: (
        whole(carry, batch.rows, batch.is_real, key),
        {},
    ),
    finish=lambda shared, carry: ClientResult(
        {"w": carry - shared.params["w"]}, jnp.float32(1), ()
    ),
    batching=Batching(batch_size=2, epochs=1),
)


def test_identical_updates_give_identical_sums(tmp_path, monkeypatch):
    path = ledger(tmp_path)
    other = copied(path, tmp_path / "other")
    clients = [np.round(4 * arrays_of(n)["x"]) for n in range(len(NAMES))]
    rows = {name: {"x": x} for name, x in zip(NAMES, clients, strict=True)}
    algorithm = averaging(central(), EXACT)
    found = sums_of(monkeypatch)
    the_same_root(monkeypatch)
    jf.train(
        algorithm,
        jf.data.FederatedData.from_clients(rows),
        params=PARAMS,
        rounds=1,
        ledger=other,
        progress=False,
    )
    monkeypatch.setattr("tests.deploy.running.arrays_of", lambda n: {"x": clients[n]})
    in_vaults(tmp_path, path, algorithm, rounds=1, examples={"x": EXAMPLES["x"]})
    (wanted,), _, (mine,) = found
    assert np.array_equal(wanted, mine)
    assert np.abs(mine).max() > 1000


def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path):
    path = ledger(tmp_path)
    other = copied(path, tmp_path / "other")
    algorithm = averaging(central(clipping=ADAPTIVE))
    wanted = in_vaults(tmp_path / "other", other, algorithm)
    for rounds in (1, 2):
        with pytest.raises(Killed):
            in_vaults(tmp_path, path, algorithm, callbacks=[dies_after(rounds)])
    history = in_vaults(tmp_path, path, algorithm)
    assert bits(history.params) == bits(wanted.params)
    assert [r.epsilon for r in history.rounds] == [r.epsilon for r in wanted.rounds]
    assert [r.released for r in history.rounds] == [r.released for r in wanted.rounds]
    assert facts(path) == facts(other)
    again = in_vaults(tmp_path, path, algorithm)  # nothing is left to do
    assert bits(again.params) == bits(wanted.params)
    assert facts(path) == facts(other)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_around_the_charge_loses_nothing(when, tmp_path, monkeypatch):
    """Before it: nothing was released. After it: the model is there."""
    path = ledger(tmp_path)
    algorithm = averaging(central())
    keep, only = Store.keep_model, Store.keep_only

    def dying(self, *arguments):
        if when == "before":
            keep(self, *arguments)
        raise Killed

    name = "keep_model" if when == "before" else "keep_only"
    with coordinator(tmp_path, path, algorithm) as running:
        vaults = Vaults(tmp_path, running.desk)
        monkeypatch.setattr(Store, name, dying)
        with pytest.raises(Killed):
            running.run()
        running.desk.end()
        vaults.join()
    monkeypatch.setattr(Store, "keep_model", keep)
    monkeypatch.setattr(Store, "keep_only", only)
    with Ledger.open(path, read_only=True) as opened:
        charges = opened.mechanisms[0].charges
    assert len(charges) == (0 if when == "before" else 1)
    history = in_vaults(tmp_path, path, algorithm)
    assert len(history.rounds) == 3
    assert facts(path)[1] == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]
    models = list((tmp_path / "run").glob("model-*"))
    assert len(models) == 1


def test_a_run_over_vaults_is_no_run_of_train(tmp_path):
    path = ledger(tmp_path)
    algorithm = averaging(central())
    coordinator(tmp_path, path, algorithm).close()
    with pytest.raises(LedgerError, match="its algorithm, privacy or model shape"):
        jf.train(
            algorithm, data(), params=PARAMS, rounds=3, ledger=path, progress=False
        )


LOCAL = [
    jf.privacy.local(
        sampling=FULL,
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=4.0),
        delta=1e-3,
    ),
    jf.privacy.local(
        sampling=FULL,
        clipping=jf.clipping.FixedL1(norm=1.0),
        noise=jf.noise.Laplace(multiplier=4.0),
        delta=1e-3,
    ),
]


@pytest.mark.parametrize("privacy", LOCAL, ids=["gaussian", "laplace"])
def test_vaults_add_noise_of_their_own(privacy, tmp_path, monkeypatch):
    """The sum has the noise of all vaults, costs what train's does, and repeats."""
    path = ledger(tmp_path)
    other = copied(path, tmp_path / "other")
    algorithm = averaging(privacy)
    found = sums_of(monkeypatch)
    jf.train(
        algorithm,
        data(),
        params=PARAMS,
        rounds=3,
        ledger=other,
        progress=False,
        strategy=jf.engine.Strategy(executor="loop", lanes=1, devices=1),
    )
    found.clear()
    released = Releases.released

    def noting(self, index, state, total):
        found.append([np.array(one) for one in total.values])
        return released(self, index, state, total)

    monkeypatch.setattr(Releases, "released", noting)
    history = in_vaults(tmp_path, path, algorithm)
    unit = privacy._report().unit(5)
    stddev = 4.0 * np.sqrt(len(NAMES)) * (np.sqrt(2) if len(found) > 9 else 1)
    sums = np.array([one[0] for one in found]) * unit
    assert sums.std() > stddev / 3
    assert np.abs(sums).max() < 12 * stddev
    assert facts(path) == facts(other)
    assert "each client" in history.statement


@pytest.mark.parametrize("privacy", LOCAL, ids=["gaussian", "laplace"])
def test_reports_with_noise_are_bounded_too(privacy, tmp_path, monkeypatch):
    path = ledger(tmp_path)
    with coordinator(tmp_path, path, averaging(privacy)) as running:
        tasks, model = running._tasks(0, 0, running._cohorts.of(0))
        running.desk.open(tasks, model, seconds=30.0, goal=8)
        most = privacy._report().largest
        for value in (most + 1, -most - 1, 2**31 - 1, -(2**31)):
            with pytest.raises(WireError, match="and all noise"):
                running.desk.submit(NAMES[0], report_of(running, [0, value, 0, 0, 0]))
        good = report_of(running, [-most, 0, 0, 0, 0])
        assert running.desk.submit(NAMES[0], good) == "accepted"
        # a vault whose round is tried again sends the very same report
        sent = []
        running.desk.submit = lambda client, data: sent.append(data) or "accepted"
        for attempt in (1, 2, 3):
            if attempt == 3:  # also where its data changed
                monkeypatch.setattr(
                    "tests.deploy.running.arrays_of",
                    lambda number: {name: a[:2] for name, a in EXAMPLES.items()},
                )
            tasks, model = running._tasks(0, attempt, running._cohorts.of(0))
            running.desk.open(tasks, model, seconds=30.0, goal=8)
            assert taking_part(tmp_path, running, NAMES[1]).state == "accepted"
    assert (
        sent[0][-20:] == sent[1][-20:] == sent[2][-20:]
    )  # its numbers; the words before say which


@pytest.mark.parametrize("privacy", LOCAL, ids=["gaussian", "laplace"])
def test_a_report_is_as_long_as_its_noise_makes_it(privacy, tmp_path):
    """Honest ones come through; as large as each number may be, they do not."""
    params = {"w": jnp.zeros(400)}

    def wide(params, batch, key):
        return loss({"w": params["w"][:5]}, batch, key)

    local = jf.clients.sgd(wide, optax.sgd(0.1), epochs=1, batch_size=2)
    algorithm = averaging(privacy, local)
    with coordinator(tmp_path, ledger(tmp_path), algorithm, params=params) as running:
        tasks, model = running._tasks(0, 0, running._cohorts.of(0))
        running.desk.open(tasks, model, seconds=30.0, goal=8)
        rules = running._plan.rules
        norm = 1 if rules.law == "laplace" else 2
        update, longest = [np.full(400, 9.0, np.float32)], 0.0
        for number in range(200):
            values = _noise.report(update, rules, number.to_bytes(32, "big"))
            longest = max(longest, np.linalg.norm(values[0].astype(float), norm))
            running.desk._checked({"update/w": values[0]})
        most = _noise.most_norm(rules, 400)
        assert 1.05 * longest < most < 2 * longest
        long = np.full(400, _noise.most_value(rules), np.int32)
        with pytest.raises(WireError, match="and all noise"):
            running.desk._checked({"update/w": long})


def test_too_few_reports_release_and_charge_nothing(tmp_path):
    path = ledger(tmp_path)
    algorithm = averaging(central())
    pace = Pace(deadline_seconds=0.3, least_cohort=4, most_attempts=2)
    with coordinator(tmp_path, path, algorithm, pace=pace) as running:
        vaults = Vaults(tmp_path, running.desk, names=NAMES[:3])
        with pytest.raises(RoundAbandoned, match="it is not charged"):
            running.run()
        running.desk.end()
        vaults.join()
    assert facts(path)[1] == []
    states = [a.state for a in running._releases.store.attempts()]
    assert states == ["opened", "abandoned"] * 2
    # the same clients, and further ones, are asked again: it goes on
    history = in_vaults(
        tmp_path, path, algorithm, pace=dataclasses.replace(pace, deadline_seconds=30.0)
    )
    assert len(history.rounds) == 3
    attempts = [(a.round, a.attempt) for a in running._releases.store.attempts()]
    assert (0, 2) in attempts


def test_reports_that_left_are_paid_for_though_nothing_was_released(tmp_path):
    """With local noise the server is who must not learn, and it has them."""
    path, algorithm = ledger(tmp_path), averaging(LOCAL[0])
    pace = Pace(deadline_seconds=0.3, least_cohort=8, most_attempts=2)
    for _ in range(2):
        with coordinator(tmp_path, path, algorithm, pace=pace) as running:
            vaults = Vaults(tmp_path, running.desk, names=NAMES[1:])
            with pytest.raises(RoundAbandoned, match="it is charged once"):
                running.run()
            running.desk.end()
            vaults.join()
            assert running.status()["released"] == 0
        assert facts(path)[1] == [(0, 0, 1)]
        assert facts(path)[3] > 0
    longer = dataclasses.replace(pace, deadline_seconds=30.0)
    history = in_vaults(tmp_path, path, algorithm, pace=longer)
    assert [one.round for one in history.rounds] == [1, 2, 3]
    assert facts(path)[1] == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("name", ["keep_model", "keep_after", "keep_only", "note"])
def test_a_crash_asks_for_the_same_reports_again(name, rounds, tmp_path, monkeypatch):
    path, algorithm, seen = ledger(tmp_path), averaging(LOCAL[0]), {}
    released, whole = Releases.released, getattr(Store, name)
    calls = {"keep_model": 2, "note": 2}.get(name, 1) * rounds - 1

    def noting(self, index, state, total):
        values = [np.array(one) for one in total.values]
        assert all(map(np.array_equal, seen.setdefault(index, values), values))
        return released(self, index, state, total)

    def dying(self, *arguments):
        nonlocal calls
        if not calls:
            raise Killed
        calls -= 1
        return whole(self, *arguments)

    monkeypatch.setattr(Releases, "released", noting)
    with coordinator(tmp_path, path, algorithm) as running:
        vaults = Vaults(tmp_path, running.desk)
        monkeypatch.setattr(Store, name, dying)
        with pytest.raises(Killed):
            running.run()
        running.desk.end()
        vaults.join()
    monkeypatch.setattr(Store, name, whole)
    history = in_vaults(tmp_path, path, algorithm)
    assert [one.round for one in history.rounds] == [1, 2, 3]
    assert facts(path)[1] == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]
    assert len(list((tmp_path / "run").glob("model-*"))) == 1
    again = in_vaults(tmp_path, path, algorithm)
    assert bits(again.params) == bits(history.params)
    assert len(seen) == 3


def test_an_older_model_is_not_taken_for_the_last_one(tmp_path):
    path, algorithm = ledger(tmp_path), averaging(LOCAL[0])
    kept, place = {}, tmp_path / "run" / "after.json"

    def keeping(history):
        kept[len(history.rounds)] = place.read_text()

    in_vaults(tmp_path, path, algorithm, callbacks=[keeping])
    for text in (kept[2], kept[3].replace('"round": 2', '"round": 1'), "{}", "[1]"):
        place.write_text(text)
        with pytest.raises(StoreError, match="must hold the model"):
            coordinator(tmp_path, path, algorithm).close()
    place.write_text(kept[2].replace('"round": 1', '"round": 2'))
    with pytest.raises(StoreError, match="must hold the model"):
        coordinator(tmp_path, path, algorithm).close()
    place.write_text(kept[3])
    coordinator(tmp_path, path, algorithm).close()


def test_stragglers_do_not_hold_up_a_goal_or_a_deadline(tmp_path):
    algorithm = averaging(central())
    path = ledger(tmp_path, relation="replace_one")
    pace = Pace(deadline_seconds=60.0, least_cohort=4, goal=5)
    with coordinator(tmp_path, path, algorithm, pace=pace) as running:
        vaults = Vaults(tmp_path, running.desk, names=NAMES[:5])
        history = running.run()
        vaults.join()
    assert len(history.rounds) == 3
    assert "replace" in history.statement


@pytest.mark.parametrize(
    ("privacy", "relation", "match"),
    [
        (central(), "zero_out", "relation='replace_one'"),
        (
            central(jf.sampling.Poisson(population=8, rate=0.999999)),
            "zero_out",
            "whose cohorts are drawn",
        ),
    ],
)
def test_a_goal_needs_what_covers_it(privacy, relation, match, tmp_path):
    path = ledger(tmp_path, relation=relation)
    pace = Pace(least_cohort=1, goal=3)
    with pytest.raises(ValueError, match=match):
        coordinator(tmp_path, path, averaging(privacy), pace=pace)


def test_cohorts_that_may_be_too_small_are_refused(tmp_path):
    path = ledger(tmp_path)
    rare = averaging(central(jf.sampling.Poisson(population=8, rate=0.5)))
    with pytest.raises(ValueError, match="as good as impossible"):
        coordinator(tmp_path, path, rare)
    many = averaging(central(CYCLIC))
    pace = Pace(least_cohort=5)
    with pytest.raises(ValueError, match="the largest cohort, got 5"):
        coordinator(tmp_path, path, many, pace=pace)


def taking_part(folder, running, name=NAMES[0], policy=POLICY, arrays=None):
    number = NAMES.index(name)
    found = arrays_of(number) if arrays is None else arrays
    vault = Vault(lambda rows: found, policy, folder / f"alone-{number}")
    try:
        return vault.visit(transports.Memory(running.desk, name), seconds=5.0)
    finally:
        vault.close()


def test_a_client_that_fails_sends_zeros(opened, tmp_path):
    bad = {n: np.array(a) for n, a in arrays_of(0).items()}
    bad["x"][:] = 3e38
    assert taking_part(tmp_path, opened, arrays=bad).state == "accepted"
    assert opened.desk._total.num_reports == 1
    assert not opened.desk._total.values[0].any()


def test_an_empty_client_takes_part_with_zeros(opened, tmp_path):
    empty = {n: a[:0] for n, a in arrays_of(0).items()}
    assert taking_part(tmp_path, opened, arrays=empty).state == "accepted"
    assert not opened.desk._total.values[0].any()


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({"most_epsilon": 0.1}, "its epsilon is"),
        ({"least_noise": 2}, "its noise is"),
        ({"least_cohort": 3}, "a cohort of 2"),
        ({"operations": ["add"]}, "not allowed"),
        ({"most_rounds": 0}, "one more than is allowed"),
        ({"most_runs": 0}, "most_runs"),
    ],
)
def test_a_policy_keeps_a_vault_out(limits, match, opened, tmp_path):
    given = {"signers": POLICY.signers, "most_epsilon": 1000.0, **limits}
    with pytest.raises(Refused, match=match):
        taking_part(tmp_path, opened, policy=_policy.checked(given))
    assert opened.desk._total.num_reports == 0


def test_nothing_of_a_plan_runs_that_the_policy_refuses(opened, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr("jaxfed.vault._plan.Plan.check_itself", ran.append)
    dear = _policy.checked({"signers": POLICY.signers, "most_flops": 10})
    with pytest.raises(Refused, match="floating-point operations"):
        taking_part(tmp_path, opened, policy=dear)
    assert not ran


def test_a_round_that_closes_meanwhile_is_stale_and_no_error(opened, tmp_path):
    class Late(transports.Memory):
        def task(self, seconds):
            found = super().task(seconds)
            self._desk._open = None  # it closes while this vault fetches
            return found

    vault = Vault(lambda rows: arrays_of(0), POLICY, tmp_path / "late")
    outcome = vault.visit(Late(opened.desk, NAMES[0]), seconds=1.0)
    vault.close()
    assert outcome.state == "stale"


def test_an_owner_may_ask_for_more_distance(opened, tmp_path):
    given = {"signers": POLICY.signers, "most_epsilon": 1e3, "least_separation": 2}
    policy = _policy.checked(given)
    for index, state in ((0, "accepted"), (1, None), (2, "accepted")):
        tasks, model = opened._tasks(index, 0, opened._cohorts.of(0))
        opened.desk.open(tasks, model, seconds=30.0, goal=8)
        if state is None:
            with pytest.raises(TooSoon, match="too soon"):
                taking_part(tmp_path, opened, policy=policy)
        else:
            assert taking_part(tmp_path, opened, policy=policy).state == state


def test_what_a_server_changes_on_the_way_is_refused(opened, tmp_path):
    class Changed(transports.Memory):
        def blob(self, digest, most):
            data = bytearray(super().blob(digest, most))
            data[-1] ^= 1
            return bytes(data)

    vault = Vault(lambda rows: arrays_of(0), POLICY, tmp_path / "one")
    with pytest.raises(WireError, match="another hash"):
        vault.visit(Changed(opened.desk, NAMES[0]))
    vault.close()
    nobody = _policy.checked({"signers": ["ab" * 32]})
    with pytest.raises(ValueError, match="nobody trusted"):
        taking_part(tmp_path, opened, policy=nobody)


def test_a_server_that_goes_back_is_refused(opened, tmp_path):
    assert taking_part(tmp_path, opened).state == "accepted"
    opened.state = opened.state._replace(
        server=jax.tree.map(lambda a: a + 1, opened.state.server)
    )
    tasks, model = opened._tasks(0, 1, opened._cohorts.of(0))  # the same round, forked
    opened.desk.open(tasks, model, seconds=30.0, goal=8)
    with pytest.raises(Refused, match="another model"):
        taking_part(tmp_path, opened)
    tasks, model = opened._tasks(4, 0, opened._cohorts.of(0))
    opened.desk.open(tasks, model, seconds=30.0, goal=8)
    assert taking_part(tmp_path, opened).state == "accepted"
    tasks, model = opened._tasks(3, 0, opened._cohorts.of(0))
    opened.desk.open(tasks, model, seconds=30.0, goal=8)
    with pytest.raises(Refused, match="went back"):
        taking_part(tmp_path, opened)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"clients": NAMES[:7]}, "7 are enrolled"),
        ({"clients": [*NAMES[:7], NAMES[0]]}, "one twice"),
        ({"signing_key": bytes(32)}, "with this signing key"),
        ({"rounds": 4}, r"rules \(.*rounds.*\) changed"),
        ({"pace": Pace(least_cohort=3)}, r"rules \(least_cohort\) changed"),
        ({"params": {"w": jnp.ones(5)}}, "its data or initial parameters"),
        ({"params": {"w": jnp.zeros(4)}}, "shape"),
        ({"evaluate": lambda params: {}}, "release public values"),
        ({"name": "another"}, "an empty folder|does not know"),
    ],
)
def test_a_run_goes_on_as_it_began_or_not_at_all(change, match, tmp_path):
    path = ledger(tmp_path)
    algorithm = averaging(central())
    coordinator(tmp_path, path, algorithm).close()
    options = {"clients": NAMES, "params": PARAMS, "signing_key": SIGNING, **change}
    with pytest.raises((ValueError, TypeError, LedgerError, StoreError), match=match):
        Coordinator(
            algorithm,
            examples=EXAMPLES,
            ledger=path,
            folder=tmp_path / "run",
            **({"rounds": 3, "pace": PACE} | options),
        )
    with Ledger.open(path, read_only=True) as found:
        assert len(found.mechanisms) == 1


def test_a_newer_version_promises_what_the_plan_did(tmp_path, monkeypatch):
    path, algorithm = ledger(tmp_path), averaging(central())
    coordinator(tmp_path, path, algorithm).close()
    exported = _begin.export

    def newer(*arguments, **options):
        document = json.loads(zlib.decompress(exported(*arguments, **options)))
        document["producer"] = {"jaxfed": "newer"}
        return compressed(canonical(document))

    monkeypatch.setattr(_begin, "export", newer)
    coordinator(tmp_path, path, algorithm).close()
    for change in ({"pace": Pace(least_cohort=3)}, {"rounds": 2}):
        with pytest.raises(StoreError, match=r"rules \(.*\) changed"):
            coordinator(tmp_path, path, algorithm, **change)


def test_a_lost_or_changed_model_is_refused(tmp_path):
    path = ledger(tmp_path)
    algorithm = averaging(central())
    with pytest.raises(Killed):
        in_vaults(tmp_path, path, algorithm, callbacks=[dies_after(1)])
    (model,) = (tmp_path / "run").glob("model-*")
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(StoreError, match="must hold the model"):
        coordinator(tmp_path, path, algorithm)


def test_privacy_that_vaults_cannot_keep_is_refused(tmp_path):
    path = ledger(tmp_path)
    for privacy, match in (
        (jf.privacy.none(sampling=FULL), "privacy.central"),
        (
            jf.privacy.every_report(sampling=FULL, rule=jf.robust.Median()),
            "privacy.central",
        ),
        (
            jf.privacy.local(
                sampling=FULL,
                clipping=jf.clipping.Fixed(norm=1.0),
                noise=jf.noise.PrivUnit(epsilon=2.0),
            ),
            "noise.Gaussian or Laplace",
        ),
        (central(noise=jf.noise.Gaussian(multiplier=0.0)), "must have noise"),
        (central(noise=jf.noise.Gaussian(multiplier=0.1)), "a finite epsilon"),
    ):
        with pytest.raises(
            (ValueError, TypeError, jf.accounting.BudgetExhausted), match=match
        ):
            coordinator(tmp_path, path, averaging(privacy))


def test_no_report_is_on_the_servers_disk(tmp_path):
    """A canary: one client's update, as the bytes of its report."""
    path = ledger(tmp_path)
    seen = []
    with coordinator(tmp_path, path, averaging(central())) as running:
        submit = running.desk.submit
        running.desk.submit = lambda client, data: (
            seen.append(data),
            submit(client, data),
        )[1]
        vaults = Vaults(tmp_path, running.desk)
        running.run()
        vaults.join()
    parts = [data[-8:] for data in seen]
    assert len(parts) == 24
    for place in [*tmp_path.glob("budget*"), *(tmp_path / "run").iterdir()]:
        found = place.read_bytes()
        assert not any(part in found for part in parts), place
    records = json.loads((tmp_path / "run" / "records.json").read_text())
    assert all(record["private"] == {} for record in records)


def test_a_client_keeps_its_own_state_between_rounds(tmp_path, monkeypatch):
    def finish(shared, carry):
        return ClientResult({"w": carry[0]}, jnp.float32(1), {"seen": carry[1] + 1})

    counting = LocalWork(
        init=lambda shared, kept: (jnp.zeros(5) + kept["seen"] / 8, kept["seen"]),
        step=lambda carry, batch, *, key: (carry, {}),
        finish=finish,
        batching=Batching(batch_size=2, epochs=1),
        init_client=lambda params: {"seen": jnp.float32(1)},
    )
    algorithm = jf.algorithms.fedavg(
        counting, central(), server_optimizer=optax.sgd(1.0)
    )
    found = sums_of(monkeypatch)
    in_vaults(tmp_path, ledger(tmp_path), algorithm)
    means = [float(sums[0][0]) for sums in found]
    assert means[0] > 0  # what clients keep is 1, then 2, then 3
    assert means[1] == pytest.approx(2 * means[0], rel=1e-3)
    assert means[2] == pytest.approx(3 * means[0], rel=1e-3)


@pytest.mark.parametrize("privacy", [LOCAL[0], central()], ids=["local", "central"])
def test_a_state_that_is_no_number_silences_nobody(privacy, tmp_path):
    """Silence at a round that a plan chooses would tell what the data are."""

    def finish(shared, carry):
        del shared
        seen, largest = carry
        root = jnp.sqrt(largest - seen)  # NaN once enough rounds have passed
        return ClientResult(
            {"w": jnp.zeros(5)}, jnp.float32(1), {"seen": seen + 1 + (root - root)}
        )

    telling = LocalWork(
        init=lambda shared, kept: (kept["seen"], jnp.float32(0)),
        step=lambda carry, batch, *, key: (
            (carry[0], jnp.maximum(carry[1], batch.rows["x"].max())),
            {},
        ),
        finish=finish,
        batching=Batching(batch_size=2, epochs=1),
        init_client=lambda params: {"seen": jnp.float32(0)},
    )
    algorithm = jf.algorithms.fedavg(telling, privacy)
    history = in_vaults(tmp_path, ledger(tmp_path), algorithm, 5)
    assert len(history.rounds) == 5


@pytest.mark.parametrize("error", [MemoryError("for (737, 5)"), ArithmeticError("8")])
def test_local_work_that_fails_sends_noise_alone(error, tmp_path, monkeypatch, caplog):
    def failing(*arguments, **options):
        raise error

    monkeypatch.setattr(_training, "train", failing)
    algorithm = averaging(LOCAL[0])
    history = in_vaults(tmp_path, ledger(tmp_path), algorithm, 2)
    assert len(history.rounds) == 2
    assert type(error).__name__ in caplog.text
    assert str(error) not in caplog.text


@pytest.mark.parametrize(("state", "is_kept"), [("accepted", True), ("stale", False)])
def test_what_a_client_keeps_is_what_the_server_counted(state, is_kept, tmp_path):
    """Or the mean of variates at clients and the one at the server part for good."""
    local = jf.clients.scaffold(loss, learning_rate=0.1, **BATCHES)
    algorithm = jf.algorithms.scaffold(local, central())
    with coordinator(tmp_path, ledger(tmp_path), algorithm) as running:
        tasks, model = running._tasks(0, 0, running._cohorts.of(0))
        running.desk.open(tasks, model, seconds=30.0, goal=len(tasks))

        class Answering(transports.Memory):
            def report(self, data):
                return state

        vault = Vault(lambda rows: arrays_of(0), POLICY, tmp_path / "vault-0")
        outcome = vault.visit(Answering(running.desk, NAMES[0]), seconds=1.0)
        vault.close()
    assert outcome.state == state
    assert bool(list((tmp_path / "vault-0").glob("kept-*"))) == is_kept
