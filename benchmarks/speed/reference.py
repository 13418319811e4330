"""The slow twin: plain JAX, one batch after the other, gradients in 64 bits.

Parameters are kept in 32 bits between steps, as all frameworks keep them: an update is
small beside them, and their rounding would hide the rest.
Nothing is shared with what it checks except the workloads. Run in a process of its
own (`python -m speed.reference WORKLOAD ROUND FILE`), because 64-bit JAX is a setting
of the whole process.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from speed import workloads


def outputs(workload, params, x):
    """Returns the outputs, classes last."""
    if workload.model == "cnn":
        for name in ("conv0", "conv1"):
            x = _convolution(x, params[f"{name}/kernel"]) + params[f"{name}/bias"]
            x = jnp.maximum(x, 0)
        x = x.reshape(len(x), 12, 2, 12, 2, 64).max((2, 4)).reshape(len(x), -1)
    if workload.model == "lstm":
        x = params["embedding/kernel"][x]
        for layer in "01":
            x = _lstm(
                x,
                *(params[f"{n}{layer}/kernel"] for n in ("input", "hidden")),
                params[f"input{layer}/bias"],
            )
    count = sum(name.startswith("dense") for name in params) // 2
    for index in range(count):
        x = x @ params[f"dense{index}/kernel"] + params[f"dense{index}/bias"]
        if index < count - 1:
            x = jnp.maximum(x, 0)
    return x


def _convolution(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=layout
    )


def _lstm(x, inputs, hidden, bias):
    def step(carry, now):
        h, c = carry
        i, f, g, o = jnp.split(now @ inputs + h @ hidden + bias, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((len(x), len(hidden)))
    return jax.lax.scan(step, (zero, zero), x.swapaxes(0, 1))[1].swapaxes(0, 1)


def batches(size, batch_size, *, filled):
    """Yields the rows of each batch of one epoch, in order.

    Args:
        size: examples of the client.
        batch_size: rows of a batch.
        filled: whether the last batch goes on with the first examples.
    """
    for start in range(0, size, batch_size):
        rows = np.arange(start, start + batch_size)
        yield rows % size if filled else rows[rows < size]


def updates(workload, data, clients, *, filled):
    """Yields each client's update, name -> array."""
    params = workloads.initial_params(workload)
    params = {name: jnp.asarray(a) for name, a in params.items()}

    @jax.jit
    def step(narrow, x, y):
        own = {name: a.astype(jnp.float64) for name, a in narrow.items()}

        def loss(own):
            logs = jax.nn.log_softmax(outputs(workload, own, x))
            return -jnp.take_along_axis(logs, y[..., None], -1).mean()

        gradients = jax.grad(loss)(own)
        rate = workload.learning_rate
        return {n: (own[n] - rate * gradients[n]).astype(jnp.float32) for n in own}

    for client in clients:
        x, y = data.of(client)
        x = x if workload.model == "lstm" else x.astype(np.float64)
        own = params
        for rows in batches(len(x), workload.batch_size, filled=filled):
            own = step(own, x[rows], y[rows])
        yield {
            name: np.asarray(own[name], np.float64) - np.asarray(params[name])
            for name in params
        }


def totals(workload, number, *, filled):
    """Returns the clipped sum and the weighted mean of a round, and how many clipped.

    Args:
        workload: the clients and the model.
        number: of the round.
        filled: as in `batches`.
    """
    data = workloads.make_data(workload)
    clients = workloads.cohort(workload, number)
    clipped, mean, above = {}, {}, 0
    examples = data.sizes[clients].sum()
    rounds = updates(workload, data, clients, filled=filled)
    for client, update in zip(clients, rounds, strict=True):
        norm = np.sqrt(sum(np.square(a).sum() for a in update.values()))
        factor, above = min(1.0, workload.clip / norm), above + (norm > workload.clip)
        weight = data.sizes[client] / examples
        for name, a in update.items():
            clipped[name] = clipped.get(name, 0) + factor * a
            mean[name] = mean.get(name, 0) + weight * a
    return clipped, mean, above / len(clients)


def main():
    """Writes both sums for both kinds of last batch."""
    jax.config.update("jax_enable_x64", True)
    name, number, file = sys.argv[1:]
    arrays = {}
    for filled in (False, True):
        clipped, mean, above = totals(
            workloads.WORKLOADS[name], int(number), filled=filled
        )
        for kind, total in (("clipped sum", clipped), ("weighted mean", mean)):
            arrays |= {f"{filled}:{kind}:{n}": a for n, a in total.items()}
    np.savez(file, above=above, **arrays)


if __name__ == "__main__":
    main()
