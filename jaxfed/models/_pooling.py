"""Maximum pooling over windows that do not overlap, by slices instead of windows."""

import functools
import itertools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


def max_pool(
    inputs: jax.Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> jax.Array:
    """Is flax's `max_pool`, with a gradient that is fast on the CPU.

    Fast where windows do not overlap and nothing is padded: strides equal to the
    window, and `"VALID"` padding or a size that the window divides. Everything else
    is the stock operation. As there, the gradient of a window goes to its first
    maximum, also where several are equal.

    Args:
        inputs: `(*batch, *size, channels)` with as many axes of size as the window.
        window_shape: the window along each axis of size.
        strides: steps of the window along each axis; `None` is 1, as in flax.
        padding: `"SAME"`, `"VALID"`, or `(low, high)` for each axis.

    Returns:
        `(*batch, *out_size, channels)`.
    """
    window = tuple(window_shape)
    spatial = inputs.shape[-1 - len(window) : -1]
    is_whole = all(n % k == 0 for n, k in zip(spatial, window, strict=False))
    if isinstance(padding, str):
        is_unpadded = padding == "VALID" or (padding == "SAME" and is_whole)
    else:
        is_unpadded = not any(low or high for low, high in padding)
    is_fast = (
        is_unpadded
        and strides is not None
        and tuple(strides) == window
        and len(spatial) == len(window)
        and jnp.issubdtype(inputs.dtype, jnp.floating)
        and all(n >= k for n, k in zip(spatial, window, strict=False))
    )
    if not is_fast:
        steps = None if strides is None else tuple(strides)
        return nn.max_pool(inputs, window, strides=steps, padding=padding)
    batch = inputs.ndim - len(window) - 1
    kept = [n // k * k for n, k in zip(spatial, window, strict=True)]
    start = (0,) * inputs.ndim
    cropped = lax.slice(inputs, start, (*inputs.shape[:batch], *kept, inputs.shape[-1]))
    return _pool(window, cropped)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pool(window: tuple[int, ...], inputs: jax.Array) -> jax.Array:
    return _maximum(window, inputs)[0]


@_pool.defjvp
def _pool_jvp(
    window: tuple[int, ...], primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    largest, place = _maximum(window, primals[0])
    axes = _window_axes(window, primals[0].ndim)
    shape = _split_shape(window, primals[0].shape)
    places = jnp.arange(math.prod(window), dtype=place.dtype).reshape(window)
    each = lax.broadcast_in_dim(places, shape, axes)
    is_chosen = jnp.expand_dims(place, axes) == each
    tangent = jnp.where(is_chosen, tangents[0].reshape(shape), 0)
    return largest, jnp.sum(tangent, axis=axes)


def _maximum(window: tuple[int, ...], inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns each window's maximum and the place of the first one in the window."""
    batch = inputs.ndim - len(window) - 1
    strides = (*(1,) * batch, *window, 1)
    kind = jnp.uint8 if math.prod(window) < 2**8 else jnp.int32

    def slice_from(offsets: tuple[int, ...]) -> jax.Array:
        start = (*(0,) * batch, *offsets, 0)
        return lax.slice(inputs, start, inputs.shape, strides)

    offsets = list(itertools.product(*map(range, window)))
    largest = slice_from(offsets[0])
    place = jnp.zeros(largest.shape, kind)
    for index, offset in enumerate(offsets[1:], 1):
        value = slice_from(offset)
        place = jnp.where(value > largest, jnp.asarray(index, kind), place)
        largest = jnp.maximum(largest, value)
    return largest, place


def _window_axes(window: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Returns the axes within the window, after its axes of space are split in two."""
    first = ndim - len(window)
    return tuple(first + 2 * i for i in range(len(window)))


def _split_shape(window: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    batch = len(shape) - len(window) - 1
    each = zip(shape[batch:-1], window, strict=True)
    halves = [part for n, k in each for part in (n // k, k)]
    return (*shape[:batch], *halves, shape[-1])
