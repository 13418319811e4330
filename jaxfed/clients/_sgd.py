"""Local training by any first-order optimizer: the client half of federated averaging.

McMahan et al. 2017, arXiv:1602.05629, algorithm 1, ClientUpdate. Gives no privacy by
itself; give the algorithm a `jaxfed.privacy` object.
"""

import functools
from typing import Any, NamedTuple

import jax
import optax

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
    optimizer_state: PyTree
    num_examples: jax.Array


def sgd(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
) -> LocalWork:
    """Returns local training from the server's parameters, with a fresh optimizer.

    Args:
        loss_fn: `(params, batch, key) -> (loss, metrics)` for a batch of any size: the
            **mean** over its rows of a loss of each row (it is evaluated row by row,
            so that padding weighs nothing; statistics across rows, as in batch
            normalisation, do not exist). `batch` has the names of the data's arrays.
        optimizer: any optax optimizer; its state starts afresh in every round.
        batch_size: examples per step; a pass's last batch may be smaller.
        epochs: passes over the client's shuffled examples.
        steps: or this many batches, reshuffled whenever the examples run out.

    Returns:
        Local work whose update is new minus old parameters and whose weight is the
        number of the client's examples.

    Raises:
        ValueError: not exactly one of `epochs` and `steps`, or one out of range.
        TypeError: `optimizer` is not an optax optimizer, or `loss_fn` no function.
    """
    check.function("write (params, batch, key) -> (loss, metrics)", loss_fn=loss_fn)
    check.positive_integer("pass for example batch_size=32", batch_size=batch_size)
    if (epochs is None) == (steps is None):
        given = "neither" if epochs is None else "both"
        raise ValueError(
            f"exactly one of epochs and steps must be given, got {given}; pass for "
            "example epochs=5."
        )
    if epochs is not None:
        check.positive_integer("pass for example epochs=5", epochs=epochs)
    if steps is not None:
        check.positive_integer("pass for example steps=100", steps=steps)
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer must be an optax optimizer, got {optimizer!r}; pass for "
            "example optax.sgd(0.1)."
        )
    optimizer = optax.with_extra_args_support(optimizer)
    masked_loss = _loss.over_real_rows(loss_fn)
    gradient = jax.value_and_grad(masked_loss, has_aux=True)

    def init(shared: Shared, client_state: PyTree) -> _Carry:
        del client_state
        zero = jax.numpy.zeros((), jax.numpy.int32)
        return _Carry(shared.params, optimizer.init(shared.params), zero)

    def step(carry: _Carry, batch: Batch, *, key: jax.Array) -> tuple[_Carry, Metrics]:
        (loss, metrics), gradients = gradient(carry.params, batch, key)
        changes, optimizer_state = optimizer.update(
            gradients,
            carry.optimizer_state,
            carry.params,
            value=loss,  # what line searches and the like ask for
            grad=gradients,
            value_fn=lambda params: masked_loss(params, batch, key)[0],
        )
        params: Any = optax.apply_updates(carry.params, changes)
        carry = _Carry(params, optimizer_state, batch.num_examples)
        return carry, {"loss": loss, **metrics}

    def finish(shared: Shared, carry: _Carry) -> ClientResult:
        return ClientResult(
            update=tree.subtract(carry.params, shared.params),
            weight=carry.num_examples.astype(jax.numpy.float32),
            client_state=(),
        )

    amount = f"epochs={epochs}" if steps is None else f"steps={steps}"
    return LocalWork(
        init=init,
        step=step,
        finish=finish,
        batching=Batching(batch_size=batch_size, epochs=epochs, steps=steps),
        validate=functools.partial(_loss.validate, loss_fn, batch_size),
        name=f"sgd(batch_size={batch_size}, {amount})",
    )
