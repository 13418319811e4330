"""The three maps of a convolution, each a primitive whose derivatives are the others.

A convolution is linear in its input and in its kernel, so its derivatives are the two
maps to the gradients of either, and theirs are again among the three:

    convolution      (inputs, kernels)    -> outputs
    input_gradient   (outputs, kernels)   -> inputs
    weight_gradient  (inputs, outputs)    -> kernels

On the CPU the gradients are matrix products over a few images at a time, small enough
that what is unfolded stays in the cache (im2col: Chellapilla, Puri and Simard 2006,
"High performance convolutional neural networks for document processing"). A stock
weight gradient, inside a loop, takes a path of XLA that is many times slower
(https://github.com/jax-ml/jax/issues/12868). On other devices all three are XLA's own.

They are primitives because only a primitive decides how it is batched before it is
differentiated: rows that share a kernel become one batch, and their weight gradient
one product, while the gradient of each row, where that is asked for, stays its own.

Arrays have a leading axis of stacks, each with a kernel of its own:
inputs `(stacks, images, *size, channels)`, kernels `(stacks, *window, channels,
features)`, outputs `(stacks, images, *out_size, features)`. There is no padding.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_UNFOLDED_BYTES = 2**20  # per block: half the L2 cache of a current server core


class Geometry(NamedTuple):
    """What the arrays of a convolution do not say together."""

    size: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    precision: Any

    @property
    def out_size(self) -> tuple[int, ...]:
        """How many places the window can take along each axis."""
        each = zip(self.size, self.window, self.strides, self.dilation, strict=True)
        return tuple((n - (k - 1) * d - 1) // s + 1 for n, k, s, d in each)


def convolve(inputs: jax.Array, kernels: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns the convolution of every stack of images with its kernel."""
    return _convolution.bind(inputs, kernels, geometry=geometry)


# --- what each map computes: XLA's own, and for the CPU -----------------------------


def _stock_convolution(
    inputs: jax.Array, kernels: jax.Array, *, geometry: Geometry
) -> jax.Array:
    spatial = "DHW"[-len(geometry.size) :]
    layout = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    one = functools.partial(
        lax.conv_general_dilated,
        window_strides=geometry.strides,
        padding="VALID",
        rhs_dilation=geometry.dilation,
        dimension_numbers=layout,
        precision=geometry.precision,
    )
    if inputs.shape[0] == 1:
        return one(inputs[0], kernels[0])[None]
    return jax.vmap(one)(inputs, kernels)


def _stock_input_gradient(
    outputs: jax.Array, kernels: jax.Array, *, geometry: Geometry
) -> jax.Array:
    shape = (*outputs.shape[:2], *geometry.size, kernels.shape[-2])
    like = jax.ShapeDtypeStruct(shape, outputs.dtype)
    forward = functools.partial(_stock_convolution, geometry=geometry)
    return jax.linear_transpose(lambda x: forward(x, kernels), like)(outputs)[0]


def _stock_weight_gradient(
    inputs: jax.Array, outputs: jax.Array, *, geometry: Geometry
) -> jax.Array:
    channels = (inputs.shape[-1], outputs.shape[-1])
    shape = (inputs.shape[0], *geometry.window, *channels)
    like = jax.ShapeDtypeStruct(shape, inputs.dtype)
    forward = functools.partial(_stock_convolution, geometry=geometry)
    return jax.linear_transpose(lambda w: forward(inputs, w), like)(outputs)[0]


def _blocked_input_gradient(
    outputs: jax.Array, kernels: jax.Array, *, geometry: Geometry
) -> jax.Array:
    channels = kernels.shape[-2]
    block = _block(outputs.shape[1], geometry, channels, outputs.dtype)

    def stack(arrays: tuple[jax.Array, jax.Array]) -> jax.Array:
        ours, kernel = arrays
        matrix = kernel.reshape(-1, kernel.shape[-1])

        def images(part: jax.Array) -> jax.Array:
            flat = part.reshape(-1, part.shape[-1])
            unfolded = lax.dot_general(
                flat, matrix, (((1,), (1,)), ((), ())), precision=geometry.precision
            )
            return _fold(unfolded.reshape(*part.shape[:-1], -1, channels), geometry)

        folded = _map(images, ours.reshape(-1, block, *ours.shape[1:]))
        return folded.reshape(-1, *geometry.size, channels)

    return _map(stack, (outputs, kernels))


def _blocked_weight_gradient(
    inputs: jax.Array, outputs: jax.Array, *, geometry: Geometry
) -> jax.Array:
    channels, features = inputs.shape[-1], outputs.shape[-1]
    block = _block(inputs.shape[1], geometry, channels, inputs.dtype)
    exact = jnp.float32 if inputs.dtype.itemsize < 4 else inputs.dtype

    def images(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        unfolded = _unfold(part[0], geometry)
        return lax.dot_general(
            part[1].reshape(-1, features),
            unfolded.reshape(-1, unfolded.shape[-1]),
            (((0,), (0,)), ((), ())),
            precision=geometry.precision,
            preferred_element_type=exact,
        )

    def stack(arrays: tuple[jax.Array, jax.Array]) -> jax.Array:
        blocks = jax.tree.map(lambda a: a.reshape(-1, block, *a.shape[1:]), arrays)
        total = images(jax.tree.map(lambda a: a[0], blocks))
        if blocks[0].shape[0] > 1:
            total, _ = lax.scan(
                lambda total, part: (total + images(part), None),
                total,
                jax.tree.map(lambda a: a[1:], blocks),
            )
        shape = (*geometry.window, channels, features)
        return total.T.reshape(shape).astype(inputs.dtype)

    return _map(stack, (inputs, outputs))


def _places(geometry: Geometry) -> list[tuple[int, ...]]:
    """Returns where each element of the window starts."""
    each = zip(geometry.window, geometry.dilation, strict=True)
    return list(itertools.product(*(range(0, k * d, d) for k, d in each)))


def _unfold(images: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns what the window sees at every place: `(n, *out_size, window * c)`."""
    n, c = images.shape[0], images.shape[-1]
    steps = zip(geometry.out_size, geometry.strides, strict=True)
    spans = [(m - 1) * s + 1 for m, s in steps]

    def slice_from(place: tuple[int, ...]) -> jax.Array:
        limits = [p + span for p, span in zip(place, spans, strict=True)]
        strides = (1, *geometry.strides, 1)
        return lax.slice(images, (0, *place, 0), (n, *limits, c), strides)

    return lax.concatenate(
        [slice_from(place) for place in _places(geometry)], images.ndim - 1
    )


def _fold(unfolded: jax.Array, geometry: Geometry) -> jax.Array:
    """Adds up what each place of the window received: the transpose of `_unfold`."""
    steps = list(zip(geometry.out_size, geometry.strides, strict=True))
    spans = [(m - 1) * s + 1 for m, s in steps]
    zero = jnp.zeros((), unfolded.dtype)

    def spread(index: int, place: tuple[int, ...]) -> jax.Array:
        sizes = zip(place, geometry.size, spans, geometry.strides, strict=True)
        padding = [(p, n - p - span, s - 1) for p, n, span, s in sizes]
        part = lax.index_in_dim(unfolded, index, unfolded.ndim - 2, keepdims=False)
        return lax.pad(part, zero, [(0, 0, 0), *padding, (0, 0, 0)])

    parts = [spread(i, place) for i, place in enumerate(_places(geometry))]
    return functools.reduce(lax.add, parts)


def _block(images: int, geometry: Geometry, channels: int, dtype: Any) -> int:
    """Returns how many images to unfold at once: a divisor of their number."""
    places = functools.reduce(int.__mul__, geometry.out_size + geometry.window)
    each = max(places * channels * jnp.dtype(dtype).itemsize, 1)
    most = min(max(_UNFOLDED_BYTES // each, 1), images)
    return max(n for n in range(1, most + 1) if images % n == 0)


def _map(function: Callable[[Any], jax.Array], stacked: Any) -> jax.Array:
    """Maps over the leading axis, without a loop where that has one element."""
    if jax.tree.leaves(stacked)[0].shape[0] == 1:
        return function(jax.tree.map(lambda a: a[0], stacked))[None]
    return lax.map(function, stacked)


# --- the primitives -----------------------------------------------------------------


def _primitive(
    name: str, stock: Callable[..., jax.Array], on_cpu: Callable[..., jax.Array]
) -> Primitive:
    primitive = Primitive(f"jaxfed_{name}")

    def abstract(first: Any, second: Any, *, geometry: Geometry) -> Any:
        shape = jax.eval_shape(
            functools.partial(stock, geometry=geometry),
            *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (first, second)),
        ).shape
        return first.update(shape=shape, weak_type=False)

    @functools.cache
    def compiled(geometry: Geometry) -> Callable[..., jax.Array]:
        return jax.jit(functools.partial(primitive.bind, geometry=geometry))

    primitive.def_impl(lambda *arrays, geometry: compiled(geometry)(*arrays))
    primitive.def_abstract_eval(abstract)
    lowering = functools.partial(mlir.lower_fun, multiple_results=False)
    mlir.register_lowering(primitive, lowering(stock))
    mlir.register_lowering(primitive, lowering(on_cpu), platform="cpu")
    return primitive


def _merge_images(moved: jax.Array) -> jax.Array:
    """Moves a leading axis of rows into that of images."""
    return jnp.moveaxis(moved, 0, 1).reshape(moved.shape[1], -1, *moved.shape[3:])


def _split_images(merged: jax.Array, rows: int) -> jax.Array:
    split = merged.reshape(merged.shape[0], rows, -1, *merged.shape[2:])
    return jnp.moveaxis(split, 1, 0)


def _batch_rule(primitive: Primitive, shares_kernel: bool) -> Callable[..., Any]:
    """Returns how rows are batched: merged where they share a kernel, else stacked."""

    def rule(arrays: Any, axes: Any, *, geometry: Geometry) -> tuple[jax.Array, int]:
        rows = next(
            a.shape[axis]
            for a, axis in zip(arrays, axes, strict=True)
            if isinstance(axis, int)
        )
        if shares_kernel and not isinstance(axes[1], int):
            merged = _merge_images(jnp.moveaxis(arrays[0], axes[0], 0))
            result = primitive.bind(merged, arrays[1], geometry=geometry)
            return _split_images(result, rows), 0

        def stacks(array: jax.Array, axis: Any) -> jax.Array:
            if not isinstance(axis, int):
                array = jnp.broadcast_to(array[None], (rows, *array.shape))
            else:
                array = jnp.moveaxis(array, axis, 0)
            return array.reshape(-1, *array.shape[2:])

        both = [stacks(a, axis) for a, axis in zip(arrays, axes, strict=True)]
        result = primitive.bind(*both, geometry=geometry)
        return result.reshape(rows, -1, *result.shape[1:]), 0

    return rule


_convolution = _primitive("convolution", _stock_convolution, _stock_convolution)
_input_gradient = _primitive(
    "input_gradient", _stock_input_gradient, _blocked_input_gradient
)
_weight_gradient = _primitive(
    "weight_gradient", _stock_weight_gradient, _blocked_weight_gradient
)
for _map_of, _shares_kernel in (
    (_convolution, True),
    (_input_gradient, True),
    (_weight_gradient, False),
):
    batching.primitive_batchers[_map_of] = _batch_rule(_map_of, _shares_kernel)

# Each rule gets the cotangent, and of the two operands one placeholder.
ad.defbilinear(
    _convolution,
    lambda ct, _, kernels, **geometry: _input_gradient.bind(ct, kernels, **geometry),
    lambda ct, inputs, _, **geometry: _weight_gradient.bind(inputs, ct, **geometry),
)
ad.defbilinear(
    _input_gradient,
    lambda ct, _, kernels, **geometry: _convolution.bind(ct, kernels, **geometry),
    lambda ct, outputs, _, **geometry: _weight_gradient.bind(ct, outputs, **geometry),
)
ad.defbilinear(
    _weight_gradient,
    lambda ct, _, outputs, **geometry: _input_gradient.bind(outputs, ct, **geometry),
    lambda ct, inputs, _, **geometry: _convolution.bind(inputs, ct, **geometry),
)
