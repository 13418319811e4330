"""A client that picks one of several models: the client of IFCA and HypCluster.

Ghosh et al. 2020 (IFCA), arXiv:2006.04088, algorithm 1, model averaging; Mansour et al.
2020 (HypCluster), arXiv:2002.10619, algorithm 2. Gives no privacy by itself.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.clients import _loss
from jaxfed.clients._sgd import sgd
from jaxfed.typing import (
    Batch,
    Batching,
    ClientResult,
    LocalWork,
    LossFunction,
    Metrics,
    Params,
    PyTree,
    Shared,
)


class _Carry(NamedTuple):
    models: Params
    """Leaves (clusters, ...): the server's."""
    losses: jax.Array
    """(clusters,) float32: sums over the rows seen in the first pass."""
    count: jax.Array
    """() int32: of the steps so far."""
    chosen: jax.Array
    """() int32."""
    inner: PyTree
    """Of the training of the chosen model."""


def clustered(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    clusters: int,
    batch_size: int,
    epochs: int,
) -> LocalWork:
    """Returns local training of that one of several models which fits a client best.

    A round begins with one more pass over the client's examples, in which the losses of
    all models are taken; the one of the lowest is trained. Parameters are of all models
    together, leaves (clusters, ...), and must differ between them at first.

    Args:
        loss_fn: as in `clients.sgd`, of one model.
        optimizer: of the chosen model.
        clusters: how many models there are, >= 2.
        batch_size: examples per step. Side by side with others, a client computes the
            losses of all models in every step.
        epochs: passes that train.

    Returns:
        Local work for `algorithms.ifca`; the client keeps the number of its model. See
        `evaluation.personal`.

    Raises:
        ValueError: a number is out of range.
        TypeError: `optimizer` is not an optax optimizer, or `loss_fn` no function.
    """
    count = check.positive_integer("pass for example clusters=2", clusters=clusters)
    if count < 2:
        raise ValueError(f"clusters must be >= 2, got {count}; use clients.sgd(...).")
    check.positive_integer("pass for example epochs=1", epochs=epochs)
    training = sgd(loss_fn, optimizer, batch_size=batch_size, epochs=epochs)
    masked_loss = _loss.over_real_rows(loss_fn)

    def init(shared: Shared, client_state: PyTree) -> _Carry:
        zero = jnp.zeros((), jnp.int32)
        inner = training.init(Shared(_one(shared.params, zero)), ())
        losses = jnp.zeros(count, jnp.float32)
        return _Carry(shared.params, losses, zero, client_state["cluster"], inner)

    def looked(carry: _Carry, batch: Batch, key: jax.Array) -> tuple[_Carry, jax.Array]:
        """Adds the losses of a batch, and chooses; returns the chosen one's loss."""

        def of_one(model: Params) -> jax.Array:
            return masked_loss(model, batch, key)[0]

        rows = jnp.sum(batch.is_real).astype(jnp.float32)
        found = jax.vmap(of_one)(carry.models)
        losses = carry.losses + rows * found
        # a model that is broken attracts nobody
        sound = jnp.where(jnp.isnan(losses), jnp.inf, losses)
        chosen = jnp.argmin(sound).astype(jnp.int32)
        inner = training.init(Shared(_one(carry.models, chosen)), ())
        new = carry._replace(losses=losses, chosen=chosen, inner=inner)
        return new, found[chosen]

    def step(carry: _Carry, batch: Batch, *, key: jax.Array) -> tuple[_Carry, Metrics]:
        a_pass = (batch.num_examples + batch_size - 1) // batch_size
        is_look = carry.count < a_pass
        looking, training_key = jax.random.split(key)
        seen, loss = looked(carry, batch, looking)
        inner, metrics = training.step(carry.inner, batch, key=training_key)
        after = tree.where(is_look, seen, carry._replace(inner=inner))
        metrics = {"loss": jnp.where(is_look, loss, metrics["loss"])}
        return after._replace(count=carry.count + 1), metrics

    def finish(shared: Shared, carry: _Carry) -> ClientResult:
        del shared
        result = training.finish(Shared(_one(carry.models, carry.chosen)), carry.inner)
        chose = (jnp.arange(count) == carry.chosen).astype(jnp.float32)

        def place(leaf: jax.Array) -> jax.Array:
            shape = (count, *[1] * leaf.ndim)
            return jnp.where(chose.reshape(shape) > 0, leaf[None], 0).astype(leaf.dtype)

        sent = {"change": jax.tree.map(place, result.update), "chose": chose}
        return ClientResult(sent, result.weight, {"cluster": carry.chosen})

    def validate(params: Params, rows: PyTree) -> None:
        for leaf in jax.tree.leaves(params):
            if jnp.shape(leaf)[:1] != (count,):
                raise ValueError(
                    f"params must be of {count} models, leaves ({count}, ...), got a "
                    f"leaf of shape {jnp.shape(leaf)}; stack one initial model a "
                    "cluster."
                )
        training.validate(_one(params, 0), rows)

    return LocalWork(
        init=init,
        step=step,
        finish=finish,
        batching=Batching(batch_size=batch_size, epochs=epochs + 1),
        init_client=lambda params: {"cluster": jnp.zeros((), jnp.int32)},
        validate=validate,
        sends=lambda params: {"change": params, "chose": jnp.zeros(count, jnp.float32)},
        kind="clustered",
        personal=lambda params, client_state: _one(params, client_state["cluster"]),
        name=f"clustered(clusters={count}, batch_size={batch_size}, epochs={epochs})",
    )


def _one(models: Params, number: jax.Array | int) -> Params:
    return jax.tree.map(lambda leaf: leaf[number], models)
