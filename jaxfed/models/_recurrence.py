"""LSTM and GRU over a sequence, with little left to do inside the loop over time.

Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000; Cho et al.
2014, arXiv:1406.1078, in the variant that resets after the product, as cuDNN and flax
have it. Three things leave the loop: the product of the inputs and their kernel, the
gradient of the recurrent kernel, which is one product over all times, and the
transposition of that kernel, which the backward loop would otherwise do at every step
(an optimization barrier keeps the compiler from putting it back).

The derivative is written as a linear recurrence in the tangents; JAX transposes it for
the backward pass.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed.typing import PyTree


class LstmParams(NamedTuple):
    """Parameters of an LSTM; gates on the last axis: input, forget, cell, output.

    Those of flax's `OptimizedLSTMCell` are `ii, if, ig, io` and `hi, hf, hg, ho`,
    concatenated along the last axis.
    """

    input_kernel: jax.Array  # (inputs, 4 * features)
    recurrent_kernel: jax.Array  # (features, 4 * features)
    bias: jax.Array  # (4 * features,)


class GruParams(NamedTuple):
    """Parameters of a GRU; gates on the last axis: reset, update, new.

    Those of flax's `GRUCell` are `ir, iz, in` and `hr, hz, hn`, concatenated along the
    last axis.
    """

    input_kernel: jax.Array  # (inputs, 3 * features)
    recurrent_kernel: jax.Array  # (features, 3 * features)
    bias: jax.Array  # (3 * features,)
    recurrent_bias: jax.Array  # (features,), of the new gate, inside the reset


def lstm(
    params: LstmParams,
    inputs: jax.Array,
    carry: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Runs an LSTM over a sequence; equals `nn.RNN(nn.OptimizedLSTMCell(features))`.

    Args:
        params: the parameters, `LstmParams`.
        inputs: `(*batch, time, inputs)`.
        carry: cell and hidden state at the start, each `(*batch, features)`; zeros if
            not given.

    Returns:
        The carry at the end, and the hidden states `(*batch, time, features)`.
    """
    features = params.recurrent_kernel.shape[0]
    products = _input_products(params.input_kernel, params.bias, inputs)
    if carry is None:
        zero = jnp.zeros((*products.shape[1:-1], features), products.dtype)
        carry = (zero, zero)
    cells, states = _lstm(products, params.recurrent_kernel, *carry)
    return (cells[-1], states[-1]), jnp.moveaxis(states, 0, -2)


def gru(
    params: GruParams, inputs: jax.Array, carry: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Runs a GRU over a sequence; equals `nn.RNN(nn.GRUCell(features))`.

    Args:
        params: the parameters, `GruParams`.
        inputs: `(*batch, time, inputs)`.
        carry: hidden state at the start, `(*batch, features)`; zeros if not given.

    Returns:
        The carry at the end, and the hidden states `(*batch, time, features)`.
    """
    features = params.recurrent_kernel.shape[0]
    products = _input_products(params.input_kernel, params.bias, inputs)
    if carry is None:
        carry = jnp.zeros((*products.shape[1:-1], features), products.dtype)
    states = _gru(products, params.recurrent_kernel, params.recurrent_bias, carry)
    return states[-1], jnp.moveaxis(states, 0, -2)


def _input_products(kernel: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    """Returns what the inputs add to the gates, `(time, *batch, gates)`."""
    products = jnp.moveaxis(x, -2, 0) @ kernel
    return products + jnp.broadcast_to(bias, products.shape)


def _previous(first: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.concatenate([first[None], values[:-1]])


def _transposed(kernel: jax.Array) -> jax.Array:
    return lax.optimization_barrier(kernel.T)


def _times_transpose_of(kernel_t: jax.Array, x: jax.Array) -> jax.Array:
    return lax.dot_general(x, kernel_t, (((x.ndim - 1,), (1,)), ((), ())))


def _linear_scan(
    step: Callable[..., Any], carry: PyTree, pushed: jax.Array, factors: PyTree
) -> PyTree:
    """Scans a step that is linear in `carry` and `pushed`; returns what it puts out.

    As the derivative of itself, at zero: JAX up to 0.9 transposes a scan only if it
    found itself which of its operands are tangents.
    """

    def run(carry: PyTree, pushed: jax.Array) -> PyTree:
        return lax.scan(step, carry, (pushed, factors))[1]

    zeros = jax.tree.map(jnp.zeros_like, (carry, pushed))
    return jax.jvp(run, zeros, (carry, pushed))[1]


# --- LSTM ---------------------------------------------------------------------------


@jax.custom_jvp
def _lstm(
    products: jax.Array, kernel: jax.Array, cell: jax.Array, state: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns cells and hidden states of all times, `(time, *batch, features)`."""
    return _lstm_forward(products, kernel, cell, state)[:2]


def _lstm_forward(
    products: jax.Array, kernel: jax.Array, cell: jax.Array, state: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns also the gates, `(time, *batch, 4 * features)`."""

    def step(carry: Any, product: jax.Array) -> Any:
        i, f, g, o = jnp.split(product + carry[1] @ kernel, 4, -1)
        i, f, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
        g = jnp.tanh(g)
        new_cell = f * carry[0] + i * g
        new_state = o * jnp.tanh(new_cell)
        gates = jnp.concatenate([i, f, g, o], -1)
        return (new_cell, new_state), (new_cell, new_state, gates)

    return lax.scan(step, (cell, state), products)[1]


@_lstm.defjvp
def _lstm_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    products, kernel, cell, state = primals
    d_products, d_kernel, d_cell, d_state = tangents
    cells, states, gates = _lstm_forward(products, kernel, cell, state)
    i, f, g, o = jnp.split(gates, 4, -1)
    squashed = jnp.tanh(cells)
    slopes = jnp.concatenate(
        [
            i * (1 - i) * g,
            f * (1 - f) * _previous(cell, cells),
            i * (1 - g * g),
            o * (1 - o) * squashed,
        ],
        -1,
    )
    through = o * (1 - squashed * squashed)
    pushed = d_products + _previous(state, states) @ d_kernel
    kernel_t = _transposed(kernel)

    def step(carry: Any, now: Any) -> Any:
        push, (slope, forget, cell_slope) = now
        d_gates = slope * (push + _times_transpose_of(kernel_t, carry[1]))
        d_i, d_f, d_g, d_o = jnp.split(d_gates, 4, -1)
        new_cell = forget * carry[0] + d_i + d_f + d_g
        new_state = d_o + cell_slope * new_cell
        return (new_cell, new_state), (new_cell, new_state)

    moved = _linear_scan(step, (d_cell, d_state), pushed, (slopes, f, through))
    return (cells, states), moved


# --- GRU ----------------------------------------------------------------------------


@jax.custom_jvp
def _gru(
    products: jax.Array, kernel: jax.Array, bias: jax.Array, state: jax.Array
) -> jax.Array:
    """Returns the hidden states of all times, `(time, *batch, features)`."""
    return _gru_forward(products, kernel, bias, state)[0]


def _gru_forward(
    products: jax.Array, kernel: jax.Array, bias: jax.Array, state: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns also the gates and the recurrent product of the new gate."""

    def step(carry: Any, product: jax.Array) -> Any:
        recurrent = carry @ kernel
        r, z, n = jnp.split(product, 3, -1)
        from_r, from_z, from_n = jnp.split(recurrent, 3, -1)
        from_n = from_n + jnp.broadcast_to(bias, from_n.shape)
        r, z = jax.nn.sigmoid(r + from_r), jax.nn.sigmoid(z + from_z)
        n = jnp.tanh(n + r * from_n)
        new_state = (1 - z) * n + z * carry
        return new_state, (new_state, jnp.concatenate([r, z, n], -1), from_n)

    return lax.scan(step, state, products)[1]


@_gru.defjvp
def _gru_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    products, kernel, bias, state = primals
    d_products, d_kernel, d_bias, d_state = tangents
    states, gates, from_n = _gru_forward(products, kernel, bias, state)
    before = _previous(state, states)
    r, z, n = jnp.split(gates, 3, -1)
    ones = jnp.ones_like(r)
    recurrent_share = jnp.concatenate([ones, ones, r], -1)
    d_recurrent = before @ d_kernel
    shared = jnp.concatenate([jnp.zeros_like(kernel[0, : -d_bias.shape[0]]), d_bias])
    d_recurrent = d_recurrent + jnp.broadcast_to(shared, d_recurrent.shape)
    pushed = d_products + recurrent_share * d_recurrent
    slopes = (
        r * (1 - r) * from_n,
        z * (1 - z) * (before - n),
        (1 - z) * (1 - n * n),
    )
    kernel_t = _transposed(kernel)

    def step(carry: Any, now: Any) -> Any:
        push, (of_r, of_z, of_n, share, keep) = now
        d_sum = push + share * _times_transpose_of(kernel_t, carry)
        d_r, d_z, d_n = jnp.split(d_sum, 3, -1)
        new_state = keep * carry + of_z * d_z + of_n * (d_n + of_r * d_r)
        return new_state, new_state

    factors = (*slopes, recurrent_share, z)
    return states, _linear_scan(step, d_state, pushed, factors)
