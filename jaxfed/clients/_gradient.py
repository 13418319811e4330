"""The gradient of a client's whole loss, and no step: FedSGD's client.

McMahan et al. 2017, arXiv:1602.05629, section 2. Gives no privacy by itself.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.clients import _loss
from jaxfed.typing import (
    Batch,
    Batching,
    ClientResult,
    LocalWork,
    LossFunction,
    Metrics,
    Params,
    PyTree,
    Shared,
)


class _Carry(NamedTuple):
    params: Params
    total: PyTree
    num_examples: jax.Array


def gradient(loss_fn: LossFunction, *, batch_size: int) -> LocalWork:
    """Returns local work that sends minus the mean gradient over all examples.

    Args:
        loss_fn: as in `clients.sgd`.
        batch_size: examples at once; the result does not depend on it but for rounding.

    Raises:
        ValueError: `batch_size` is no positive integer.
        TypeError: `loss_fn` is no function.
    """
    check.function("write (params, batch, key) -> (loss, metrics)", loss_fn=loss_fn)
    check.positive_integer("pass for example batch_size=64", batch_size=batch_size)
    value_and_gradient = jax.value_and_grad(_loss.over_real_rows(loss_fn), has_aux=True)

    def init(shared: Shared, client_state: PyTree) -> _Carry:
        del client_state
        zero = jnp.zeros((), jnp.int32)
        return _Carry(shared.params, tree.zeros_float32(shared.params), zero)

    def step(carry: _Carry, batch: Batch, *, key: jax.Array) -> tuple[_Carry, Metrics]:
        (loss, metrics), gradients = value_and_gradient(carry.params, batch, key)
        rows = jnp.sum(batch.is_real).astype(jnp.float32)
        wide = tree.astype(gradients, jnp.float32)
        total = tree.add(carry.total, tree.scale(wide, rows))
        return _Carry(carry.params, total, batch.num_examples), {
            "loss": loss,
            **metrics,
        }

    def finish(shared: Shared, carry: _Carry) -> ClientResult:
        del shared
        count = jnp.maximum(carry.num_examples, 1).astype(jnp.float32)
        return ClientResult(
            update=tree.scale(carry.total, -1 / count),
            weight=carry.num_examples.astype(jnp.float32),
            client_state=(),
        )

    return LocalWork(
        init=init,
        step=step,
        finish=finish,
        batching=Batching(batch_size=batch_size, epochs=1),
        validate=functools.partial(_loss.validate, loss_fn, batch_size),
        kind="gradient",
        name=f"gradient(batch_size={batch_size})",
    )
