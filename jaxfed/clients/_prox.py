"""Local training that stays near the server's parameters: FedProx's client.

Li et al. 2020, arXiv:1812.06127, algorithm 2: the local objective has the term
`mu / 2 * ||w - w_server||**2`. Gives no privacy by itself.
"""

from typing import Any

import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.clients._descent import Carry, Look, Method, descent
from jaxfed.typing import Batch, LocalWork, LossFunction, PyTree, Shared


def prox(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    mu: float,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
) -> LocalWork:
    """Returns local training with a proximal term.

    Args:
        loss_fn: as in `clients.sgd`.
        optimizer: any optax optimizer; its state starts afresh in every round.
        mu: the weight of the term, >= 0; 0 is `clients.sgd`.
        batch_size: examples per step.
        epochs: passes over the client's shuffled examples.
        steps: or this many batches.

    Raises:
        ValueError: a number is out of range.
        TypeError: `optimizer` is not an optax optimizer, or `loss_fn` no function.
    """
    weight = check.setting(check.non_negative, "pass for example mu=0.1", mu=mu)

    def begin(shared: Shared, client_state: PyTree) -> PyTree:
        del client_state
        return shared.params

    def direct(
        gradients: PyTree, look: Look, carry: Carry, batch: Batch
    ) -> tuple[PyTree, PyTree]:
        del look, batch
        away: Any = tree.subtract(carry.params, carry.own)
        return tree.add(gradients, tree.scale(away, weight)), carry.own

    return descent(
        loss_fn,
        optimizer,
        Method(begin=begin, direct=direct),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        name=f"prox(mu={mu}, ",
        kind="prox",
    )
