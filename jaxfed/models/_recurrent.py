"""Linen modules around the fast LSTM and GRU."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfed.models import _recurrence

_Initializer = jax.nn.initializers.Initializer


def _one_by_one(initializer: _Initializer, gates: int) -> Any:
    """Initialises the kernel of each gate as if it were alone."""

    def initialize(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
        one = (shape[0], shape[1] // gates)
        keys = jax.random.split(key, gates)
        return jnp.concatenate([initializer(k, one, dtype) for k in keys], axis=-1)

    return initialize


class LSTM(nn.Module):
    """A long short-term memory layer over a sequence, `(*batch, time, inputs)`.

    Equals `nn.RNN(nn.OptimizedLSTMCell(features))`, with parameters `input_kernel
    (inputs, 4 * features)`, `recurrent_kernel (features, 4 * features)` and `bias
    (4 * features,)`, whose gates are input, forget, cell, output.
    """

    features: int
    kernel_init: _Initializer = nn.initializers.lecun_normal()
    recurrent_kernel_init: _Initializer = nn.initializers.orthogonal()
    bias_init: _Initializer = nn.initializers.zeros_init()
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns the hidden states, `(*batch, time, features)`."""
        width, dtype = 4 * self.features, self.param_dtype
        shape = (inputs.shape[-1], width)
        recurrent_init = _one_by_one(self.recurrent_kernel_init, 4)
        params = _recurrence.LstmParams(
            self.param("input_kernel", _one_by_one(self.kernel_init, 4), shape, dtype),
            self.param(
                "recurrent_kernel", recurrent_init, (self.features, width), dtype
            ),
            self.param("bias", self.bias_init, (width,), dtype),
        )
        return _recurrence.lstm(params, inputs)[1]


class GRU(nn.Module):
    """A gated recurrent unit over a sequence, `(*batch, time, inputs)`.

    Equals `nn.RNN(nn.GRUCell(features))`, with parameters `input_kernel (inputs,
    3 * features)`, `recurrent_kernel (features, 3 * features)`, `bias (3 * features,)`,
    whose gates are reset, update, new, and `recurrent_bias (features,)` of the new
    gate, inside the reset.
    """

    features: int
    kernel_init: _Initializer = nn.initializers.lecun_normal()
    recurrent_kernel_init: _Initializer = nn.initializers.orthogonal()
    bias_init: _Initializer = nn.initializers.zeros_init()
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns the hidden states, `(*batch, time, features)`."""
        width, dtype = 3 * self.features, self.param_dtype
        shape = (inputs.shape[-1], width)
        recurrent_init = _one_by_one(self.recurrent_kernel_init, 3)
        params = _recurrence.GruParams(
            self.param("input_kernel", _one_by_one(self.kernel_init, 3), shape, dtype),
            self.param(
                "recurrent_kernel", recurrent_init, (self.features, width), dtype
            ),
            self.param("bias", self.bias_init, (width,), dtype),
            self.param("recurrent_bias", self.bias_init, (self.features,), dtype),
        )
        return _recurrence.gru(params, inputs)[1]
