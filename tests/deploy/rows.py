"""What plans have to say: models, optimizers and kinds of local work."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxfed as jf
from jaxfed.typing import Batching, ClientResult, LocalWork

SIZE, CLASSES, VOCABULARY = 4, 3, 11
FULL = jf.sampling.Full(population=2)
NONE = jf.privacy.none(sampling=FULL)


def arrays(kind):
    draw = np.random.default_rng(3)
    y = draw.integers(0, CLASSES, 8).astype(np.int32)
    x = {
        "flat": draw.normal(size=(8, 6)).astype(np.float32),
        "image": draw.normal(size=(8, 8, 8, 2)).astype(np.float32),
        "text": draw.integers(0, VOCABULARY, (8, 7)).astype(np.int32),
        "series": draw.normal(size=(8, 5, 3)).astype(np.float32),
    }[kind]
    return {"x": x, "y": y}


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


class Classifier(nn.Module):
    """Layers, then the mean over all but the batch, then classes."""

    layers: tuple

    @nn.compact
    def __call__(self, x):
        for layer in self.layers:
            x = layer(x) if callable(layer) else layer
        return nn.Dense(CLASSES)(x.reshape(x.shape[0], -1))


def linen(kind, *layers, optimizer=None, loss=cross_entropy, **options):
    """Returns the algorithm, data and parameters of a linen model."""
    data, module = arrays(kind), Classifier(layers)
    init = module.init(jax.random.key(0), jnp.asarray(data["x"][:1]))
    local = jf.clients.sgd(
        jf.clients.linen_loss(module, loss, **options),
        optimizer or optax.sgd(0.1),
        batch_size=SIZE,
        epochs=1,
    )
    return jf.algorithms.fedavg(local, NONE), data, init["params"]


def dense(optimizer, loss=cross_entropy):
    return linen("flat", nn.Dense(8), nn.relu, optimizer=optimizer, loss=loss)


def recurrent(cell):
    return linen("series", nn.RNN(cell(features=4)))


class Attention(nn.Module):
    """An embedding, attention, and a layer behind it."""

    @nn.compact
    def __call__(self, x):
        x = nn.Embed(VOCABULARY, 8)(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))


def in_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(2, 4, (3, 3), rngs=rngs)
            self.last = nnx.Linear(4, CLASSES, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.first(x)).mean((1, 2)))

    model = Net(nnx.Rngs(0))
    local = jf.clients.sgd(
        jf.clients.nnx_loss(model, cross_entropy),
        optax.sgd(0.1),
        batch_size=SIZE,
        epochs=1,
    )
    params = jf.clients.nnx_params(model)
    return jf.algorithms.fedavg(local, NONE), arrays("image"), params


def clipped(kind, *layers):
    """DP-SGD's step without its noise: each example's gradient is clipped."""
    algorithm, data, params = linen(kind, *layers)
    module = Classifier(layers)

    def loss(params, x, y):
        return cross_entropy(module.apply({"params": params}, x[None])[0], y)

    def init(shared, kept):
        return shared.params

    def step(params, batch, *, key):
        gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(
            params, batch.rows["x"], batch.rows["y"]
        )
        squares = [
            jnp.sum(g.reshape(SIZE, -1) ** 2, 1) for g in jax.tree.leaves(gradients)
        ]
        factor = jnp.minimum(1.0, 1.0 / jnp.sqrt(sum(squares)))
        factor = jnp.where(batch.is_real, factor, 0.0)
        mean = jax.tree.map(lambda g: jnp.tensordot(factor, g, 1) / SIZE, gradients)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, mean), {}

    def finish(shared, params):
        update = jax.tree.map(jnp.subtract, params, shared.params)
        return ClientResult(update, jnp.float32(1), ())

    local = LocalWork(init, step, finish, Batching(batch_size=SIZE, epochs=1))
    return algorithm._replace(local=local), data, params


def proximal():
    """FedProx: a pull towards what the server sent."""
    algorithm, data, params = dense(None)
    inner = algorithm.local

    def step(carry, batch, *, key):
        (start, carry) = carry
        carry, metrics = inner.step(carry, batch, key=key)
        pulled = jax.tree.map(lambda p, s: p - 0.01 * (p - s), carry.params, start)
        return (start, carry._replace(params=pulled)), metrics

    local = inner._replace(
        init=lambda shared, kept: (shared.params, inner.init(shared, kept)),
        step=step,
        finish=lambda shared, carry: inner.finish(shared, carry[1]),
    )
    return algorithm._replace(local=local), data, params


def with_control():
    """SCAFFOLD's step: what a client keeps corrects its gradients."""
    algorithm, data, params = dense(None)
    inner = algorithm.local

    def step(carry, batch, *, key):
        (kept, carry) = carry
        carry, metrics = inner.step(carry, batch, key=key)
        moved = jax.tree.map(lambda p, c: p - 0.1 * c, carry.params, kept)
        return (kept, carry._replace(params=moved)), metrics

    def finish(shared, carry):
        result = inner.finish(shared, carry[1])
        kept = jax.tree.map(lambda c, u: c - u / 0.2, carry[0], result.update)
        return result._replace(client_state=kept)

    local = inner._replace(
        init=lambda shared, kept: (kept, inner.init(shared, kept)),
        step=step,
        finish=finish,
        init_client=lambda params: jax.tree.map(lambda a: 0.01 + a * 0, params),
    )
    return algorithm._replace(local=local), data, params


def k_means():
    """A step and a sum that has no gradient."""
    data = arrays("flat")
    params = {"centres": jnp.asarray(data["x"][:3])}

    def init(shared, kept):
        return jnp.zeros((3, 6)), jnp.zeros(3)

    def assign(shared, batch):
        distance = ((batch[:, None] - shared[None]) ** 2).sum(-1)
        return jax.nn.one_hot(distance.argmin(1), 3)

    def step(carry, batch, *, key):
        sums, counts = carry
        mine = assign(params["centres"], batch.rows["x"]) * batch.is_real[:, None]
        return (sums + mine.T @ batch.rows["x"], counts + mine.sum(0)), {}

    def finish(shared, carry):
        sums, counts = carry
        centres = sums / jnp.maximum(counts, 1)[:, None]
        update = {"centres": centres - shared.params["centres"]}
        return ClientResult(update, counts.sum(), ())

    local = LocalWork(init, step, finish, Batching(batch_size=SIZE, epochs=1))
    return jf.algorithms.fedavg(local, NONE), data, params


_CONV = functools.partial(nn.Conv, features=4, kernel_size=(3, 3))
_ACTIVATIONS = (
    *("celu", "elu", "glu", "hard_sigmoid", "hard_swish", "hard_tanh", "leaky_relu"),
    *("log_sigmoid", "relu6", "selu", "sigmoid", "silu", "soft_sign", "softplus"),
)


def activation(name):
    return linen("flat", nn.Dense(8), getattr(jax.nn, name))


def bce(logits, labels):
    wanted = jax.nn.one_hot(labels, CLASSES)
    return optax.sigmoid_binary_cross_entropy(logits, wanted).mean(-1)


def huber(logits, labels):
    return optax.huber_loss(logits, jax.nn.one_hot(labels, CLASSES)).mean(-1)


ROWS = {
    "cnn max pool": lambda: linen(
        "image", _CONV(), nn.relu, lambda x: nn.max_pool(x, (2, 2), (2, 2))
    ),
    "cnn average pool": lambda: linen(
        "image", _CONV(), nn.relu, lambda x: nn.avg_pool(x, (2, 2), (2, 2))
    ),
    "dropout": lambda: linen("flat", nn.Dense(8), nn.Dropout(0.5, deterministic=False)),
    "group normalisation": lambda: linen("image", _CONV(), nn.GroupNorm(2)),
    "layer normalisation": lambda: linen("flat", nn.Dense(8), nn.LayerNorm()),
    "strided convolution": lambda: linen("image", _CONV(strides=(2, 2))),
    "depthwise convolution": lambda: linen("image", _CONV(feature_group_count=2)),
    "dilated convolution": lambda: linen("image", _CONV(kernel_dilation=(2, 2))),
    "transposed convolution": lambda: linen(
        "image", nn.ConvTranspose(4, (3, 3), strides=(2, 2))
    ),
    "exact gelu": lambda: linen(
        "flat", nn.Dense(8), functools.partial(nn.gelu, approximate=False)
    ),
    "attention": lambda: linen("text", Attention()),
    "lstm": lambda: recurrent(nn.LSTMCell),
    "optimized lstm": lambda: recurrent(nn.OptimizedLSTMCell),
    "gru": lambda: recurrent(nn.GRUCell),
    "simple recurrence": lambda: recurrent(nn.SimpleCell),
    "nnx": in_nnx,
    "binary cross entropy": lambda: dense(None, bce),
    "huber": lambda: dense(None, huber),
    "proximal": proximal,
    "control variates": with_control,
    "k-means": k_means,
    "clipped perceptron": lambda: clipped("flat", nn.Dense(8), nn.relu),
    "clipped convolution": lambda: clipped("image", _CONV(), nn.relu),
    "clipped attention": lambda: clipped("text", Attention()),
    **{name: functools.partial(activation, name) for name in _ACTIVATIONS},
    **{
        name: functools.partial(dense, optimizer)
        for name, optimizer in {
            "sgd with momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
            "global norm": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
            "schedule": optax.sgd(optax.cosine_decay_schedule(0.1, 10)),
            "adam": optax.adam(0.01, eps=1e-3),
            "adamw": optax.adamw(0.01, eps=1e-3),
            "adagrad": optax.adagrad(0.1),
            "rmsprop": optax.rmsprop(0.01, eps=1e-3),
            "yogi": optax.yogi(0.01),
            "lion": optax.lion(0.001),
            "lamb": optax.lamb(0.01, eps=1e-3),
            "adamax": optax.adamax(0.01, eps=1e-3),
            "nadam": optax.nadam(0.01, eps=1e-3),
            "adafactor": optax.adafactor(0.01),
        }.items()
    },
}
