"""Hostile plans are refused before anything of them runs, with one kind of error."""

import base64
import copy
import json
import random
import tracemalloc
import zlib

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.deploy import export
from jaxfed.vault import _plan
from jaxfed.vault._errors import PlanError
from jaxfed.vault._plan import Plan
from jaxfed.vault._program import Program
from jaxfed.vault._types import Type

F32 = "float32"


@pytest.fixture(scope="module")
def document():
    """A small real plan, as plain values."""

    def loss(params, batch, key):
        del key
        logits = jnp.tanh(batch["x"] @ params["w"]) @ params["v"]
        return optax.sigmoid_binary_cross_entropy(logits, batch["y"]).mean(), {}

    data = {"x": np.ones((4, 3), np.float32), "y": np.ones(4, np.float32)}
    local = jf.clients.sgd(loss, optax.sgd(0.1, momentum=0.9), batch_size=2, epochs=1)
    none = jf.privacy.none(sampling=jf.sampling.Full(population=2))
    params = {"w": jnp.full((3, 2), 0.1), "v": jnp.ones(2)}
    plan = export(jf.algorithms.fedavg(local, none), data, params)
    return json.loads(zlib.decompress(plan))


def sent(document):
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return zlib.compress(text.encode())


def program(*equations, inputs=((F32, (2, 3)),), outputs=(1,)):
    """Returns a program of the equations, which may be hostile."""
    given = {
        "inputs": list(range(len(inputs))),
        "outputs": list(outputs),
        "equations": [list(equation) for equation in equations],
    }
    constants = [np.zeros(3, np.float32)]
    return Program(given, [Type(*one) for one in inputs], constants)


def one(name, attributes, inputs=((F32, (2, 3)),)):
    """Returns a program of one operation on all inputs."""
    count = len(inputs)
    equation = (name, list(range(count)), [count], attributes)
    return program(equation, inputs=inputs, outputs=(count,))


INDICES = {
    "offset_dims": [1],
    "sizes": [1, 3],
    "mode": "clip",
    "collapsed": [0],
    "operand_batching": [],
    "indices_batching": [],
    "index_map": [0],
}
TABLE, WHERE = (F32, (4, 3)), ("int32", (5, 1))
WINDOW = {"window": [1, 2], "strides": [1, 1], "padding": [[0, 0], [0, 0]]}
LOOP = {"length": 2, "reverse": False, "num_constants": 0, "num_carried": 1}
BODY = {"inputs": [0], "outputs": [0], "equations": []}
SHRINKING = {
    "inputs": [0],
    "outputs": [1],
    "equations": [["reduce_sum", [0], [1], {"axes": [0]}]],
}


def nested(depth):
    body = BODY
    for _ in range(depth):
        loop = {**LOOP, "body": body}
        body = {"inputs": [0], "outputs": [1], "equations": [["scan", [0], [1], loop]]}
    return body


HOSTILE = {
    "an unknown operation": lambda: one("eval", {}),
    "an operation of Python": lambda: one("__class__", {}),
    "a name that is no text": lambda: one(["add"], {}),
    "a loop without end": lambda: one("while", {}),
    "an unknown attribute": lambda: one("exp", {"out": 1}),
    "a missing attribute": lambda: one("transpose", {}),
    "attributes without names": lambda: one("exp", []),
    "too few operands": lambda: one("add", {}),
    "truth instead of a number": lambda: one("reduce_sum", {"axes": [True]}),
    "a fraction instead of a number": lambda: one("reduce_sum", {"axes": [0.0]}),
    "a dimension that is not there": lambda: one("reduce_sum", {"axes": [2]}),
    "a negative dimension": lambda: one("reduce_sum", {"axes": [-1]}),
    "a dimension named twice": lambda: one("reduce_sum", {"axes": [0, 0]}),
    "half a permutation": lambda: one("transpose", {"permutation": [0]}),
    "elements from nowhere": lambda: one(
        "reshape", {"shape": [2, 4], "dimensions": None}
    ),
    "more memory than there is": lambda: one(
        "broadcast_in_dim", {"shape": [1 << 30, 2, 3], "broadcast_dimensions": [1, 2]}
    ),
    "a number beyond integers": lambda: one(
        "broadcast_in_dim", {"shape": [1 << 62, 2, 3], "broadcast_dimensions": [1, 2]}
    ),
    "a repetition that does not fit": lambda: one(
        "broadcast_in_dim", {"shape": [2, 4], "broadcast_dimensions": [0, 1]}
    ),
    "a bound outside": lambda: one(
        "slice", {"start": [0, 0], "limit": [2, 4], "strides": None}
    ),
    "a bound the wrong way": lambda: one(
        "slice", {"start": [1, 0], "limit": [0, 3], "strides": None}
    ),
    "a step of nothing": lambda: one(
        "slice", {"start": [0, 0], "limit": [2, 3], "strides": [0, 1]}
    ),
    "a pad of gigabytes": lambda: one(
        "pad", {"config": [[0, 1 << 30, 0], [0, 0, 0]]}, ((F32, (2, 3)), (F32, ()))
    ),
    "a pad of the wrong kind": lambda: one(
        "pad", {"config": [[0, 0, -2], [0, 0, 0]]}, ((F32, (2, 3)), (F32, ()))
    ),
    "numbers of two kinds": lambda: one("add", {}, ((F32, (2,)), ("int32", (2,)))),
    "shapes that do not fit": lambda: one("add", {}, ((F32, (2,)), (F32, (3,)))),
    "a logarithm of integers": lambda: one("log", {}, (("int32", (2,)),)),
    "a sum of truth values": lambda: one("add", {}, (("bool", (2,)), ("bool", (2,)))),
    "the bits of truth": lambda: one(
        "bitcast_convert_type", {"dtype": "uint8"}, (("bool", (2,)),)
    ),
    "wider bits": lambda: one(
        "bitcast_convert_type", {"dtype": "uint8"}, ((F32, (2,)),)
    ),
    "an unknown dtype": lambda: one("convert_element_type", {"dtype": "object"}),
    "a product that does not fit": lambda: one(
        "dot_general",
        {"contracting": [[1], [0]], "batch": [[], []]},
        ((F32, (2, 3)), (F32, (4, 2))),
    ),
    "a product of gigabytes": lambda: one(
        "dot_general",
        {"contracting": [[], []], "batch": [[], []]},
        ((F32, (1 << 20,)), (F32, (1 << 20,))),
    ),
    "a window larger than its array": lambda: one(
        "reduce_window_max", {**WINDOW, "window": [1, 9]}
    ),
    "a window of nothing": lambda: one(
        "reduce_window_max", {**WINDOW, "window": [0, 1]}
    ),
    "a block larger than its array": lambda: one(
        "gather", {**INDICES, "sizes": [1, 4]}, (TABLE, WHERE)
    ),
    "an index that is a float": lambda: one("gather", INDICES, (TABLE, (F32, (5, 1)))),
    "an unknown mode": lambda: one(
        "gather", {**INDICES, "mode": "raise"}, (TABLE, WHERE)
    ),
    "an index of a dimension that is not there": lambda: one(
        "gather", {**INDICES, "index_map": [7]}, (TABLE, WHERE)
    ),
    "a key of three words": lambda: one(
        "random_bits", {"shape": [2]}, (("uint32", (3,)),)
    ),
    "random gigabytes": lambda: one(
        "random_bits", {"shape": [1 << 30]}, (("uint32", (2,)),)
    ),
    "an array used before it is made": lambda: program(("exp", [5], [1], {})),
    "an array made twice": lambda: program(("exp", [0], [0], {}), outputs=(0,)),
    "a result that nobody made": lambda: program(outputs=(9,)),
    "a constant that is not there": lambda: program(
        ("constant", [], [1], {"number": 3})
    ),
    "too many results": lambda: program(("exp", [0], [1, 2], {})),
    "an equation too short": lambda: program(("exp", [0], [1])),
    "a loop that changes its types": lambda: one("scan", {**LOOP, "body": SHRINKING}),
    "a loop of years": lambda: one("scan", {**LOOP, "length": 1 << 40, "body": BODY}),
    "loops in loops": lambda: one("scan", {**LOOP, "body": nested(9)}),
    "a choice of nothing": lambda: one("cond", {"branches": []}, (("int32", ()),)),
    "a choice by a float": lambda: one("cond", {"branches": [BODY]}, ((F32, ()),)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_refused(name):
    tracemalloc.start()
    try:
        with pytest.raises(PlanError):
            HOSTILE[name]()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_its_cost_is_known_before_it_runs():
    loop = {**LOOP, "length": 10, "body": nested(1)}
    found = one("scan", loop).cost
    assert found.operations == {"scan": 2}
    assert found.calls == 1 + 10 * (1 + 1 + 2)
    exp = one("exp", {}).cost
    assert (exp.flops, exp.calls, exp.peak_bytes) == (6, 1, 48)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "cut off"),
        (b"PK\x03\x04", "compressed"),
        (zlib.compress(b"{}") + b"x", "too long"),
        (zlib.compress(b"{}")[:-3], "cut off"),
        (zlib.compress(b"[]"), "canonical"),
        (zlib.compress(b'{"a":NaN}'), "JSON"),
        (zlib.compress(b'{"a":1,"a":1}'), "canonical"),
        (zlib.compress(b'{"b":1,"a":1}'), "canonical"),
        (zlib.compress(b'{ "a":1}'), "canonical"),
        (zlib.compress(b"[" * 100_000), "JSON"),
        (zlib.compress(b'{"format":"jaxfed plan","version":2}'), "version 1"),
        (zlib.compress(b'{"format":"another"}'), "no plan"),
    ],
)
def test_what_is_no_plan_is_refused(data, match):
    with pytest.raises(PlanError, match=match):
        Plan(data)


def test_a_bomb_is_not_unpacked():
    bomb = zlib.compress(b"0" * (1 << 28))
    tracemalloc.start()
    with pytest.raises(PlanError, match="at most"):
        Plan(bomb, most_bytes=1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


def test_constants_are_what_they_say(document):
    changed = copy.deepcopy(document)
    good = base64.b64encode(np.zeros(2, "<f4").tobytes()).decode()
    for bad in (
        [F32, [3], good],
        [F32, [2], good[:-4]],
        [F32, [2], "!" * len(good)],
        [F32, [1 << 30], good],
        ["bool", [2], base64.b64encode(b"\x00\x02").decode()],
        ["object", [2], good],
    ):
        changed["constants"] = [bad]
        with pytest.raises(PlanError):
            Plan(sent(changed))


def mutated(value, draw):
    """Returns plain values with one place changed."""
    if isinstance(value, (dict, list)) and value and draw.random() < 0.9:
        found = copy.copy(value)
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if draw.random() < 0.05:
            del found[key]
        else:
            found[key] = mutated(value[key], draw)
        return found
    return draw.choice(
        [
            *(
                None,
                True,
                -1,
                0,
                1,
                2,
                1 << 20,
                1 << 31,
                1 << 70,
                0.5,
                "",
                "add",
                "scan",
            ),
            *([], [0], [[0]], {}, {"number": 0}, "float32", "bool", "exp", [1 << 30]),
        ]
    )


def arrays_for(types):
    return [np.ones(one.shape, one.dtype) for one in types]


def outcome(document):
    """Returns whether a changed plan is refused; what is accepted must run."""
    try:
        plan = Plan(sent(document))
    except PlanError:
        return "refused"
    rows = [
        Type(n.type.dtype, (plan.batching.batch_size, *n.type.shape)) for n in plan.rows
    ]
    real = Type("bool", (plan.batching.batch_size,))
    given = [*plan.carry, *rows, real, _plan.COUNT, _plan.KEY]
    if plan.step.cost.peak_bytes < 1 << 22 and plan.step.cost.calls < 10_000:
        found = plan.step(*arrays_for(given))
        assert [Type(a.dtype.name, a.shape) for a in found] == plan.step.outputs
    return "accepted"


@pytest.mark.parametrize(
    "count", [1500, pytest.param(100_000, marks=pytest.mark.nightly)]
)
def test_changed_plans_raise_nothing_else(document, count):
    draw, found = random.Random(0), {"refused": 0, "accepted": 0}
    for _ in range(count):
        found[outcome(mutated(document, draw))] += 1
    assert found["refused"] > 0.3 * count
    assert found["accepted"] > 0  # and some changes are harmless


def test_changed_bytes_raise_nothing_else(document):
    data, draw = sent(document), random.Random(1)
    for _ in range(1500):
        changed = bytearray(data)
        for _ in range(draw.choice([1, 1, 3])):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            found = Plan(bytes(changed))
        except PlanError:
            continue
        assert found.hash == Plan(data).hash  # other bytes of one compressed text


def test_the_hash_is_of_the_text(document):
    plan = Plan(sent(document))
    again = Plan(_plan.compressed(_plan.canonical(document)))
    other = {**document, "producer": {"jaxfed": "another"}}
    assert plan.hash == again.hash != Plan(sent(other)).hash


FAR = 1 << 20
CONVOLVED = {
    **{"strides": [1], "padding": [[FAR, -FAR]], "lhs_dilation": [1]},
    **{"rhs_dilation": [1], "lhs": [0, 1, 2], "rhs": [0, 1, 2], "out": [0, 1, 2]},
    **{"feature_groups": 1, "batch_groups": 1},
}
SPREAD = {
    "padding of a convolution": lambda: one(
        "conv_general_dilated",
        {**CONVOLVED, "padding": [[FAR, 0]], "strides": [FAR]},
        inputs=((F32, (1, 1, 8)), (F32, (1, 1, 2))),
    ),
    "spacing of a convolution": lambda: one(
        "conv_general_dilated",
        {
            **CONVOLVED,
            **{"padding": [[0, 0]], "lhs_dilation": [FAR], "strides": [FAR]},
        },
        inputs=((F32, (1, 1, 8)), (F32, (1, 1, 2))),
    ),
    "windows of a convolution": lambda: one(
        "conv_general_dilated",
        {**CONVOLVED, "padding": [[0, 0]]},
        inputs=((F32, (1, 1, 4000)), (F32, (1, 1, 1900))),
    ),
    "padding of scattered windows": lambda: one(
        "scatter_windows",
        {"window": [1, 1], "strides": [64, FAR], "padding": [[0, 0], [FAR, 0]]},
        inputs=((F32, (1, 2)), (F32, (64, 3))),
    ),
    "padding of windows": lambda: one(
        "reduce_window_sum",
        {"window": [1, 1], "strides": [1, FAR], "padding": [[0, 0], [FAR, 0]]},
    ),
    "spacing that is cut off": lambda: one(
        "pad",
        {"config": [[0, 0, 0], [0, -2 * FAR, FAR]]},
        inputs=((F32, (2, 3)), (F32, ())),
    ),
    "a count of nothing": lambda: one(
        "iota", {"shape": [0, FAR], "dtype": "int32", "dimension": 1}, inputs=()
    ),
    "bits without keys": lambda: one(
        "random_bits", {"shape": [FAR]}, inputs=(("uint32", (0, 2)),)
    ),
}


@pytest.mark.parametrize("name", SPREAD)
def test_arrays_on_the_way_are_counted(name):
    """What is padded, spread or counted takes memory, whatever is left of it."""
    made = SPREAD[name]()
    arrays = [
        np.zeros(made._types[r].shape, made._types[r].dtype) for r in made._inputs
    ]
    tracemalloc.start()
    made(*arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak > FAR  # or it would show nothing
    assert made.cost.peak_bytes > peak / 2


@pytest.mark.parametrize(
    ("name", "attributes", "inputs"),
    [
        ("shift_left", {}, [("uint8", (3,)), ("uint8", (3,))]),
        ("shift_right_logical", {}, [("bool", (3,)), ("bool", (3,))]),
        ("reshape", {"shape": [6], "dimensions": [0]}, [(F32, (2, 3))]),
        ("reshape", {"shape": [6], "dimensions": [0, 5]}, [(F32, (2, 3))]),
        ("concatenate", {"dimension": 1}, [(F32, (2, 3)), (F32, (2,))]),
    ],
)
def test_what_cannot_run_is_refused_from_its_types(name, attributes, inputs):
    with pytest.raises(PlanError):
        one(name, attributes, inputs)


@pytest.mark.parametrize(
    ("name", "attributes", "inputs", "shape"),
    [
        ("bitcast_convert_type", {"dtype": "int32"}, [(F32, ())], ()),
        ("dynamic_update_slice", {}, [(F32, ()), (F32, ())], ()),
    ],
)
def test_scalars_stay_scalars(name, attributes, inputs, shape):
    made = one(name, attributes, inputs)
    (found,) = made(*[np.ones(s, d) for d, s in inputs])
    assert np.shape(found) == shape
    assert made.outputs[0].shape == shape


def test_a_bomb_of_small_parts_is_not_taken_apart():
    """16 MB of JSON can be 400 MB of lists."""
    text = b'{"a":[' + b"[]," * (5 << 20) + b"[]]}"
    bomb = zlib.compress(text, 9)
    assert len(bomb) < 1 << 16
    tracemalloc.start()
    with pytest.raises(PlanError, match="parts"):
        Plan(bomb)
    assert tracemalloc.get_traced_memory()[1] < 4 * len(text)
    tracemalloc.stop()


def test_windows_count_as_often_as_they_are_looked_at():
    """Each place of a window is a call of NumPy, however little it computes."""
    window = {"window": [50, 50], "strides": [1, 1], "padding": [[0, 0], [0, 0]]}
    made = one("reduce_window_sum", window, [(F32, (50, 50))])
    assert made.cost.calls >= 2500


@pytest.mark.parametrize("kind", ["float32", "bool", "int32"])
def test_the_self_check_takes_little_more_than_its_arrays(kind):
    """Made-up operands and their summaries come in blocks."""
    from jaxfed.vault import _made_up

    one_array = Type(kind, (1 << 22,))
    tracemalloc.start()
    found = _made_up.arrays([one_array])
    _made_up.summary(found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * one_array.bytes + (8 << 20)
    small = _made_up.arrays([Type(kind, (1 << 17,))])
    np.testing.assert_array_equal(found[0][: 1 << 17], small[0])


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("argmax", {"axes": [0], "dtype": "int32"}),
        ("reduce_prod", {"axes": [0]}),
        ("cumsum", {"axis": 0, "reverse": False}),
    ],
)
def test_what_reads_everything_costs_everything(name, attributes):
    assert one(name, attributes, [(F32, (100_000,))]).cost.flops >= 100_000
