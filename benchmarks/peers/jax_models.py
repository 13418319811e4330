"""The models in plain JAX, for peers that take any function of parameters."""

import jax
import jax.numpy as jnp


def outputs(workload, params, x, *, key=None):
    """Returns the outputs, classes last; with dropout if there is a key."""
    if workload.model == "cnn":
        return _cnn(params, x, key)
    if workload.model == "lstm":
        return _lstm(params, x)
    return _dense(params, x)


def losses(workload, params, x, y, *, key=None):
    """Returns each example's loss; that of a text is the mean of its characters'."""
    logs = jax.nn.log_softmax(outputs(workload, params, x, key=key))
    each = -jnp.take_along_axis(logs, y[..., None], axis=-1)[..., 0]
    return each.reshape(len(x), -1).mean(axis=1)


def _dense(params, x):
    count = sum(name.startswith("dense") for name in params) // 2
    for index in range(count):
        x = x @ params[f"dense{index}/kernel"] + params[f"dense{index}/bias"]
        x = jax.nn.relu(x) if index < count - 1 else x
    return x


def _cnn(params, x, key):
    for name in ("conv0", "conv1"):
        x = jax.lax.conv_general_dilated(
            x,
            params[f"{name}/kernel"],
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + params[f"{name}/bias"])
    window = (1, 2, 2, 1)
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
    x = _dropout(x.reshape(len(x), -1), 0.25, key, 0)
    x = x @ params["dense0/kernel"] + params["dense0/bias"]
    x = _dropout(jax.nn.relu(x), 0.5, key, 1)
    return x @ params["dense1/kernel"] + params["dense1/bias"]


def _dropout(x, rate, key, place):
    if key is None:
        return x
    kept = jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0.0)


def _lstm(params, x):
    x = params["embedding/kernel"][x].swapaxes(0, 1)
    for layer in "01":
        projected = x @ params[f"input{layer}/kernel"] + params[f"input{layer}/bias"]
        hidden = params[f"hidden{layer}/kernel"]

        def step(carry, now, hidden=hidden):
            h, c = carry
            i, f, g, o = jnp.split(now + h @ hidden, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[1], len(hidden)))
        x = jax.lax.scan(step, (zero, zero), projected)[1]
    return _dense(params, x.swapaxes(0, 1))
