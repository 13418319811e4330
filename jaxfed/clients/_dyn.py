"""Local training whose objective moves with what a client did before: FedDyn's client.

Acar et al. 2021, arXiv:2111.04263, algorithm 1. Gives no privacy by itself.
"""

from typing import NamedTuple

import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.clients._descent import Carry, Look, Method, descent
from jaxfed.typing import Batch, LocalWork, LossFunction, Params, PyTree, Shared


class _Own(NamedTuple):
    server: Params
    """Where the round began."""
    gradient: PyTree
    """That of the client's loss where it ended last."""


def dyn(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    alpha: float,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
) -> LocalWork:
    """Returns local training on the loss with a dynamic regulariser.

    The loss has the terms `- <g, w> + alpha / 2 * ||w - w_server||**2`, and the client
    keeps `g`, which becomes `g - alpha * (w - w_server)` after each round.

    Args:
        loss_fn: as in `clients.sgd`.
        optimizer: any optax optimizer; its state starts afresh in every round.
        alpha: the weight of the regulariser, > 0; published values are 0.001 to 0.1.
        batch_size: examples per step.
        epochs: passes over the client's shuffled examples.
        steps: or this many batches.

    Raises:
        ValueError: a number is out of range.
        TypeError: `optimizer` is not an optax optimizer, or `loss_fn` no function.
    """
    weight = check.setting(check.positive, "pass for example alpha=0.01", alpha=alpha)

    def begin(shared: Shared, client_state: PyTree) -> _Own:
        return _Own(shared.params, client_state)

    def direct(
        gradients: PyTree, look: Look, carry: Carry, batch: Batch
    ) -> tuple[PyTree, _Own]:
        del look, batch
        own = carry.own
        pulled = tree.scale(tree.subtract(carry.params, own.server), weight)
        kept = tree.cast_like(own.gradient, gradients)
        return tree.add(gradients, tree.subtract(pulled, kept)), own

    def finish(shared: Shared, carry: Carry) -> tuple[PyTree, PyTree]:
        change = tree.subtract(carry.params, shared.params)
        wide = tree.astype(change, jnp.float32)
        kept = tree.subtract(carry.own.gradient, tree.scale(wide, weight))
        return change, kept

    return descent(
        loss_fn,
        optimizer,
        Method(begin=begin, direct=direct, finish=finish),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        name=f"dyn(alpha={alpha}, ",
        init_client=tree.zeros_float32,
        kind="dyn",
    )
