"""Descent on a client's batches, and what methods add to it.

Every local method here begins at the server's parameters and takes steps of an
optimizer along gradients; methods differ in how they direct a gradient, what they keep,
and what they send.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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

Look = Callable[[Params], tuple[jax.Array, PyTree]]
"""The loss and its gradient on the batch of one step, with its randomness, anywhere."""


class Carry(NamedTuple):
    """What goes from step to step."""

    params: Params
    optimizer_state: PyTree
    num_examples: jax.Array
    own: PyTree
    """What a method keeps beside."""


def _plain(
    gradients: PyTree, look: Look, carry: Carry, batch: Batch
) -> tuple[PyTree, PyTree]:
    del look, batch
    return gradients, carry.own


def _change(shared: Shared, carry: Carry) -> tuple[PyTree, PyTree]:
    return tree.subtract(carry.params, shared.params), ()


class Method(NamedTuple):
    """What a method adds to plain descent."""

    begin: Callable[[Shared, PyTree], PyTree] = lambda shared, client_state: ()
    """`begin(shared, client_state) -> own`."""
    direct: Callable[..., tuple[PyTree, PyTree]] = _plain
    """`direct(gradients, look, carry, batch) -> (gradients, own)`."""
    finish: Callable[[Shared, Carry], tuple[PyTree, PyTree]] = _change
    """`finish(shared, carry) -> (what is sent, what the client keeps)`."""
    optimizer_state: Callable[[Shared], PyTree] | None = None
    """Of every step, if the server sends it; else an optimizer begins afresh and its
    state changes from step to step."""


def descent(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    method: Method,
    *,
    batch_size: int,
    epochs: int | None,
    steps: int | None,
    name: str,
    **fields: Any,
) -> LocalWork:
    """Returns local work by a method; see `clients.sgd` for the arguments.

    Args:
        loss_fn: the mean over a batch's rows.
        optimizer: takes the steps.
        method: what is added.
        batch_size: examples per step.
        epochs: passes, or None.
        steps: batches, or None.
        name: of the method, for people.
        **fields: of the `LocalWork`.

    Raises:
        ValueError: not exactly one of `epochs` and `steps`, or one out of range.
        TypeError: `optimizer` is not an optax optimizer, or `loss_fn` no function.
    """
    check.function("write (params, batch, key) -> (loss, metrics)", loss_fn=loss_fn)
    batching = _batching(batch_size, epochs, steps)
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer must be an optax optimizer, got {optimizer!r}; pass for "
            "example optax.sgd(0.1)."
        )
    optimizer = optax.with_extra_args_support(optimizer)
    masked_loss = _loss.over_real_rows(loss_fn)
    gradient = jax.value_and_grad(masked_loss, has_aux=True)
    begins_with = method.optimizer_state

    def init(shared: Shared, client_state: PyTree) -> Carry:
        if begins_with is None:
            state = optimizer.init(shared.params)
        else:
            state = begins_with(shared)
        zero = jnp.zeros((), jnp.int32)
        return Carry(shared.params, state, zero, method.begin(shared, client_state))

    def step(carry: Carry, batch: Batch, *, key: jax.Array) -> tuple[Carry, Metrics]:
        (loss, metrics), gradients = gradient(carry.params, batch, key)

        def look(params: Params) -> tuple[jax.Array, PyTree]:
            (value, _), there = gradient(params, batch, jax.random.clone(key))
            return value, there  # from the same draws

        directed, own = method.direct(gradients, look, carry, batch)
        changes, optimizer_state = optimizer.update(
            directed,
            carry.optimizer_state,
            carry.params,
            value=loss,  # what line searches and the like ask for
            grad=directed,
            value_fn=lambda params: masked_loss(params, batch, key)[0],
        )
        if begins_with is not None:
            optimizer_state = carry.optimizer_state
        params: Any = optax.apply_updates(carry.params, changes)
        carry = Carry(params, optimizer_state, batch.num_examples, own)
        return carry, {"loss": loss, **metrics}

    def finish(shared: Shared, carry: Carry) -> ClientResult:
        sent, kept = method.finish(shared, carry)
        weight = carry.num_examples.astype(jnp.float32)
        return ClientResult(update=sent, weight=weight, client_state=kept)

    amount = f"epochs={epochs}" if steps is None else f"steps={steps}"
    return LocalWork(
        init=init,
        step=step,
        finish=finish,
        batching=batching,
        validate=functools.partial(_loss.validate, loss_fn, batch_size),
        name=f"{name}batch_size={batch_size}, {amount})",
        **fields,
    )


def _batching(batch_size: int, epochs: int | None, steps: int | None) -> Batching:
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
    return Batching(batch_size=batch_size, epochs=epochs, steps=steps)
