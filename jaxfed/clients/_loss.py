"""From a loss over a batch to a loss over its real rows, and the checks on both."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxfed import keys, tree
from jaxfed.typing import Batch, LossFunction, Metrics, Params

Rows = dict[str, jax.Array]
_GOLDEN_ANGLE = 2.39996  # no two places of a leaf are moved alike


def over_real_rows(
    loss_fn: LossFunction,
) -> Callable[[Params, Batch, jax.Array], tuple[jax.Array, Metrics]]:
    """Returns the mean of `loss_fn` over the real rows of a `Batch`.

    The loss is taken row by row, each as a batch of one with a key of its own, and
    averaged with weight zero for padding. That equals `loss_fn` on the real rows
    alone for every loss that is a mean over rows. A padding row first becomes a copy
    of a real one, so that whatever it held, NaN included, reaches neither the loss
    nor its gradient.
    """

    def loss(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        first_real = jnp.argmax(batch.is_real)
        spare = jax.tree.map(lambda a: a[first_real][None], batch.rows)
        rows = tree.where_rows(batch.is_real, batch.rows, spare)
        row_keys = jax.random.split(key, batch.is_real.shape[0])

        def one(row: Rows, row_key: jax.Array) -> tuple[jax.Array, Metrics]:
            return loss_fn(params, jax.tree.map(lambda a: a[None], row), row_key)

        losses, metrics = jax.vmap(one)(rows, row_keys)
        count = jnp.maximum(jnp.sum(batch.is_real), 1).astype(jnp.float32)

        def mean(values: jax.Array) -> jax.Array:
            kept = jnp.where(batch.is_real, values.astype(jnp.float32), 0.0)
            return jnp.sum(kept) / count

        return mean(losses), jax.tree.map(mean, metrics)

    return loss


def validate(
    loss_fn: LossFunction, batch_size: int, params: Params, rows: dict[str, Any]
) -> None:
    """Checks that a loss fits a model and the rows of the data.

    Args:
        loss_fn: `(params, batch, key) -> (loss, metrics)`.
        batch_size: how many rows a batch has.
        params: the model's parameters.
        rows: a few of the data's rows.

    Raises:
        ValueError: the loss fails on such a batch, does not return a scalar and a
            dict of scalars, or is not a mean over rows.
    """
    batch = {
        name: jax.ShapeDtypeStruct((batch_size, *values.shape[1:]), values.dtype)
        for name, values in rows.items()
    }
    shown = ", ".join(f"{name}: {_show(a)}" for name, a in batch.items())
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        result = jax.eval_shape(loss_fn, params, batch, key)
    except Exception as error:
        raise ValueError(
            f"loss_fn fails on a batch of {{{shown}}}: {error}\nIf that names no "
            "remedy: loss_fn must accept (params, batch, key); check the shapes and "
            "dtypes of model and data."
        ) from error
    if not (isinstance(result, tuple) and len(result) == 2):
        raise ValueError(
            f"loss_fn must return (loss, metrics), got {_kind(result)}; write "
            "`return loss, {}`."
        )
    loss, metrics = result
    if getattr(loss, "shape", None) != ():
        raise ValueError(
            f"the loss must be one number, got {_kind(loss)} for a batch of {{{shown}}}"
            "; return its mean, for example loss.mean()."
        )
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(
            f"the loss must be floating-point, got {loss.dtype}; it is what is "
            "differentiated."
        )
    if not isinstance(metrics, dict):
        raise ValueError(
            f"metrics must be a dict of numbers, got {_kind(metrics)}; write "
            "`return loss, {}`."
        )
    if "loss" in metrics:
        raise ValueError(
            "metrics must not have the name 'loss'; the loss itself is recorded under "
            "that name anyway."
        )
    for name, value in metrics.items():
        if getattr(value, "shape", None) != ():
            raise ValueError(
                f"metric {name!r} must be one number, got {_kind(value)}; return its "
                "mean over the batch."
            )
    _require_mean_over_rows(loss_fn, params, rows)


def _require_mean_over_rows(loss_fn: LossFunction, params: Params, rows: Rows) -> None:
    """Refuses sums, weighted means and statistics across rows, where that shows.

    Compared at parameters that are moved a little, because at a symmetric start all
    rows can have one loss. A loss that depends on its key cannot be compared.
    """
    count = len(next(iter(rows.values())))
    batch = Batch(rows, jnp.ones(count, bool), jnp.int32(count))

    def moved_from(leaf: jax.Array) -> jax.Array:
        places = jnp.arange(leaf.size, dtype=jnp.float32).reshape(leaf.shape)
        return leaf + (0.1 * jnp.sin(_GOLDEN_ANGLE * places)).astype(leaf.dtype)

    def losses(seeds: list[jax.Array]) -> list[jax.Array]:
        moved = jax.tree.map(moved_from, params)
        whole = [loss_fn(moved, rows, seed)[0] for seed in seeds[:2]]
        return [*whole, over_real_rows(loss_fn)(moved, batch, seeds[2])[0]]

    values = jax.jit(losses)([keys.simulated(seed) for seed in range(3)])
    first, second, by_row = (float(value) for value in values)
    is_random = first != second
    if is_random or not math.isfinite(first) or not math.isfinite(by_row):
        return
    if abs(first - by_row) > 0.01 * max(abs(first), abs(by_row), 1e-3):
        raise ValueError(
            "the loss must be the mean over the batch's rows of a loss of each row, "
            "but on a few rows it is not: it looks like a sum, a weighted mean or one "
            "that mixes rows; return for example (weights * losses).mean()."
        )


def _kind(value: Any) -> str:
    return _show(value) if hasattr(value, "shape") else type(value).__name__


def _show(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}"
