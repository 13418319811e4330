"""A tree in two, and together again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict
from hypothesis import assume, given
from hypothesis import strategies as st

import jaxfed as jf
from jaxfed import tree
from tests.models import problems

split, merge = jf.parts.split, jf.parts.merge
PARAMS = {
    "encoder": {"layer": [jnp.ones((2, 3)), jnp.zeros(3)], "scale": jnp.ones(2)},
    "encoder_two": jnp.zeros(4),
    "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)},
}


class Pair(NamedTuple):
    left: object
    right: object


LEAVES = st.integers(0, 5).map(lambda size: np.arange(size, dtype=np.float32))
NAMES = st.text("ab/", min_size=1, max_size=3)
TREES = st.recursive(
    LEAVES | st.none(),
    lambda inner: (
        st.dictionaries(NAMES, inner, max_size=3)
        | st.dictionaries(NAMES, inner, max_size=3).map(FrozenDict)
        | st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=12,
)


def names_of(values):
    names = []
    tree.map_with_names(lambda name, leaf: names.append(name), values)
    return names


@given(TREES, st.data())
def test_merge_is_the_inverse_of_split(params, data):
    names = names_of(params)
    assume(len(set(names)) > 1)
    several = st.sets(st.sampled_from(names), min_size=1, max_size=len(set(names)) - 1)
    chosen = data.draw(several)
    trained, frozen = split(params, lambda name: name in chosen)
    assert names_of(trained) == [name for name in names if name in chosen]
    assert names_of(frozen) == [name for name in names if name not in chosen]
    for whole in (merge(trained, frozen), merge(frozen, trained)):
        assert jax.tree.structure(whole) == jax.tree.structure(params)
        pairs = zip(jax.tree.leaves(whole), jax.tree.leaves(params), strict=True)
        assert all(a is b for a, b in pairs)


@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        (["head"], {"head/kernel", "head/bias"}),
        (["encoder"], {"encoder/layer/0", "encoder/layer/1", "encoder/scale"}),
        (["encoder/layer/0", "encoder_two"], {"encoder/layer/0", "encoder_two"}),
        ([lambda name: name.endswith("bias")], {"head/bias"}),
        (["encoder_two", lambda n: "scale" in n], {"encoder_two", "encoder/scale"}),
    ],
)
def test_names_beginnings_and_rules(which, wanted):
    assert set(names_of(split(PARAMS, *which)[0])) == wanted


def test_trees_of_nnx():
    class Small(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(4, 8, rngs=rngs)
            self.out = nnx.Linear(8, 3, rngs=rngs)

    model = Small(nnx.Rngs(0))
    for params in (nnx.state(model, nnx.Param), jf.clients.nnx_params(model)):
        trained, frozen = split(params, "out")
        assert all(name.startswith("out/") for name in names_of(trained))
        whole = merge(trained, frozen)
        assert jax.tree.structure(whole) == jax.tree.structure(params)
        problems.assert_close(whole, params, 0.0)


@pytest.mark.parametrize(
    ("which", "words"),
    [
        (["heads"], "got 'heads'; did you mean 'head'"),
        (["q"], "got 'q'; known are 'encoder/layer/0', "),
        (["enc"], "got 'enc'"),
        ([], "got nothing of 'encoder/layer/0'.*name what is trained"),
        ([lambda name: False], "must hold something"),
        ([lambda name: True], "the whole model; train the model itself"),
        (["encoder", "encoder_two", "head"], "something must stay frozen"),
    ],
)
def test_what_is_no_part_is_refused(which, words):
    with pytest.raises(ValueError, match=words):
        split(PARAMS, *which)


def test_what_names_nothing_is_refused():
    with pytest.raises(TypeError, match="name must be a str, got int"):
        split(PARAMS, 3)
    with pytest.raises(TypeError, match="must be a function"):
        jf.parts.hold(3, PARAMS)


def test_leaves_of_one_name_are_refused():
    twice = {"a/b": jnp.ones(3), "a": {"b": jnp.zeros(())}}
    with pytest.raises(ValueError, match="names of their own, got 'a/b' twice"):
        split(twice, "a/b")


def test_what_does_not_fit_together_is_refused():
    trained, frozen = split(PARAMS, "head")
    with pytest.raises(ValueError, match="one structure"):
        merge({"head": trained["head"]}, frozen)
    with pytest.raises(ValueError, match="share no leaf, got 'head/bias', 'head/ker"):
        merge(trained, PARAMS)


def test_the_gradient_of_a_part_is_that_of_the_whole():
    module = jf.models.CharacterTransformer(
        vocabulary=7, length=5, features=8, heads=2, layers=1
    )
    x = jnp.asarray([[1, 2, 3, 4, 5], [0, 6, 1, 1, 2]])
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    loss = problems.scalar(lambda p, x: module.apply({"params": p}, x))
    trained, frozen = split(params, "Dense_2", "LayerNorm_0/scale", "positions")
    own = jax.jit(jax.grad(jf.parts.hold(loss, frozen)))(trained, x)
    whole = jax.jit(jax.grad(loss))(params, x)
    assert names_of(own) == names_of(trained)
    problems.assert_close(merge(own, split(whole, *names_of(trained))[1]), whole)


def test_what_is_held_cannot_change():
    frozen = {"w": None, "b": np.ones(2, np.float32)}
    held = jf.parts.hold(lambda params, x: params["w"] * params["b"] * x, frozen)
    frozen["b"][:] = 5.0
    found = held({"w": jnp.ones(2), "b": None}, jnp.float32(3))
    np.testing.assert_array_equal(found, [3.0, 3.0])


def test_predictions_are_held_alike():
    _, frozen = split({"w": jnp.ones(2), "b": jnp.ones(2)}, "w")
    held = jf.parts.hold(lambda p, x, *, scale: scale * (p["w"] * x + p["b"]), frozen)
    found = held({"w": jnp.full(2, 2.0), "b": None}, jnp.ones(2), scale=2.0)
    np.testing.assert_array_equal(found, [6.0, 6.0])
