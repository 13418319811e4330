"""Local training whose change is per step: FedNova's client.

Wang et al. 2020, arXiv:2007.07481, section 4: clients that take more steps no longer
pull the mean towards their own optimum. Gives no privacy by itself.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.clients._descent import Carry, Look, Method, descent
from jaxfed.typing import Batch, LocalWork, LossFunction, PyTree, Shared


class _Steps(NamedTuple):
    last: jax.Array
    """How often the gradient of this step counts from here on."""
    total: jax.Array
    """The L1 norm of the vector `a` so far."""


def nova(
    loss_fn: LossFunction,
    *,
    learning_rate: float,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
    momentum: float = 0.0,
) -> LocalWork:
    """Returns local SGD that sends its change per step, and how many steps it took.

    What is sent is a dictionary: `change`, the change of the parameters over
    `||a||_1`, and `steps`, that norm: the number of steps, or with momentum the sum of
    how much each gradient counts. With privacy, both are clipped together;
    `clipping.PerLayer(norms={"change": ..., "steps": ...})` gives each its own norm.

    Args:
        loss_fn: as in `clients.sgd`.
        learning_rate: of the local steps, > 0.
        batch_size: examples per step.
        epochs: passes over the client's shuffled examples.
        steps: or this many batches.
        momentum: heavy-ball momentum of the local steps, in [0, 1).

    Raises:
        ValueError: a number is out of range.
        TypeError: `loss_fn` is no function.
    """
    remedy = "pass for example learning_rate=0.1"
    rate = check.setting(check.positive, remedy, learning_rate=learning_rate)
    keep = check.setting(check.non_negative, momentum=momentum)
    is_known = not check.is_traced(keep)
    if is_known and keep >= 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}; pass 0.9.")
    is_plain = is_known and keep == 0

    def begin(shared: Shared, client_state: PyTree) -> _Steps:
        del shared, client_state
        return _Steps(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    def direct(
        gradients: PyTree, look: Look, carry: Carry, batch: Batch
    ) -> tuple[PyTree, _Steps]:
        del look, batch
        last = carry.own.last * keep + 1.0
        return gradients, _Steps(last, carry.own.total + last)

    def finish(shared: Shared, carry: Carry) -> tuple[PyTree, PyTree]:
        total = carry.own.total
        change = tree.subtract(carry.params, shared.params)
        per_step = tree.scale(change, 1 / jnp.maximum(total, 1.0))
        return {"change": per_step, "steps": total}, ()

    return descent(
        loss_fn,
        optax.sgd(rate) if is_plain else optax.sgd(rate, momentum=keep),
        Method(begin=begin, direct=direct, finish=finish),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        name=f"nova(learning_rate={learning_rate}, momentum={momentum}, ",
        sends=lambda params: {"change": params, "steps": jnp.zeros((), jnp.float32)},
        kind="nova",
    )
