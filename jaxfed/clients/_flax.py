"""Losses from flax modules, linen and nnx.

Only trained parameters may change. Batch statistics are refused: a running average of
client data is an extra output that no clip bounds and no noise covers. GroupNorm and
LayerNorm need none.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxfed import keys
from jaxfed.typing import LossFunction, Params

OutputLoss = Callable[[jax.Array, jax.Array], jax.Array]
"""`(outputs, labels) -> loss`, one number per row or their mean."""

_REASON = (
    "running statistics are averages of client data that no clip bounds and no noise "
    "covers; use GroupNorm or LayerNorm instead of BatchNorm"
)


def linen_loss(
    module: Any,
    loss: OutputLoss,
    *,
    inputs: str = "x",
    labels: str = "y",
    rngs: Sequence[str] = ("dropout",),
    **apply_options: Any,
) -> LossFunction:
    """Returns a loss function for a flax linen module.

    Initialise the parameters yourself: `params = module.init(key, x)["params"]`.

    Args:
        module: a `flax.linen.Module` called as `module(x, **apply_options)`.
        loss: `(outputs, labels) -> loss`, for example an optax loss.
        inputs: the data's array that is fed to the module.
        labels: the data's array that is fed to `loss`.
        rngs: the names of the module's random streams besides `params`.
        **apply_options: keywords of the module's call while training, such as
            `deterministic=False`; dropout takes its randomness from the step's key.

    Raises:
        ValueError: when traced, if the module keeps anything but parameters.
    """

    def loss_fn(params: Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
        x = batch[inputs]
        variables = jax.eval_shape(
            lambda k, a: module.init(
                dict.fromkeys(("params", *rngs), k), a, **apply_options
            ),
            jax.eval_shape(lambda: jax.random.key(0)),
            jax.eval_shape(lambda: x),
        )
        extra = sorted(set(variables) - {"params"})
        if extra:
            raise ValueError(
                f"the module keeps {', '.join(extra)} beside its parameters: {_REASON}."
            )
        streams = {name: keys.for_leaf(key, i) for i, name in enumerate(rngs)}
        outputs = module.apply({"params": params}, x, rngs=streams, **apply_options)
        return jnp.mean(loss(outputs, batch[labels])), {}

    return loss_fn


def nnx_params(model: Any) -> Params:
    """Returns the trained parameters of a flax nnx model as a plain pytree."""
    from flax import nnx

    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def nnx_loss(
    model: Any, loss: OutputLoss, *, inputs: str = "x", labels: str = "y"
) -> LossFunction:
    """Returns a loss function for a flax nnx model, whose parameters it does not use.

    Start from `params = nnx_params(model)`. The model runs in training mode; dropout
    takes its randomness from the step's key.

    Args:
        model: an `nnx.Module` called as `model(x)`.
        loss: `(outputs, labels) -> loss`, for example an optax loss.
        inputs: the data's array that is fed to the model.
        labels: the data's array that is fed to `loss`.

    Raises:
        ValueError: the model has batch statistics.
    """
    from flax import nnx

    graph, params_state, batch_statistics, random_keys, rest = nnx.split(
        model, nnx.Param, nnx.BatchStat, nnx.RngKey, ...
    )
    if jax.tree.leaves(batch_statistics):
        raise ValueError(f"the model keeps batch statistics: {_REASON}.")

    def loss_fn(params: Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
        state, others = jax.tree.map(lambda a: a, (params_state, rest))  # fresh copies
        nnx.replace_by_pure_dict(state, params)
        streams, structure = jax.tree.flatten(random_keys)
        fresh = [keys.for_leaf(key, i) for i in range(len(streams))]
        running = nnx.merge(graph, state, structure.unflatten(fresh), others)
        running.train()
        outputs = running(batch[inputs])
        return jnp.mean(loss(outputs, batch[labels])), {}

    return loss_fn
