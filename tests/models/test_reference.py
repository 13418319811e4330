"""The reference models: sizes, stock variants, and training them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from tests.models import problems

models = jf.models
STOCK = {
    "convolution": jax.lax.conv_general_dilated,
    "pool": nn.max_pool,
    "dropout": nn.Dropout,
}
TEXT = jnp.zeros((1, 80), jnp.int32)


def size(module, x):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x)["params"])
    return sum(a.size for a in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("module", "x", "wanted"),
    [
        (models.LogisticRegression(3), jnp.zeros((1, 4)), 15),
        (models.MLP(62), jnp.zeros((1, 28, 28, 1)), 209_662),
        (models.CNN(62), jnp.zeros((1, 28, 28, 1)), 1_206_590),
        (models.CNN(10), jnp.zeros((1, 32, 32, 3)), 1_626_442),
        (models.CNN(10, **STOCK), jnp.zeros((1, 32, 32, 3)), 1_626_442),
        (models.CharacterRNN(), TEXT, 820_522),
        (
            models.CharacterRNN(
                recurrent=lambda features: nn.RNN(nn.OptimizedLSTMCell(features))
            ),
            TEXT,
            820_522,
        ),
        (models.CharacterRNN(recurrent=models.GRU), TEXT, 621_866),
        (models.CharacterTransformer(), TEXT, 116_826),
    ],
)
def test_numbers_of_parameters(module, x, wanted):
    assert size(module, x) == wanted


def test_the_network_of_stock_layers_computes_the_same():
    x = problems.normal((2, 12, 12, 1))
    ours, stock = models.CNN(5), models.CNN(5, **STOCK)
    variables = jax.jit(stock.init)(jax.random.key(0), x)

    def outcome(module):
        def loss(variables):
            return jnp.sum(jnp.sin(module.apply(variables, x)))

        return jax.jit(jax.value_and_grad(loss))(variables)

    problems.assert_close(outcome(ours), outcome(stock))


@pytest.mark.parametrize("name", ["transformer", "lstm", "gru"])
def test_characters_do_not_see_later_ones(name):
    small = {"vocabulary": 7, "features": 8, "layers": 1}
    module = {
        "transformer": models.CharacterTransformer(length=9, **small),
        "lstm": models.CharacterRNN(**small),
        "gru": models.CharacterRNN(**small, recurrent=models.GRU),
    }[name]
    x = jnp.asarray([[1, 2, 3, 4, 5, 6, 0, 1, 2]])
    variables = jax.jit(module.init)(jax.random.key(0), x)
    apply = jax.jit(module.apply)
    outputs, changed = (apply(variables, a) for a in (x, x.at[0, 5].set(1)))
    problems.assert_close(changed[:, :5], outputs[:, :5])
    assert jnp.all(jnp.any(changed[:, 5:] != outputs[:, 5:], axis=-1))


def test_a_transformer_says_what_does_not_fit():
    with pytest.raises(ValueError, match="at most length=4 characters, got 5; pass"):
        size(models.CharacterTransformer(length=4), jnp.zeros((1, 5), jnp.int32))
    with pytest.raises(ValueError, match="multiple of heads, got 6 and 4; pass"):
        size(models.CharacterTransformer(features=6), TEXT)


def trained(module, x, y, *, rounds=1, learning_rate=0.1, **options):
    """Returns the loss of each round of federated training on four clients."""
    loss = jf.clients.linen_loss(
        module, optax.softmax_cross_entropy_with_integer_labels, **options
    )
    data = jf.data.FederatedData.from_arrays(
        {"x": np.asarray(x), "y": np.asarray(y)}, client=np.arange(len(x)) % 4
    )
    local = jf.clients.sgd(loss, optax.sgd(learning_rate), batch_size=2, epochs=1)
    everybody = jf.privacy.none(sampling=jf.sampling.Full(population=4))
    history = jf.simulate(
        jf.algorithms.fedavg(local, everybody),
        data,
        params=jax.jit(module.init)(jax.random.key(0), x[:1])["params"],
        rounds=rounds,
        seed=0,
        progress=False,
    )
    return history


@pytest.mark.parametrize(
    "name",
    [
        "lstm",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("cnn", "transformer")),
    ],
)
def test_trains_in_a_simulation(name):
    images, labels = problems.normal((12, 8, 8, 1)), np.arange(12) % 3
    text = np.random.default_rng(0).integers(0, 7, (12, 6)).astype(np.int32)
    small = {"vocabulary": 7, "features": 8, "layers": 1}
    module, x, y, options = {
        "cnn": (models.CNN(3), images, labels, {"deterministic": False}),
        "lstm": (models.CharacterRNN(**small), text, text, {}),
        "transformer": (models.CharacterTransformer(**small), text, text, {}),
    }[name]
    history = trained(module, x, np.asarray(y, np.int32), **options)
    for leaf in jax.tree.leaves(history.params):
        assert jnp.all(jnp.isfinite(leaf))
