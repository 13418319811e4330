"""No operation takes more memory than is counted before it runs."""

import tracemalloc

import numpy as np
import pytest

from jaxfed.vault import _operations, _types
from jaxfed.vault._errors import PlanError
from jaxfed.vault._program import Program
from jaxfed.vault._types import Type

N = 120_000
FEW = 1 << 17  # bytes of NumPy's buffers, whatever the size
KEY, KEYS, TRUTH, NUMBER, NUMBERS = "key", "keys", "truth", "number", "numbers"
TYPES = {
    KEY: Type("uint32", (2,)),
    KEYS: Type("uint32", (N, 2)),
    TRUTH: Type("bool", (N,)),
    NUMBER: Type("int32", ()),
    NUMBERS: Type("int32", (N,)),
}
INDICES = {
    **{"collapsed": [0], "operand_batching": [], "indices_batching": []},
    **{"index_map": [0], "mode": "fill"},
}
PLACES = Type("int32", (N // 3, 1))
SCATTER = ({"update_window_dims": [1], **INDICES}, [(N // 3, 3), PLACES, (N // 3, 3)])
CONVOLUTION = {
    **{"strides": [1, 1], "padding": [[1, 1], [1, 1]], "lhs_dilation": [1, 1]},
    **{"rhs_dilation": [1, 1], "lhs": [0, 3, 1, 2], "rhs": [3, 2, 0, 1]},
    **{"out": [0, 3, 1, 2], "feature_groups": 1, "batch_groups": 1},
}
GRADIENT = CONVOLUTION | {
    **{"padding": [[0, 0], [0, 0]], "rhs_dilation": [2, 2]},
    **{"lhs": [3, 0, 1, 2], "rhs": [3, 0, 1, 2], "out": [2, 3, 0, 1]},
}
SPREAD = CONVOLUTION | {"lhs_dilation": [2, 2], "feature_groups": 2}
WINDOW = {"window": [1, 2, 2, 1], "strides": [1, 2, 2, 1]}
NONE, ODD = [[0, 0]] * 4, [[0, 0], [1, 1], [0, 0], [0, 0]]
# attributes and operands of what has attributes; types, or shapes of any dtype
CASES = {
    "broadcast_in_dim": [({"shape": [N, 2], "broadcast_dimensions": [0]}, [(N,)])],
    "reshape": [({"shape": [2, N // 2], "dimensions": None}, [(N,)])],
    "transpose": [({"permutation": [1, 0]}, [(2, N)])],
    "slice": [({"start": [1], "limit": [N - 1], "strides": [2]}, [(N,)])],
    "rev": [({"dimensions": [0]}, [(N,)])],
    "pad": [
        ({"config": [[3, 5, 1]]}, [(N,), ()]),
        ({"config": [[-3, -5, 0]]}, [(N,), ()]),
    ],
    "concatenate": [({"dimension": 0}, [(N,), (N,), (3,)])],
    "iota": [
        ({"shape": [N, 2], "dtype": dtype, "dimension": place}, [])
        for dtype in ("int32", "float32", "uint8", "uint32")
        for place in (0, 1)
    ],
    "sort": [
        ({"dimension": 0, "num_keys": 1}, [(N,)]),
        ({"dimension": 1, "num_keys": 1}, [(N // 64, 64)]),
        ({"dimension": 0, "num_keys": 2}, [(N,), (N,)]),
    ],
    "dynamic_slice": [({"sizes": [N // 2]}, [(N,), NUMBER])],
    "dynamic_update_slice": [({}, [(N,), (N // 2,), NUMBER])],
    "random_bits": [({"shape": [N]}, [KEY])],
    "random_split": [({"shape": [N]}, [KEY])],
    "random_fold_in": [({}, [KEYS, NUMBERS])],
    "dot_general": [
        ({"contracting": [[1], [0]], "batch": [[], []]}, [(200, 200), (200, 200)]),
        ({"contracting": [[0], [0]], "batch": [[], []]}, [(N,), (N,)]),
        ({"contracting": [[1], [2]], "batch": [[2], [0]]}, [(30, 20, 40), (40, 3, 20)]),
    ],
    "gather": [
        ({"offset_dims": [1], "sizes": [1, 3], **INDICES}, [(N // 3, 3), PLACES]),
        (
            {"offset_dims": [1], "sizes": [1, 300], **INDICES},
            [(100, 300), Type("int32", (90, 1))],
        ),
        (
            {**INDICES, "offset_dims": [1], "sizes": [300], "collapsed": []},
            [(1000,), Type("int32", (90, 1))],
        ),
    ],
    "scatter": [SCATTER],
    "scatter_add": [SCATTER],
    "conv_general_dilated": [
        (CONVOLUTION, [(8, 32, 32, 8), (3, 3, 8, 8)]),
        (SPREAD, [(8, 32, 32, 8), (3, 3, 4, 8)]),
        (GRADIENT, [(8, 32, 32, 8), (8, 15, 15, 8)]),
    ],
    "reduce_window_max": [(WINDOW | {"padding": ODD}, [(8, 40, 40, 8)])],
    "reduce_window_sum": [(WINDOW | {"padding": ODD}, [(8, 40, 40, 8)])],
    "scatter_windows": [(WINDOW | {"padding": NONE}, [(8, 20, 20, 8), (8, 40, 40, 8)])],
    "integer_pow": [({"exponent": power}, [(N,)]) for power in (-3, 0, 2, 7)],
    "select": [({}, [TRUTH, (N,), (N,)])],
}


def cases_of(name):
    """Returns the cases of an operation, those of its kind if it has none."""
    operation = _operations.TABLE[name]
    attributes = set(operation.attributes)
    if name in CASES:
        return CASES[name]
    if attributes == {"axes"}:
        shapes = [([0], (N,)), ([0], (N, 4)), ([1], (N, 4)), ([0, 1], (N, 4))]
        return [({"axes": axes}, [shape]) for axes, shape in shapes]
    if attributes == {"axes", "dtype"}:
        shapes = [([0], (N,)), ([1], (N, 1)), ([1], (N, 4))]
        return [({"axes": axes, "dtype": "int32"}, [shape]) for axes, shape in shapes]
    if attributes == {"axis", "reverse"}:
        return [({"axis": 0, "reverse": way}, [(N,)]) for way in (False, True)]
    if attributes == {"dtype"}:
        return [({"dtype": dtype}, [(N,)]) for dtype in _types.BYTES]
    assert not attributes
    return [({}, [(N,)] * (operation.operands or 1))]


def program_of(name, attributes, types):
    """Returns a program of one operation, or None of types that it has not."""
    places = list(range(len(types)))
    for count in (1, 2):
        results = [len(types) + number for number in range(count)]
        given = {
            "inputs": places,
            "outputs": results,
            "equations": [[name, places, results, attributes]],
        }
        try:
            return Program(given, types, [])
        except PlanError as error:
            if "other results" not in str(error):
                return None
    raise AssertionError


@pytest.mark.parametrize("name", _operations.TABLE)
def test_an_operation_takes_no_more_than_is_counted(name):
    draw, ran = np.random.default_rng(0), 0
    for attributes, operands in cases_of(name):
        for dtype in _types.BYTES:
            types = [TYPES[one] if isinstance(one, str) else one for one in operands]
            types = [
                one if isinstance(one, Type) else Type(dtype, one) for one in types
            ]
            program = program_of(name, attributes, types)
            if program is None:
                continue
            most = {"bool": 2}
            arrays = [
                draw.integers(0, most.get(one.dtype, 5), one.shape).astype(one.dtype)
                for one in types
            ]
            program(*arrays)  # so that tables and the like are there
            tracemalloc.start()
            program(*arrays)
            taken = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            held = sum(one.bytes for one in types)
            assert taken + held <= program.cost.peak_bytes + FEW, (attributes, dtype)
            ran += 1
    assert ran > 0


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("slice", {"start": [0], "limit": [1], "strides": None}),
        ("dynamic_slice", {"sizes": [1]}),
    ],
)
def test_a_small_part_keeps_no_large_array_alive(name, attributes):
    """Thirty large arrays, of each of which one element is kept to the end."""
    equations, parts, register = [["constant", [], [0], {"number": 0}]], [], 1
    for _ in range(30):
        operands = [register + 1] if name == "slice" else [register + 1, 0]
        equations += [
            ["iota", [], [register], {"shape": [N], "dtype": "int32", "dimension": 0}],
            ["add", [register, register], [register + 1], {}],
            [name, operands, [register + 2], attributes],
        ]
        parts.append(register + 2)
        register += 3
    equations.append(["concatenate", parts, [register], {"dimension": 0}])
    program = Program(
        {"inputs": [], "outputs": [register], "equations": equations},
        [],
        [np.asarray(0, np.int32)],
    )
    tracemalloc.start()
    (found,) = program()
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (30,)
    assert taken < program.cost.peak_bytes + FEW
