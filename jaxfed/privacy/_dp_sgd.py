"""DP-SGD as local work: every step's gradient is clipped, summed and noised.

Abadi et al. 2016, arXiv:1607.00133, algorithm 1. What it guarantees is stated, and
accounted, by `ExampleLevel`, which alone makes this local work.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed import keys, tree
from jaxfed.clients import _loss
from jaxfed.privacy import _joint
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
    params: Params
    optimizer_state: PyTree
    num_examples: jax.Array


class _Rows(NamedTuple):
    """Examples with what each of them needs; leaves (count, ...)."""

    rows: dict[str, jax.Array]
    is_real: jax.Array
    keys: jax.Array
    index: jax.Array


def dp_sgd(
    mechanism: Any,
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    layout_of: Callable[[Params], _joint.Joint],
    batching: Batching,
    microbatch_size: int | None,
) -> LocalWork:
    """Returns local training whose every step is one noised release.

    Args:
        mechanism: the privacy object that accounts for it.
        loss_fn: as in `clients.sgd`.
        optimizer: any optax optimizer; it sees only noised gradients.
        layout_of: how the sum of a step is encoded and noised.
        batching: Poisson batches.
        microbatch_size: how many examples' gradients are held at once, or None.
    """
    check.function("write (params, batch, key) -> (loss, metrics)", loss_fn=loss_fn)
    if microbatch_size is not None:
        check.positive_integer(microbatch_size=microbatch_size)
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer must be an optax optimizer, got {optimizer!r}; pass for "
            "example optax.sgd(0.1)."
        )
    optimizer = optax.with_extra_args_support(optimizer)
    rate = batching.rate
    assert rate is not None  # Poisson batches

    def init(shared: Shared, client_state: PyTree) -> _Carry:
        del client_state
        zero = jnp.zeros((), jnp.int32)
        return _Carry(shared.params, optimizer.init(shared.params), zero)

    def step(carry: _Carry, batch: Batch, *, key: jax.Array) -> tuple[_Carry, Metrics]:
        layout = layout_of(carry.params)
        sum_key, noise_key = keys.for_leaf(key, 0), keys.for_leaf(key, 1)
        total, metrics = _clipped_sum(
            layout, loss_fn, carry.params, batch, microbatch_size, key=sum_key
        )
        divisor = rate * batch.num_examples.astype(jnp.float32)
        _, released = _joint.release(layout, (), total, divisor, key=noise_key)
        changes, optimizer_state = optimizer.update(
            tree.cast_like(released.value, carry.params),
            carry.optimizer_state,
            carry.params,
        )
        params: Any = optax.apply_updates(carry.params, changes)
        return _Carry(params, optimizer_state, batch.num_examples), metrics

    def finish(shared: Shared, carry: _Carry) -> ClientResult:
        return ClientResult(
            update=tree.subtract(carry.params, shared.params),
            weight=carry.num_examples.astype(jnp.float32),
            client_state=(),
        )

    return LocalWork(
        init=init,
        step=step,
        finish=finish,
        batching=batching,
        validate=functools.partial(_loss.validate, loss_fn, batching.batch_size),
        mechanism=mechanism,
        name=f"example_level.sgd(rate={rate:g}, steps={batching.steps})",
    )


def _clipped_sum(
    layout: _joint.Joint,
    loss_fn: LossFunction,
    params: Params,
    batch: Batch,
    microbatch_size: int | None,
    *,
    key: jax.Array,
) -> tuple[_joint.Encoded, Metrics]:
    """Returns the integer sum of clipped gradients, and the mean private metrics."""
    width = batch.is_real.shape[0]
    loss_key, encoding_key = keys.for_leaf(key, 0), keys.for_leaf(key, 1)

    def one(row: dict[str, jax.Array], row_key: jax.Array, index: jax.Array) -> Any:
        def loss(some: Params) -> Any:
            return loss_fn(some, jax.tree.map(lambda a: a[None], row), row_key)

        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        rounding_key = keys.for_leaf(encoding_key, index)
        encoded = _joint.encode(layout, (), gradient, key=rounding_key)
        metrics = {"loss": value, **metrics}
        return encoded, jax.tree.map(lambda a: a.astype(jnp.float32), metrics)

    def several(chosen: _Rows) -> Any:
        found = jax.vmap(one)(chosen.rows, chosen.keys, chosen.index)
        found = tree.where_rows(chosen.is_real, found, tree.zeros_like(found))
        return jax.tree.map(lambda a: jnp.sum(a, axis=0, dtype=a.dtype), found)

    every = _Rows(
        batch.rows,
        batch.is_real,
        jax.random.split(loss_key, width),
        jnp.arange(width, dtype=jnp.int32),
    )
    total, metrics = _in_pieces(several, every, min(microbatch_size or width, width))
    count = jnp.maximum(jnp.sum(batch.is_real), 1).astype(jnp.float32)
    return total, jax.tree.map(lambda a: a / count, metrics)


def _in_pieces(function: Callable[[_Rows], Any], every: _Rows, size: int) -> Any:
    """Sums `function` over pieces of at most `size` rows."""
    width = every.is_real.shape[0]
    pieces = math.ceil(width / size)
    if pieces == 1:
        return function(every)

    def piece(number: jax.Array) -> Any:
        # the last piece overlaps the one before: rows already taken are not real in it
        start = jnp.minimum(number * size, width - size)
        chosen: _Rows = jax.tree.map(
            lambda a: jax.lax.dynamic_slice_in_dim(a, start, size), every
        )
        is_new = chosen.index >= number * size
        return function(chosen._replace(is_real=chosen.is_real & is_new))

    zero = tree.zeros_like(jax.eval_shape(piece, jnp.zeros((), jnp.int32)))
    return jax.lax.fori_loop(
        0, pieces, lambda number, total: tree.add(total, piece(number)), zero
    )
