"""Rows in order, column by column.

Batcher 1968, "Sorting networks and their applications": the bitonic network, which
compares whole rows. XLA's sort compares one number at a time, which takes more than
ten times as long on a CPU.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_COLUMNS = 512  # of a hundred rows, what stays in cache
_MOST_BLOCKS = 1024  # each takes its turn, which costs an accelerator time


def reduced(
    rows: jax.Array, counted: jax.Array, reduce: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Sorts every column and reduces it to one number.

    Args:
        rows: (slots, size) finite.
        counted: (slots,) bool.
        reduce: from some sorted columns, (at least slots, columns), to (columns,). What
            counts comes first; infinity stands for the rest.

    Returns:
        (size,).
    """
    slots, size = rows.shape
    columns = max(_COLUMNS, -(-size // _MOST_BLOCKS))
    count = -(-size // columns)
    rows = jnp.where(counted[:, None], rows, jnp.inf)
    rows = jnp.pad(rows, ((0, 0), (0, count * columns - size)))
    blocks = rows.reshape(slots, count, columns).swapaxes(0, 1)
    return lax.map(lambda one: reduce(_ascending(one)), blocks).reshape(-1)[:size]


def middle(rows: jax.Array, counted: jax.Array) -> jax.Array:
    """Returns the median of every column; of an even number, the mean of two."""
    count = jnp.sum(counted)

    def reduce(ordered: jax.Array) -> jax.Array:
        return 0.5 * ordered[(count - 1) // 2] + 0.5 * ordered[count // 2]

    return reduced(rows, counted, reduce)


def _ascending(rows: jax.Array) -> jax.Array:
    partners, takes_smaller = map(jnp.asarray, _network(len(rows)))
    padding = ((0, partners.shape[1] - len(rows)), (0, 0))

    def exchanged(stage: jax.Array, rows: jax.Array) -> jax.Array:
        others = rows[partners[stage]]
        smaller, larger = jnp.minimum(rows, others), jnp.maximum(rows, others)
        return jnp.where(takes_smaller[stage][:, None], smaller, larger)

    rows = jnp.pad(rows, padding, constant_values=jnp.inf)
    return lax.fori_loop(0, len(partners), exchanged, rows)


def _network(slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns with whom each row is compared, and whether it becomes the smaller one.

    Both (stages, slots rounded up to a power of two).
    """
    levels = max(slots - 1, 1).bit_length()
    row = np.arange(1 << levels)
    gaps = [(k, 1 << j) for k in range(1, levels + 1) for j in reversed(range(k))]
    partners = [row ^ gap for _, gap in gaps]
    takes_smaller = [(row & gap == 0) == (row >> k & 1 == 0) for k, gap in gaps]
    return np.array(partners), np.array(takes_smaller)
