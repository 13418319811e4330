"""Models of clients' own equal their slow twins, and serve clients that differ."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed import algorithms, clients
from tests.engine.test_simulate import plans
from tests.problems import flat, logistic_loss, logistic_params, ragged_data
from tests.reference import fedavg as twin
from tests.reference import personal

DATA, PARAMS = ragged_data(), logistic_params()
SAMPLING = jf.sampling.FixedSize(population=DATA.num_clients, size=4)
POISSON = jf.sampling.Poisson(population=DATA.num_clients, rate=0.6)
BATCHES: dict = {"batch_size": 3, "epochs": 2}
OWN = {"personal_learning_rate": 0.1, **BATCHES}
SGD = optax.sgd(0.2)


def layers(**options):
    return clients.personal_layers(
        logistic_loss, SGD, private=["b"], **BATCHES, **options
    )


def clustered(clusters=2, epochs=2):
    return clients.clustered(
        logistic_loss, SGD, clusters=clusters, batch_size=3, epochs=epochs
    )


def two_models():
    other = jax.tree.map(lambda a: -a, PARAMS)
    return jax.tree.map(lambda *a: jnp.stack(a), PARAMS, other)


def ditto():
    return clients.ditto(logistic_loss, SGD, pull=0.5, **OWN)


def apfl():
    return clients.apfl(logistic_loss, SGD, mixture=0.3, **OWN)


LOCALS = {
    "ditto": (personal.Ditto, ditto),
    "apfl": (personal.APFL, apfl),
    "fine_tuned": (
        personal.FineTuned,
        lambda: clients.fine_tuned(clients.sgd(logistic_loss, SGD, **BATCHES)),
    ),
    "fedper": (personal.FedPer, layers),
    "fedrep": (personal.FedRep, lambda: layers(private_steps=2)),
    "ifca": (personal.IFCA, clustered),
}
SERVERS = {"fedper": algorithms.fedper, "fedrep": algorithms.fedper}
SERVERS["ifca"] = algorithms.ifca


def algorithm_of(name, privacy):
    return SERVERS.get(name, algorithms.fedavg)(LOCALS[name][1](), privacy)


def start_of(name):
    return two_models() if name == "ifca" else PARAMS


def rows_of(params):
    """Returns models as the twins have them."""
    if jnp.ndim(params["b"]) == 0:
        return flat(params)
    return np.stack([flat(jax.tree.map(lambda a, i=i: a[i], params)) for i in (0, 1)])


def slow(kind, start, batching, rounds, seed):
    server = kind(start)
    for cohort in plans(DATA, SAMPLING, batching, rounds=rounds, seed=seed):
        batches = twin.batches_of(DATA, cohort)
        sent = [server.client(number, found) for number, found in batches.items()]
        sizes = np.array([DATA.client_sizes[number] for number in batches], float)
        if server.weighting == "clients":
            sizes[:] = 1
        mean = {
            name: sum(
                part * one[name]
                for part, one in zip(sizes / sizes.sum(), sent, strict=True)
            )
            for name in sent[0]
        }
        server.server(mean, None)
    return server


@pytest.mark.parametrize("name", LOCALS)
def test_it_equals_its_slow_twin(name):
    kind = LOCALS[name][0]
    privacy = jf.privacy.none(sampling=SAMPLING, weighting=kind.weighting)
    algorithm, start = algorithm_of(name, privacy), start_of(name)
    history = jf.simulate(
        algorithm, DATA, params=start, rounds=6, seed=4, progress=False
    )
    want = slow(kind, rows_of(start), algorithm.local.batching, 6, 4)
    np.testing.assert_allclose(rows_of(history.params), want.x, rtol=1e-5, atol=1e-5)
    numbers = np.arange(DATA.num_clients)
    states = history.client_states(numbers)
    for number in numbers.tolist():
        kept = jax.tree.map(lambda a, n=number: jnp.asarray(a[n]), states)
        found = flat(algorithm.local.personal(history.params, kept))
        np.testing.assert_allclose(found, want.model(number), rtol=1e-5, atol=1e-5)


def predict(params, rows):
    return rows["x"] @ params["w"] + params["b"]


def opposed(count=12, size=40, seed=0):
    """Clients of two kinds: what is a one for some is a zero for the others."""
    draw = np.random.default_rng(seed)
    parts = {}
    for number in range(count):
        x = draw.normal(size=(size, 4)).astype(np.float32)
        y = x.sum(axis=1) > 0
        y = ~y if number % 2 else y
        parts[f"{number:02d}"] = {"x": x, "y": y.astype(np.int32)}
    return jf.data.FederatedData.from_clients(parts)


def accuracy_of(name, train, test, rounds=25):
    batches = {"batch_size": 8, "epochs": 1}
    own = {"personal_learning_rate": 0.3, **batches}
    optimizer, start = optax.sgd(0.3), PARAMS
    local = {
        "fedavg": lambda: clients.sgd(logistic_loss, optimizer, **batches),
        "ditto": lambda: clients.ditto(logistic_loss, optimizer, pull=0.1, **own),
        "apfl": lambda: clients.apfl(logistic_loss, optimizer, mixture=0.9, **own),
        "fine_tuned": lambda: clients.fine_tuned(
            clients.sgd(logistic_loss, optimizer, batch_size=8, epochs=5)
        ),
        "fedrep": lambda: clients.personal_layers(
            logistic_loss, optimizer, private=["w"], private_steps=4, **batches
        ),
        "ifca": lambda: clients.clustered(
            logistic_loss, optimizer, clusters=2, **batches
        ),
    }[name]()
    if name == "ifca":
        start = two_models()
    sampling = jf.sampling.Full(population=train.num_clients)
    server = SERVERS.get(name, algorithms.fedavg)
    if name == "fedavg":
        look = jf.evaluation.federated(predict, test, accuracy=jf.metrics.accuracy)
    else:
        look = jf.evaluation.personal(
            local, predict, test, accuracy=jf.metrics.accuracy
        )
    history = jf.simulate(
        server(local, jf.privacy.none(sampling=sampling)),
        train,
        params=start,
        rounds=rounds,
        seed=0,
        evaluate=look,
        progress=False,
    )
    return history.curve("accuracy_mean")[1][-1]


@pytest.mark.parametrize("name", ["ditto", "apfl", "fine_tuned", "fedrep", "ifca"])
def test_clients_of_two_kinds_are_served_where_one_model_cannot(name):
    train, test = opposed(seed=0), opposed(seed=1)
    assert accuracy_of("fedavg", train, test) < 0.7
    assert accuracy_of(name, train, test) > 0.85


def test_ifca_finds_the_kinds():
    train = opposed()
    none = jf.privacy.none(sampling=jf.sampling.Full(population=12))
    history = jf.simulate(
        algorithms.ifca(clustered(), none),
        train,
        params=two_models(),
        rounds=10,
        seed=0,
        progress=False,
    )
    chosen = history.client_states(np.arange(12))["cluster"]
    assert len(set(chosen[::2].tolist())) == 1
    assert len(set(chosen[1::2].tolist())) == 1
    assert chosen[0] != chosen[1]


def test_personal_accuracy_is_numpys_client_by_client():
    """Ragged clients, padded side by side, against one model a client."""
    sizes = (7, 1, 3, 12, 5, 2, 4, 8)
    data = ragged_data(sizes, seed=5)
    local = clients.fine_tuned(clients.sgd(logistic_loss, SGD, **BATCHES))
    look = jf.evaluation.personal(local, predict, data, accuracy=jf.metrics.accuracy)
    sampling = jf.sampling.FixedSize(population=len(sizes), size=4)
    history = jf.simulate(
        algorithms.fedavg(local, jf.privacy.none(sampling=sampling)),
        data,
        params=PARAMS,
        rounds=3,
        seed=0,
        evaluate=look,
        progress=False,
    )
    states = history.client_states(np.arange(len(sizes)))
    found = []
    for number in range(len(sizes)):
        rows = slice(data.offsets[number], data.offsets[number + 1])
        scores = data.arrays["x"][rows] @ states["w"][number] + states["b"][number]
        found.append(((scores > 0) == (data.arrays["y"][rows] == 1)).mean())
    recorded = history.rounds[-1].evaluation
    assert recorded["accuracy_mean"] == pytest.approx(np.mean(found))
    assert recorded["accuracy_worst_decile"] == pytest.approx(min(found))


def noisy(sampling=POISSON):
    return jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=jf.noise.Gaussian(multiplier=2.0),
        delta=1e-3,
    )


def test_what_stays_on_the_client_gets_neither_clip_nor_noise():
    """With noise far above any signal the common part is lost, and the own is not."""
    history = jf.simulate(
        algorithms.fedper(layers(), noisy()),
        DATA,
        params=PARAMS,
        rounds=1,
        seed=4,
        progress=False,
    )
    plain = jf.simulate(
        algorithms.fedper(layers(), jf.privacy.none(sampling=POISSON)),
        DATA,
        params=PARAMS,
        rounds=1,
        seed=4,
        progress=False,
    )
    numbers = np.arange(DATA.num_clients)
    for one, other in zip(
        *(jax.tree.leaves(h.client_states(numbers)) for h in (history, plain)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert float(history.params["b"]) == float(PARAMS["b"])
    assert np.abs(history.params["w"] - plain.params["w"]).max() > 0.05


@pytest.mark.parametrize("name", LOCALS)
def test_it_trains_for_real_and_tells_nothing_of_its_clients(name, tmp_path):
    path = tmp_path / "budget.db"
    jf.Ledger.create(path, epsilon=50.0, delta=1e-3).close()
    history = jf.train(
        algorithm_of(name, noisy()),
        DATA,
        params=start_of(name),
        rounds=2,
        ledger=path,
        progress=False,
    )
    assert all(record.private == {} for record in history.rounds)
    with pytest.raises(ValueError, match="client states must stay with their clients"):
        history.client_states([0])


def test_wrong_calls_are_named(tmp_path):
    sgd = clients.sgd(logistic_loss, SGD, **BATCHES)
    accuracy = {"accuracy": jf.metrics.accuracy}
    with pytest.raises(ValueError, match="clients must have models of their own"):
        jf.evaluation.personal(sgd, predict, DATA, **accuracy)
    look = jf.evaluation.personal(layers(), predict, DATA, **accuracy)
    with pytest.raises(ValueError, match="needs what clients keep"):
        look(PARAMS)
    for predict_wrongly, words in (
        (lambda params, rows: predict(params, rows).mean(), "one row of outputs per"),
        (lambda params, rows: rows["z"], "predict fails on rows of"),
    ):
        local = layers()
        wrong = jf.evaluation.personal(local, predict_wrongly, DATA, **accuracy)
        none = jf.privacy.none(sampling=SAMPLING)
        with pytest.raises(ValueError, match=words):
            jf.simulate(
                algorithms.fedper(local, none),
                DATA,
                params=PARAMS,
                rounds=1,
                seed=0,
                evaluate=wrong,
                progress=False,
            )
    for every in (1, 50):
        late = jf.evaluation.personal(layers(), predict, DATA, every=every, **accuracy)
        with pytest.raises(ValueError, match="evaluates the server's parameters alone"):
            jf.sweep(
                lambda: algorithms.fedper(layers(), noisy()),
                DATA,
                params=PARAMS,
                rounds=1,
                seeds=[0],
                evaluate=late,
            )
    path = tmp_path / "budget.db"
    jf.Ledger.create(path, epsilon=50.0, delta=1e-3).close()
    with pytest.raises(ValueError, match="must release public values alone"):
        jf.train(
            algorithms.fedper(layers(), noisy()),
            DATA,
            params=PARAMS,
            rounds=1,
            ledger=path,
            evaluate=look,
            progress=False,
        )
    gradient = clients.gradient(logistic_loss, batch_size=3)
    with pytest.raises(ValueError, match="local must make a change"):
        clients.fine_tuned(gradient)
    with pytest.raises(ValueError, match="local must keep nothing itself"):
        clients.fine_tuned(ditto())
    with pytest.raises(TypeError, match=r"clients\.personal_layers"):
        algorithms.fedper(sgd, noisy())
    with pytest.raises(ValueError, match="clusters must be >= 2"):
        clustered(clusters=1)
    none = jf.privacy.none(sampling=SAMPLING)
    with pytest.raises(ValueError, match="params must be of 2 models"):
        jf.simulate(
            algorithms.ifca(clustered(), none), DATA, params=PARAMS, rounds=1, seed=0
        )
    wrong = clients.personal_layers(logistic_loss, SGD, private=["head"], **BATCHES)
    algorithm = algorithms.fedper(wrong, none)
    with pytest.raises(ValueError, match="a part must be named by"):
        jf.simulate(algorithm, DATA, params=PARAMS, rounds=1, seed=0)


@pytest.mark.parametrize(
    ("local", "data", "message"),
    [
        (apfl, DATA, "must get the local work of the run"),
        (None, ragged_data((3, 4)), "data of the run's 6 clients, got 2"),
        (None, DATA.select(DATA.client_ids[::-1]), "the run's clients in their order"),
    ],
)
def test_models_of_other_clients_are_refused_at_the_door(local, data, message):
    own = ditto()
    look = jf.evaluation.personal(
        local() if local else own, predict, data, accuracy=jf.metrics.accuracy
    )
    algorithm = algorithms.fedavg(own, jf.privacy.none(sampling=SAMPLING))
    with pytest.raises(ValueError, match=message):
        jf.simulate(algorithm, DATA, params=PARAMS, rounds=1, seed=0, evaluate=look)


def test_states_of_no_client_and_of_copies_are_refused():
    algorithm = algorithms.fedavg(ditto(), jf.privacy.none(sampling=SAMPLING))
    history = jf.simulate(
        algorithm, DATA, params=PARAMS, rounds=1, seed=0, progress=False
    )
    for wrong in ([6], [-1], [0.7], 3):
        with pytest.raises(ValueError, match="clients must be numbers from 0 to 5"):
            history.client_states(wrong)
    copied = pickle.loads(pickle.dumps(history))
    assert copied.rounds == history.rounds
    with pytest.raises(ValueError, match="are not in a copy of a history"):
        copied.client_states([0])


def test_momentum_of_the_common_part_begins_with_its_own_steps():
    """Two private steps, then one common one: as long as without momentum."""

    def moved(optimizer):
        local = clients.personal_layers(
            logistic_loss,
            optimizer,
            private=["b"],
            private_steps=2,
            batch_size=100,
            steps=3,
        )
        start, kept = jf.typing.Shared(PARAMS), local.init_client(PARAMS)
        carry, x = local.init(start, kept), jnp.asarray(DATA.arrays["x"])
        y = jnp.asarray(DATA.arrays["y"])
        batch = jf.typing.Batch({"x": x, "y": y}, jnp.ones(len(y), bool), jnp.int32(30))
        for number in range(3):
            carry, _ = local.step(carry, batch, key=jf.keys.simulated(number))
        return local.finish(start, carry).update["w"], carry.params["b"]

    plain, heavy = moved(SGD), moved(optax.sgd(0.2, momentum=0.9))
    assert float(plain[1]) != float(heavy[1])  # its momentum is its own
    assert np.linalg.norm(heavy[0]) < 1.05 * np.linalg.norm(plain[0])


def test_a_broken_model_attracts_nobody():
    broken = jax.tree.map(lambda a: a.at[0].set(1e38), two_models())
    none = jf.privacy.none(sampling=SAMPLING)
    history = jf.simulate(
        algorithms.ifca(clustered(), none),
        DATA,
        params=broken,
        rounds=2,
        seed=0,
        progress=False,
    )
    came = history.client_states(np.arange(6))["cluster"]
    assert came.sum() >= 4  # of those who came, all


def test_a_state_that_is_not_finite_is_not_kept():
    wild = clients.ditto(
        logistic_loss, SGD, pull=1.0, personal_learning_rate=1e30, **BATCHES
    )
    algorithm = algorithms.fedavg(wild, jf.privacy.none(sampling=SAMPLING))
    history = jf.simulate(
        algorithm, DATA, params=PARAMS, rounds=3, seed=0, progress=False
    )
    states = history.client_states(np.arange(6))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states))
    assert bool(jnp.isfinite(history.params["w"]).all())


@pytest.mark.parametrize("name", ["ditto", "fedrep", "ifca"])
def test_amplification_is_not_claimed_where_none_is_known(name):
    """Others' states would remember who came: no theorem covers a fixed size."""
    algorithm = algorithm_of(name, noisy(SAMPLING))
    with pytest.raises(ValueError, match="no amplification is known then"):
        jf.simulate(
            algorithm, DATA, params=start_of(name), rounds=1, seed=0, progress=False
        )
