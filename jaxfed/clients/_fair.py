"""Local training that counts for more where the loss is larger: q-FFL's client.

Li et al. 2020, arXiv:1905.10497, algorithm 2 (q-FedAvg). Gives no privacy by itself.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.clients._descent import Carry, Look, Method, descent
from jaxfed.typing import Batch, LocalWork, LossFunction, Params, PyTree, Shared

_LEAST = 1e-10  # of a loss, whose negative power may be taken


class _Own(NamedTuple):
    server: Params
    total: jax.Array
    """Of losses of examples, at the server's parameters."""
    rows: jax.Array


def fair(
    loss_fn: LossFunction,
    *,
    q: float,
    learning_rate: float,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
    unit: float = 1.0,
) -> LocalWork:
    """Returns local SGD that is weighted by a power of the client's own loss.

    With `L = 1 / learning_rate` and `F` the client's loss at the server's parameters,
    what is sent is a dictionary: `change`, `F**q * L` times the change of the
    parameters, and `weight`, `q * F**(q - 1) * ||L * change||**2 + L * F**q`; both over
    `unit**q`, which changes nothing but their size. With privacy both are clipped
    together, and `clipping.PerLayer(norms={"change": ..., "weight": ...})` gives each
    its own norm. The loss must not be negative.

    Args:
        loss_fn: as in `clients.sgd`.
        q: how much fairness counts, >= 0; 0 is federated averaging. Published values
            are 0.001 to 5.
        learning_rate: of the local steps, > 0.
        batch_size: examples per step.
        epochs: passes over the client's shuffled examples.
        steps: or this many batches.
        unit: a loss that clients have, > 0: for a large q, so that its powers are
            neither too large nor too small for float32 or a clip.

    Raises:
        ValueError: a number is out of range.
        TypeError: `loss_fn` is no function.
    """
    remedy = "pass for example learning_rate=0.1"
    rate = check.setting(check.positive, remedy, learning_rate=learning_rate)
    power = check.setting(check.non_negative, "pass for example q=1.0", q=q)
    check.setting(check.positive, "pass a loss that clients have", unit=unit)

    def begin(shared: Shared, client_state: PyTree) -> _Own:
        del client_state
        zero = jnp.zeros((), jnp.float32)
        return _Own(shared.params, zero, zero)

    def direct(
        gradients: PyTree, look: Look, carry: Carry, batch: Batch
    ) -> tuple[PyTree, _Own]:
        own, rows = carry.own, jnp.sum(batch.is_real).astype(jnp.float32)
        loss = look(own.server)[0].astype(jnp.float32)
        return gradients, _Own(own.server, own.total + rows * loss, own.rows + rows)

    def finish(shared: Shared, carry: Carry) -> tuple[PyTree, PyTree]:
        own = carry.own
        loss = jnp.maximum(own.total / jnp.maximum(own.rows, 1.0), _LEAST)
        change = tree.subtract(carry.params, shared.params)
        change = tree.scale(change, 1 / rate)
        factor = (loss / unit) ** power
        weight = factor * (1 / rate + power / loss * tree.sum_of_squares(change))
        return {"change": tree.scale(change, factor), "weight": weight}, ()

    return descent(
        loss_fn,
        optax.sgd(rate),
        Method(begin=begin, direct=direct, finish=finish),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        name=f"fair(q={q}, learning_rate={learning_rate}, ",
        sends=lambda params: {"change": params, "weight": jnp.zeros((), jnp.float32)},
        kind="fair",
    )
