"""What operations take beside their results: time, memory, calls of NumPy.

Each function gets the types of operands and results and the attributes; bytes are upper
bounds, measured in `tests/vault/test_memory_of_operations.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jaxfed.vault._types import Type


def of_operand(inputs: list[Type], outputs: list[Type], given: Any) -> int:
    """An operation for each element of the operands."""
    return sum(one.size for one in inputs)


def an_element(size: int) -> Callable[[list[Type], list[Type], Any], int]:
    """So much for each element of the first operand."""
    return lambda inputs, outputs, given: size * inputs[0].size


def if_whole(size: int) -> Callable[[list[Type], list[Type], Any], int]:
    """So much for each element of a result of integers."""
    return lambda inputs, outputs, given: (
        0 if inputs[0].is_float else size * outputs[0].size
    )


def converted(inputs: list[Type], outputs: list[Type], given: Any) -> int:
    """Floats become integers by way of float64."""
    is_cut = inputs[0].is_float and not outputs[0].is_float
    return 20 * inputs[0].size if is_cut else 0


def copied(inputs: list[Type], outputs: list[Type], given: Any) -> int:
    """Operands in another order of dimensions."""
    return sum(one.bytes for one in inputs)


def gathered(inputs: list[Type], outputs: list[Type], given: Any) -> int:
    """Where blocks begin, an index for each dimension, and what is outside."""
    (x, where), places = inputs, math.prod(inputs[1].shape[:-1])
    lengths = [
        given["sizes"][d] if d in given["index_map"] else 1 for d in range(x.rank)
    ]
    indices = 24 * where.size + 16 * places * sum(lengths)
    return indices + outputs[0].bytes + outputs[0].size // 4


def indexed(inputs: list[Type], outputs: list[Type], given: Any) -> int:
    """An index for each dimension, of each value that is scattered."""
    return 8 * (inputs[0].rank + 2) * inputs[2].size


def unfolded(inputs: list[Type], outputs: list[Type], given: Any) -> int:
    """Of a convolution: what is padded, a kernel's copy, one example's windows."""
    kernel, found = inputs[1], outputs[0]
    places = math.prod(found.shape[d] for d in given["out"][2:])
    features = kernel.shape[given["rhs"][0]]
    windows = 4 * places * (kernel.size // max(1, features))
    return padded(inputs, outputs, given) + kernel.bytes + windows


def windows_called(inputs: list[Type], outputs: list[Type], given: Any) -> int:
    """A few calls for each place of a window."""
    return 8 * math.prod(given["window"])


def convolved(inputs: list[Type], outputs: list[Type], given: Any) -> int:
    """Once for each example, or each place of a window, in each group."""
    kernel, found = inputs[1], outputs[0]
    window = math.prod(kernel.shape[d] for d in given["rhs"][2:])
    places = min(window, math.prod(found.shape[d] for d in given["out"][2:]))
    batch = inputs[0].shape[given["lhs"][0]]
    return given["feature_groups"] * given["batch_groups"] * (4 + batch + 4 * places)


def drawn(inputs: list[Type], outputs: list[Type], given: Any) -> int:
    """Words of threefry for each key."""
    keys = max(1, math.prod(inputs[0].shape[:-1]))
    return 48 * keys * math.prod(given["shape"])


def threefry(inputs: list[Type], outputs: list[Type], given: Any) -> int:
    """Of twenty rounds for each word."""
    return 100 * outputs[0].size


def padded(inputs: list[Type], outputs: list[Type], given: Any) -> int:
    """Of `_arrays.pad`, which spreads, cuts and pads."""
    one = inputs[-1] if "window" in given else inputs[0]
    sizes = list(one.shape)
    if "config" in given:
        edges = [(max(0, c[0]), max(0, c[1]), c[2]) for c in given["config"]]
    elif "lhs" in given:
        spatial = given["lhs"][2:]
        edges = [(0, 0, 0)] * one.rank
        for d, pair, by in zip(spatial, given["padding"], given["lhs_dilation"]):
            edges[d] = (max(0, pair[0]), max(0, pair[1]), by - 1)
    else:
        edges = [(max(0, p[0]), max(0, p[1]), 0) for p in given["padding"]]
    for d, (low, high, between) in enumerate(edges):
        sizes[d] += low + high + max(0, sizes[d] - 1) * between
    return 16 * math.prod(sizes)
