"""Every method equals its slow twin, client states included, and is for something."""

import dataclasses
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed import algorithms, clients
from jaxfed.engine import _round
from jaxfed.engine._planner import Planner
from jaxfed.typing import Released
from tests.engine.test_simulate import plans
from tests.problems import (
    cohort_of,
    flat,
    logistic_loss,
    logistic_params,
    ragged_data,
    with_domains,
)
from tests.reference import fedavg as twin
from tests.reference import methods

DATA, PARAMS = with_domains(ragged_data()), logistic_params()
SAMPLING = jf.sampling.FixedSize(population=DATA.num_clients, size=4)
BATCHES = {"batch_size": 3, "epochs": 2}
RATE = {"learning_rate": 0.2, **BATCHES}
MOMENTUM = optax.sgd(0.2, momentum=0.5)
ADAPTIVE = {"learning_rate": 0.1, "tau": 0.01}


def sgd():
    return clients.sgd(logistic_loss, optax.sgd(0.2), **BATCHES)


def scaffold(option):
    return clients.scaffold(logistic_loss, option=option, **RATE)


def mime(lite):
    return clients.mime(logistic_loss, MOMENTUM, lite=lite, **BATCHES)


def agnostic(**options):
    settings = {"num_domains": 2, **BATCHES} | options
    return clients.agnostic(logistic_loss, optax.sgd(0.2), **settings)


METHODS = {
    "fedprox": (
        methods.FedProx,
        lambda p: algorithms.fedprox(
            clients.prox(logistic_loss, optax.sgd(0.2), mu=0.3, **BATCHES), p
        ),
    ),
    "fedsgd": (
        methods.FedSGD,
        lambda p: algorithms.fedsgd(
            clients.gradient(logistic_loss, batch_size=3),
            p,
            server_optimizer=optax.sgd(0.5),
        ),
    ),
    "fedavgm": (
        methods.FedAvgM,
        lambda p: algorithms.fedavgm(sgd(), p, learning_rate=0.5),
    ),
    "fedadagrad": (
        methods.FedAdagrad,
        lambda p: algorithms.fedadagrad(sgd(), p, **ADAPTIVE),
    ),
    "fedyogi": (methods.FedYogi, lambda p: algorithms.fedyogi(sgd(), p, **ADAPTIVE)),
    "fedadam": (methods.FedAdam, lambda p: algorithms.fedadam(sgd(), p, **ADAPTIVE)),
    "fedexp": (methods.FedExP, lambda p: algorithms.fedexp(sgd(), p)),
    "fedexp_unit": (methods.FedExP, lambda p: algorithms.fedexp(sgd(), p, unit=0.1)),
    "scaffold": (methods.Scaffold, lambda p: algorithms.scaffold(scaffold(2), p)),
    "scaffold_one": (
        methods.ScaffoldOne,
        lambda p: algorithms.scaffold(scaffold(1), p),
    ),
    "fednova": (
        methods.FedNova,
        lambda p: algorithms.fednova(clients.nova(logistic_loss, **RATE), p),
    ),
    "fednova_momentum": (
        methods.FedNovaM,
        lambda p: algorithms.fednova(
            clients.nova(logistic_loss, momentum=0.5, **RATE), p
        ),
    ),
    "feddyn": (
        methods.FedDyn,
        lambda p: algorithms.feddyn(
            clients.dyn(logistic_loss, optax.sgd(0.2), alpha=0.3, **BATCHES), p
        ),
    ),
    "qffl": (
        methods.QFFL,
        lambda p: algorithms.qffl(clients.fair(logistic_loss, q=2.0, **RATE), p),
    ),
    "afl": (
        methods.AFL,
        lambda p: algorithms.afl(agnostic(), p, domain_learning_rate=0.7),
    ),
    "mimelite": (
        methods.MimeLite,
        lambda p: algorithms.mime(mime(True), p),
    ),
    "mime": (
        methods.Mime,
        lambda p: algorithms.mime(mime(False), p),
    ),
}


def slow(kind, batching, rounds, seed):
    """Runs a slow twin on the cohorts and batches of a simulation."""
    server = kind(flat(PARAMS))
    share = SAMPLING.size / DATA.num_clients
    for cohort in plans(DATA, SAMPLING, batching, rounds=rounds, seed=seed):
        batches = twin.batches_of(DATA, cohort)
        sent = [server.client(number, found) for number, found in batches.items()]
        sizes = np.array([DATA.client_sizes[number] for number in batches], float)
        if server.weighting == "clients":
            sizes[:] = 1
        shares = sizes / sizes.sum()
        mean = {
            name: sum(part * one[name] for part, one in zip(shares, sent, strict=True))
            for name in sent[0]
        }
        server.server(mean, share)
    return server.x


@pytest.mark.parametrize("name", METHODS)
def test_a_method_equals_its_slow_twin(name):
    kind, build = METHODS[name]
    algorithm = build(jf.privacy.none(sampling=SAMPLING, weighting=kind.weighting))
    history = jf.simulate(
        algorithm, DATA, params=PARAMS, rounds=6, seed=3, progress=False
    )
    wanted = slow(kind, algorithm.local.batching, rounds=6, seed=3)
    np.testing.assert_allclose(flat(history.params), wanted, atol=1e-5, rtol=0)
    assert np.abs(wanted - flat(PARAMS)).max() > 1e-3  # it moved
    plain = slow(methods.FedProx, algorithm.local.batching, rounds=6, seed=3)
    if name != "fedprox":
        assert np.abs(wanted - plain).max() > 1e-4  # and not as another one does


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_the_server_knows_the_mean_of_what_clients_keep(name):
    """Whoever comes, and however many: also where cohorts have other sizes."""
    _, build = METHODS[name]
    sampling = jf.sampling.Poisson(population=DATA.num_clients, rate=0.4)
    algorithm = build(jf.privacy.none(sampling=sampling, weighting="clients"))
    planner = Planner(DATA, algorithm.local.batching, max_clients=6, lanes=2)
    arrays = {n: jnp.asarray(a) for n, a in DATA.arrays.items()}
    state = _round.init_state(algorithm, PARAMS, DATA.num_clients)
    for index, clients_ in enumerate([[0, 3], [1], [], [0, 1, 2, 3, 4, 5], [2, 4]]):
        cohort = cohort_of(planner, clients_, key=jf.keys.simulated(index))
        state, _ = _round.run_round(
            algorithm, state, cohort, arrays, np.int32(index), key=jf.keys.simulated(9)
        )
    mean = jax.tree.map(lambda a: a.mean(axis=0), state.clients)
    if name == "scaffold":
        known = state.server.control
    else:  # g becomes g - alpha * change, and the drift adds up changes over all
        known = jax.tree.map(lambda a: -0.3 * a, state.server.drift)
    for one, other in zip(jax.tree.leaves(mean), jax.tree.leaves(known), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
        assert np.abs(one).max() > 1e-3


ONE_ROW = {"batch_size": 1, "epochs": 1}
TINY = optax.sgd(2.0**-10)


def ones(params, batch, key):
    """A loss whose gradient is 1 for every row."""
    del key
    return jnp.mean(batch["x"].astype(jnp.bfloat16) * params["w"]), {}


SUMS = {
    "fedsgd": lambda none: algorithms.fedsgd(
        clients.gradient(ones, batch_size=1), none, server_optimizer=optax.sgd(1.0)
    ),
    "scaffold": lambda none: algorithms.scaffold(
        clients.scaffold(ones, option=1, learning_rate=2.0**-10, **ONE_ROW), none
    ),
    "mimelite": lambda none: algorithms.mime(clients.mime(ones, TINY, **ONE_ROW), none),
}


@pytest.mark.parametrize(
    ("name", "part", "wanted"),
    [("fedsgd", None, -1), ("scaffold", "control", 1), ("mimelite", "gradient", 1)],
)
def test_many_small_terms_add_up_in_bfloat16(name, part, wanted):
    """A thousand batches; in the parameters' own eight bits they come to .17."""
    rows = {"x": np.ones(1000, np.float32)}
    data = jf.data.FederatedData.from_arrays(rows, client=np.zeros(1000, int))
    none = jf.privacy.none(sampling=jf.sampling.Full(population=1), weighting="clients")
    algorithm, sent = SUMS[name](none), []

    def noting(state, released):
        jax.debug.callback(sent.append, released.value)
        return algorithm.apply(state, released)

    history = jf.simulate(
        algorithm._replace(apply=noting),
        data,
        params={"w": jnp.zeros((), jnp.bfloat16)},
        rounds=1,
        seed=0,
        progress=False,
    )
    assert history.params["w"].dtype == jnp.bfloat16
    value = sent[-1] if part is None else sent[-1][part]
    assert float(value["w"]) == pytest.approx(wanted, rel=1e-3)


def test_without_their_term_methods_are_federated_averaging():
    """FedProx with mu = 0; equal steps for FedNova; one client for SCAFFOLD."""
    none = jf.privacy.none(sampling=SAMPLING)

    def after(algorithm, data=DATA):
        found = jf.simulate(
            algorithm, data, params=PARAMS, rounds=3, seed=1, progress=False
        )
        return flat(found.params)

    plain = after(algorithms.fedavg(sgd(), none))
    prox = clients.prox(logistic_loss, optax.sgd(0.2), mu=0.0, **BATCHES)
    np.testing.assert_array_equal(after(algorithms.fedprox(prox, none)), plain)
    steps = {"batch_size": 3, "steps": 4}
    alike = clients.sgd(logistic_loss, optax.sgd(0.2), **steps)
    nova = clients.nova(logistic_loss, learning_rate=0.2, **steps)
    np.testing.assert_allclose(
        after(algorithms.fednova(nova, none)),
        after(algorithms.fedavg(alike, none)),
        atol=1e-6,
    )
    alone = DATA.select(["client-3"])
    only = jf.privacy.none(sampling=jf.sampling.Full(population=1), weighting="clients")
    np.testing.assert_allclose(
        after(algorithms.scaffold(scaffold(2), only), alone),
        after(algorithms.fedavg(sgd(), only), alone),
        atol=1e-6,
    )


def test_methods_pull_clients_together_where_federated_averaging_drifts():
    """Two quadratics of other curvatures: the mean of their optima is not the optimum.

    Karimireddy et al. 2020, section 3.2 and figure 3.
    """
    curvatures, centres = np.array([1.0, 10.0]), np.array([1.0, -1.0])
    rows = {"a": np.repeat(curvatures, 8), "b": np.repeat(centres, 8)}
    data = jf.data.FederatedData.from_arrays(
        {name: values.astype(np.float32) for name, values in rows.items()},
        client=np.repeat([0, 1], 8),
    )

    def loss(params, batch, key):
        del key
        return jnp.mean(batch["a"] / 2 * (params["w"] - batch["b"]) ** 2), {}

    none = jf.privacy.none(sampling=jf.sampling.Full(population=2), weighting="clients")
    best = (curvatures @ centres) / curvatures.sum()
    options = {"batch_size": 8, "epochs": 10}

    def error(algorithm):
        history = jf.simulate(
            algorithm,
            data,
            params={"w": jnp.zeros(())},
            rounds=300,
            seed=0,
            progress=False,
        )
        return abs(float(history.params["w"]) - best)

    drift = error(
        algorithms.fedavg(clients.sgd(loss, optax.sgd(0.05), **options), none)
    )
    assert drift > 0.1
    scaffolded = clients.scaffold(loss, learning_rate=0.05, **options)
    assert error(algorithms.scaffold(scaffolded, none)) < drift / 1000
    dynamic = clients.dyn(loss, optax.sgd(0.05), alpha=1.0, **options)
    assert error(algorithms.feddyn(dynamic, none)) < drift / 100
    near = clients.prox(loss, optax.sgd(0.05), mu=10.0, **options)
    assert error(algorithms.fedprox(near, none)) < drift / 2


def test_q_trades_the_mean_for_the_worst_client():
    """Nine clients alike and one that is not; q = 0 is federated averaging."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(10, 40, 3)).astype(np.float32)
    effects = np.where(np.arange(10)[:, None] < 9, [1, 1, 0], [-1, 1, 1])
    y = np.einsum("cnd,cd->cn", x, effects) + draw.normal(size=(10, 40)) > 0
    data = jf.data.FederatedData.from_arrays(
        {"x": x.reshape(400, 3), "y": y.reshape(400).astype(np.int32)},
        client=np.repeat(np.arange(10), 40),
    )
    params = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    everybody = jf.privacy.none(
        sampling=jf.sampling.Full(population=10), weighting="clients"
    )

    def losses(algorithm):
        history = jf.simulate(
            algorithm, data, params=params, rounds=60, seed=0, progress=False
        )
        w, b = (np.asarray(history.params[name]) for name in ("w", "b"))
        scores = x @ w + b
        return (np.logaddexp(0, scores) - y * scores).mean(axis=1)

    options = {"batch_size": 20, "epochs": 2}
    found = {
        q: losses(
            algorithms.qffl(
                clients.fair(logistic_loss, q=q, learning_rate=0.1, **options),
                everybody,
            )
        )
        for q in (0.0, 1.0, 5.0)
    }
    plain = clients.sgd(logistic_loss, optax.sgd(0.1), **options)
    averaged = losses(algorithms.fedavg(plain, everybody))
    np.testing.assert_allclose(found[0.0], averaged, atol=1e-5)
    assert found[0.0].max() > found[1.0].max() + 0.01 > found[5.0].max() + 0.02
    assert found[0.0].mean() < found[5.0].mean()


def hard_minority():
    """Twenty clients, of which one in five is of a domain with an effect of its own."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(20, 30, 3)).astype(np.float32)
    domains = (np.arange(20) % 5 == 4).astype(np.int32)
    effects = np.where(domains[:, None] == 0, [1, 1, 0], [-1, 1, 1])
    y = np.einsum("cnd,cd->cn", x, effects) + draw.normal(size=(20, 30)) > 0
    data = jf.data.FederatedData.from_arrays(
        {
            "x": x.reshape(600, 3),
            "y": y.reshape(600).astype(np.int32),
            "domain": np.repeat(domains, 30),
        },
        client=np.repeat(np.arange(20), 30),
    )

    def losses(algorithm, rounds=80):
        history = jf.simulate(
            algorithm,
            data,
            params={"w": jnp.zeros(3), "b": jnp.zeros(())},
            rounds=rounds,
            seed=0,
            progress=False,
        )
        w, b = (np.asarray(history.params[name]) for name in ("w", "b"))
        scores = x @ w + b
        each = (np.logaddexp(0, scores) - y * scores).mean(axis=1)
        return np.array([each[domains == domain].mean() for domain in (0, 1)])

    return losses


def test_agnostic_learning_is_best_for_the_worst_domain():
    """Also when few clients come, so that the minority is not in every cohort."""
    losses = hard_minority()
    options = {"batch_size": 15, "epochs": 1}
    for size in (20, 5):
        none_ = jf.privacy.none(
            sampling=jf.sampling.FixedSize(population=20, size=size)
        )
        averaged = losses(
            algorithms.fedavg(
                clients.sgd(logistic_loss, optax.sgd(0.2), **options), none_
            )
        )
        local = clients.agnostic(
            logistic_loss, optax.sgd(0.2), num_domains=2, **options
        )
        fair = losses(algorithms.afl(local, none_, domain_learning_rate=0.2))
        assert averaged[1] > averaged[0] + 0.3  # the minority is the worst
        assert fair.max() < averaged.max() - 0.2
        assert abs(fair[0] - fair[1]) < 0.12  # no domain can gain but by another


def test_a_domain_without_clients_keeps_its_last_loss():
    """Three cohorts: both domains, then one alone, then nobody."""
    algorithm = algorithms.afl(
        agnostic(), jf.privacy.none(sampling=SAMPLING), domain_learning_rate=0.5
    )
    state = algorithm.init(PARAMS)
    change = jax.tree.map(jnp.zeros_like, PARAMS)
    for loss, count in (([0.2, 0.4], [0.5, 0.5]), ([0.3, 0], [1, 0]), ([0, 0], [0, 0])):
        value = {
            "change": change,
            "loss": jnp.array(loss, jnp.float32),
            "count": jnp.array(count, jnp.float32),
        }
        state = algorithm.apply(state, Released(value=value))
    np.testing.assert_allclose(state.losses, [0.3, 0.8], rtol=1e-6)
    assert float(state.log_weights[0]) == pytest.approx(0.5 * (0.4 + 0.6 - 2.4))
    for one in jax.tree.leaves(state):
        assert np.isfinite(one).all()


def test_agnostic_learning_with_noise():
    """The worst domain is still better off; a count of next to nothing is no loss."""
    losses = hard_minority()
    options = {"batch_size": 15, "epochs": 1}
    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=20),
        clipping=jf.clipping.PerLayer(norms={"change": 0.3, "loss": 2.0, "count": 1.0}),
        noise=jf.noise.Gaussian(multiplier=0.3),
        delta=1e-3,
    )
    local = clients.agnostic(logistic_loss, optax.sgd(0.2), num_domains=2, **options)
    fair = losses(algorithms.afl(local, privacy, domain_learning_rate=0.2))
    averaged = losses(
        algorithms.fedavg(
            clients.sgd(logistic_loss, optax.sgd(0.2), **options),
            dataclasses.replace(privacy, clipping=jf.clipping.Fixed(norm=0.3)),
        )
    )
    assert fair.max() < averaged.max() - 0.1


def test_a_domain_of_nobody_takes_no_weight_under_noise():
    """A third of the cohort each of three domains; of the fourth, noise alone."""
    privacy = jf.privacy.central(
        sampling=jf.sampling.Poisson(population=400, rate=0.25),
        clipping=jf.clipping.PerLayer(norms={"change": 0.2, "loss": 1.0, "count": 1.0}),
        noise=jf.noise.Gaussian(multiplier=1.0),
        delta=1e-4,
    )
    few = jf.sampling.FixedSize(population=40, size=20)
    supposed = jf.privacy.hypothetical(sampling=few, privacy=privacy)
    shares = np.array([1 / 3, 1 / 3, 1 / 3, 0.0])
    losses = np.array([0.3, 0.6, 0.3, 0.0])
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for one, seed in itertools.product((privacy, supposed), range(3)):
        algorithm = algorithms.afl(
            agnostic(num_domains=4), one, domain_learning_rate=0.1
        )
        apply, draw = jax.jit(algorithm.apply), np.random.default_rng(seed)
        state = algorithm.init(PARAMS)
        for _ in range(200):
            count, loss = (
                jnp.asarray(part + 0.017 * draw.normal(size=4), jnp.float32)
                for part in (shares, shares * losses)
            )
            value = {"change": zeros, "loss": loss, "count": count}
            state = apply(state, Released(value=value))
        last = state._replace(log_weights=jnp.array([-400.0, -300.0, -400.0, 0.0]))
        assert np.asarray(algorithm.broadcast(last).extra).tolist() == [0, 1, 0, 1]
        weights = np.asarray(jax.nn.softmax(state.log_weights))
        assert weights[1] == weights.max() > 0.6  # the worst of those who came
        factors = np.asarray(algorithm.broadcast(state).extra)
        assert factors[1] == 1  # and its changes count in full


@pytest.mark.parametrize(
    ("domains", "match"),
    [
        (None, "must have the array 'domain'"),
        (np.zeros(DATA.num_examples, np.float32), "must hold one integer per example"),
        (np.full(DATA.num_examples, 2, np.int32), r"must be in \[0, 2\), got 2 to 2"),
    ],
)
def test_domains_must_be_small_integers(domains, match):
    arrays = dict(ragged_data().arrays)
    if domains is not None:
        arrays["domain"] = domains
    algorithm = algorithms.afl(
        agnostic(), jf.privacy.none(sampling=SAMPLING), domain_learning_rate=0.1
    )
    with pytest.raises(ValueError, match=match):
        jf.simulate(
            algorithm,
            dataclasses.replace(DATA, arrays=arrays),
            params=PARAMS,
            rounds=1,
            seed=0,
            progress=False,
        )


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda n: algorithms.afl(sgd(), n, domain_learning_rate=0.1),
            TypeError,
            "clients.agnostic",
        ),
        (
            lambda n: algorithms.afl(agnostic(), n, domain_learning_rate=-1),
            ValueError,
            "domain_learning_rate must be >= 0",
        ),
        (
            lambda n: agnostic(num_domains=0),
            ValueError,
            "num_domains must be an integer >= 1",
        ),
        (
            lambda n: algorithms.fedavg(scaffold(2), n),
            TypeError,
            r"local must be made by clients\.sgd\(\.\.\.\)",
        ),
        (lambda n: algorithms.scaffold(sgd(), n), TypeError, "clients.scaffold"),
        (lambda n: algorithms.fednova(sgd(), n), TypeError, "clients.nova"),
        (lambda n: algorithms.feddyn(sgd(), n), TypeError, "clients.dyn"),
        (
            lambda n: algorithms.scaffold(scaffold(2), n),
            ValueError,
            'weighting="clients"',
        ),
        (lambda n: algorithms.qffl(sgd(), n), TypeError, "clients.fair"),
        (
            lambda n: clients.fair(logistic_loss, q=-1.0, **RATE),
            ValueError,
            "q must be >= 0",
        ),
        (
            lambda n: algorithms.mime(sgd(), n),
            TypeError,
            "clients.mime",
        ),
        (
            lambda n: algorithms.fedsgd(
                clients.gradient(logistic_loss, batch_size=3), n, server_optimizer=None
            ),
            TypeError,
            "gradients need a rate",
        ),
        (
            lambda n: algorithms.fedadam(sgd(), n, learning_rate=float("nan")),
            ValueError,
            "learning_rate must be a finite number",
        ),
        (
            lambda n: algorithms.fedavgm(sgd(), n, learning_rate=-1),
            ValueError,
            "learning_rate must be > 0",
        ),
        (lambda n: scaffold(True), ValueError, "option must be 1 or 2"),
        (
            lambda n: clients.scaffold(logistic_loss, control_norm=0.0, **RATE),
            ValueError,
            "control_norm must be > 0",
        ),
        (
            lambda n: clients.fair(logistic_loss, q=1.0, unit=0, **RATE),
            ValueError,
            "unit must be > 0",
        ),
        (lambda n: algorithms.fedprox(sgd(), n), TypeError, "clients.prox"),
        (
            lambda n: algorithms.fedsgd(sgd(), n, server_optimizer=MOMENTUM),
            TypeError,
            "clients.gradient",
        ),
        (lambda n: algorithms.fedexp(sgd(), n, epsilon=0), ValueError, "epsilon must"),
        (lambda n: algorithms.fedexp(sgd(), 3), TypeError, "a privacy object"),
        (
            lambda n: algorithms.fedadam(sgd(), n, learning_rate=0.1, b2=1.0),
            ValueError,
            r"b2 must be in \[0, 1\)",
        ),
        (
            lambda n: algorithms.fedyogi(sgd(), n, learning_rate=0.1, tau=0),
            ValueError,
            "tau must be > 0",
        ),
        (
            lambda n: algorithms.fedavgm(sgd(), n, momentum=-0.1),
            ValueError,
            "momentum must be >= 0",
        ),
        (
            lambda n: clients.prox(logistic_loss, MOMENTUM, mu=-1, **BATCHES),
            ValueError,
            "mu must be >= 0",
        ),
        (lambda n: scaffold(3), ValueError, "option must be 1 or 2"),
        (
            lambda n: clients.scaffold(logistic_loss, learning_rate=0, **BATCHES),
            ValueError,
            "learning_rate must be > 0",
        ),
        (
            lambda n: clients.nova(logistic_loss, momentum=1.0, **RATE),
            ValueError,
            r"momentum must be in \[0, 1\)",
        ),
        (
            lambda n: clients.dyn(logistic_loss, MOMENTUM, alpha=0, **BATCHES),
            ValueError,
            "alpha must be > 0",
        ),
        (
            lambda n: clients.gradient(logistic_loss, batch_size=0),
            ValueError,
            "batch_size must be",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(jf.privacy.none(sampling=SAMPLING))


def test_a_clip_does_not_part_the_variates_of_server_and_clients():
    """Ten quadratics, next to no noise: error of the optimum after many rounds."""
    draw = np.random.default_rng(0)
    curvatures, centres = draw.uniform(0.5, 3.0, 10), draw.normal(size=10)
    rows = {"a": np.repeat(curvatures, 4), "c": np.repeat(centres, 4)}
    data = jf.data.FederatedData.from_arrays(
        {name: values.astype(np.float32) for name, values in rows.items()},
        client=np.repeat(np.arange(10), 4),
    )

    def loss(params, batch, key):
        del key
        return jnp.mean(batch["a"] / 2 * (params["w"] - batch["c"]) ** 2), {}

    def error(algorithm):
        history = jf.simulate(
            algorithm,
            data,
            params={"w": jnp.zeros(())},
            rounds=300,
            seed=0,
            progress=False,
        )
        best = (curvatures @ centres) / curvatures.sum()
        return abs(float(history.params["w"]) - best)

    def central(clipping):
        return jf.privacy.central(
            sampling=jf.sampling.Full(population=10),
            clipping=clipping,
            noise=jf.noise.Gaussian(multiplier=1e-3),
            delta=1e-3,
        )

    def scaffolded(**options):
        local = clients.scaffold(
            loss, learning_rate=0.1, batch_size=4, epochs=10, **options
        )
        norms = {"change": 1.0, "control": 0.1}
        return error(
            algorithms.scaffold(local, central(jf.clipping.PerLayer(norms=norms)))
        )

    plain = clients.sgd(loss, optax.sgd(0.1), batch_size=4, epochs=10)
    averaged = error(algorithms.fedavg(plain, central(jf.clipping.Fixed(norm=1.0))))
    followed = scaffolded(control_norm=0.1)
    assert followed < averaged / 2
    assert followed < scaffolded() / 2


def test_small_losses_and_large_powers_still_move():
    """Four quadratics of losses below .2; by symmetry every q has one optimum."""
    centres = np.array([0.0, 0.0, 0.5, 0.5], np.float32)
    data = jf.data.FederatedData.from_arrays(
        {"c": np.repeat(centres, 4)}, client=np.repeat(np.arange(4), 4)
    )

    def loss(params, batch, key):
        del key
        return jnp.mean((params["w"] - batch["c"]) ** 2 / 2), {}

    everybody = jf.privacy.none(
        sampling=jf.sampling.Full(population=4), weighting="clients"
    )
    for q, unit in ((5.0, 1.0), (20.0, 0.1)):
        local = clients.fair(
            loss, q=q, unit=unit, learning_rate=0.1, batch_size=4, epochs=2
        )
        history = jf.simulate(
            algorithms.qffl(local, everybody),
            data,
            params={"w": jnp.float32(0.6)},
            rounds=400,
            seed=0,
            progress=False,
        )
        assert float(history.params["w"]) == pytest.approx(0.25, abs=0.01)


def test_work_that_sends_something_else_than_it_says_is_refused():
    """The first mistake of whoever writes a method: to forget `sends`."""
    right = clients.nova(logistic_loss, **RATE)
    wrong = right._replace(sends=lambda params: params)
    none_ = jf.privacy.none(sampling=SAMPLING)
    algorithm = algorithms.fednova(right, none_)._replace(local=wrong)
    with pytest.raises(ValueError, match="must send what `sends` says"):
        jf.simulate(algorithm, DATA, params=PARAMS, rounds=1, seed=0, progress=False)


def none():
    return jf.privacy.none(sampling=SAMPLING, weighting="clients")


def prox_of(mu):
    local = clients.prox(logistic_loss, optax.sgd(0.2), mu=mu, **BATCHES)
    return algorithms.fedprox(local, none())


def scaffold_of(rate):
    local = clients.scaffold(logistic_loss, learning_rate=rate, **BATCHES)
    return algorithms.scaffold(local, none())


def adam_of(rate):
    return algorithms.fedadam(sgd(), none(), learning_rate=rate, tau=0.01)


@pytest.mark.parametrize("build", [prox_of, scaffold_of, adam_of])
def test_settings_of_methods_can_be_swept(build):
    """Each setting is the simulation with it, client states included."""
    (name,) = inspect.signature(build).parameters
    values = [0.05, 0.4]
    swept = jf.sweep(
        build,
        DATA,
        params=PARAMS,
        rounds=3,
        seeds=[0],
        settings={name: values},
        evaluate=lambda params: {"sum": jnp.sum(params["w"])},
    )
    found = {row.values[name]: row.mean for row in swept.table("sum", largest=True)}
    for value in values:
        alone = jf.simulate(
            build(value), DATA, params=PARAMS, rounds=3, seed=0, progress=False
        )
        assert found[value] == pytest.approx(float(alone.params["w"].sum()), abs=1e-5)
    assert abs(found[0.05] - found[0.4]) > 1e-3
