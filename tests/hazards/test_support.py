"""What a single output proves: the support attack, on float noise and on what runs.

Mironov 2012, doi:10.1145/2382196.2382264. The attacker knows one released number, two
inputs that it may come from and everything but the key, and asks whether each input
could have given it at all. A yes and a no prove the input.
"""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import stats

import jaxfed as jf
from jaxfed.noise import _discrete
from jaxfed.privacy._joint import Encoded
from jaxfed.vault import _laws

SAMPLES = 1_000_000


def float_normals():
    """Every value of a float32 normal made from 23 random bits, as JAX makes one."""
    bits = np.arange(2**23, dtype=np.uint32) | np.uint32(0x3F800000)
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    uniform = (bits.view(np.float32) - np.float32(1)) * np.float32(2) + lowest
    uniform = np.maximum(uniform, lowest)
    return np.asarray(jnp.float32(math.sqrt(2)) * lax.erf_inv(uniform))  # rising


def test_float_noise_betrays_its_input():
    """The power of the attack: 88 % of single outputs prove that x is not 0.

    And the cut tail: at multiplier 1, one output in 80,000 is beyond the support of
    the neighbour, where a Gaussian has none.
    """
    normals = float_normals()
    assert 2**23 - 10 < len(np.unique(normals)) <= 2**23
    rng = np.random.default_rng(0)
    for x in (1.0, 0.1, 0.001):
        released = np.float32(x) + normals[rng.integers(0, 2**23, 200_000)]
        place = np.minimum(np.searchsorted(normals, released), 2**23 - 1)
        proved = np.mean(normals[place] != released)
        assert 0.86 < proved < 0.91
    beyond = stats.norm.sf(float(normals[-1]) - 1)
    assert beyond > 1e-5
    assert -normals[0] < 5.5


def released(privacy, integers, secret):
    key = jf.keys.secure(secret, context=b"support")
    total = Encoded(integers, ())
    mean = jax.jit(privacy.release)((), total, key=key)[1].value
    return np.asarray(mean)


@pytest.mark.parametrize(
    "multiplier",
    [1.0, *(pytest.param(m, marks=pytest.mark.nightly) for m in (0.5, 8.0))],
)
def test_no_output_excludes_either_input(multiplier):
    """1,000,000 outputs of each of two neighbours, the farthest that there are."""
    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=4),
        clipping=jf.clipping.Fixed(norm=0.37),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )
    (part,) = privacy._joint(jnp.zeros(SAMPLES)).parts
    levels, largest = part.lattice.levels, part.noise.largest(part.lattice.levels)
    step = np.float32(0.37) / np.float32(part.lattice.target)

    def could_give(values, x):
        """Whether some noise on x is released as this value: three candidates."""
        nearest = np.rint(values.astype(np.float64) * 4 / float(step)).astype(np.int64)
        found = np.zeros(len(values), bool)
        for candidate in (nearest - 1, nearest, nearest + 1):
            value = candidate.astype(np.float32) * step / np.float32(4)
            found |= (value == values) & (np.abs(candidate - x) <= largest)
        return found

    inputs = (0, levels)
    for x, secret in zip(inputs, (b"a" * 32, b"b" * 32), strict=True):
        values = released(privacy, jnp.full(SAMPLES, x, jnp.int32), secret)
        assert all(could_give(values, other).all() for other in inputs)
        shifted = np.nextafter(values[:1000], np.float32(1))  # off the grid: power
        assert np.mean(could_give(shifted, 0)) < (0.1 if multiplier < 8 else 1)


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("levels", [2**4, 2**8])
def test_outputs_beyond_the_neighbours_support_are_charged(multiplier, levels):
    """P(an output that the farthest neighbour cannot give), exactly: below 2**-40.

    The whole clip in one coordinate, which is the worst: at multiplier 1 it is 1e-22,
    where float32 has 1.2e-5.
    """
    noise = jf.noise.Gaussian(multiplier=multiplier)
    variance = Fraction(multiplier * levels) ** 2 + 4
    law = _laws.gaussian(variance)  # whole numbers, in proportion to the law
    largest = noise.largest(levels)
    assert largest <= len(law.weights) - 1
    outside = sum(law.weights[max(0, largest - levels + 1) : largest + 1])
    beyond = Fraction(outside, law.total) + Fraction(noise.distance(levels))
    assert beyond < Fraction(1, 2**40)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.7, 1000.0, 2.0**20, 2**30 / 12])
def test_noise_reaches_as_far_as_any_delta_asks(scale):
    """At least 8 deviations, and what a delta of 1e-10 over 1e9 numbers needs."""
    reach = _discrete.gaussian(scale).largest / scale
    assert reach >= 8
    assert reach >= stats.norm.isf(1e-10 / 10 / 1e9)
