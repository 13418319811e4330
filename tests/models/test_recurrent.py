"""LSTM and GRU against flax's cells with the same parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import jaxfed as jf
from tests.models import problems

FEATURES = 5


def stock_of(params):
    """Our parameters in the names of flax's cell."""
    gates = "ifgo" if "recurrent_bias" not in params else "rzn"
    parts = {
        name: jnp.split(array, len(gates), axis=-1)
        for name, array in params.items()
        if name != "recurrent_bias"
    }
    cell = {}
    for place, gate in enumerate(gates):
        kernels = {
            f"i{gate}": parts["input_kernel"][place],
            f"h{gate}": parts["recurrent_kernel"][place],
        }
        cell |= {name: {"kernel": kernel} for name, kernel in kernels.items()}
        bias_of = "h" if gates == "ifgo" else "i"
        cell[f"{bias_of}{gate}"]["bias"] = parts["bias"][place]
    if gates == "rzn":
        cell["hn"]["bias"] = params["recurrent_bias"]
    return {"cell": cell}


def pair(kind):
    if kind == "lstm":
        return jf.models.LSTM(FEATURES), nn.RNN(nn.OptimizedLSTMCell(FEATURES))
    return jf.models.GRU(FEATURES), nn.RNN(nn.GRUCell(FEATURES))


def moved(params):
    """Parameters without a zero."""
    return jax.tree.map(lambda a: a + 0.3 * problems.normal(a.shape, seed=3), params)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_equals_flax_in_every_setting(kind):
    ours, stock = pair(kind)
    rows = problems.normal((3, 6, 4))
    params = moved(ours.init(jax.random.key(0), rows)["params"])

    def stock_layer(params, x):
        return stock.apply({"params": stock_of(params)}, x)

    def our_layer(params, x):
        return ours.apply({"params": params}, x)

    without = ("outputs", "gradients", "row by row", "shared rows", "training")
    found = problems.settings(our_layer, params, rows, without=without)
    wanted = problems.settings(stock_layer, params, rows, without=without)
    for name in wanted:
        problems.assert_close(found[name], wanted[name])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_starts_from_a_carry_and_returns_the_last(kind):
    ours, _ = pair(kind)
    x = problems.normal((2, 3, 7, 4))  # two axes of batch
    variables = ours.init(jax.random.key(0), x)
    params = moved(variables["params"])
    run = jf.models.lstm if kind == "lstm" else jf.models.gru
    kinds = {"lstm": jf.models.LstmParams, "gru": jf.models.GruParams}
    params = kinds[kind](**params)

    def whole(params, x):
        return run(params, x)

    def halves(params, x):
        carry, first = run(params, x[..., :3, :])
        carry, second = run(params, x[..., 3:, :], carry)
        return carry, jnp.concatenate([first, second], axis=-2)

    def outcome(function):
        def loss(params, x):
            carry, outputs = function(params, x)
            return jnp.sum(jnp.sin(outputs)), (carry, outputs)

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    problems.assert_close(outcome(halves), outcome(whole))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_initial_parameters_have_the_spread_of_flax(kind):
    ours, stock = pair(kind)
    x = problems.normal((1, 2, 4))
    params = ours.init(jax.random.key(0), x)["params"]
    like_stock = stock_of(params)
    assert jax.tree.map(jnp.shape, like_stock) == jax.tree.map(
        jnp.shape, stock.init(jax.random.key(0), x)["params"]
    )
    for gate in "ifgo" if kind == "lstm" else "rzn":
        kernel = like_stock["cell"][f"h{gate}"]["kernel"]
        problems.assert_close(kernel @ kernel.T, jnp.eye(FEATURES))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_no_product_in_the_backward_loop_contracts_the_batch(kind):
    """The recurrent kernel's gradient is one product outside of the loop over time."""
    ours, _ = pair(kind)
    x = jnp.zeros((3, 6, 4))
    params = jax.eval_shape(lambda: ours.init(jax.random.key(0), x)["params"])

    def loss(params):
        return jnp.sum(ours.apply({"params": params}, x))

    program = jax.make_jaxpr(jax.grad(loss))(params)
    scans = [e for e in program.eqns if e.primitive.name == "scan"]
    assert len(scans) >= 2
    for scan in scans:
        products = [
            e
            for e in scan.params["jaxpr"].jaxpr.eqns
            if e.primitive.name == "dot_general"
        ]
        assert len(products) == 1
        assert products[0].outvars[0].aval.shape[0] == 3
