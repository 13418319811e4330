"""The gradient of a client's whole loss, and no step: FedSGD's client.

McMahan et al. 2017, arXiv:1602.05629, section 2. Gives no privacy by itself.
"""

import jax.numpy as jnp
import optax

from jaxfed import tree
from jaxfed.clients._descent import Carry, Look, Method, descent
from jaxfed.typing import Batch, LocalWork, LossFunction, PyTree, Shared


def gradient(loss_fn: LossFunction, *, batch_size: int) -> LocalWork:
    """Returns local work that sends minus the mean gradient over all examples.

    Args:
        loss_fn: as in `clients.sgd`.
        batch_size: examples at once; the result does not depend on it but for rounding.

    Raises:
        ValueError: `batch_size` is no positive integer.
        TypeError: `loss_fn` is no function.
    """

    def begin(shared: Shared, client_state: PyTree) -> PyTree:
        del client_state
        return tree.zeros_float32(shared.params)

    def direct(
        gradients: PyTree, look: Look, carry: Carry, batch: Batch
    ) -> tuple[PyTree, PyTree]:
        del look
        rows = jnp.sum(batch.is_real).astype(jnp.float32)
        wide = tree.astype(gradients, jnp.float32)
        return gradients, tree.add(carry.own, tree.scale(wide, rows))

    def finish(shared: Shared, carry: Carry) -> tuple[PyTree, PyTree]:
        del shared
        count = jnp.maximum(carry.num_examples, 1).astype(jnp.float32)
        return tree.scale(carry.own, -1 / count), ()

    return descent(
        loss_fn,
        optax.set_to_zero(),
        Method(begin=begin, direct=direct, finish=finish),
        batch_size=batch_size,
        epochs=1,
        steps=None,
        name="gradient(",
        kind="gradient",
    )
