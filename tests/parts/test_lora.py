"""Adapters are what they say: shapes, a start that changes nothing, W + scale a b."""

import json
import math
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxfed as jf
from jaxfed import tree
from jaxfed.parts import lora, split
from tests.models import problems

KEY = jf.keys.simulated(0)
TEXT = jnp.asarray([[1, 2, 3, 4, 5], [0, 6, 1, 1, 2]])
SMALL = {"vocabulary": 7, "length": 5, "features": 8, "heads": 2, "layers": 1}


class Attentive(nnx.Module):
    """Kernels of two, three and four axes."""

    def __init__(self, rngs):
        self.convolution = nnx.Conv(4, 8, (3, 3), rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 8, decode=False, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.convolution(x).reshape(x.shape[0], -1, 8)
        return self.out(self.attention(x).mean(axis=1))


def linen():
    module = jf.models.CharacterTransformer(**SMALL)
    params = jax.jit(module.init)(jax.random.key(0), TEXT)["params"]
    return params, lambda p: module.apply({"params": p}, TEXT)


def of_nnx():
    model = Attentive(nnx.Rngs(0))
    graph, state = nnx.split(model)
    images = problems.normal((2, 3, 3, 4))

    def outputs(params):
        fresh = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(fresh, params)
        return nnx.merge(graph, fresh)(images)

    return nnx.to_pure_dict(state), outputs


MODELS = {"linen": linen, "nnx": of_nnx}


def kernels_of(params):
    found = {}
    tree.map_with_names(lambda name, leaf: found.update({name: leaf}), params)
    return {name: leaf for name, leaf in found.items() if name.endswith("kernel")}


@pytest.mark.parametrize("name", MODELS)
def test_adapters_change_nothing_at_the_start(name):
    params, outputs = MODELS[name]()
    adapters = lora.init(params, rank=2, key=KEY)
    whole = lora.merge(params, adapters, alpha=8.0)
    problems.assert_close(whole, params, 0.0)
    held = lora.hold(outputs, params, alpha=8.0)
    np.testing.assert_array_equal(jax.jit(held)(adapters), jax.jit(outputs)(params))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_held_is_the_kernel_plus_a_product(name):
    params, outputs = MODELS[name]()
    adapters = lora.init(params, rank=2, key=KEY)
    adapters["b"] = jax.tree.map(lambda b: problems.normal(b.shape) / 4, adapters["b"])
    by_hand = jax.tree.map(np.array, params)
    for path, kernel in kernels_of(by_hand).items():
        a, b = (np.asarray(adapters[side][path], np.float64) for side in "ab")
        kernel += (8.0 / 2 * a @ b).astype(np.float32).reshape(kernel.shape)
    wanted = jax.jit(outputs)(jax.tree.map(jnp.asarray, by_hand))
    found = jax.jit(lora.hold(outputs, params, alpha=8.0))(adapters)
    problems.assert_close(found, wanted)
    assert np.abs(wanted - jax.jit(outputs)(params)).max() > 0.1
    for name, leaf in kernels_of(lora.merge(params, adapters, alpha=8.0)).items():
        change = np.asarray(leaf) - np.asarray(kernels_of(params)[name])
        singular = np.linalg.svd(change.reshape(lora.sides_of(leaf.shape)))[1]
        assert singular[1] > 0.1
        assert singular[2:].max(initial=0.0) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_ranks_and_numbers(name):
    params, _ = MODELS[name]()
    adapters = lora.init(params, rank=2, key=KEY)
    kernels = kernels_of(params)
    assert set(adapters["a"]) == set(adapters["b"]) == set(kernels)
    for path, kernel in kernels.items():
        a, b = adapters["a"][path], adapters["b"][path]
        assert a.shape[1] == b.shape[0] == 2
        assert a.shape[0] * b.shape[1] == kernel.size
        assert tree.size([a, b]) <= 2 * (kernel.size // 2 + 2)
        assert not np.any(b)


def test_kernels_of_attention_are_inputs_by_outputs():
    shapes = {
        (64, 256): (64, 256),
        (64, 4, 16): (64, 64),
        (4, 16, 64): (64, 64),
        (512, 2, 64): (512, 128),
        (3, 3, 32, 64): (288, 64),
    }
    for shape, wanted in shapes.items():
        assert lora.sides_of(shape) == wanted


def test_a_is_drawn_with_variance_one_over_inputs():
    """160,000 draws: a variance that is off by 2 % would be six deviations away."""
    kernels = {name: jnp.zeros((400, 200)) for name in ("kernel", "other/kernel")}
    a = lora.init(kernels, rank=200, key=KEY)["a"]
    draws = np.stack([np.asarray(one) for one in a.values()])
    assert draws.shape == (2, 400, 200)
    assert abs(400 * draws.var() - 1) < 6 * math.sqrt(2 / draws.size)
    assert abs(np.corrcoef(draws.reshape(2, -1))[0, 1]) < 6 / math.sqrt(80_000)
    again = lora.init(kernels, rank=200, key=jf.keys.simulated(0))["a"]
    problems.assert_close(again, a, 0.0)


def test_the_base_of_another_type_keeps_it():
    params = {"kernel": jnp.ones((4, 4), jnp.bfloat16)}
    adapters = lora.init(params, rank=1, key=KEY)
    assert adapters["a"]["kernel"].dtype == jnp.float32
    assert lora.merge(params, adapters, alpha=1.0)["kernel"].dtype == jnp.bfloat16


def test_with_b_alone_the_mean_model_is_the_model_of_the_mean():
    """So it is not with both: what a server averages is then another model."""
    params = {"kernel": problems.normal((5, 4))}
    start = lora.init(params, rank=2, key=KEY)

    def client(seed, moves):
        def moved(side, leaf):
            return leaf + problems.normal(leaf.shape, seed) * float(side in moves)

        return {
            side: jax.tree.map(lambda leaf, side=side: moved(side, leaf), start[side])
            for side in "ab"
        }

    for moves, is_mean in (("b", True), ("ab", False)):
        clients = [client(seed, moves) for seed in (1, 2)]

        def model(adapters):
            return lora.merge(params, adapters, alpha=2.0)["kernel"]

        mean = jax.tree.map(lambda *leaves: sum(leaves) / 2, *clients)
        difference = model(mean) - sum(map(model, clients)) / 2
        assert (float(jnp.abs(difference).max()) < 1e-5) is is_mean


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_losses_of_flax_modules(name):
    """One round over four clients brings the loss down; the base stays as it is."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    data = jf.data.FederatedData.from_arrays({"x": x, "y": y}, client=np.arange(24) % 4)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    if name == "linen":
        module = nn.Dense(3)
        params = module.init(jax.random.key(0), jnp.asarray(x))["params"]
        loss_fn = jf.clients.linen_loss(module, entropy)
    else:
        model = nnx.Linear(6, 3, rngs=nnx.Rngs(0))
        params = jf.clients.nnx_params(model)
        loss_fn = jf.clients.nnx_loss(model, entropy)
    before = jax.tree.map(np.array, params)
    adapted = lora.hold(loss_fn, params, alpha=4.0)
    local = jf.clients.sgd(adapted, optax.sgd(0.5), batch_size=3, epochs=2)
    everybody = jf.privacy.none(sampling=jf.sampling.Full(population=4))
    history = jf.simulate(
        jf.algorithms.fedavg(local, everybody),
        data,
        params=lora.init(params, rank=2, key=KEY),
        rounds=6,
        seed=0,
        progress=False,
    )
    losses = [one.private["loss"] for one in history.rounds]
    assert losses[-1] < 0.7 * losses[0]
    problems.assert_close(jax.tree.map(np.asarray, params), before, 0.0)


PARAMS = {"body": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}, "w": jnp.ones(2)}


def test_names_beginnings_and_rules():
    for which in (["body"], ["body/kernel"], [lambda name: True], ["body", "w"]):
        adapters = lora.init(PARAMS, *which, rank=1, key=KEY)
        assert list(adapters["a"]) == ["body/kernel"]


@pytest.mark.parametrize(
    ("which", "rank", "words"),
    [
        (["body"], 4, "rank must be <= 3 for 'body/kernel', a matrix of 4 by 3, got 4"),
        (["body"], 0, "rank must be an integer >= 1, got 0"),
        (["w"], 1, "two axes or more, got none; name some of 'body', 'body/bias'"),
        (["bodi"], 1, "got 'bodi'; did you mean 'body'"),
    ],
)
def test_what_cannot_be_adapted_is_refused(which, rank, words):
    with pytest.raises(ValueError, match=words):
        lora.init(PARAMS, *which, rank=rank, key=KEY)


def test_what_does_not_fit_is_refused():
    adapters = lora.init(PARAMS, rank=1, key=KEY)
    with pytest.raises(ValueError, match="those of the model, got 'body/kernel'"):
        lora.merge({"kernel": jnp.ones((4, 3))}, adapters, alpha=1.0)
    other = {"body": {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}}
    with pytest.raises(ValueError, match=r"must be \(3, rank\) and \(rank, 3\), got"):
        lora.merge(other, adapters, alpha=1.0)
    with pytest.raises(ValueError, match="alpha must be > 0, got 0"):
        lora.hold(lambda params: params, PARAMS, alpha=0)
    whole = {"kernel": jnp.ones((4, 3), jnp.int8)}
    with pytest.raises(TypeError, match="'kernel' must hold floating"):
        lora.init(whole, rank=1, key=KEY)
    made = lora.init({"kernel": jnp.ones((4, 3))}, rank=1, key=KEY)
    with pytest.raises(TypeError, match="'kernel' must hold floating"):
        lora.merge(whole, made, alpha=1.0)
    with pytest.raises(ValueError, match="must have all of 'a' and 'b'"):
        lora.merge(PARAMS, split(adapters, "b")[0], alpha=1.0)
    with pytest.raises(TypeError, match="must be one typed PRNG key"):
        lora.init(PARAMS, rank=1, key=0)
    with pytest.raises(TypeError, match="must be a function"):
        lora.hold(None, PARAMS, alpha=1.0)


ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="a source archive holds no benchmarks"
)
def test_the_page_shows_what_was_measured():
    results = json.loads((ROOT / "benchmarks/results/lora.json").read_text("utf-8"))
    page = (ROOT / "docs/methods_parts.md").read_text("utf-8")
    bits = {}
    for row in results["rows"]:
        name = f"| {row['trained']} | {row['numbers']:,} |"
        bits.setdefault(name, {})[row["epsilon"]] = f"{row['bits']:.2f}"
    for name, found in bits.items():
        assert f"{name} {found[0.3]} | {found[1.0]} |" in page
