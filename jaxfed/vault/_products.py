"""Products, convolutions, windows and indices, in NumPy; see `_arrays`."""

from __future__ import annotations

import math
from typing import Any

from jaxfed.vault._arrays import Array, pad
from jaxfed.vault._numpy import np

Pairs = Any


def dot_general(left: Array, right: Array, contracting: Pairs, batch: Pairs) -> Array:
    """A product summed over some dimensions, for each index of others."""
    (lc, rc), (lb, rb) = contracting, batch
    if not lb and left.ndim == right.ndim == 2 and len(lc) == 1:
        return np.matmul(
            left if lc[0] == 1 else left.T, right if rc[0] == 0 else right.T
        )
    lf = [d for d in range(left.ndim) if d not in lc and d not in lb]
    rf = [d for d in range(right.ndim) if d not in rc and d not in rb]
    inner = math.prod(left.shape[d] for d in lc)
    outer = [left.shape[d] for d in lb]
    rows, columns = [left.shape[d] for d in lf], [right.shape[d] for d in rf]
    a = left.transpose([*lb, *lf, *lc]).reshape((*outer, math.prod(rows), inner))
    b = right.transpose([*rb, *rc, *rf]).reshape((*outer, inner, math.prod(columns)))
    return np.matmul(a, b).reshape((*outer, *rows, *columns))


def convolution(left: Array, right: Array, **a: Any) -> Array:
    """A convolution: a product for each place of the window, or of each example."""
    x = left.transpose([a["lhs"][0], *a["lhs"][2:], a["lhs"][1]])
    w = right.transpose([*a["rhs"][2:], a["rhs"][1], a["rhs"][0]])
    spread = [(p[0], p[1], d - 1) for p, d in zip(a["padding"], a["lhs_dilation"])]
    x = pad(x, np.float32(0), ((0, 0, 0), *spread, (0, 0, 0)))
    dilation, strides = a["rhs_dilation"], a["strides"]
    groups, batches = a["feature_groups"], a["batch_groups"]
    if groups * batches == 1:
        found = _convolved(x, w, strides, dilation)
    else:
        xs = np.split(x, batches, 0) if batches > 1 else np.split(x, groups, -1)
        ws = np.split(w, groups * batches, -1)
        parts = [_convolved(b, c, strides, dilation) for b, c in zip(xs, ws)]
        found = np.concatenate(parts, -1)
    order = [0] * found.ndim  # of (N, ..., C) in the layout that was asked for
    for place, d in zip(a["out"], (0, found.ndim - 1, *range(1, found.ndim - 1))):
        order[place] = d
    return found.transpose(order)


def _convolved(x: Array, w: Array, strides: Any, dilation: Any) -> Array:
    """Convolves (N, ..., I) with (..., I, O), strides and dilation alone being left."""
    window, inner, features = w.shape[:-2], w.shape[-2], w.shape[-1]
    out = [
        (n - 1 - (k - 1) * d) // s + 1
        for n, k, d, s in zip(x.shape[1:-1], window, dilation, strides)
    ]
    if math.prod(window) > math.prod(out) or inner * features > 1 << 16:
        return _by_place(x, w, strides, dilation, out)
    from numpy.lib.stride_tricks import as_strided

    # one buffer for an example's windows stays in the cache
    step = x.strides[1:-1]
    shape = (*out, *window, inner)
    by = (
        *(s * n for s, n in zip(step, strides)),
        *(s * n for s, n in zip(step, dilation)),
        x.strides[-1],
    )
    flat = w.reshape(-1, features)
    buffer = np.empty(shape, x.dtype)
    found = np.empty((x.shape[0], math.prod(out), features), x.dtype)
    for one, result in zip(x, found):
        buffer[...] = as_strided(one, shape, by, writeable=False)
        np.matmul(buffer.reshape(-1, flat.shape[0]), flat, out=result)
    return found.reshape(x.shape[0], *out, features)


def _by_place(x: Array, w: Array, strides: Any, dilation: Any, out: Any) -> Array:
    """A product for each place of a window, or of the result if these are fewer."""
    window, features = w.shape[:-2], w.shape[-1]
    if math.prod(out) < math.prod(window):  # as in gradients of kernels
        found = np.empty((x.shape[0], *out, features), x.dtype)
        flat = w.reshape(-1, features)
        for place in np.ndindex(*out):
            cut = tuple(
                slice(p * s, p * s + (k - 1) * d + 1, d)
                for p, s, k, d in zip(place, strides, window, dilation)
            )
            rows = x[(slice(None), *cut)].reshape(x.shape[0], -1)
            found[(slice(None), *place)] = rows @ flat
        return found
    found = np.zeros((x.shape[0], *out, features), x.dtype)
    for place in np.ndindex(*window):
        cut = tuple(
            slice(p * d, p * d + (n - 1) * s + 1, s)
            for p, d, n, s in zip(place, dilation, out, strides)
        )
        found += x[(slice(None), *cut)] @ w[place]
    return found


def reduce_window(
    function: Any, start: float, x: Array, window: Any, strides: Any, padding: Any
) -> Array:
    """The sum or the largest of each window."""
    config = tuple((*p, 0) for p in padding)
    x = pad(x, np.float32(start), config)
    out = [(n - k) // s + 1 for n, k, s in zip(x.shape, window, strides)]
    found = None
    for place in np.ndindex(*window):
        cut = x[_at(place, out, strides)]
        found = cut.copy() if found is None else function(found, cut, out=found)
    return x[_at([0] * x.ndim, out, strides)] if found is None else found


def scatter_windows(
    source: Array, x: Array, window: Any, strides: Any, padding: Any
) -> Array:
    """Adds each value where the first largest of its window is."""
    config = tuple((*p, 0) for p in padding)
    padded = pad(x, np.float32(-np.inf), config)
    out = source.shape
    best = np.full(out, -np.inf, x.dtype)
    where = np.zeros(out, np.int32)
    places = list(np.ndindex(*window))
    for number, place in enumerate(places):
        cut = padded[_at(place, out, strides)]
        is_new = cut > best
        np.copyto(best, cut, where=is_new)
        np.copyto(where, number, where=is_new)
    found = np.zeros(padded.shape, x.dtype)
    for number, place in enumerate(places):
        found[_at(place, out, strides)] += np.where(where == number, source, 0)
    inside = tuple(slice(p[0], p[0] + n) for p, n in zip(padding, x.shape))
    return found[inside]


def gather(
    x: Array,
    where: Array,
    offset_dims: Any,
    sizes: Any,
    mode: str,
    collapsed: Any,
    operand_batching: Any,
    indices_batching: Any,
    index_map: Any,
) -> Array:
    """Blocks of an array that begin where indices say."""
    gone = (*collapsed, *operand_batching)
    kept = [d for d in range(x.ndim) if d not in gone]
    start, is_inside = _starts(x, where, sizes, index_map, mode)
    index = _index(x, start, sizes, kept, index_map, operand_batching, indices_batching)
    shape = (*where.shape[:-1], *(sizes[d] for d in kept))
    found = np.broadcast_to(x[index] if x.ndim else x, shape)
    if is_inside is not None:
        outside = np.array(
            {"f": np.nan, "i": np.iinfo(np.int32).min}.get(x.dtype.kind, 0)
        )
        if x.dtype.kind == "u":
            outside = np.array(np.iinfo(x.dtype).max)
        mask = is_inside.reshape((*is_inside.shape, *[1] * len(kept)))
        found = np.where(mask, found, outside.astype(x.dtype))
    inside, batch = iter(range(where.ndim - 1, found.ndim)), iter(range(where.ndim - 1))
    return found.transpose(
        [next(inside if d in offset_dims else batch) for d in range(found.ndim)]
    )


def scatter(
    x: Array,
    where: Array,
    new: Array,
    adds: bool,
    update_window_dims: Any,
    mode: str,
    collapsed: Any,
    operand_batching: Any,
    indices_batching: Any,
    index_map: Any,
) -> Array:
    """A copy with blocks added, or put, where indices say."""
    gone = (*collapsed, *operand_batching)
    kept = [d for d in range(x.ndim) if d not in gone]
    batch = [d for d in range(new.ndim) if d not in update_window_dims]
    blocks = new.transpose([*batch, *update_window_dims])
    sizes = [1] * x.ndim
    for d, n in zip(kept, blocks.shape[len(batch) :]):
        sizes[d] = n
    start, is_inside = _starts(x, where, sizes, index_map, mode)
    index = _index(x, start, sizes, kept, index_map, operand_batching, indices_batching)
    found = x.copy()
    if not x.ndim:
        total = found + blocks.sum(dtype=x.dtype) if adds else blocks.reshape(-1)[-1]
        return np.asarray(total if blocks.size else found, x.dtype)
    index = tuple(np.broadcast_to(i, blocks.shape) for i in index)
    if is_inside is not None:
        mask = is_inside.reshape((*is_inside.shape, *[1] * len(kept)))
        mask = np.broadcast_to(mask, blocks.shape)
        index, blocks = tuple(i[mask] for i in index), blocks[mask]
    if adds:
        np.add.at(found, index, blocks)
    else:
        found[index] = blocks
    return found


def _starts(x: Array, where: Array, sizes: Any, index_map: Any, mode: str) -> Any:
    """Returns where blocks begin, moved inside, and which were inside before."""
    limits = np.array([x.shape[d] - sizes[d] for d in index_map], np.int64)
    wide = where.astype(np.int64)
    start = np.clip(wide, 0, limits)
    if mode == "clip":
        return start, None
    is_inside = (start == wide).all(-1)
    return start, None if is_inside.all() else is_inside


def _index(
    x: Array,
    start: Array,
    sizes: Any,
    kept: Any,
    index_map: Any,
    operand_batching: Any,
    indices_batching: Any,
) -> tuple[Array, ...]:
    """Returns an index for each dimension of x, of rank batch + kept."""
    batch, rank = start.shape[:-1], start.ndim - 1 + len(kept)
    found: list[Any] = []
    for d in range(x.ndim):
        index = np.zeros([1] * rank, np.int64)
        if d in operand_batching:
            place = indices_batching[operand_batching.index(d)]
            shape = [1] * rank
            shape[place] = batch[place]
            index = np.arange(batch[place]).reshape(shape)
        if d in index_map:
            column = start[..., index_map.index(d)]
            index = index + column.reshape((*batch, *[1] * len(kept)))
        if d in kept:
            shape = [1] * rank
            shape[len(batch) + kept.index(d)] = sizes[d]
            index = index + np.arange(sizes[d]).reshape(shape)
        found.append(index)
    return tuple(found)


def _at(place: Any, out: Any, strides: Any) -> tuple[slice, ...]:
    """Returns the elements at one place of all windows."""
    return tuple(
        slice(p, p + (n - 1) * s + 1, s) for p, n, s in zip(place, out, strides)
    )
