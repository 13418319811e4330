"""Plans compute what JAX does: models, optimizers, clients of a simulation."""

import json
import subprocess
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed import keys
from jaxfed.deploy import export
from jaxfed.engine import _round
from jaxfed.vault import _training
from jaxfed.vault._plan import Plan
from tests.deploy.rows import ROWS

pytestmark = pytest.mark.usefixtures("free_promotion")
WORDS = np.array([3, 4], np.uint32)
MOST_ERROR = 4e-5  # of an update, relative to its norm


def shared_of(algorithm, params):
    shared = algorithm.broadcast(algorithm.init(params))
    return shared, [np.asarray(leaf) for leaf in jax.tree.leaves(shared)]


def in_jax(algorithm, data, params, order):
    """Returns the update of a client, step by step with JAX."""
    local = algorithm.local
    shared = shared_of(algorithm, params)[0]
    carry = local.init(shared, local.init_client(params))
    step = jax.jit(lambda carry, batch, key: local.step(carry, batch, key=key)[0])
    size = len(data["y"])
    batches = _training.batches(size, local.batching, order)
    for number, (chosen, is_real) in enumerate(batches):
        rows = {name: jnp.asarray(array[chosen]) for name, array in data.items()}
        key = keys.for_leaf(jax.random.wrap_key_data(jnp.asarray(WORDS)), number)
        batch = jf.typing.Batch(rows, jnp.asarray(is_real), jnp.int32(size))
        carry = step(carry, batch, key)
    return jax.jit(local.finish)(shared, carry)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_plan_computes_what_jax_does(name):
    algorithm, data, params = ROWS[name]()
    data = {n: a[:7] for n, a in data.items()}  # the last batch has an empty slot
    plan = Plan(export(algorithm, data, params))
    kept = algorithm.local.init_client(params)
    found = _training.train(
        plan,
        data,
        shared_of(algorithm, params)[1],
        [np.asarray(leaf) for leaf in jax.tree.leaves(kept)],
        key=WORDS,
        order=5,
    )
    wanted = in_jax(algorithm, data, params, 5)
    ours = np.concatenate([a.ravel() for a in found.update])
    theirs = np.concatenate([np.ravel(a) for a in jax.tree.leaves(wanted.update)])
    assert np.linalg.norm(theirs) > 0
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert error <= MOST_ERROR
    for one, other in zip(
        found.kept, jax.tree.leaves(wanted.client_state), strict=True
    ):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_client_of_a_simulation_learns_the_same_in_a_vault():
    """Shuffling, uneven last batches and randomness inside the loss included."""
    draw = np.random.default_rng(1)
    sizes = draw.integers(1, 9, 12)
    x = draw.normal(size=(sizes.sum(), 5)).astype(np.float32)
    data = jf.data.FederatedData.from_arrays(
        {"x": x, "y": (x[:, 0] > 0).astype(np.float32)},
        client=np.repeat(np.arange(12), sizes),
    )

    def loss(params, batch, key):
        shift = 0.1 * jax.random.normal(key, ()) * params["w"].sum()
        logits = batch["x"] @ params["w"] + shift
        return optax.sigmoid_binary_cross_entropy(logits, batch["y"]).mean(), {}

    local = jf.clients.sgd(loss, optax.sgd(0.3, momentum=0.9), batch_size=3, epochs=2)
    none = jf.privacy.none(sampling=jf.sampling.Full(population=12))
    algorithm = jf.algorithms.fedavg(local, none)
    params = {"w": jnp.full(5, 0.1)}
    history = jf.simulate(
        algorithm, data, params=params, rounds=1, seed=3, progress=False
    )
    plan = Plan(export(algorithm, data, params))
    root = keys.simulated(3)
    training = _round.training_key(root, jnp.int32(0))
    shuffling = keys.for_purpose(root, keys.Purpose.SHUFFLING)
    order = int(keys.host_words(keys.for_round(shuffling, 0), 1)[0])
    total, weight = 0.0, 0.0
    for client in range(12):
        mine = slice(data.offsets[client], data.offsets[client + 1])
        found = _training.train(
            plan,
            {name: array[mine] for name, array in data.arrays.items()},
            shared_of(algorithm, params)[1],
            [],
            key=np.asarray(jax.random.key_data(keys.for_client(training, client))),
            order=order,
            client=client,
        )
        assert found.weight == sizes[client]
        total, weight = total + found.update[0] * found.weight, weight + found.weight
    wanted = np.asarray(history.params["w"]) - np.asarray(params["w"])
    assert np.abs(total / weight - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_the_same_work_is_the_same_plan_and_small():
    algorithm, data, params = ROWS["cnn max pool"]()
    one, two = (export(algorithm, data, params) for _ in range(2))
    assert one == two
    assert Plan(one).hash == Plan(two).hash
    assert len(one) <= 10_000


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda x, w: jnp.linalg.slogdet(w[0] * jnp.eye(4))[1], "the primitive 'lu"),
        (lambda x, w: jax.lax.cbrt(x @ w).sum(), "the primitive 'cbrt'"),
        (lambda x, w: (x @ w).astype(jnp.float16).sum().astype(jnp.float32), "float16"),
        (
            lambda x, w: jax.lax.while_loop(
                lambda c: c < 9, lambda c: c + 1.0, jax.lax.stop_gradient(w[0])
            ),
            "the primitive 'while'",
        ),
        (
            lambda x, w: jax.pure_callback(
                np.sum, jax.ShapeDtypeStruct((), np.float32), jax.lax.stop_gradient(w)
            ),
            "the primitive 'pure_callback'",
        ),
    ],
)
def test_what_a_plan_cannot_say_is_refused_by_name(loss, match):
    def loss_fn(params, batch, key):
        del key
        return loss(batch["x"], params["w"]) + params["w"].sum(), {}

    data = {"x": np.ones((4, 3), np.float32)}
    local = jf.clients.sgd(loss_fn, optax.sgd(0.1), batch_size=3, epochs=1)
    none = jf.privacy.none(sampling=jf.sampling.Full(population=2))
    with pytest.raises(ValueError, match=match):
        export(jf.algorithms.fedavg(local, none), data, {"w": jnp.ones(3)})


def test_a_plan_that_disagrees_with_jax_is_never_returned(monkeypatch):
    from jaxfed.vault import _operations

    wrong = _operations.TABLE["logistic"]._replace(run=lambda x: x)
    monkeypatch.setitem(_operations.TABLE, "logistic", wrong)
    algorithm, data, params = ROWS["sigmoid"]()
    with pytest.raises(AssertionError, match="differs by"):
        export(algorithm, data, params)


def test_a_frozen_part_that_no_plan_holds_is_refused(monkeypatch):
    def loss(params, batch, key):
        del key
        return jnp.mean(batch["x"] @ (params["w"] * params["frozen"])), {}

    held = jf.parts.hold(loss, {"w": None, "frozen": np.ones(300, np.float32)})
    local = jf.clients.sgd(held, optax.sgd(0.1), batch_size=2, epochs=1)
    none = jf.privacy.none(sampling=jf.sampling.Full(population=2))
    algorithm = jf.algorithms.fedavg(local, none)
    given = {"x": np.ones((3, 300), np.float32)}, {"w": jnp.ones(300), "frozen": None}
    Plan(export(algorithm, *given))
    monkeypatch.setattr("jaxfed.vault._plan.MOST_BYTES", 1_500)
    with pytest.raises(ValueError, match=r"at most 1,125 bytes, got 1,\d+; hold less"):
        export(algorithm, *given)


def test_an_unknown_parameter_is_refused(monkeypatch):
    from jaxfed.deploy import _lower

    monkeypatch.setitem(_lower._IDLE, "precision", lambda value: False)
    algorithm, data, params = ROWS["huber"]()
    with pytest.raises(ValueError, match="must have known parameters, got precision"):
        export(algorithm, data, params)


def test_a_vault_loads_nothing_but_numpy():
    algorithm, data, params = ROWS["cnn max pool"]()
    plan = export(algorithm, data, params)
    code = (
        "import sys; before = set(sys.modules)\n"
        "from jaxfed.vault import _training, _plan\n"
        "plan = _plan.Plan(bytes.fromhex(sys.argv[1]))\n"
        "names = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "print(sorted(names - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, plan.hex()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.replace("'", '"')) == ["jaxfed", "numpy"]
    assert json.loads(zlib.decompress(plan))["format"] == "jaxfed plan"
