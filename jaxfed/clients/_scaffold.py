"""Local training with control variates: SCAFFOLD's client.

Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1. Gives no privacy by itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.clients._descent import Carry, Look, Method, descent
from jaxfed.typing import Batch, LocalWork, LossFunction, Params, PyTree, Shared

_WITHIN = 1 - 2.0**-9  # of a clip norm, so that the clip leaves it as it is


class _Own(NamedTuple):
    server: Params
    """Where the round began."""
    control: PyTree
    """The client's control variate."""
    correction: PyTree
    """The server's minus the client's."""
    total: PyTree
    """Of gradients at the server's parameters; with option 1 alone."""
    steps: jax.Array


def scaffold(
    loss_fn: LossFunction,
    *,
    learning_rate: float,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
    option: int = 2,
    control_norm: float | None = None,
) -> LocalWork:
    """Returns local SGD that is corrected by how this client differs from the others.

    Each client keeps its control variate between rounds. What is sent is a dictionary:
    `change` of the parameters and `control`, the change of the variate; with privacy,
    both are clipped together, and `clipping.PerLayer(norms={"change": ..., "control":
    ...})` gives each its own norm; gradients, and so variates, are often larger.

    Args:
        loss_fn: as in `clients.sgd`.
        learning_rate: of the local steps, > 0.
        batch_size: examples per step.
        epochs: passes over the client's shuffled examples.
        steps: or this many batches.
        option: 1, the variate is the gradient at the server's parameters, over the
            batches of the round, which takes twice the gradients; 2, it is what the
            steps amounted to, which is free.
        control_norm: with privacy, the clip norm of the part `control`: a variate
            changes by no more in a round, and the rest follows in later ones. Without
            it, what a clip cuts off is lost to the server and not to the client, and
            their means part for good.

    Raises:
        ValueError: a number is out of range.
        TypeError: `loss_fn` is no function.
    """
    remedy = "pass for example learning_rate=0.1"
    rate = check.setting(check.positive, remedy, learning_rate=learning_rate)
    if type(option) is not int or option not in (1, 2):
        raise ValueError(f"option must be 1 or 2, got {option!r}; 2 is cheaper.")
    if control_norm is not None:
        remedy = "pass the norm that the clip has for control"
        check.setting(check.positive, remedy, control_norm=control_norm)

    def begin(shared: Shared, client_state: PyTree) -> _Own:
        control = client_state
        return _Own(
            shared.params,
            control,
            tree.subtract(shared.extra, control),
            tree.zeros_float32(shared.params) if option == 1 else (),
            jnp.zeros((), jnp.int32),
        )

    def direct(
        gradients: PyTree, look: Look, carry: Carry, batch: Batch
    ) -> tuple[PyTree, _Own]:
        del batch
        own, total = carry.own, ()
        if option == 1:
            there = tree.astype(look(own.server)[1], jnp.float32)
            total = tree.add(own.total, there)
        own = own._replace(total=total, steps=own.steps + 1)
        return tree.add(gradients, tree.cast_like(own.correction, gradients)), own

    def finish(shared: Shared, carry: Carry) -> tuple[PyTree, PyTree]:
        own = carry.own
        count = jnp.maximum(own.steps, 1).astype(jnp.float32)
        change = tree.subtract(carry.params, shared.params)
        if option == 1:
            control: Any = tree.scale(own.total, 1 / count)
        else:  # c_i - c + (x - y) / (steps * learning rate)
            wide = tree.astype(change, jnp.float32)
            amounted = tree.scale(wide, -1 / (count * rate))
            control = tree.subtract(amounted, own.correction)
        moved = tree.subtract(control, own.control)
        if control_norm is None:
            return {"change": change, "control": moved}, control
        length = jnp.sqrt(tree.sum_of_squares(moved))
        limit = control_norm * _WITHIN
        moved = tree.scale(moved, limit / jnp.maximum(length, limit))
        return {"change": change, "control": moved}, tree.add(own.control, moved)

    return descent(
        loss_fn,
        optax.sgd(rate),
        Method(begin=begin, direct=direct, finish=finish),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        name=f"scaffold(learning_rate={learning_rate}, option={option}, ",
        init_client=tree.zeros_float32,
        sends=lambda params: {"change": params, "control": params},
        kind="scaffold",
    )
