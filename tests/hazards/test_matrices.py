"""Correlated noise against brute force: every pattern, every contract, every entry."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed import keys, noise, sampling
from jaxfed.noise import _tree_nodes
from jaxfed.typing import Participation
from tests.reference import correlated as twin

KINDS = {
    "tree": noise.Tree(multiplier=1.0),
    "band 3": noise.Banded(multiplier=1.0, bands=3),
    "band 12": noise.Banded(multiplier=1.0, bands=12),
    "BLT 2": noise.BLT(multiplier=1.0),
    "BLT 3": noise.BLT(multiplier=1.0, buffers=3),
}


def matrix_of(strategy):
    if isinstance(strategy, noise.TreeStrategy):
        return twin.tree(strategy.rounds)
    coefficients = strategy.coefficients
    found = coefficients() if callable(coefficients) else coefficients
    return twin.toeplitz(found, strategy.rounds)


def exact_sensitivities(matrix, separation):
    """The largest norm on a pattern, for at most 1, 2, ... participations.

    All patterns of one size at once, by indexing the Gram matrix.
    """
    rounds = matrix.shape[1]
    gram, found, largest = np.abs(matrix.T @ matrix), [], 0.0
    for count in range(1, rounds + 1):
        patterns = np.array(list(itertools.combinations(range(rounds), count)))
        if count > 1:
            patterns = patterns[(np.diff(patterns) >= separation).all(axis=1)]
        if len(patterns):
            sums = gram[patterns[:, :, None], patterns[:, None, :]].sum(axis=(1, 2))
            largest = max(largest, float(sums.max()))
        found.append(np.sqrt(largest))
    return found


def check(kind, rounds):
    """Every separation, every number of participations."""
    checked = 0
    for separation in range(1, rounds + 1):
        contracts = [
            Participation(min_separation=separation, max_participations=most)
            for most in range(1, rounds + 1)
        ]
        # banded and tree matrices do not depend on the contract, a BLT does
        for contract in contracts:
            strategy = KINDS[kind].strategy(rounds, contract)
            exact = exact_sensitivities(matrix_of(strategy), separation)
            wanted = exact[contract.max_participations - 1]
            assert wanted * (1 - 1e-12) <= strategy.sensitivity
            assert strategy.sensitivity <= wanted * (1 + 1e-9)
            checked += 1
    assert checked == rounds**2


@pytest.mark.parametrize(("kind", "rounds"), [("tree", 5), ("band 3", 5), ("BLT 2", 2)])
def test_sensitivity_is_the_maximum_over_all_patterns_of_few_rounds(kind, rounds):
    """All contracts; `test_..._of_up_to_12_rounds` has all with more."""
    check(kind, rounds)


@pytest.mark.slow
@pytest.mark.parametrize("rounds", range(1, 13))
@pytest.mark.parametrize("kind", ["tree", "band 3", "band 12"])
def test_sensitivity_is_the_maximum_over_all_patterns_of_up_to_12_rounds(kind, rounds):
    check(kind, rounds)


@pytest.mark.nightly
@pytest.mark.parametrize("rounds", range(1, 13))
@pytest.mark.parametrize("kind", ["BLT 2", "BLT 3"])
def test_blt_sensitivity_is_the_maximum_over_all_patterns(kind, rounds):
    """A BLT is optimised for each contract, which takes most of the time."""
    check(kind, rounds)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tree"])
def test_noise_times_its_matrix_is_independent_noise(kind):
    """C C**-1 = I, streamed: unit impulses in, the columns of the inverse out.

    An impulse of 2**24 in every round: the filter's rounding is below 2**-23 of it.
    The tree, whose noise is no linear filter of one draw a round, is checked in
    `tests/noise/test_streams.py` against Honaker's estimates in rationals.
    """
    rounds, size = 12, 2**24
    contract = Participation(min_separation=3, max_participations=4)
    stream = noise.streaming(KINDS[kind].strategy(rounds, contract), _Impulses(size))
    found = []

    @jax.jit
    def step(state, index, drawn):
        stream.sampler.now = drawn
        return stream.next(state, key=keys.simulated(0), round_index=index)

    state = stream.init(jax.ShapeDtypeStruct((rounds,), jnp.int32))
    for index in range(rounds):
        drawn = size * np.eye(rounds, dtype=np.int32)[index]
        state, row = step(state, np.int32(index), drawn)
        found.append([Fraction(int(x), size) for x in np.asarray(row)])
    inverse = np.array(found)  # its row t is what round t adds of each draw
    product = np.array(
        [[Fraction(float(c)) for c in row] for row in matrix_of(stream.strategy)]
    ).dot(inverse)
    gap = np.abs(product - np.eye(rounds, dtype=int)).max()
    assert gap < Fraction(1, 2**22)
    assert float(np.abs(inverse - np.eye(rounds, dtype=int)).max()) > 0.1  # not I


class _Impulses:
    """Gives what it holds."""

    def __init__(self, largest):
        self.largest, self.now = largest, None

    def draw(self, shape, *, key):
        del key
        assert self.now.shape == shape
        return self.now


@pytest.mark.parametrize("kind", ["tree", "band 3", "BLT 2"])
def test_cohorts_that_are_drawn_cost_no_more_than_is_declared(kind):
    """P16: the exact sensitivity of every client's own pattern of participation."""
    rounds = 24
    for sampler in (
        sampling.MinSeparation(
            population=40, size=4, separation=6, max_participations=4
        ),
        sampling.Cyclic(population=40, groups=8),
        sampling.BallsInBins(population=40, bins=8),
    ):
        strategy = KINDS[kind].strategy(rounds, sampler.participation(rounds))
        matrix = matrix_of(strategy)
        taken = [[] for _ in range(40)]
        for index in range(rounds):
            for client in sampler.draw(index, key=jf.keys.simulated(3)):
                taken[client].append(index)
        gram = np.abs(matrix.T @ matrix)
        most = max(np.sqrt(gram[np.ix_(p, p)].sum()) for p in taken)
        assert 0.5 * strategy.sensitivity < most <= strategy.sensitivity * (1 + 1e-9)


def test_the_nodes_of_a_tree_are_counted_exactly():
    """Squared sensitivities of a tree are whole numbers: 79 for the published run."""
    contract = Participation(min_separation=3, max_participations=3)
    found = _tree_nodes.squared_sensitivity(12, contract)
    assert found == round(exact_sensitivities(twin.tree(12), 3)[2] ** 2)
