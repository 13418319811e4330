"""The laws that every privacy object obeys."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed.typing import ClientResult, Released
from tests.conformance.cases import PARAMS, PRIVACY, assert_trees_equal

KEY = jf.keys.simulated(3)

pytestmark = pytest.mark.parametrize("case", PRIVACY, ids=lambda c: c.name)


def result(scale=1.0, weight=3.0):
    update = jax.tree.map(lambda a: a * scale, PARAMS)
    return ClientResult(update, jnp.float32(weight), ())


def test_protocol(case):
    privacy = case.build()
    state = privacy.init(PARAMS)
    total = privacy.encode(state, result(), key=KEY)
    new_state, released = privacy.release(state, total, key=KEY)
    assert isinstance(released, Released)
    assert jax.tree.structure(released.value) == jax.tree.structure(PARAMS)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


def test_jit_changes_nothing(case):
    privacy = case.build()
    state = privacy.init(PARAMS)
    plain = privacy.encode(state, result(), key=KEY)
    jitted = jax.jit(privacy.encode)(state, result(), key=KEY)
    # on a grid, a last bit of a float may be one unit of an integer
    unit = 1 if jax.tree.leaves(plain)[0].dtype == jnp.int32 else 0
    assert_trees_equal(jitted, plain, rtol=1e-6, atol=unit)
    plain = privacy.release(state, plain, key=KEY)
    jitted = jax.jit(privacy.release)(state, jitted, key=KEY)
    assert_trees_equal(jitted, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_client_that_is_not_finite_adds_nothing(case, bad):
    privacy = case.build()
    broken = ClientResult({"w": PARAMS["w"], "b": jnp.float32(bad)}, jnp.float32(2), ())
    encoded = privacy.encode(privacy.init(PARAMS), broken, key=KEY)
    nothing = jax.tree.map(jnp.zeros_like, encoded)
    if case.has_local_noise:  # its report is that of a client with a zero update
        nothing = privacy.encode(privacy.init(PARAMS), result(0.0), key=KEY)
    assert_trees_equal(encoded, nothing)


def test_a_zero_update_is_fine(case):
    privacy = case.build()
    encoded = privacy.encode(privacy.init(PARAMS), result(0.0), key=KEY)
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(encoded))


def test_an_empty_cohort_is_released_finite(case):
    privacy = case.build()
    state = privacy.init(PARAMS)
    zero = jax.tree.map(jnp.zeros_like, privacy.encode(state, result(), key=KEY))
    released = privacy.release(state, zero, key=KEY)[1].value
    values = np.concatenate([np.ravel(a) for a in jax.tree.leaves(released)])
    assert np.isfinite(values).all()
    assert (values != 0).all() == case.has_noise


def test_release_takes_a_typed_key_only(case):
    if not (case.has_noise or case.has_local_noise):
        pytest.skip("draws nothing, and so ignores the key")
    privacy = case.build()
    state = privacy.init(PARAMS)
    total = privacy.encode(state, result(), key=KEY)
    if case.has_local_noise:
        with pytest.raises(TypeError, match="typed PRNG key"):
            privacy.encode(state, result(), key=0)
    with pytest.raises(TypeError, match="typed PRNG key"):
        privacy.release(state, total, key=0)


def test_configuration_prints_hashes_compares_and_serialises(case):
    privacy, again = case.build(), case.build()
    assert privacy == again
    assert hash(privacy) == hash(again)
    assert repr(privacy) == repr(again)
    assert repr(privacy.sampling) in repr(privacy)
    text = privacy.to_json()
    json.loads(text)
    assert jf.privacy.from_json(text) == privacy


def test_epsilon_grows_with_rounds_and_says_infinity_without_noise(case):
    privacy = case.build()
    one, ten = (privacy.epsilon(rounds=t, delta=1e-4) for t in (1, 10))
    if isinstance(privacy, jf.privacy.CentralCorrelated):
        assert 0 < one == ten < np.inf  # charged whole, before the first round
    elif case.has_noise or case.has_local_noise:
        assert 0 < one < ten < np.inf
    else:
        assert one == ten == np.inf


def test_statement_says_the_same_in_words_and_in_json(case):
    privacy = case.build()
    statement = privacy.statement(rounds=3)
    words, fields = str(statement), json.loads(statement.to_json())
    assert privacy.sampling.describe() in fields["sampling"] in words
    for name in ("claim", "protects", "neighbours", "trust", "mechanism", "precision"):
        assert fields[name] in words
    for limit in fields["not_covered"]:
        assert limit in words
    if case.has_noise or case.has_local_noise:
        assert fields["unit"] in ("client", "example")
        assert fields["not_covered"]
        assert fields["trust"]
        name = "hypothetical_epsilon" if privacy.is_hypothetical else "epsilon"
        assert statement.epsilon == privacy.epsilon(rounds=3) == fields[name]
        assert statement.epsilons == tuple(fields[f"{name}s"])
    else:
        assert fields["epsilon"] == "infinity"
        assert statement.epsilon == np.inf
        assert "No privacy guarantee" in fields["claim"]
