"""Local steps with the server's optimizer state: Mime's client.

Karimireddy et al. 2021, arXiv:2008.03606, algorithm 1. Gives no privacy by itself.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfed import tree
from jaxfed.clients._descent import Carry, Look, Method, descent
from jaxfed.typing import Batch, LocalWork, LossFunction, Params, PyTree, Shared


class MimeShared(NamedTuple):
    """What the server sends beside its parameters."""

    optimizer_state: PyTree
    control: PyTree
    """The mean gradient of the last round, at its parameters; () for MimeLite."""


class _Own(NamedTuple):
    server: Params
    control: PyTree
    total: PyTree
    """Of gradients of examples, at the server's parameters."""
    rows: jax.Array


def mime(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
    lite: bool = True,
) -> LocalWork:
    """Returns local steps of an optimizer whose state is the server's, and stays so.

    What is sent is a dictionary: `change` of the parameters and `gradient`, the mean
    over the client's batches at the server's parameters, of which the server makes its
    optimizer's next state. With privacy both are clipped together;
    `clipping.PerLayer(norms={"change": ..., "gradient": ...})` gives each its own norm.

    Args:
        loss_fn: as in `clients.sgd`.
        optimizer: any optax optimizer, with its learning rate.
        batch_size: examples per step.
        epochs: passes over the client's shuffled examples.
        steps: or this many batches.
        lite: MimeLite; otherwise Mime, which also corrects each gradient by that of
            the same batch at the server's parameters and the mean of all clients. The
            paper has them send that mean in an exchange of its own before the round;
            here it is that of the round before, and costs nothing. So the first round
            learns the mean, and moves nothing but what a weight decay does.

    Raises:
        ValueError: a number is out of range.
        TypeError: `optimizer` is not an optax optimizer, or `loss_fn` no function.
    """

    def begin(shared: Shared, client_state: PyTree) -> _Own:
        del client_state
        zeros, rows = tree.zeros_float32(shared.params), jnp.zeros((), jnp.float32)
        return _Own(shared.params, shared.extra.control, zeros, rows)

    def direct(
        gradients: PyTree, look: Look, carry: Carry, batch: Batch
    ) -> tuple[PyTree, _Own]:
        own, before = carry.own, look(carry.own.server)[1]
        rows = jnp.sum(batch.is_real).astype(jnp.float32)
        wide = tree.astype(before, jnp.float32)
        total = tree.add(own.total, tree.scale(wide, rows))
        if not lite:
            gradients = tree.add(tree.subtract(gradients, before), own.control)
        return gradients, own._replace(total=total, rows=own.rows + rows)

    def finish(shared: Shared, carry: Carry) -> tuple[PyTree, PyTree]:
        own = carry.own
        change = tree.subtract(carry.params, shared.params)
        mean = tree.scale(own.total, 1 / jnp.maximum(own.rows, 1.0))
        return {"change": change, "gradient": mean}, ()

    return descent(
        loss_fn,
        optimizer,
        Method(
            begin=begin,
            direct=direct,
            finish=finish,
            optimizer_state=lambda shared: shared.extra.optimizer_state,
        ),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        name=f"mime({'lite, ' if lite else ''}",
        sends=lambda params: {"change": params, "gradient": params},
        kind="mimelite" if lite else "mime",
        server_optimizer=optimizer,
    )
