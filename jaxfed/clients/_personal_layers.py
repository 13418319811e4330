"""Layers that never leave their client: the clients of FedPer and FedRep.

FedPer: Arivazhagan et al. 2019, arXiv:1912.00818, algorithm 1. FedRep: Collins et al.
2021, arXiv:2102.07078, algorithm 1. Gives no privacy by itself.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed import parts, tree
from jaxfed.clients._descent import Carry, Look, Method, descent
from jaxfed.typing import (
    Batch,
    LocalWork,
    LossFunction,
    Metrics,
    Params,
    PyTree,
    Shared,
)


def personal_layers(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    private: Sequence[parts.Which],
    private_steps: int | None = None,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
) -> LocalWork:
    """Returns local training of a common part and of layers of the client's own.

    The private part begins as that of the initial parameters, stays on the client
    between rounds and is neither sent nor clipped. Without `private_steps` both parts
    are trained together (FedPer). With it, the first steps of a round train the private
    part alone and all later ones the common part alone (FedRep).

    Args:
        loss_fn: as in `clients.sgd`, of the whole model.
        optimizer: of both parts.
        private: names of what stays, as in `parts.split`, for example `["head"]`.
        private_steps: how many steps of a round are the private part's, >= 1. A client
            with no more steps than these sends a change of zero.
        batch_size: examples per step.
        epochs: passes over the client's shuffled examples.
        steps: or this many batches.

    Returns:
        Local work for `algorithms.fedper`; see `evaluation.personal`.

    Raises:
        ValueError: a number is out of range.
        TypeError: `optimizer` is not an optax optimizer, or `loss_fn` no function.
    """
    check.instance((list, tuple), 'pass for example private=["head"]', private=private)
    if private_steps is not None:
        remedy = "leave it out to train both parts together"
        check.positive_integer(remedy, private_steps=private_steps)
    which = tuple(private)

    def split(params: Params) -> tuple[Params, Params]:
        return parts.split(params, *which)

    def own_start(shared: Shared, client_state: PyTree) -> Shared:
        params = parts.merge(client_state, split(shared.params)[1])
        return Shared(params, shared.extra)

    def direct(
        gradients: PyTree, look: Look, carry: Carry, batch: Batch
    ) -> tuple[PyTree, jax.Array]:
        del look, batch
        if private_steps is not None:  # momentum of a part begins with its own steps
            is_private = carry.own < private_steps
            kept, common = split(gradients)
            nothing = tree.zeros_like((kept, common))
            gradients = parts.merge(
                tree.where(is_private, kept, nothing[0]),
                tree.where(is_private, nothing[1], common),
            )
        return gradients, carry.own + 1

    def finish(shared: Shared, carry: Carry) -> tuple[PyTree, PyTree]:
        kept, common = split(carry.params)
        return tree.subtract(common, split(shared.params)[1]), kept

    inner = descent(
        loss_fn,
        optimizer,
        Method(
            begin=lambda shared, client_state: jnp.zeros((), jnp.int32),
            direct=direct,
            finish=finish,
        ),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        name=f"personal_layers(private={list(which)}, private_steps={private_steps}, ",
        init_client=lambda params: split(params)[0],
        sends=lambda params: split(params)[1],
        kind="personal_layers",
        personal=lambda params, kept: parts.merge(kept, split(params)[1]),
    )

    def step(carry: Carry, batch: Batch, *, key: jax.Array) -> tuple[Carry, Metrics]:
        after, metrics = inner.step(carry, batch, key=key)
        if private_steps is None:
            return after, metrics
        is_private = carry.own < private_steps
        (kept, common), (kept_before, common_before) = map(
            split, (after.params, carry.params)
        )
        params = parts.merge(
            tree.where(is_private, kept, kept_before),
            tree.where(is_private, common_before, common),
        )
        return after._replace(params=params), metrics

    return inner._replace(
        init=lambda shared, kept: inner.init(own_start(shared, kept), kept), step=step
    )
