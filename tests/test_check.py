"""Argument checks accept what they should, convert it, and refuse the rest."""

import fractions
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfed import _check as check

NOT_NUMBERS = [
    None,
    "1",
    True,
    np.bool_(True),
    1j,
    np.complex64(1),
    [1.0],
    np.ones(1),
    math.nan,
    math.inf,
    -math.inf,
    np.float32("nan"),
    np.float16("inf"),
    10**400,
]
CHECKS = [
    check.real,
    check.positive,
    check.non_negative,
    check.probability,
    check.open_probability,
]


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda v: repr(v)[:20])
@pytest.mark.parametrize("checked", CHECKS, ids=lambda c: c.__name__)
def test_what_is_no_finite_number_is_refused(checked, value):
    with pytest.raises(
        ValueError, match=r"norm must be a finite number, got .*; try 1"
    ):
        checked("try 1", norm=value)


@pytest.mark.parametrize(
    "value",
    [0.5, np.float32(0.5), np.float16(0.5), fractions.Fraction(1, 2)],
    ids=lambda v: type(v).__name__,
)
@pytest.mark.parametrize("checked", CHECKS, ids=lambda c: c.__name__)
def test_numbers_come_back_as_python_floats(checked, value):
    found = checked(norm=value)
    assert found == 0.5
    assert type(found) is float


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_ranges_are_those_of_the_names(value):
    rules = {
        check.real: True,
        check.positive: value > 0,
        check.non_negative: value >= 0,
        check.probability: 0 < value <= 1,
        check.open_probability: 0 < value < 1,
    }
    for checked, is_allowed in rules.items():
        if is_allowed:
            assert checked(x=value) == value
        else:
            with pytest.raises(ValueError, match=r"x must be .*, got "):
                checked(x=value)


@pytest.mark.parametrize(
    ("checked", "inside", "outside"),
    [
        (check.positive, sys.float_info.min, 0.0),
        (check.non_negative, 0.0, -sys.float_info.min),
        (check.probability, 1.0, math.nextafter(1.0, 2.0)),
        (check.open_probability, math.nextafter(1.0, 0.0), 1.0),
        (check.open_probability, math.nextafter(0.0, 1.0), 0.0),
    ],
)
def test_ranges_at_their_very_ends(checked, inside, outside):
    assert checked(x=inside) == inside
    with pytest.raises(ValueError, match="x must be"):
        checked(x=outside)


@pytest.mark.parametrize("value", [1, np.int8(1), np.uint64(1)])
def test_integers_come_back_as_python_integers(value):
    assert type(check.positive_integer(n=value)) is int
    assert type(check.seed(seed=value)) is int


@pytest.mark.parametrize("value", [0, -1, 1.0, np.float32(1), True, "1", None])
def test_what_is_no_positive_integer_is_refused(value):
    with pytest.raises(ValueError, match=r"n must be an integer >= 1, got .*; pass 5"):
        check.positive_integer("pass 5", n=value)


@pytest.mark.parametrize("value", [0, 2**64 - 1, np.uint64(2**64 - 1)])
def test_all_64_bits_are_a_seed(value):
    assert check.seed(seed=value) == int(value)


@pytest.mark.parametrize("value", [-1, 2**64, 1.0, True, None])
def test_what_is_no_seed_is_refused(value):
    with pytest.raises(ValueError, match=r"< 2\*\*64, got .*pass for example seed=0"):
        check.seed(seed=value)


def test_one_typed_key_of_any_kind_is_a_key():
    for implementation in ("threefry2x32", "rbg"):
        key = jax.random.key(0, impl=implementation)
        assert check.key(key=key) is key
    inside = jax.jit(lambda k: jax.random.key_data(check.key(key=k)))
    np.testing.assert_array_equal(
        inside(jax.random.key(3)), jax.random.key_data(jax.random.key(3))
    )


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0, "got 0"),
        (None, "got None"),
        (np.zeros(2, np.uint32), "got an array of uint32"),
        (jnp.zeros(2, jnp.uint32), "got an array of uint32"),
    ],
)
def test_what_is_no_key_is_refused(value, found):
    with pytest.raises(TypeError, match=f"noise_key must be one typed.*{found}"):
        check.key(noise_key=value)


def test_several_keys_are_counted():
    with pytest.raises(TypeError, match="got 3 keys"):
        check.key(key=jax.random.split(jax.random.key(0), 3))


def test_a_word_is_one_of_a_few():
    assert check.one_of(("loop", "stepped"), strategy="loop") == "loop"
    with pytest.raises(ValueError, match=r"got 'step'; did you mean 'stepped'\?$"):
        check.one_of(("loop", "stepped"), strategy="step")
    with pytest.raises(ValueError, match=r"'loop', 'stepped', got 3; pass one of"):
        check.one_of(("loop", "stepped"), strategy=3)


def test_types_are_named():
    assert check.instance(int, "count them", n=3) == 3
    with pytest.raises(TypeError, match=r"n must be a int or str, got float; count"):
        check.instance((int, str), "count them", n=3.0)
    with pytest.raises(TypeError, match=r"f must be a function, got int; write one\."):
        check.function("write one", f=3)
    assert check.function("write one", f=len) is len


def test_a_missing_extra_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxfed\[maps\]'"):
        check.optional_module("not_there.at_all", extra="maps", purpose="map()")
    assert check.optional_module("math", extra="maps", purpose="map()") is math
