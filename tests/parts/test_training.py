"""Training a part: slow twins, privacy, ledger and checkpoints."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed import tree
from jaxfed.ledger import LedgerError
from jaxfed.typing import ClientResult
from tests.engine.paid import Killed, bits, dies_after, ledger
from tests.engine.test_simulate import plans
from tests.problems import FEATURES, flat, logistic_loss, logistic_params, ragged_data
from tests.reference import fedavg as twin
from tests.reference import methods, parts

DATA, PARAMS = ragged_data(), logistic_params()
SAMPLING = jf.sampling.FixedSize(population=DATA.num_clients, size=4)
NONE = jf.privacy.none(sampling=SAMPLING, weighting="clients")
BATCHES = {"batch_size": 3, "epochs": 2}
KERNEL = {"kernel": PARAMS["w"][:, None], "bias": PARAMS["b"]}
ADAPTERS = {"kernel": jnp.full((FEATURES, 1), 0.5)}, {"kernel": jnp.ones((1, 1))}


def averaging(loss, privacy=NONE, rate=0.2):
    local = jf.clients.sgd(loss, optax.sgd(rate), **BATCHES)
    return jf.algorithms.fedavg(local, privacy)


def scaffold(loss):
    local = jf.clients.scaffold(loss, learning_rate=0.2, **BATCHES)
    return jf.algorithms.scaffold(local, NONE)


def simulated(algorithm, params, rounds=6, **options):
    return jf.simulate(
        algorithm, DATA, params=params, rounds=rounds, seed=3, progress=False, **options
    )


def slow(server, batching, rounds=6):
    """Runs a slow twin on the cohorts and batches of a simulation."""
    for cohort in plans(DATA, SAMPLING, batching, rounds=rounds, seed=3):
        batches = twin.batches_of(DATA, cohort)
        sent = [server.client(number, found) for number, found in batches.items()]
        mean = {name: np.mean([s[name] for s in sent], axis=0) for name in sent[0]}
        server.server(mean, SAMPLING.size / DATA.num_clients)
    return server


@pytest.mark.parametrize(
    ("name", "kind", "build"),
    [
        ("w", parts.Averaging, averaging),
        ("b", parts.Averaging, averaging),
        ("w", methods.Scaffold, scaffold),
    ],
)
def test_a_part_equals_a_slow_twin_in_which_only_it_moves(name, kind, build):
    trained, frozen = jf.parts.split(PARAMS, name)
    algorithm = build(jf.parts.hold(logistic_loss, frozen))
    history = simulated(algorithm, trained)
    mask = np.append(np.full(FEATURES, name == "w"), name == "b")
    server = parts.part_of(kind, mask)(flat(PARAMS))
    found = flat(jf.parts.merge(history.params, frozen))
    wanted = slow(server, algorithm.local.batching).x
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)
    moved = found != flat(PARAMS)
    np.testing.assert_array_equal(moved, mask)  # what is frozen has the same bits


def kernel_loss(params, batch, key):
    whole = {"w": params["kernel"][:, 0], "b": params["bias"]}
    return logistic_loss(whole, batch, key)


@pytest.mark.parametrize("only_b", [False, True], ids=["lora", "ffa_lora"])
def test_adapters_equal_a_slow_twin(only_b):
    loss, params = jf.parts.lora.hold(kernel_loss, KERNEL, alpha=1.5), ADAPTERS
    params = dict(zip("ab", ADAPTERS, strict=True))
    frozen = jax.tree.map(lambda a: None, params)
    if only_b:
        params, frozen = jf.parts.split(params, "b")
        loss = jf.parts.hold(loss, frozen)
    algorithm = averaging(loss)
    history = simulated(algorithm, params)
    a, b = (np.asarray(one["kernel"], np.float64).reshape(-1) for one in ADAPTERS)
    server = parts.LoRA(flat(PARAMS), a, b, alpha=1.5, rate=0.2, only_b=only_b)
    slow(server, algorithm.local.batching)
    found = jf.parts.merge(history.params, frozen)
    np.testing.assert_allclose(found["a"]["kernel"][:, 0], server.a, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found["b"]["kernel"][0], server.b, atol=1e-5, rtol=0)
    assert np.abs(server.b - b).max() > 0.1
    assert (np.abs(server.a - a).max() > 0.1) is not only_b


def central(**options):
    given = {
        "sampling": jf.sampling.Poisson(population=DATA.num_clients, rate=0.5),
        "clipping": jf.clipping.Fixed(norm=0.5),
        "noise": jf.noise.Gaussian(multiplier=2.0),
        "delta": 1e-3,
    }
    return jf.privacy.central(**(given | options))


def test_clip_and_noise_have_the_coordinates_of_the_part_alone():
    trained, frozen = jf.parts.split(PARAMS, "w")
    privacy = central()
    assert [g.dimension for g in privacy._joint(trained).groups] == [FEATURES]
    zero = ClientResult(tree.zeros_like(trained), jnp.float32(1), ())
    sent = privacy.encode(privacy.init(trained), zero, key=jf.keys.simulated(0))
    assert tree.size(sent.update) == FEATURES
    still = averaging(jf.parts.hold(logistic_loss, frozen), privacy, rate=0.0)
    history = simulated(still, trained, rounds=1)  # nothing moves it but noise
    found = jf.parts.merge(history.params, frozen)
    assert np.all(np.asarray(found["w"]) != np.asarray(PARAMS["w"]))
    assert bits(found["b"]) == bits(PARAMS["b"])
    own = dataclasses.replace(
        privacy, clipping=jf.clipping.PerLayer(norms={"w": 0.5})
    )  # the names are those of the whole
    simulated(averaging(jf.parts.hold(logistic_loss, frozen), own), trained, rounds=1)
    assert own.epsilon(rounds=1) == privacy.epsilon(rounds=1)


def another(frozen):
    """Returns the same with its last bit changed."""
    return jax.tree.map(lambda a: jnp.nextafter(a, jnp.inf), frozen)


def test_a_ledger_knows_what_is_frozen(tmp_path):
    trained, frozen = jf.parts.split(PARAMS, "w")
    path = ledger(tmp_path)

    def run(frozen, **options):
        return jf.train(
            averaging(jf.parts.hold(logistic_loss, frozen), central()),
            DATA,
            params=trained,
            rounds=3,
            ledger=path,
            progress=False,
            **options,
        )

    with pytest.raises(Killed):
        run(frozen, callbacks=[dies_after(1)])
    with pytest.raises(LedgerError, match="but its code"):
        run(another(frozen))
    history = run(jax.tree.map(np.asarray, frozen))
    assert len(history.rounds) == 3
    assert bits(run(frozen).params) == bits(history.params)


def test_a_checkpoint_knows_what_is_frozen(tmp_path):
    trained, frozen = jf.parts.split(PARAMS, "w")

    def run(frozen, rounds=3):
        algorithm = averaging(jf.parts.hold(logistic_loss, frozen))
        return simulated(algorithm, trained, rounds, checkpoint=tmp_path / "saved")

    history = run(frozen)
    assert bits(run(frozen).params) == bits(history.params)
    with pytest.raises(ValueError, match="got checkpoints of another one"):
        run(another(frozen))
