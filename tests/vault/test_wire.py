"""What comes over the wire is what was asked for, or one kind of error."""

import json
import random
import tracemalloc

import numpy as np
import pytest

from jaxfed.vault import _wire
from jaxfed.vault._errors import WireError
from jaxfed.vault._types import Type

ARRAYS = {
    "update/w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "count": np.array(-1, np.int32),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 4), np.uint32),
}
EXPECTED = {name: Type(a.dtype.name, a.shape) for name, a in ARRAYS.items()}
SENT = _wire.encode(ARRAYS, {"round": "3"})


def test_arrays_come_as_they_were():
    found, words = _wire.decode(SENT, EXPECTED)
    assert words == {"round": "3"}
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert _wire.encode(found, words) == SENT
    assert len(SENT) <= _wire.size_of(EXPECTED)


def test_the_format_is_that_of_safetensors():
    numpy = pytest.importorskip("safetensors.numpy")
    found = numpy.load(SENT)
    assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())


def header(**changes):
    length = int.from_bytes(SENT[:8], "little")
    given = json.loads(SENT[8 : 8 + length]) | changes
    text = json.dumps({k: v for k, v in given.items() if v is not None}).encode()
    return len(text).to_bytes(8, "little") + text + SENT[8 + length :]


COUNT = {"dtype": "I32", "shape": [], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SENT[:7],
        SENT[:-1],
        SENT + b"\0",
        (1 << 60).to_bytes(8, "little") + SENT[8:],
        (1 << 16).to_bytes(8, "little") + b"[" * (1 << 16),
        header(count=None),
        header(more=COUNT),
        header(count={**COUNT, "dtype": "F32"}),
        header(count={**COUNT, "shape": [1]}),
        header(count={**COUNT, "shape": [1 << 40]}),
        header(count={**COUNT, "data_offsets": [4, 8]}),
        header(count={**COUNT, "data_offsets": [0, 1 << 50]}),
        header(count={**COUNT, "extra": 1}),
        header(count=[1]),
        header(__metadata__={"round": 3}),
        header(__metadata__=[]),
        _wire.encode({**ARRAYS, "update/w": np.full((2, 3), np.nan, np.float32)}, {}),
        _wire.encode({**ARRAYS, "update/w": np.full((2, 3), np.inf, np.float32)}, {}),
        _wire.encode({**ARRAYS, "update/w": np.zeros((3, 2), np.float32)}, {}),
        SENT[:-1] + b"\2",
    ],
)
def test_anything_else_is_refused(data):
    if data == SENT[:-1] + b"\2":  # the last array is of numbers: find the truth values
        place = SENT.index(b"\1\0", 8 + int.from_bytes(SENT[:8], "little") + 4)
        data = SENT[:place] + b"\2" + SENT[place + 1 :]
    with pytest.raises(WireError):
        _wire.decode(data, EXPECTED)


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(1_000_000, marks=pytest.mark.nightly)]
)
def test_changed_bytes_raise_nothing_else_and_take_no_memory(count):
    draw, accepted = random.Random(0), 0
    tracemalloc.start()
    for _ in range(count):
        data = bytearray(SENT)
        for _ in range(draw.choice([1, 1, 2, 8])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        if draw.random() < 0.2:
            del data[draw.randrange(len(data)) :]
        try:
            _wire.decode(bytes(data), EXPECTED)
            accepted += 1
        except WireError:
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert accepted > 0  # other values of the arrays are fine
    assert peak < 1 << 20
