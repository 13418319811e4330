"""Streamed noise: its law, its exactness, and the sensitivity that is claimed."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxfed import keys, noise
from jaxfed.noise import _tree_nodes
from jaxfed.noise._stream_tree import _FRACTION_BITS
from jaxfed.typing import Participation
from tests.reference import correlated as twin

FALSE_ALARM = 1e-6


class Rounded:
    """Rounded normal noise: enough for tests of what is done with noise."""

    def __init__(self, scale, largest=2**24):
        self.scale, self.largest = scale, largest

    def draw(self, shape, *, key):
        values = jnp.round(self.scale * jax.random.normal(key, shape, jnp.float32))
        return jnp.clip(values, -self.largest, self.largest).astype(jnp.int32)


class Extreme:
    """The largest magnitude with random signs."""

    def __init__(self, largest):
        self.largest = largest

    def draw(self, shape, *, key):
        return jnp.where(
            jax.random.bernoulli(key, 0.5, shape), self.largest, -self.largest
        ).astype(jnp.int32)


class Scripted:
    """Gives what it was told to give, one array a call."""

    def __init__(self, largest):
        self.largest, self.script = largest, []

    def draw(self, shape, *, key):
        del key
        values = self.script.pop(0)
        assert values.shape == shape
        return values


def contract(separation, most):
    return Participation(min_separation=separation, max_participations=most)


def settings_of(kind):
    return {
        "tree": noise.Tree(multiplier=1.0),
        "band 1": noise.Banded(multiplier=1.0, bands=1),
        "band 3": noise.Banded(multiplier=1.0, bands=3),
        "band 30": noise.Banded(multiplier=1.0, bands=30),
        "BLT 2": noise.BLT(multiplier=1.0),
        "BLT 3": noise.BLT(multiplier=1.0, buffers=3),
    }[kind]


KINDS = ("tree", "band 1", "band 3", "band 30", "BLT 2", "BLT 3")
TOEPLITZ = KINDS[1:]


def stream_of(kind, rounds, sampler, participation=None):
    participation = participation or contract(3, 4)
    return noise.streaming(settings_of(kind).strategy(rounds, participation), sampler)


def run(stream, shapes, rounds, *, seed=0):
    """Returns the noise of each round, and the state after the last."""

    @jax.jit
    def step(state, index):
        key = keys.for_round(keys.simulated(seed), index)
        return stream.next(state, key=key, round_index=index)

    state, found = stream.init(shapes), []
    for index in range(rounds):
        state, drawn = step(state, np.int32(index))
        found.append(jax.tree.map(np.asarray, drawn))
    return found, state


def scripted_step(stream):
    """Returns `step(state, values, index)` of a run whose draws are given."""

    @jax.jit
    def step(state, values, index):
        stream.sampler.script = [values]
        return stream.next(state, key=keys.simulated(0), round_index=index)

    return lambda state, values, index: step(
        state, np.asarray(values, np.int32), np.int32(index)
    )


def scripted(stream, script):
    """Returns the noise of a scripted run of one vector, (rounds, dimension) int64."""
    shape = jax.ShapeDtypeStruct(np.shape(script[0]), jnp.int32)
    state, found, step = stream.init(shape), [], scripted_step(stream)
    for index, values in enumerate(script):
        state, drawn = step(state, values, index)
        found.append(np.asarray(drawn, np.int64))
    return np.array(found)


def coefficients_of(strategy):
    """Returns the strategy's coefficients in rationals."""
    if isinstance(strategy, noise.BLTStrategy):
        return twin.buffered_coefficients(
            strategy.rates, strategy.scales, strategy.rounds
        )
    return [Fraction(c) for c in strategy.coefficients]


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_sums_have_the_strategys_variance(kind):
    # 16 rounds of 20,000 coordinates at scale 1,000. A sum of squares over the
    # variance is chi-square with 20,000 degrees of freedom; false alarm 1e-6 over 16
    # rounds, and a scale that is wrong by 5 % is caught in every round.
    rounds, size, scale = 16, 20_000, 1000.0
    stream = stream_of(kind, rounds, Rounded(scale))
    found, _ = run(stream, jax.ShapeDtypeStruct((size,), jnp.int32), rounds)
    sums = np.cumsum(np.array(found, np.int64), axis=0)
    wanted = stream.strategy.prefix_errors() * scale**2

    def pvalues(factor):
        statistic = (sums.astype(float) ** 2).sum(axis=1) / (wanted * factor**2)
        return 2 * np.minimum(
            stats.chi2.sf(statistic, size), stats.chi2.cdf(statistic, size)
        )

    assert pvalues(1.0).min() > FALSE_ALARM / rounds
    assert pvalues(1.05).max() < FALSE_ALARM / rounds
    assert pvalues(0.95).max() < FALSE_ALARM / rounds


@pytest.mark.parametrize("kind", TOEPLITZ)
@pytest.mark.parametrize("largest", [3, 2**20, 2**27])
def test_filtering_back_gives_the_independent_noise_up_to_rounding(kind, largest):
    """C w - Z, in rationals, is at most r in every coordinate and round."""
    rounds = 60
    stream = stream_of(kind, rounds, Scripted(largest))
    generator = np.random.default_rng(1)
    noising = np.linalg.inv(
        twin.toeplitz(np.array(coefficients_of(stream.strategy), float), rounds)
    )
    # random signs at the largest magnitude, and the signs that make w largest
    worst = np.sign(noising[-1])[:, None].astype(int)
    signs = np.hstack([generator.choice([-1, 1], (rounds, 4)), worst, -worst])
    drawn = signs * largest
    drawn[:, 0] = generator.integers(-largest, largest, rounds, endpoint=True)
    found = scripted(stream, drawn)
    allowed = Fraction(stream.rounding_error) / 2
    largest_seen = Fraction(0)
    for column in range(drawn.shape[1]):
        exact = twin.filtered(
            coefficients_of(stream.strategy), [int(w) for w in found[:, column]]
        )
        for value, z in zip(exact, drawn[:, column], strict=True):
            largest_seen = max(largest_seen, abs(value - int(z)))
    assert largest_seen <= allowed
    if kind != "band 1":
        assert largest_seen > Fraction(1, 3)  # the bound is not idle
    assert np.abs(found).max() <= stream.largest
    assert np.abs(found).max() > 0.95 * stream.largest - 3
    assert stream.rounding_error < 1.1


@pytest.mark.slow
def test_long_runs_stay_within_the_arithmetic_bound():
    """2,052 rounds at 2**27: buffers of 60 bits, decays of 0.995, exact to r."""
    strategy = noise.BLT(multiplier=1.0).strategy(2052, contract(342, 6))
    stream = noise.streaming(strategy, Extreme(2**27))
    found, _ = run(stream, jax.ShapeDtypeStruct((2,), jnp.int32), 2052)
    drawn = [
        np.asarray(
            stream.sampler.draw(
                (2,), key=keys.for_leaf(keys.for_round(keys.simulated(0), i), 0)
            )
        )
        for i in range(2052)
    ]
    assert stream.rounding_error < 1.02
    # the exact filter through exact buffers, in integers over one power of two
    bits = 200
    rates = [int(Fraction(r) * 2**24) for r in strategy.rates]
    assert [r / 2**24 for r in rates] == list(strategy.rates)
    for column in range(2):
        buffers = [0, 0]
        for w, z in zip(found, drawn, strict=True):
            past = sum(
                Fraction(s) * b for s, b in zip(strategy.scales, buffers, strict=True)
            )
            gap = int(w[column]) + past / 2**bits - int(z[column])
            # truncating the twin's buffers costs under 2,052 * 2**-200
            assert abs(gap) <= Fraction(stream.rounding_error) / 2 + Fraction(1, 2**60)
            buffers = [
                b - (b * r >> 24) + (int(w[column]) << bits)
                for b, r in zip(buffers, rates, strict=True)
            ]


def replayed_shift(step, start, drawn, moved):
    """Returns how far Z must shift for the same releases after `x + moved`.

    The run is recorded with noise w; its neighbour must release the same, and so has
    noise w - moved; the filter of that history is read off by drawing zero.
    """
    state, neighbour, total = start, start, 0
    for index, (z, u) in enumerate(zip(drawn, moved, strict=True)):
        state, noise_ = step(state, z, index)
        wanted = np.asarray(noise_, np.int64) - u
        _, filter_only = step(neighbour, np.zeros_like(z), index)
        needed = wanted - np.asarray(filter_only, np.int64)
        neighbour, again = step(neighbour, needed, index)
        np.testing.assert_array_equal(again, wanted)  # the same release
        total += int(((needed - z) ** 2).sum())
    return total


@pytest.mark.parametrize("kind", TOEPLITZ)
@pytest.mark.parametrize(("separation", "most"), [(1, 3), (3, 4), (5, 2)])
def test_neighbouring_runs_differ_by_no_more_than_is_claimed(kind, separation, most):
    """Record and replay in exact integers, over all patterns of 9 rounds at the worst.

    With small contributions rounding dominates, with large ones the strategy does.
    """
    if kind == "band 3" and separation == 1:
        separation = 2  # more bands than rounds in between: by falling coefficients
    rounds, size = 9, 4
    participation = contract(separation, most)
    stream = stream_of(kind, rounds, Scripted(2**20), participation)
    generator = np.random.default_rng(2)
    found = list(twin.patterns(rounds, separation, most))
    longest = range(0, rounds, separation)[:most]
    chosen = [found[i] for i in generator.integers(len(found), size=6)]
    closest, step = 0.0, scripted_step(stream)
    start = stream.init(jax.ShapeDtypeStruct((size,), jnp.int32))
    for pattern, norm in itertools.product([*chosen, list(longest)], (1, 3, 5000)):
        vector = np.zeros(size, int)
        vector[:] = (norm // 2) if norm % 2 == 0 else 0
        vector[0] = norm if norm % 2 else vector[0]
        assert np.linalg.norm(vector) <= norm
        moved = np.zeros((rounds, size), int)
        moved[pattern] = vector
        drawn = generator.integers(-(2**19), 2**19, (rounds, size))
        shift = replayed_shift(step, start, drawn, moved)
        claimed = stream.sensitivity(norm=norm, dimension=size)
        assert shift <= Fraction(claimed) ** 2
        closest = max(closest, shift / (stream.strategy.sensitivity * norm) ** 2)
    assert closest > 0.98


def nodes_of(stream, rounds, *, seed=0):
    """Returns the noise that the tree draws for each node `(level, last round)`."""
    found = {}
    for end in range(rounds):
        key = keys.for_round(keys.simulated(seed), end)
        for level in range(rounds.bit_length()):
            if (end + 1) % (1 << level) == 0:
                drawn = stream.sampler.draw(
                    (3,), key=keys.for_leaf(keys.for_leaf(key, level), 0)
                )
                found[level, end] = [int(v) for v in drawn]
    return found


@pytest.mark.parametrize("rounds", [1, 2, 7, 8, 21])
@pytest.mark.parametrize("sampler", [Rounded(50.0), Extreme(2**26)])
def test_tree_noise_is_post_processing_of_released_nodes(rounds, sampler):
    """Prefix sums computed from nodes' releases, in rationals, are the sums released.

    The estimates see nothing but releases: sums of rounds plus each node's own noise.
    The stream never sees the sums, and yet the results are equal integers; so the
    release is a function of the nodes and their sensitivity is the run's.
    """
    stream = stream_of("tree", rounds, sampler)
    found, _ = run(stream, jax.ShapeDtypeStruct((3,), jnp.int32), rounds)
    nodes = nodes_of(stream, rounds)
    sums = np.random.default_rng(3).integers(-1000, 1000, (rounds, 3))
    weights = [Fraction(w, 1 << 16) for w in _tree_nodes.weight_numerators(rounds)]
    for column in range(3):

        def release_of(level, end, column=column):
            of_rounds = sums[end + 1 - (1 << level) : end + 1, column]
            return int(of_rounds.sum()) + nodes[level, end][column]

        wanted = twin.tree_prefixes(release_of, rounds, weights, _FRACTION_BITS)
        released = [int(x[column]) + int(w[column]) for x, w in zip(sums, found)]  # noqa: B905
        assert list(itertools.accumulate(released)) == wanted
    assert np.abs(np.array(found, np.int64)).max() <= stream.largest
    assert stream.sensitivity(norm=7.0, dimension=10**6) == pytest.approx(
        7 * stream.strategy.sensitivity
    )


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_or_not_and_after_a_checkpoint_the_bits_are_the_same(kind):
    shapes = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(())}
    stream = stream_of(kind, 4, Rounded(1e5))
    found, last = run(stream, shapes, 4)
    state = stream.init(shapes)
    for index, wanted in enumerate(found):
        key = keys.for_round(keys.simulated(0), index)
        state, drawn = stream.next(state, key=key, round_index=index)
        state = jax.tree.map(lambda a: jnp.asarray(np.array(a)), state)
        assert jax.tree.structure(drawn) == jax.tree.structure(shapes)
        for a, b in zip(jax.tree.leaves(drawn), jax.tree.leaves(wanted), strict=True):
            assert a.dtype == jnp.int32
            np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(last), strict=True):
        assert a.dtype == jnp.int32
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_leaves_and_rounds_draw_different_noise(kind):
    shapes = [jnp.zeros(50), jnp.zeros(50)]
    found, _ = run(stream_of(kind, 8, Rounded(1e5)), shapes, 8)
    rows = {leaf.tobytes() for round_ in found for leaf in round_}
    assert len(rows) == 16


@pytest.mark.parametrize("kind", KINDS)
def test_one_compilation_serves_all_rounds(kind):
    stream, traces = stream_of(kind, 12, Rounded(10.0)), []

    @jax.jit
    def step(state, index):
        traces.append(index)
        key = keys.for_round(keys.simulated(0), index)
        return stream.next(state, key=key, round_index=index)

    state = stream.init(jnp.zeros(5))
    for index in range(12):
        state, _ = step(state, np.int32(index))
    assert len(traces) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_noise_that_could_leave_32_bits_is_refused(kind):
    with pytest.raises(ValueError, match=r"sampler\.largest must"):
        stream_of(kind, 12, Rounded(1.0, largest=2**31))
    stream_of(kind, 12, Rounded(1.0, largest=2**27))


def test_rounds_beyond_the_horizon_are_refused():
    stream = stream_of("BLT 2", 5, Rounded(1.0))
    state, key = stream.init(jnp.zeros(2)), keys.simulated(0)
    for index in (-1, 5):
        with pytest.raises(ValueError, match=r"round_index must be in \[0, 5\)"):
            stream.next(state, key=key, round_index=index)
    with pytest.raises(TypeError, match="strategy must be a Strategy"):
        noise.streaming(noise.BLT(multiplier=1.0), Rounded(1.0))
    with pytest.raises(TypeError, match="key must be one typed PRNG key"):
        stream.next(state, key=0, round_index=0)


def test_what_rounding_costs():
    """The bound of `sensitivity` spelled out: sens * L + e * sqrt(rounds * d)."""
    stream = stream_of("BLT 2", 100, Rounded(1.0), contract(10, 10))
    found = stream.sensitivity(norm=2.0**20, dimension=10_000)
    wanted = stream.strategy.sensitivity * 2**20 + stream.rounding_error * 1000
    assert found == pytest.approx(wanted, rel=1e-12)
    assert 1 < stream.rounding_error < 1 + 1e-4
