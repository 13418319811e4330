"""What operations with windows, products and indices return; see `_shapes`."""

from __future__ import annotations

import math
from typing import Any

from jaxfed.vault._types import Type, axes, checked, require


def dot_general(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """A product summed over some dimensions, for each index of others."""
    left, right = inputs
    (lc, rc), (lb, rb) = attributes["contracting"], attributes["batch"]
    axes((*lc, *lb), left.rank)
    axes((*rc, *rb), right.rank)
    require(left.dtype == right.dtype == "float32", "operands must be float32", inputs)
    together = [left.shape[d] for d in (*lc, *lb)], [right.shape[d] for d in (*rc, *rb)]
    require(
        len(lc) == len(rc) and len(lb) == len(rb) and together[0] == together[1],
        "operands must fit where they are multiplied",
        inputs,
    )
    return [
        checked(
            "float32",
            [left.shape[d] for d in lb]
            + [n for d, n in enumerate(left.shape) if d not in (*lc, *lb)]
            + [n for d, n in enumerate(right.shape) if d not in (*rc, *rb)],
        )
    ]


def convolution(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """A convolution of (N, C, ...) with (O, I, ...), in the order that specs say."""
    left, right = inputs
    a = attributes
    rank = left.rank
    for spec in (a["lhs"], a["rhs"], a["out"]):
        require(len(axes(spec, rank)) == rank >= 2, "a layout is wrong", spec)
    space = rank - 2
    parts = (a["strides"], a["padding"], a["lhs_dilation"], a["rhs_dilation"])
    fits = right.rank == rank and all(len(part) == space for part in parts)
    require(
        fits and left.dtype == right.dtype == "float32", "operands must fit", inputs
    )
    batch, channels, *sizes = (left.shape[d] for d in a["lhs"])
    features, inner, *window = (right.shape[d] for d in a["rhs"])
    groups, batches = a["feature_groups"], a["batch_groups"]
    require(min(groups, batches) == 1, "groups are of features or of batches")
    require(channels == inner * groups, "channels must fit", inputs)
    require(features % (groups * batches) == 0 == batch % batches, "groups must fit")
    require(all(n >= 1 for n in (*sizes, *window)), "nothing cannot be convolved")
    spread = [1 + (n - 1) * d for n, d in zip(sizes, a["lhs_dilation"])]
    reach = [1 + (n - 1) * d for n, d in zip(window, a["rhs_dilation"])]
    found = [batch // batches, features]
    found += windows(spread, reach, a["strides"], a["padding"])
    shape = [0] * rank
    for place, n in zip(a["out"], found):
        shape[place] = n
    return [checked("float32", shape)]


def windows(sizes: Any, reach: Any, strides: Any, padding: Any) -> list[int]:
    """Returns how many windows there are along each dimension."""
    found = []
    for n, window, stride, pad in zip(sizes, reach, strides, padding):
        require(len(pad) == 2, "padding is wrong", pad)
        room = n + sum(pad) - window
        require(room >= 0, "a window must fit", (n, pad, window))
        found.append(room // stride + 1)
    return found


def reduce_window(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """The sum or the largest of each window."""
    (x,), a = inputs, attributes
    _check_windows(x, a)
    return [
        checked("float32", windows(x.shape, a["window"], a["strides"], a["padding"]))
    ]


def scatter_windows(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """The gradient of the largest of each window: values go where it was."""
    source, x = inputs
    (found,) = reduce_window([x], attributes)
    require(source == found, "there must be a value for each window", source)
    return [x]


def _check_windows(x: Type, a: dict[str, Any]) -> None:
    require(x.is_float, "an operand must be float32", x)
    parts = (a["window"], a["strides"], a["padding"])
    require(all(len(part) == x.rank for part in parts), "windows must fit", x)
    require(all(p >= 0 for pad in a["padding"] for p in pad), "padding is wrong")


def gather(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Blocks of an array that begin where indices say."""
    x, where = inputs
    window = _check_indices(x, where, attributes, attributes["sizes"])
    offsets = attributes["offset_dims"]
    batch = iter(where.shape[:-1])
    rank = where.rank - 1 + len(window)
    require(len(axes(offsets, rank)) == len(window), "a block must fit", offsets)
    inside = iter(window)
    shape = [next(inside) if d in offsets else next(batch) for d in range(rank)]
    return [checked(x.dtype, shape)]


def scatter(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """An array with blocks added, or put, where indices say."""
    x, where, new = inputs
    places = attributes["update_window_dims"]
    axes(places, new.rank)
    gone = (*attributes["collapsed"], *attributes["operand_batching"])
    kept = [d for d in range(x.rank) if d not in gone]
    require(len(kept) == len(places), "a block must fit", places)
    sizes = [1] * x.rank
    for d, place in zip(kept, places):
        sizes[d] = new.shape[place]
    _check_indices(x, where, attributes, tuple(sizes))
    batch = tuple(n for d, n in enumerate(new.shape) if d not in places)
    require(batch == where.shape[:-1], "there must be a block for each index", new)
    require(new.dtype == x.dtype != "bool", "blocks must have the array's dtype", new)
    return [x]


def _check_indices(
    x: Type, where: Type, a: dict[str, Any], sizes: tuple[int, ...]
) -> list[int]:
    """Checks indices into an array; returns the lengths of a block that are kept."""
    collapsed, batching = a["collapsed"], a["operand_batching"]
    indices = a["indices_batching"]
    axes((*collapsed, *batching), x.rank)
    axes((*a["index_map"], *batching), x.rank)
    axes(indices, max(0, where.rank - 1))
    require(where.dtype in ("int32", "uint32"), "an index is an integer", where)
    fits = where.rank >= 1 and where.shape[-1] == len(a["index_map"])
    require(fits and len(sizes) == x.rank, "indices must fit their array", where)
    require(all(s <= n for s, n in zip(sizes, x.shape)), "a block must fit", sizes)
    gone = (*collapsed, *batching)
    require(all(sizes[d] == 1 for d in gone), "a block must fit", sizes)
    require(
        [x.shape[d] for d in batching] == [where.shape[d] for d in indices],
        "batches must fit",
        where,
    )
    return [n for d, n in enumerate(sizes) if d not in gone]


def random_bits(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """32 random bits for each element, of each key."""
    return [checked("uint32", [*_keys(inputs[0]), *attributes["shape"]])]


def random_split(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """Keys from each key."""
    return [checked("uint32", [*_keys(inputs[0]), *attributes["shape"], 2])]


def random_fold_in(inputs: list[Type], attributes: dict[str, Any]) -> list[Type]:
    """A key from each key and a number."""
    key, number = inputs
    require(number.dtype in ("uint32", "int32"), "a number must be an integer", number)
    require(number.shape in ((), _keys(key)), "a key needs its own number", number)
    return [key]


def _keys(x: Type) -> tuple[int, ...]:
    require(x.dtype == "uint32" and x.shape[-1:] == (2,), "a key is two words", x)
    return x.shape[:-1]


def flops_of_dot(inputs: list[Type], outputs: list[Type], a: dict[str, Any]) -> int:
    """Returns how many floating-point operations a product takes."""
    summed = math.prod(inputs[0].shape[d] for d in a["contracting"][0])
    return 2 * outputs[0].size * max(1, summed) + inputs[0].size + inputs[1].size


def flops_of_convolution(
    inputs: list[Type], outputs: list[Type], a: dict[str, Any]
) -> int:
    """Returns how many floating-point operations a convolution takes."""
    inner = math.prod(inputs[1].shape) // max(1, inputs[1].shape[a["rhs"][0]])
    return 2 * outputs[0].size * inner


def flops_of_windows(inputs: list[Type], outputs: list[Type], a: dict[str, Any]) -> int:
    """Returns how many floating-point operations all windows take."""
    size = inputs[0].size if len(inputs) > 1 else outputs[0].size
    return size * math.prod(a["window"])
