"""A mixture of a client's own model and the common one: APFL's client.

Deng, Kamani and Mahdavi 2020, arXiv:2003.13461, algorithm 1, with a fixed mixture.
Gives no privacy by itself.
"""

import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.clients._descent import Carry, Look, Method, descent
from jaxfed.typing import Batch, LocalWork, LossFunction, Params, PyTree, Shared


def apfl(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    mixture: float,
    personal_learning_rate: float,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
) -> LocalWork:
    """Returns local training beside which each client trains its share of a mixture.

    The common model w is trained, sent and clipped as in `clients.sgd`. The client's
    own model v never leaves it: it follows the gradient of the loss of the mixture
    `mixture * v + (1 - mixture) * w`, w being the client's of that step.

    Args:
        loss_fn: as in `clients.sgd`.
        optimizer: of the common model.
        mixture: alpha of the paper, in (0, 1]: the weight of the client's own model.
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
    share = check.probability("pass for example mixture=0.5", mixture=mixture)
    rate = check.setting(
        check.positive,
        "pass for example 0.1",
        personal_learning_rate=personal_learning_rate,
    )

    def mixed(own: Params, common: Params) -> Params:
        return tree.add(tree.scale(own, share), tree.scale(common, 1 - share))

    def direct(
        gradients: PyTree, look: Look, carry: Carry, batch: Batch
    ) -> tuple[PyTree, PyTree]:
        del batch
        slope = look(mixed(carry.own, carry.params))[1]
        return gradients, tree.add(carry.own, tree.scale(slope, -rate * share))

    def finish(shared: Shared, carry: Carry) -> tuple[PyTree, PyTree]:
        return tree.subtract(carry.params, shared.params), carry.own

    return descent(
        loss_fn,
        optimizer,
        Method(
            begin=lambda shared, client_state: client_state,
            direct=direct,
            finish=finish,
        ),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        name=f"apfl(mixture={mixture}, ",
        init_client=lambda params: params,
        personal=lambda params, client_state: mixed(client_state, params),
    )
