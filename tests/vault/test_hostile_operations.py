"""A million operations that a server may make up: refused from their types, or run."""

import copy
import random

import numpy as np
import pytest

from jaxfed.vault import _operations, _types
from jaxfed.vault._errors import PlanError
from jaxfed.vault._program import Program
from jaxfed.vault._types import Type

LENGTHS = [0, 1, 1, 2, 2, 3, 4]
FLOAT = "float32"
INDICES = {
    **{"collapsed": [0], "operand_batching": [], "indices_batching": []},
    **{"index_map": [0], "mode": "clip"},
}
# what nobody makes up: attributes that fit, and are changed in one place
WHOLE = {
    "conv_general_dilated": (
        {
            **{"strides": [1, 2], "padding": [[1, 0], [0, 1]], "lhs_dilation": [1, 2]},
            **{"rhs_dilation": [2, 1], "lhs": [0, 3, 1, 2], "rhs": [3, 2, 0, 1]},
            **{"out": [0, 3, 1, 2], "feature_groups": 1, "batch_groups": 1},
        },
        [Type(FLOAT, (2, 4, 3, 2)), Type(FLOAT, (2, 2, 2, 4))],
    ),
    "gather": (
        {"offset_dims": [1], "sizes": [1, 3], **INDICES},
        [Type(FLOAT, (4, 3)), Type("int32", (2, 1))],
    ),
    "scatter": (
        {"update_window_dims": [1], **INDICES},
        [Type(FLOAT, (4, 3)), Type("int32", (2, 1)), Type(FLOAT, (2, 3))],
    ),
    "dot_general": (
        {"contracting": [[2], [1]], "batch": [[0], [0]]},
        [Type(FLOAT, (2, 3, 4)), Type(FLOAT, (2, 4, 1))],
    ),
}
WHOLE["scatter_add"] = WHOLE["scatter"]


def a_type(draw):
    kind = draw.choice([*_types.BYTES, *[FLOAT] * 4])
    return Type(kind, tuple(draw.choices(LENGTHS, k=draw.choice([0, 1, 1, 2, 2, 3]))))


def related(draw, one):
    """Returns a type that may fit beside another one."""
    chance = draw.random()
    if chance < 0.5:
        return one
    if chance < 0.6:
        return Type(one.dtype, ())
    if chance < 0.7:
        return Type("int32", ())
    if chance < 0.8:
        return Type(one.dtype, one.shape[::-1])
    return a_type(draw)


def attribute(draw, check):
    """Returns a value of the kind that a check is for."""
    name = getattr(check, "__name__", "")
    if name == "boolean":
        return draw.random() < 0.5
    if name == "a_dtype":
        return draw.choice([*_types.BYTES])
    if name == "_mode":
        return draw.choice(["clip", "fill"])
    if name in ("natural", "positive", "integer", "_exponent"):
        return draw.choice([0, 0, 1, 1, 2, 3, -1])
    if name == "pairs":
        lengths = draw.choices([2, 2, 3], k=draw.choice([0, 1, 2, 3]))
        return [draw.choices([0, 0, 1, 2, -1], k=length) for length in lengths]
    if name == "_two_pairs":
        return [draw.choices([0, 1, 2], k=draw.choice([0, 1, 1, 2]))] * 2
    if name == "<lambda>" and draw.random() < 0.3:
        return None
    return draw.choices([0, 1, 1, 2, 2, 3, 4], k=draw.choice([0, 1, 1, 2, 2, 3]))


def changed(draw, value):
    """Returns a value with one number changed."""
    if isinstance(value, dict) and value:
        key = draw.choice([*value])
        return {**value, key: changed(draw, value[key])}
    if isinstance(value, list) and value:
        found = copy.copy(value)
        place = draw.randrange(len(found))
        found[place] = changed(draw, found[place])
        return found[: draw.choice([len(found)] * 9 + [place])]
    return draw.choice([0, 1, 2, 3, 4, -1, 1 << 20, 1 << 31, None, "fill", [0], True])


def made_up(draw):
    """Returns the name, attributes and operands' types of an operation."""
    name = draw.choice([*_operations.TABLE])
    if name in WHOLE and draw.random() < 0.8:
        attributes, types = WHOLE[name]
        for _ in range(draw.choice([0, 1, 1, 2])):
            attributes = changed(draw, attributes)
        if draw.random() < 0.3:
            types = [related(draw, one) for one in types]
        return name, attributes, types
    operation = _operations.TABLE[name]
    count = operation.operands
    count = draw.choice([1, 2, 3, 4]) if count is None else count
    if draw.random() < 0.02:
        count = draw.choice([0, 1, 2, 3])
    first = a_type(draw)
    types = [first, *(related(draw, first) for _ in range(count - 1))][:count]
    checks = operation.attributes.items()
    return name, {key: attribute(draw, check) for key, check in checks}, types


def arrays(draw, types):
    for one in types:
        values = np.asarray(draw.integers(-3, 6, one.shape))
        if one.is_float:
            values = values * np.float32(0.3)
        yield np.asarray(values).astype(one.dtype)


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)]
)
def test_operations_that_are_made_up_are_refused_or_run(count):
    """What is accepted returns what was inferred, without an error of its own."""
    draw, numbers = random.Random(count), np.random.default_rng(0)
    ran = dict.fromkeys(_operations.TABLE, 0)
    for _ in range(count):
        name, attributes, types = made_up(draw)
        places = list(range(len(types)))
        given = {
            "inputs": places,
            "outputs": [len(types)],
            "equations": [[name, places, [len(types)], attributes]],
        }
        try:
            program = Program(given, types, [])
        except PlanError:
            continue
        except Exception as error:
            raise AssertionError((name, attributes, types)) from error
        cost = program.cost
        if max(cost.peak_bytes, 16 * cost.flops, 64 * cost.calls) > 1 << 18:
            continue
        ran[name] += 1
        try:
            (found,) = program(*arrays(numbers, types))
        except Exception as error:
            raise AssertionError((name, attributes, types)) from error
        (wanted,) = program.outputs
        is_right = (found.dtype.name, found.shape) == (wanted.dtype, wanted.shape)
        assert is_right, (name, attributes, types, found.shape)
    assert sum(ran.values()) > count / 5
    assert count < 1_000_000 or min(ran.values()) > 0, ran
