"""Tabular models on a machine without NumPy: the same reports, from Python's lists."""

import csv
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxfed.deploy import export
from jaxfed.vault import _lattice, _noise, _operations, _rules, _training
from jaxfed.vault._build import build
from jaxfed.vault._plan import Plan
from jaxfed.vault._program import Program
from jaxfed.vault._types import Type
from tests.deploy.conftest import free_promotion as free_promotion  # a fixture
from tests.deploy.rows import ROWS
from tests.vault.test_policy import RULES

IMAGES = {
    *("cnn average pool", "cnn max pool", "clipped convolution", "nnx"),
    *("depthwise convolution", "dilated convolution", "group normalisation"),
    *("strided convolution", "transposed convolution"),
}
FEW = ("binary cross entropy", "adam", "clipped perceptron", "dropout", "lstm")
KEY = np.array([5, 6], np.uint32)
GROUPS = {"norm": 0.05, "levels": 1 << 20, "target": 1 << 19, "is_random": True}
START = """
import json, sys
sys.path.insert(0, sys.argv[1])
from jaxfed.vault._numpy import HAS_NUMPY, np
assert not HAS_NUMPY
given = json.loads(sys.stdin.read())
def hexed(array):
    return [array.dtype.name, list(array.shape), array.tobytes().hex()]
def array(kind, shape, data):
    return np.frombuffer(bytes.fromhex(data), kind).reshape(shape)
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("vault") / "vault.pyz"
    build(path)
    return path


def bare(archive, code, given):
    """Runs code by a Python that finds no packages; returns what it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", START + code, str(archive)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def hexed(array):
    array = np.asarray(array)
    return [array.dtype.name, list(array.shape), array.tobytes().hex()]


def array(kind, shape, data):
    return np.frombuffer(bytes.fromhex(data), kind).reshape(shape)


def plan_of(name):
    algorithm, data, params = ROWS[name]()
    return export(algorithm, data, params), algorithm, data, params


def self_checks(archive, names):
    plans = {name: plan_of(name)[0].hex() for name in names}
    code = """
from jaxfed.vault._plan import Plan
said = {}
for name, plan in given.items():
    try:
        Plan(bytes.fromhex(plan)).check_itself()
        said[name] = ""
    except Exception as error:
        said[name] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""
    return bare(archive, code, plans)


@pytest.mark.usefixtures("free_promotion")
def test_plans_compute_what_jax_does(archive):
    assert set(self_checks(archive, FEW).values()) == {""}


@pytest.mark.slow
@pytest.mark.usefixtures("free_promotion")
def test_every_plan_but_images_computes_what_jax_does(archive):
    said = self_checks(archive, ROWS)
    assert set(ROWS) >= IMAGES
    for name, error in said.items():
        wanted = "conv_general_dilated needs NumPy" if name in IMAGES else ""
        assert (wanted in error) if wanted else not error, (name, error)


@pytest.mark.parametrize("name", ["binary cross entropy", "adam"])
@pytest.mark.usefixtures("free_promotion")
def test_a_round_is_the_same_to_a_grid_unit(name, archive, tmp_path):
    """From a CSV file to the integers that are sent."""
    plan, algorithm, data, params = plan_of(name)
    shared = [
        np.asarray(leaf)
        for leaf in jax.tree.leaves(algorithm.broadcast(algorithm.init(params)))
    ]
    read = Plan(plan)
    columns, lines = [], [[] for _ in data["y"]]
    for one in read.rows:
        values = np.asarray(data[one.name]).reshape(len(lines), -1)
        rank = data[one.name].ndim - 1
        columns += (
            [one.name]
            if not rank
            else [f"{one.name}{i}" for i in range(values.shape[1])]
        )
        for line, row in zip(lines, values, strict=True):
            line += [repr(v) for v in row.tolist()]
    path = tmp_path / "data.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *lines])
    trained = _training.train(
        read, data, shared, read.start, key=KEY, order=7, client=2
    )
    group = _lattice.Group(tuple(range(len(read.update))), *GROUPS.values())
    encoded = _lattice.encode(trained.update, [group], KEY)
    code = """
from jaxfed.vault import _data, _lattice, _training
from jaxfed.vault._plan import Plan
plan = Plan(bytes.fromhex(given["plan"]))
examples = _data.reader(given["data"])(tuple(plan.rows))
key = np.array(given["key"], np.uint32)
shared = [array(*one) for one in given["shared"]]
trained = _training.train(
    plan, examples, shared, plan.start, key=key, order=7, client=2
)
group = _lattice.Group(tuple(range(len(plan.update))), *given["group"])
encoded = _lattice.encode(trained.update, [group], key)
assert encoded.is_finite
print(json.dumps([
    [hexed(one) for one in trained.update], [hexed(one) for one in encoded.update],
    trained.weight, encoded.fits,
]))
"""
    update, integers, weight, fits = bare(
        archive,
        code,
        {
            "plan": plan.hex(),
            "data": str(path),
            "key": KEY.tolist(),
            "shared": [hexed(leaf) for leaf in shared],
            "group": list(GROUPS.values()),
        },
    )
    assert (weight, fits) == (trained.weight, encoded.fits)
    for found, wanted in zip(update, trained.update, strict=True):
        np.testing.assert_allclose(array(*found), wanted, rtol=2e-5, atol=1e-7)
    total = moved = 0
    for found, wanted in zip(integers, encoded.update, strict=True):
        np.testing.assert_allclose(array(*found), wanted, atol=8)
        total += wanted.size
        moved += int((array(*found) != wanted).sum())
    assert moved <= 0.02 * total + 2  # where a sum's last bit is another one


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_noise_of_a_vault_has_the_same_bits(law, archive):
    group = _lattice.Group((0,), 1.0, 1 << 20, 1 << 20, False)
    rules = RULES | {
        **{"mechanism": f"local {law}", "groups": [group._asdict()]},
        **{"noise_multiplier": 2.0, "noise_scale": float(2 << 20), "shift": 8},
        **{"count_levels": 0, "clip_is_fixed": True},
    }
    rules["groups"][0]["indices"] = [0]
    update = np.linspace(-0.4, 0.5, 150, dtype=np.float32).reshape(10, 15)
    wanted = _noise.report([update], _rules.read(rules, 1), bytes(32))
    code = """
from jaxfed.vault import _noise, _rules
found = _noise.report([array(*given[0])], _rules.read(given[1], 1), bytes(32))
print(json.dumps([hexed(one) for one in found]))
"""
    found = bare(archive, code, [hexed(update), rules])
    np.testing.assert_array_equal(array(*found[0]), wanted[0])


FLOATS = [0.0, -0.0, 1.0, -1.0, 0.3, -2.5, 1e-30, 3e38, -3e38, 88.0, 1e-45, 0.5, 1.5]
FLOATS += [float("inf"), float("-inf"), float("nan")]
INTEGERS = [0, 1, -1, 7, -8, 2**31 - 1, -(2**31), 31, 33, 100]
PAIRS = {
    "float32": np.array([[a, b] for a in FLOATS for b in FLOATS], np.float32).T,
    "int32": np.array([[a, b] for a in INTEGERS for b in INTEGERS], np.int32).T,
    "bool": np.array([[0, 0, 1, 1], [0, 1, 0, 1]], bool),
}
PAIRS["uint32"] = PAIRS["int32"].view(np.uint32)
CUBE = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 11.5
STRUCTURAL = [
    (
        "broadcast_in_dim",
        {"shape": [2, 5, 3], "broadcast_dimensions": [0, 2]},
        [CUBE[:, :, 0]],
    ),
    ("reshape", {"shape": [4, 6], "dimensions": None}, [CUBE]),
    ("reshape", {"shape": [4, 6], "dimensions": [2, 0, 1]}, [CUBE]),
    ("transpose", {"permutation": [2, 0, 1]}, [CUBE]),
    ("rev", {"dimensions": [0, 2]}, [CUBE]),
    ("concatenate", {"dimension": 1}, [CUBE, CUBE[:, :1]]),
    ("pad", {"config": [[1, -1, 0], [0, 2, 1], [-1, 0, 2]]}, [CUBE, np.float32(7)]),
    ("slice", {"start": [0, 1, 0], "limit": [2, 3, 4], "strides": [1, 1, 2]}, [CUBE]),
    ("dynamic_slice", {"sizes": [1, 2, 4]}, [CUBE, *np.array([5, -1, 1], np.int32)]),
    ("dynamic_update_slice", {}, [CUBE, CUBE[:1, :2], *np.array([1, 9, 0], np.int32)]),
    ("iota", {"shape": [3, 4], "dtype": "int32", "dimension": 1}, []),
    ("select", {}, [CUBE > 0, CUBE, -CUBE]),
    ("convert_element_type", {"dtype": "int32"}, [np.array(FLOATS, np.float32)]),
    ("convert_element_type", {"dtype": "bool"}, [CUBE]),
    ("bitcast_convert_type", {"dtype": "uint32"}, [CUBE]),
    ("integer_pow", {"exponent": -3}, [CUBE]),
    ("cumsum", {"axis": 1, "reverse": True}, [CUBE]),
    ("cummax", {"axis": 2, "reverse": False}, [-CUBE]),
    *(
        (f"reduce_{one}", {"axes": [0, 2]}, [CUBE])
        for one in ("sum", "max", "min", "prod")
    ),
    *((f"reduce_{one}", {"axes": [1]}, [CUBE > 3]) for one in ("and", "or")),
    ("argmax", {"axes": [1], "dtype": "int32"}, [CUBE]),
    ("argmin", {"axes": [2], "dtype": "uint32"}, [CUBE]),
    (
        "dot_general",
        {"contracting": [[1], [0]], "batch": [[], []]},
        [CUBE[0], CUBE[1].T],
    ),
    (
        "dot_general",
        {"contracting": [[2], [1]], "batch": [[0], [0]]},
        [CUBE, CUBE.transpose(0, 2, 1)],
    ),
    ("random_bits", {"shape": [5]}, [KEY]),
    ("random_split", {"shape": [3]}, [KEY]),
    ("random_fold_in", {}, [KEY, np.uint32(9)]),
]
UNARY = [
    name
    for name, one in _operations.TABLE.items()
    if one.operands == 1 and not one.attributes
]
BINARY = [
    name
    for name, one in _operations.TABLE.items()
    if one.operands == 2 and not one.attributes
]


def cases():
    """Yields an operation, its attributes and its operands."""
    for name in UNARY + BINARY:
        for pair in PAIRS.values():
            operands = pair[:1] if name in UNARY else pair
            operands = [np.ascontiguousarray(one) for one in operands]
            try:
                program(name, {}, operands)
            except ValueError:
                continue  # has no such operands
            yield name, {}, operands
    yield from STRUCTURAL


def program(name, attributes, operands):
    count = len(operands)
    given = {
        "inputs": list(range(count)),
        "outputs": [count],
        "equations": [[name, list(range(count)), [count], attributes]],
    }
    types = [Type(np.asarray(x).dtype.name, np.shape(x)) for x in operands]
    return given, types, Program(given, types, [])


def test_every_operation_is_numpys(archive):
    given, wanted = [], []
    for name, attributes, operands in cases():
        text, types, made = program(name, attributes, operands)
        given.append([text, types, [hexed(x) for x in operands]])
        wanted.append((name, types, np.asarray(made(*map(np.asarray, operands))[0])))
    code = """
from jaxfed.vault._program import Program
from jaxfed.vault._types import Type
found = []
for text, types, operands in given:
    types = [Type(kind, tuple(shape)) for kind, shape in types]
    found.append(hexed(Program(text, types, [])(*[array(*x) for x in operands])[0]))
print(json.dumps(found))
"""
    found = [array(*one) for one in bare(archive, code, given)]
    covered = set()
    for got, (name, types, want) in zip(found, wanted, strict=True):
        assert got.dtype == want.dtype, (name, types)
        assert got.shape == want.shape, (name, types)
        if want.dtype.kind == "f":
            # one ulp, but for functions of huge angles and for denormal numbers
            np.testing.assert_allclose(got, want, rtol=3e-6, atol=2e-38, err_msg=name)
        else:
            np.testing.assert_array_equal(got, want, err_msg=f"{name} {types}")
        covered.add(name)
    rest = set(_operations.TABLE) - covered - _operations._NUMPY_ALONE
    assert rest == {"gather", "scatter", "scatter_add"}  # of plans with labels


def test_what_needs_numpy_says_so(archive, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros(3))
    code = """
from jaxfed.vault import _data, _operations
said = []
for call in (
    lambda: _operations.read("sort", {"dimension": 0, "num_keys": 1}),
    lambda: _data.reader(given)(()),
):
    try:
        call()
    except ValueError as error:
        said.append(str(error))
print(json.dumps(said))
"""
    first, second = bare(archive, code, str(tmp_path / "data.npz"))
    assert "sort needs NumPy" in first
    assert "this machine has no NumPy" in second


@pytest.mark.usefixtures("free_promotion")
def test_the_one_file_audits_a_plan_without_numpy(archive, tmp_path):
    plan = tmp_path / "plan"
    plan.write_bytes(plan_of("adam")[0])
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(archive), "audit", str(plan)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 77
    assert "it promises nothing about privacy" in done.stdout


def test_long_loops_products_and_empty_sums_stay_cheap(archive):
    """What grew with the square of a loop's turns, or without end, or raised."""
    body = {"inputs": [0, 1], "outputs": [0, 1], "equations": []}
    loop = {"length": 20_000, "reverse": True, "num_constants": 0, "num_carried": 1}
    scan = ["scan", [0, 1], [2, 3], {**loop, "body": body}]
    code = """
import time
from jaxfed.vault._program import Program
from jaxfed.vault._types import Type
start = time.perf_counter()
looped = Program(
    {"inputs": [0, 1], "outputs": [2, 3], "equations": [given[0]]},
    [Type("float32", ()), Type("float32", (20000,))], [],
)
x = np.arange(20000).astype(np.float32)
carry, out = looped(np.float32(1), x)
same = bool((out == x).all())
product = Program(
    {"inputs": [0], "outputs": [1],
     "equations": [["reduce_prod", [0], [1], {"axes": [0]}]]},
    [Type("int32", (20000,))], [],
)
(wrapped,) = product(np.full(20000, 3, np.int32))
empty = Program(
    {"inputs": [0], "outputs": [1],
     "equations": [["cumsum", [0], [1], {"axis": 0, "reverse": False}]]},
    [Type("float32", (0, 3))], [],
)
(nothing,) = empty(np.zeros((0, 3), np.float32))
try:
    np.asarray([2**64 + 1])
    refused = False
except ValueError:
    refused = True
print(json.dumps([same, int(wrapped), list(nothing.shape), refused]))
"""
    with np.errstate(over="ignore"):
        wanted = int(np.full(20_000, 3, np.int32).prod(dtype=np.int32))
    assert bare(archive, code, [scan]) == [True, wanted, [0, 3], True]
