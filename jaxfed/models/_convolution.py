"""A convolution whose gradients stay matrix products, for stock flax modules."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed.models import _bilinear

_MOST_AXES = 3


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    **options: Any,
) -> jax.Array:
    """Is `jax.lax.conv_general_dilated` with gradients that are fast in a loop on CPU.

    For the argument of that name of flax's `nn.Conv` and `nnx.Conv`. Values and
    derivatives of every order equal the stock operation's up to rounding; outside the
    CPU, and in the first pass on it, they are the stock operation.

    The fast path takes channels-last layouts (`NWC`, `NHWC`, `NDHWC`, with kernels
    `WIO`, `HWIO`, `DHWIO`) of floating-point numbers, with any strides, padding and
    kernel dilation. **Everything else is the stock operation**, right but slow in a
    loop: other layouts, `feature_group_count` or `batch_group_count` above 1 (such as
    depthwise convolutions), `lhs_dilation` (transposed convolutions), another
    `preferred_element_type`, explicit sharding, and any option not named here.

    Args:
        lhs: inputs, `(n, *size, channels)` in the fast path.
        rhs: the kernel, `(*window, channels, features)` in the fast path.
        window_strides: steps of the window along each axis of space.
        padding: `"SAME"`, `"VALID"`, `"SAME_LOWER"`, or `(low, high)` for each axis.
        lhs_dilation: spacing of the inputs; `None` is 1.
        rhs_dilation: spacing of the kernel's elements; `None` is 1.
        dimension_numbers: the layout, as in `jax.lax.conv_general_dilated`.
        feature_group_count: as in `jax.lax.conv_general_dilated`.
        batch_group_count: as in `jax.lax.conv_general_dilated`.
        precision: of the products, in the first pass and in the gradients.
        preferred_element_type: as in `jax.lax.conv_general_dilated`.
        **options: further keywords of the stock operation, such as `out_sharding`.

    Returns:
        `(n, *out_size, features)`, in the layout that was asked for.
    """
    is_fast = (
        _is_plain(lhs, rhs, preferred_element_type)
        and _is_channels_last(lhs, rhs, dimension_numbers)
        and all(factor == 1 for factor in lhs_dilation or ())
        and feature_group_count == batch_group_count == 1
        and all(value is None for value in options.values())
    )
    if is_fast:
        dilation = (1,) * (lhs.ndim - 2) if rhs_dilation is None else rhs_dilation
        strides = tuple(window_strides)
        pads = _pads(lhs, rhs, strides, padding, tuple(dilation))
        size = [
            n + low + high for n, (low, high) in zip(lhs.shape[1:-1], pads, strict=True)
        ]
        geometry = _bilinear.Geometry(
            tuple(size), rhs.shape[:-2], strides, tuple(dilation), precision
        )
        if min(geometry.size + geometry.out_size) > 0:
            return _padded(lhs, rhs, pads, geometry)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        **options,
    )


def _is_plain(lhs: jax.Array, rhs: jax.Array, preferred_element_type: Any) -> bool:
    """Tells whether the arrays are of one floating-point type, not empty, unsharded."""
    dtype = jnp.result_type(lhs)
    return (
        dtype == jnp.result_type(rhs)
        and jnp.issubdtype(dtype, jnp.floating)
        and preferred_element_type in (None, dtype)
        and 3 <= lhs.ndim == rhs.ndim <= 2 + _MOST_AXES
        and lhs.shape[-1] == rhs.shape[-2]
        and 0 not in lhs.shape + rhs.shape
        and not any(jax.typeof(lhs).sharding.spec)
        and not any(jax.typeof(rhs).sharding.spec)
    )


def _is_channels_last(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any) -> bool:
    asked = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    axes = tuple(range(1, lhs.ndim - 1))
    last = lhs.ndim - 1
    return (
        tuple(asked.lhs_spec) == (0, last, *axes)
        and tuple(asked.rhs_spec) == (last, last - 1, *(axis - 1 for axis in axes))
        and tuple(asked.out_spec) == (0, last, *axes)
    )


def _pads(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: tuple[int, ...],
    padding: str | Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
) -> list[tuple[int, int]]:
    if isinstance(padding, str):
        window = [
            (k - 1) * d + 1 for k, d in zip(rhs.shape[:-2], dilation, strict=True)
        ]
        return lax.padtype_to_pads(lhs.shape[1:-1], window, strides, padding)
    return [(int(low), int(high)) for low, high in padding]


def _padded(
    lhs: jax.Array,
    rhs: jax.Array,
    pads: list[tuple[int, int]],
    geometry: _bilinear.Geometry,
) -> jax.Array:
    if any(low or high for low, high in pads):
        spread = [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)]
        lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), spread)
    lhs, rhs = _vary_alike(lhs, rhs)
    return _bilinear.convolve(lhs[None], rhs[None], geometry)[0]


def _vary_alike(lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Marks both as different on the devices of a `shard_map` where one of them is."""
    axes = _varying_axes(lhs) | _varying_axes(rhs)

    def marked(array: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - _varying_axes(array)))
        return lax.pcast(array, missing, to="varying") if missing else array

    return marked(lhs), marked(rhs)


def _varying_axes(array: jax.Array) -> frozenset[str]:
    aval: Any = jax.typeof(array)
    kind = getattr(aval, "manual_axis_type", None)  # the name since JAX 0.10
    return aval.vma if kind is None else kind.varying
