"""64-bit integers of two words are Python's integers."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfed.noise import _int64
from jaxfed.noise._int64 import Int64

EDGES = [0, 1, -1, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**61, -(2**62)]
VALUES = st.one_of(st.sampled_from(EDGES), st.integers(-(2**62), 2**62))


def packed(values):
    array = np.array(values, np.int64)
    low = (array & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    return Int64(jax.numpy.asarray((array >> 32).astype(np.int32)), low)


def unpacked(value):
    low = np.asarray(value.low).view(np.uint32).astype(np.int64)
    return [int(v) for v in (np.asarray(value.high).astype(np.int64) << 32) + low]


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(0, 2**16))
def test_products_sums_and_differences(values, factor):
    small = [v >> 17 for v in values]
    assert unpacked(_int64.times(packed(small), factor)) == [v * factor for v in small]
    other = values[::-1]
    for ours, exact in ((_int64.add, int.__add__), (_int64.subtract, int.__sub__)):
        found = unpacked(ours(packed(values), packed(other)))
        wanted = [exact(a, b) for a, b in zip(values, other, strict=True)]
        assert found == [(w + 2**63) % 2**64 - 2**63 for w in wanted]


@pytest.mark.parametrize("bits", [0, 1, 7, 15, 16, 31, 32, 33, 44, 62])
@given(values=st.lists(VALUES, min_size=1, max_size=4))
def test_shifts(values, bits):
    rounded = [v if not bits else (v + (1 << (bits - 1))) >> bits for v in values]
    assert unpacked(_int64.shifted_down(packed(values), bits)) == rounded
    small = [v >> bits for v in values]
    up = unpacked(_int64.shifted_up(packed(small), bits))
    assert up == [v << bits for v in small]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4))
def test_widening(values):
    wide = _int64.widened(np.array(values, np.int32))
    assert unpacked(wide) == values
    assert [int(v) for v in _int64.narrowed(wide)] == values


def test_compiled_is_the_same():
    values, factor = packed(EDGES[:8]), 51_234
    run = lambda v: _int64.shifted_down(_int64.times(v, factor), 9)  # noqa: E731
    assert unpacked(jax.jit(run)(values)) == unpacked(run(values))


@pytest.mark.parametrize("kind", ["simulated", "secure"])
def test_noise_is_the_same_with_and_without_64_bit_jax(kind):
    """Words of another width would be cut wrongly: most values would be lost."""
    script = (
        "import hashlib, jax, numpy as np\n"
        "from jaxfed import keys\n"
        "from jaxfed.noise import _discrete\n"
        f"kind = {kind!r}\n"
        "key = keys.simulated(3)\n"
        "if kind == 'secure':\n"
        "    key = keys.secure(bytes(range(32)), context=b'test')\n"
        "found = hashlib.sha256()\n"
        "for index, scale in enumerate((5.0, 3e5)):\n"
        "    sampler = _discrete.gaussian(scale)\n"
        "    drawn = sampler.draw((5000,), key=keys.for_leaf(key, index))\n"
        "    drawn = np.asarray(drawn)\n"
        "    assert drawn.dtype == np.int32\n"
        "    assert len(np.unique(drawn)) > 25\n"
        "    assert abs(drawn.std() / scale - 1) < 0.06\n"
        "    found.update(drawn.tobytes())\n"
        "print(found.hexdigest())\n"
    )
    digests = set()
    for enabled in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "JAX_ENABLE_X64": enabled},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        digests.add(done.stdout)
    assert len(digests) == 1
