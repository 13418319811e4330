"""One example's metrics: what every evaluation of clients' data measures."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxfed.typing import Params

MetricFunction = Callable[[Params, dict[str, jax.Array]], dict[str, jax.Array]]
"""`(params, rows) -> {name: one value per row}`."""


def of_row(
    metric_fn: MetricFunction,
    params: Params,
    row: dict[str, jax.Array],
    names: Sequence[str],
) -> jax.Array:
    """Returns the metrics of one row, (metrics,) float32, in the order of `names`.

    The row is a batch of its own. A metric that saw many could let one client's rows
    move the values of all others, which no clip of its own contribution would cover.

    Raises:
        ValueError: the metrics are others, or not one value per row.
    """
    found = metric_fn(params, jax.tree.map(lambda a: a[None], row))
    if not isinstance(found, Mapping) or set(found) != set(names):
        got = sorted(found) if isinstance(found, Mapping) else type(found).__name__
        raise ValueError(
            f"metric_fn must return the metrics {sorted(names)} that have bounds, got "
            f"{got}; name the same in both."
        )
    for name in names:
        if jnp.shape(found[name]) != (1,):
            raise ValueError(
                f"metric {name!r} must be one value per row, got shape "
                f"{jnp.shape(found[name])} for 1 row; do not average."
            )
    columns = [jnp.asarray(found[name]).astype(jnp.float32) for name in names]
    return jnp.concatenate(columns)
