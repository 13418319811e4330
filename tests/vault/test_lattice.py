"""A vault's integers are those of JAX, bit by bit, and never beyond their bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed import keys
from jaxfed.privacy import _joint
from jaxfed.typing import ClientResult
from jaxfed.vault import _lattice

SHAPES = {"a": (3, 5), "b": (), "c": (4097,), "d": (2, 64)}
CLIPPINGS = {
    "fixed": jf.clipping.Fixed(norm=0.3),
    "per layer": jf.clipping.PerLayer(norms={"a": 0.3, "": 0.7}),
    "adaptive": jf.clipping.Adaptive(quantile=0.5, initial=0.2),
}


def updates():
    draw = np.random.default_rng(0)
    ones = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    scaled = [
        {n: (s * draw.normal(size=a.shape)).astype(np.float32) for n, a in ones.items()}
        for s in (1e-30, 1e-5, 1e-3, 0.1, 3.0, 1e10, 1e18)
    ]
    bad = [
        {**ones, "b": np.array(value, np.float32)}
        for value in (np.nan, np.inf, -np.inf, 3e38)
    ]
    zero = {n: np.zeros_like(a) for n, a in ones.items()}
    return [ones, zero, *scaled, *bad]


def groups_of(privacy, state, like):
    layout = privacy._joint(like)
    norms = layout.clipping.norms_of(state)
    return layout, [
        _lattice.Group(
            indices=tuple(group.indices),
            norm=float(norm),
            levels=part.lattice.levels,
            target=part.lattice.target,
            is_random=part.lattice.is_random,
        )
        for group, part, norm in zip(layout.groups, layout.parts, norms, strict=True)
    ]


@pytest.mark.parametrize("multiplier", [1.0, 1e-5])
@pytest.mark.parametrize("kind", CLIPPINGS)
def test_the_integers_are_those_of_jax(kind, multiplier):
    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=20),
        clipping=CLIPPINGS[kind],
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )
    like = updates()[0]
    state = privacy.init(jax.tree.map(jnp.asarray, like))
    layout, groups = groups_of(privacy, state, like)
    assert groups[0].is_random == (multiplier < 1)
    encode = jax.jit(
        lambda update, key: privacy.encode(
            state, ClientResult(update, jnp.float32(1), ()), key=key
        )
    )
    for number, update in enumerate(updates()):
        key = keys.for_client(keys.simulated(1), number)
        wanted = encode(jax.tree.map(jnp.asarray, update), key)
        leaves = jax.tree.leaves(update)
        found = _lattice.encode(leaves, groups, np.asarray(jax.random.key_data(key)))
        for one, other in zip(
            found.update, jax.tree.leaves(wanted.update), strict=True
        ):
            assert np.array_equal(one, other)
        if layout.count is not None:
            half = layout.count.lattice.levels * (1 if found.fits else -1)
            assert int(wanted.count) == (half if found.is_finite else 0)
    assert isinstance(layout, _joint.Joint)


def test_the_bound_is_checked_in_integers():
    exact = [np.array([3, 4], np.int32)]
    _lattice.check(exact, 5)
    for bad in ([np.array([3, 5], np.int32)], [*exact, np.array([1], np.int32)]):
        with pytest.raises(ArithmeticError, match="at most 5 grid units"):
            _lattice.check(bad, 5)
    huge = [np.full(4, -(2**31), np.int32)]
    with pytest.raises(ArithmeticError, match="nothing was sent"):
        _lattice.check(huge, 2**20)
    group = _lattice.Group((0,), norm=1.0, levels=10, target=1000, is_random=False)
    with pytest.raises(ArithmeticError):  # a target that promises more than its bound
        _lattice.encode([np.ones(2, np.float32)], [group], np.zeros(2, np.uint32))
