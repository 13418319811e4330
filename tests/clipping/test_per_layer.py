"""Per-layer clipping bounds every part, and splits the noise optimally."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed.typing import ClientResult

PARAMS = {
    "encoder": {"kernel": jnp.zeros((4, 5)), "bias": jnp.zeros(5)},
    "encoder2": {"kernel": jnp.zeros(3)},
    "head": jnp.zeros(2),
}
NORMS = {"encoder": 0.5, "encoder/bias": 0.1, "": 2.0}


def central(norms=NORMS, multiplier=1.0):
    return jf.privacy.central(
        sampling=jf.sampling.Full(population=10),
        clipping=jf.clipping.PerLayer(norms=norms),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )


def random_update(scale):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda a: jnp.asarray(scale * rng.normal(size=a.shape), jnp.float32), PARAMS
    )


def test_leaves_belong_to_the_longest_name():
    groups = jf.clipping.PerLayer(norms=NORMS).groups(PARAMS)
    names = []
    jf.tree.map_with_names(lambda name, leaf: names.append(name), PARAMS)
    found = [{names[i] for i in group.indices} for group in groups]
    assert found == [
        {"encoder2/kernel", "head"},
        {"encoder/kernel"},
        {"encoder/bias"},
    ]
    assert [group.dimension for group in groups] == [5, 20, 5]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_every_part_keeps_its_own_bound(scale):
    privacy = central()
    result = ClientResult(random_update(scale), jnp.float32(1), ())
    encoded = privacy.encode(privacy.init(PARAMS), result, key=jf.keys.simulated(0))
    layout = privacy._joint(PARAMS)
    leaves = jax.tree.leaves(encoded.update)
    for group, part in zip(layout.groups, layout.parts, strict=True):
        square = sum(
            int(x) ** 2 for i in group.indices for x in np.asarray(leaves[i]).ravel()
        )
        assert square <= part.lattice.levels**2
        if scale == 1e3:
            assert square > (0.998 * part.lattice.levels) ** 2
    assert privacy.sensitivity() == pytest.approx(math.sqrt(0.25 + 0.01 + 4.0))


def test_one_bad_part_zeroes_the_whole_client():
    update = random_update(1.0)
    update["head"] = jnp.array([jnp.nan, 0.0])
    privacy = central()
    encoded = privacy.encode(
        (), ClientResult(update, jnp.float32(1), ()), key=jf.keys.simulated(0)
    )
    assert not any(np.asarray(a).any() for a in jax.tree.leaves(encoded))


def test_released_values_are_in_the_parameters_units():
    privacy = central(multiplier=0.0)
    update = random_update(0.01)
    encoded = privacy.encode(
        (), ClientResult(update, jnp.float32(1), ()), key=jf.keys.simulated(0)
    )
    _, released = privacy.release((), encoded, key=jf.keys.simulated(0))
    jax.tree.map(
        lambda got, sent: np.testing.assert_allclose(got * 10, sent, atol=1e-5),
        released.value,
        update,
    )


def test_split_of_the_noise_is_the_best_one():
    """Expected squared error against every split on a grid of shares."""
    clipping = jf.clipping.PerLayer(norms=NORMS)
    groups = clipping.groups(PARAMS)
    squares = [norm**2 for _, norm in clipping.norms]

    def error(shares):
        return sum(
            g.dimension * c / s for g, c, s in zip(groups, squares, shares, strict=True)
        )

    best = error([group.share for group in groups])
    steps = np.linspace(0.02, 0.96, 48)
    for first, second in itertools.product(steps, steps):
        if first + second < 0.99:
            assert best <= error([first, second, 1 - first - second]) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("norms", "message"),
    [
        ({}, "norms must name each group once"),
        (3.0, "norms must name each group once"),
        ({"": 0.0}, "norm must be > 0"),
        ([("a", 1.0), ("a", 2.0)], "norms must name each group once"),
    ],
)
def test_wrong_norms_are_refused(norms, message):
    with pytest.raises(ValueError, match=message):
        jf.clipping.PerLayer(norms=norms)


def test_norms_that_do_not_fit_the_model_are_refused():
    with pytest.raises(ValueError, match="got none for 'encoder2/kernel'"):
        central({"encoder": 1.0, "head": 1.0}).init(PARAMS)
    with pytest.raises(ValueError, match="got 'decoder', which holds no parameter"):
        central({"decoder": 1.0, "": 1.0}).init(PARAMS)
