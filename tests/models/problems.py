"""What the tests of layers share: comparison with the stock layer in every setting."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(shape, seed=0):
    """Returns standard normal numbers."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape).astype(np.float32))


def assert_close(ours, stock, tolerance=1e-5):
    """Compares two trees, relative to the largest element of each leaf."""
    assert jax.tree.structure(ours) == jax.tree.structure(stock)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(stock), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        scale = max(1.0, float(np.abs(np.asarray(b)).max(initial=0)))
        np.testing.assert_allclose(a, b, atol=tolerance * scale, rtol=0)


def scalar(layer):
    """Returns a loss that weighs every output differently."""

    def loss(params, x):
        y = layer(params, x)
        weights = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return jnp.sum(jnp.sin(y) * weights)

    return loss


def settings(layer, params, rows, *, without=()):
    """Runs a layer in every way that the library does.

    Args:
        layer: `(params, batch) -> outputs`.
        params: its parameters, a pytree.
        rows: `(n, ...)`, a batch.
        without: names of settings to leave out.
    """
    loss = scalar(layer)
    both = jax.grad(loss, (0, 1))
    clients = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), params)
    halves = jnp.stack([rows, rows[::-1]])

    def by_row(params, rows):
        return jnp.mean(jax.vmap(lambda row: loss(params, row[None]))(rows))

    def training(params, rows):
        def step(i, params):
            gradient = jax.grad(by_row)(params, rows * (1.0 + i))
            return jax.tree.map(lambda a, g: a - 0.01 * g, params, gradient)

        return jax.lax.fori_loop(0, 3, step, params)

    def directional(params, rows):
        return jax.jvp(lambda p: layer(p, rows), (params,), (params,))

    one = jax.tree.map(lambda a: a[:1], clients)
    ways = {
        "outputs": (layer, params, rows),
        "gradients": (both, params, rows),
        "row by row": (jax.grad(by_row, (0, 1)), params, rows),
        "each row's": (jax.vmap(both, (None, 0)), params, rows[:, None]),
        "clients": (jax.vmap(jax.grad(by_row)), clients, halves),
        "shared rows": (jax.vmap(both, (0, None)), clients, rows),
        "training": (jax.vmap(training), one, halves[:1]),
        "forward mode": (directional, params, rows),
    }
    return {
        name: jax.jit(function)(*arguments)
        for name, (function, *arguments) in ways.items()
        if name not in without
    }
