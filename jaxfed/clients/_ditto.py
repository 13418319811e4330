"""A model of the client's own, drawn to the common one: Ditto's client.

Li, Hu, Beirami and Smith 2021, arXiv:2012.04221, algorithm 1, with local steps of both
models on the same batches. Gives no privacy by itself.
"""

from typing import NamedTuple

import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.clients._descent import Carry, Look, Method, descent
from jaxfed.typing import Batch, LocalWork, LossFunction, Params, PyTree, Shared


class _Own(NamedTuple):
    server: Params
    """Where the round began."""
    personal: Params


def ditto(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    pull: float,
    personal_learning_rate: float,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
) -> LocalWork:
    """Returns local training beside which each client trains a model of its own.

    The common model is trained, sent and clipped as in `clients.sgd`. The client's own
    model v, which never leaves it, follows the gradient of its loss at v plus
    `pull * (v - w)`, w being the server's model of the round.

    Args:
        loss_fn: as in `clients.sgd`.
        optimizer: of the common model.
        pull: lambda of the paper, >= 0: at 0 each client is on its own; published
            values are 0.05 to 2.
        personal_learning_rate: of the client's own model, > 0.
        batch_size: examples per step; each takes two gradients.
        epochs: passes over the client's shuffled examples.
        steps: or this many batches.

    Returns:
        Local work for `algorithms.fedavg` and its like; see `evaluation.personal`.

    Raises:
        ValueError: a number is out of range.
        TypeError: `optimizer` is not an optax optimizer, or `loss_fn` no function.
    """
    pull = check.setting(check.non_negative, "pass for example pull=0.1", pull=pull)
    rate = check.setting(
        check.positive,
        "pass for example 0.1",
        personal_learning_rate=personal_learning_rate,
    )

    def begin(shared: Shared, client_state: PyTree) -> _Own:
        return _Own(shared.params, client_state)

    def direct(
        gradients: PyTree, look: Look, carry: Carry, batch: Batch
    ) -> tuple[PyTree, _Own]:
        del batch
        server, personal = carry.own
        slope = look(personal)[1]
        pulled = tree.scale(tree.subtract(personal, server), pull)
        step = tree.scale(tree.add(slope, pulled), -rate)
        return gradients, _Own(server, tree.add(personal, step))

    def finish(shared: Shared, carry: Carry) -> tuple[PyTree, PyTree]:
        return tree.subtract(carry.params, shared.params), carry.own.personal

    return descent(
        loss_fn,
        optimizer,
        Method(begin=begin, direct=direct, finish=finish),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        name=f"ditto(pull={pull}, ",
        init_client=lambda params: params,
        personal=lambda params, client_state: client_state,
    )
