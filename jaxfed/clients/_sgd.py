"""Local training by any first-order optimizer: the client half of federated averaging.

McMahan et al. 2017, arXiv:1602.05629, algorithm 1, ClientUpdate. Gives no privacy by
itself; give the algorithm a `jaxfed.privacy` object.
"""

import optax

from jaxfed.clients._descent import Method, descent
from jaxfed.typing import LocalWork, LossFunction


def sgd(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
) -> LocalWork:
    """Returns local training from the server's parameters, with a fresh optimizer.

    Args:
        loss_fn: `(params, batch, key) -> (loss, metrics)` for a batch of any size: the
            **mean** over its rows of a loss of each row (it is evaluated row by row,
            so that padding weighs nothing; statistics across rows, as in batch
            normalisation, do not exist). `batch` has the names of the data's arrays.
        optimizer: any optax optimizer; its state starts afresh in every round.
        batch_size: examples per step; a pass's last batch may be smaller.
        epochs: passes over the client's shuffled examples.
        steps: or this many batches, reshuffled whenever the examples run out.

    Returns:
        Local work whose update is new minus old parameters and whose weight is the
        number of the client's examples.

    Raises:
        ValueError: not exactly one of `epochs` and `steps`, or one out of range.
        TypeError: `optimizer` is not an optax optimizer, or `loss_fn` no function.
    """
    return descent(
        loss_fn,
        optimizer,
        Method(),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        name="sgd(",
    )
