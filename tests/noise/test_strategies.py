"""Strategies: exact sensitivities, published losses, and two second opinions."""

import contextlib
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfed import noise
from jaxfed.noise import _strategies, _toeplitz, _tree_nodes
from jaxfed.typing import Participation
from tests.reference import correlated as twin

# Maximum and root-mean-square loss on prefix sums for (rounds, separation,
# participations), computed with jax-privacy 2.0.0 in 64 bits.
TABLE = {
    (2052, 342, 6): {
        "band 1": (110.96, 78.48),
        "band 8": (40.15, 28.71),
        "band 64": (16.70, 12.67),
        "band 342": (10.53, 8.80),
        "BLT 2": (10.81, 9.34),
        "BLT 3": (10.75, 9.64),
        "BLT 4": (10.73, 9.63),
    },
    (2000, 400, 5): {
        "band 1": (100.0, 70.7),
        "band 8": (36.2, 25.9),
        "band 64": (15.1, 11.5),
        "band 400": (9.28, 7.85),
        "BLT 2": (9.50, 8.30),
        "BLT 3": (9.45, 8.54),
        "BLT 4": (9.43, 8.52),
    },
    (512, 64, 8): {
        "band 1": (64.0, 45.3),
        "band 8": (23.9, 17.4),
        "band 64": (11.62, 9.35),
        "BLT 2": (12.11, 10.59),
        "BLT 3": (11.96, 10.43),
        "BLT 4": (11.96, 10.43),
    },
    (1000, 1000, 1): {
        "band 1": (31.6, 22.4),
        "band 8": (11.6, 8.35),
        "band 64": (5.17, 4.03),
        "band 1000": (3.35, 3.05),
        "BLT 2": (3.321, 3.133),
        "BLT 3": (3.270, 3.106),
        "BLT 4": (3.265, 3.103),
    },
}
LINES = [
    pytest.param(setting, name, losses, marks=[pytest.mark.slow] * (name == "BLT 4"))
    for setting, row in TABLE.items()
    for name, losses in row.items()
]


def contract(separation, most):
    return Participation(min_separation=separation, max_participations=most)


def strategy_of(rounds, separation, most, name):
    kind, count = name.split()
    chosen = (
        noise.Banded(multiplier=1.0, bands=int(count))
        if kind == "band"
        else noise.BLT(multiplier=1.0, buffers=int(count))
    )
    return chosen.strategy(rounds, contract(separation, most))


@pytest.mark.parametrize(("setting", "name", "losses"), LINES)
def test_the_published_losses(setting, name, losses):
    found = strategy_of(*setting, name)
    if (setting, name) == ((512, 64, 8), "BLT 2"):
        # the published optimum is a local one: see the next test
        assert found.max_loss == pytest.approx(12.024, rel=1e-3)
        assert found.max_loss < losses[0]
        assert found.rms_loss < losses[1]
        return
    # 1e-3, and half a unit of the last digit that the table prints
    last = 0.05 if losses[0] in (36.2, 15.1, 23.9, 31.6, 11.6, 100.0) else 0.005
    assert found.max_loss == pytest.approx(losses[0], rel=1e-3, abs=last)
    last = 0.05 if losses[1] in (70.7, 25.9, 11.5, 45.3, 17.4, 22.4) else 0.005
    assert found.rms_loss == pytest.approx(losses[1], rel=1e-3, abs=last)


@contextlib.contextmanager
def library():
    """jax-privacy's own habits: 64 bits, loose promotion."""
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_key_reuse(False),
    ):
        from jax_privacy import matrix_factorization

        yield matrix_factorization


@pytest.mark.slow
def test_the_librarys_optimum_has_the_published_loss_here_too():
    """12.11 and 10.59: the error and sensitivity are ours, the matrix is not."""
    with library() as library_:
        found = library_.buffered_toeplitz.optimize(
            n=512, min_sep=64, max_participations=8, min_buffers=2, max_buffers=2
        )
        decays = np.asarray(found.buf_decay, float)
        scales = np.asarray(found.output_scale, float)
    coefficients = np.append(1.0, scales @ decays[:, None] ** np.arange(511))
    norm = _toeplitz.sensitivity(coefficients, 512, contract(64, 8))
    errors = _toeplitz.prefix_errors(coefficients, 512)
    assert norm * np.sqrt(errors.max()) == pytest.approx(12.11, abs=0.005)
    assert norm * np.sqrt(errors.mean()) == pytest.approx(10.59, abs=0.006)


@settings(max_examples=25)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30),
    st.integers(1, 30),
    st.integers(1, 6),
)
def test_toeplitz_agrees_with_jax_privacy(values, separation, most):
    coefficients, rounds = np.append(1.0, sorted(values, reverse=True)), 30
    ours = _toeplitz.sensitivity(coefficients, rounds, contract(separation, most))
    errors = _toeplitz.prefix_errors(coefficients, rounds)
    with library() as library_:
        padded = jax.numpy.asarray(np.pad(coefficients, (0, 30))[:rounds])
        theirs = library_.toeplitz.minsep_sensitivity_squared(padded, separation, most)
        wanted = library_.toeplitz.per_query_error(strategy_coef=padded)
        wanted = np.asarray(wanted)
    assert ours**2 == pytest.approx(float(theirs), rel=1e-9)
    np.testing.assert_allclose(errors, wanted, rtol=1e-7)


def settings_up_to(rounds):
    for n in range(1, rounds + 1):
        for separation, most in itertools.product(range(1, n + 1), range(1, 5)):
            yield n, separation, most


def test_toeplitz_sensitivity_is_the_maximum_over_all_patterns():
    """Up to 8 rounds for every contract, and a sample of larger ones."""
    generator = np.random.default_rng(0)
    larger = [(12, 1, 4), (12, 2, 6), (12, 5, 3), (11, 3, 4), (10, 4, 3)]
    for n, separation, most in [*settings_up_to(8), *larger]:
        falling = np.sort(np.append(1.0, generator.uniform(0, 1, n - 1)))[::-1]
        signed = generator.uniform(-1, 1, min(separation, n))
        for coefficients in (falling, signed):
            matrix = twin.toeplitz(coefficients, n)
            exact = twin.sensitivity(matrix, separation, most)
            found = _toeplitz.sensitivity(coefficients, n, contract(separation, most))
            assert exact <= found <= exact * (1 + 1e-9)


def test_a_matrix_of_unknown_sensitivity_is_refused():
    with pytest.raises(ValueError, match="no sensitivity is known"):
        _toeplitz.sensitivity(np.array([1.0, 0.2, 0.5]), 9, contract(2, 3))
    _toeplitz.sensitivity(np.array([1.0, 0.2, 0.5]), 9, contract(3, 3))


def test_tree_sensitivity_is_the_maximum_over_all_patterns():
    """Up to 9 rounds for every contract, and a sample of larger ones."""
    larger = [(12, 1, 12), (12, 2, 6), (12, 3, 4), (12, 5, 3), (11, 2, 4), (10, 3, 3)]
    for n, separation, most in [*settings_up_to(9), *larger]:
        exact = twin.sensitivity(twin.tree(n), separation, most) ** 2
        found = _tree_nodes.squared_sensitivity(n, contract(separation, most))
        assert found == round(exact)


def test_tree_sensitivity_of_the_production_run():
    """2,000 rounds, 6 participations, 313 rounds in between: 79.

    rho = 79 / (2 * 7**2) = 0.81, published for Gboard es-ES in the notebook of
    google-research/federated/dp_ftrl, whose own search takes 348 seconds.
    """
    assert _tree_nodes.squared_sensitivity(2000, contract(314, 6)) == 79
    assert round(79 / (2 * 7**2), 2) == 0.81


def test_many_participations_have_an_upper_bound():
    for n, separation, most in [(300, 10, 16), (100, 7, 15), (128, 8, 16), (90, 1, 9)]:
        exact = _tree_nodes._exact(n, separation, most)
        bound = _tree_nodes._bound(n, separation, most)
        assert exact <= bound <= 1.25 * exact
    assert _tree_nodes._bound(128, 8, 16) == _tree_nodes._exact(128, 8, 16)
    assert _tree_nodes.squared_sensitivity(64, contract(1, 64)) == sum(
        64 * 2**level for level in range(7)
    )


def test_honaker_variances():
    """1, 2/3, 4/7: Honaker 2015, with weights of 16 bits."""
    found = _tree_nodes.node_variances(2000)
    np.testing.assert_allclose(found[:3], [1, 2 / 3, 4 / 7], rtol=1e-9)
    assert len(found) == 11
    assert (np.diff(found) < 0).all()
    assert found[-1] > 0.5


def test_sensitivity_of_a_single_participation_is_the_longest_column():
    for n in (1, 7, 40):
        once = contract(1, 1)
        found = noise.BLT(multiplier=1.0).strategy(n, once)
        matrix = twin.toeplitz(found.coefficients(), n)
        longest = np.linalg.norm(matrix, axis=0).max()
        assert found.sensitivity == pytest.approx(longest, rel=1e-9)
        tree = noise.Tree(multiplier=1.0).strategy(n, once)
        assert tree.sensitivity**2 == pytest.approx(n.bit_length())


def test_optimised_coefficients_fall_and_stay_positive():
    """What the sensitivity of more bands than the separation relies on."""
    found = noise.Banded(multiplier=1.0, bands=40).strategy(200, contract(10, 5))
    assert (np.diff(found.coefficients) < 0).all()
    assert found.coefficients[-1] > 0
    assert found.sensitivity > 1


def test_prefix_errors_are_those_of_dense_matrices():
    sums = np.tri(23)
    for found in (
        noise.BLT(multiplier=1.0).strategy(23, contract(4, 3)),
        noise.Banded(multiplier=1.0, bands=5).strategy(23, contract(5, 3)),
    ):
        coefficients = found.coefficients
        coefficients = coefficients() if callable(coefficients) else coefficients
        factor = sums @ np.linalg.inv(twin.toeplitz(coefficients, 23))
        errors = (factor**2).sum(axis=1)
        np.testing.assert_allclose(found.prefix_errors(), errors, rtol=1e-10)
    tree = noise.Tree(multiplier=1.0).strategy(23, contract(4, 3))
    # the best linear estimate from the nodes below is at most a little better
    best = []
    for t in range(1, 24):
        nodes = twin.tree(t)
        best.append(np.ones(t) @ np.linalg.pinv(nodes.T @ nodes) @ np.ones(t))
    errors = tree.prefix_errors()
    np.testing.assert_allclose(errors, best, rtol=1e-8)


def test_numbers_are_dyadic():
    banded = noise.Banded(multiplier=1.0, bands=7).strategy(50, contract(7, 7))
    assert all((c * 2**15).is_integer() for c in banded.coefficients)
    blt = noise.BLT(multiplier=1.0, buffers=3).strategy(50, contract(7, 7))
    for value in (*blt.rates, *blt.scales):
        assert value.as_integer_ratio()[0] < 2**16


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: noise.Banded(multiplier=1.0, bands=0), "bands must be an integer"),
        (lambda: noise.BLT(multiplier=1.0, buffers=9), "buffers must be <= 8"),
        (lambda: noise.Tree(multiplier=-1.0), "multiplier must be >= 0, got -1"),
        (
            lambda: noise.Tree(multiplier=1.0).strategy(0, contract(1, 1)),
            "rounds must be an integer >= 1",
        ),
        (
            lambda: _strategies.BandedStrategy(
                rounds=3, participation=contract(1, 1), coefficients=(1.0, 0.1)
            ),
            "multiples of 2",
        ),
        (
            lambda: _strategies.BLTStrategy(
                rounds=3, participation=contract(1, 1), rates=(1.5,), scales=(0.1,)
            ),
            "rates must be in",
        ),
    ],
)
def test_wrong_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_contract_is_required():
    with pytest.raises(TypeError, match="participation must be a Participation"):
        noise.BLT(multiplier=1.0).strategy(5, (3, 2))


def test_settings_give_the_strategys_sensitivity():
    chosen = noise.BLT(multiplier=2.0)
    found = chosen.sensitivity(40, contract(8, 5))
    assert found == chosen.strategy(40, contract(8, 5)).sensitivity > 1
