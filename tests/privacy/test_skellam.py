"""Central privacy with Skellam noise: what is accounted is what is drawn."""

import math
from fractions import Fraction

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxfed as jf
from jaxfed.accounting import _epsilon, _rdp
from jaxfed.privacy._joint import Encoded
from jaxfed.typing import ClientResult, ClippedSum
from tests.privacy import test_sensitivity as replays

HOSTILE = (0.0, 1e-30, 1.0, -6e4, 1e17, 3e38, np.nan, np.inf)


def central(*, multiplier=1.0, norm=0.5, sampling=None):
    return jf.privacy.central(
        sampling=sampling or jf.sampling.Full(population=100),
        clipping=jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Skellam(multiplier=multiplier),
    )


@pytest.mark.parametrize("multiplier", [1e-3, 0.1, 1.0, 1.4142, 7.7, 362.0, 2896.0])
def test_the_grid_is_the_finest_that_the_table_can_noise(multiplier):
    noise = jf.noise.Skellam(multiplier=multiplier)
    levels = noise.levels
    assert levels & (levels - 1) == 0
    assert 1 <= levels <= 2**20
    assert noise.variance(levels) <= 2**23
    assert noise.variance(2 * levels) > 2**23 or levels == 2**20
    sampler = noise._sampler(levels)
    assert (sampler.law, sampler.distance) == ("Skellam", noise.distance(levels))
    assert noise.distance(levels) < 2.0**-79


@pytest.mark.parametrize("multiplier", [0.6, 1.0, 5.0, 40.0])
@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_the_event_is_theorem_3_5_for_the_grid_that_runs(multiplier, relation):
    """Agarwal, Kairouz and Liu 2021, arXiv:2110.04995, in exact fractions."""
    privacy = central(multiplier=multiplier)
    levels = privacy._joint({"w": jnp.zeros(30)}).parts[0].lattice.levels
    times = 2 if relation == "replace_one" else 1
    two, one = times * levels, times * levels**2
    mu = Fraction(privacy.noise.variance(levels))
    for order in (2, 3, 17, 256):
        first = ((2 * order - 1) * two**2 + 6 * one) / (4 * mu**2)
        second = Fraction(3 * one) / (2 * mu)
        expected = Fraction(order * two**2) / (2 * mu) + min(first, second)
        (found,) = jf.accounting.rdp(
            privacy.event(rounds=1), relation=relation, orders=(float(order),)
        )
        assert found == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("multiplier", [1.0, 3.0, 20.0])
def test_epsilon_is_above_the_gaussians_and_near_it(multiplier):
    """At 2**11 levels or a multiplier of 3 the correction is in the fourth digit."""
    found = central(multiplier=multiplier).epsilon(rounds=5, delta=1e-5)
    gaussian = dp_accounting.GaussianDpEvent(multiplier)
    ideal = jf.accounting.derive(gaussian, 5, delta=1e-5)
    assert found > ideal.renyi_epsilon >= ideal.epsilon
    assert found < ideal.renyi_epsilon * (1.05 if multiplier < 3 else 1.002)


def test_no_sampler_amplifies_and_the_relation_is_its_own():
    full = central(multiplier=4.0)
    samplers = [
        jf.sampling.Poisson(population=100, rate=0.01),
        jf.sampling.FixedSize(population=100, size=5),
    ]
    for sampling in samplers:
        privacy = central(multiplier=4.0, sampling=sampling)
        assert privacy.event(rounds=3) == full.event(rounds=3)
    poisson, fixed = (
        central(multiplier=4.0, sampling=s).epsilon(rounds=3, delta=1e-3)
        for s in samplers
    )
    assert poisson == full.epsilon(rounds=3, delta=1e-3)
    assert fixed > 1.9 * poisson  # replace-one
    cyclic = jf.sampling.Cyclic(population=100, groups=3)
    alone = central(multiplier=4.0, sampling=cyclic).epsilon(rounds=3, delta=1e-3)
    assert alone == full.epsilon(rounds=1, delta=1e-3)


def test_calibration_meets_the_budget():
    privacy = central().calibrated(epsilon=2.0, delta=1e-5, rounds=10)
    assert 1.99 < privacy.epsilon() <= 2.0
    assert isinstance(privacy.noise, jf.noise.Skellam)
    assert "Skellam noise of 6." in str(privacy.statement())
    assert jf.privacy.from_json(privacy.to_json()) == privacy


@pytest.mark.parametrize("population", [100, 5000])
def test_integers_stay_within_both_bounds_of_the_event(population):
    """Truncated and randomly rounded grids, in exact integers."""
    privacy = central(sampling=jf.sampling.Full(population=population))
    params = {"a": jnp.zeros((3, 4)), "b": jnp.zeros(5)}
    lattice = privacy._joint(params).parts[0].lattice
    assert lattice.is_random == (population == 5000)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 17)) * 10.0 ** rng.uniform(-4, 6, (400, 1))
    rows[: len(HOSTILE), 0] = HOSTILE
    rows[len(HOSTILE) : 2 * len(HOSTILE)] = np.array(HOSTILE)[:, None]

    def encode(row, key):
        update = {"a": row[:12].reshape(3, 4), "b": row[12:]}
        return privacy.encode((), ClientResult(update, jnp.float32(1), ()), key=key)

    keys = jax.random.split(jf.keys.simulated(0), 400)
    with np.errstate(over="ignore"):
        encoded = jax.vmap(encode)(jnp.asarray(rows, jnp.float32), keys).update
    flat = [np.asarray(a, object).reshape(400, -1) for a in jax.tree.leaves(encoded)]
    integers = np.concatenate(flat, axis=1)
    event = privacy.event(rounds=1).event
    squares, sums = (integers**2).sum(1), abs(integers).sum(1)
    assert max(squares) <= event.l2_sensitivity**2
    assert max(sums) <= event.l1_sensitivity
    assert max(squares) > 0.9 * event.l2_sensitivity**2


def test_the_noise_that_is_drawn_is_the_noise_that_is_accounted():
    # 200,000 draws of scale 2048: the variance is within 4.9 standard errors of what
    # the event says, a false alarm of 1e-6; a 1 % wrong scale is caught.
    privacy = central(multiplier=1.0, norm=2.0)
    total = Encoded({"w": jnp.zeros(200_000, jnp.int32)}, ())
    _, released = privacy.release((), total, key=jf.keys.simulated(3))
    lattice = privacy._joint(total.update).parts[0].lattice
    steps = np.asarray(released.value["w"], np.float64) * 100 * lattice.target / 2.0
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-2)
    event = privacy.event(rounds=1).event

    def far(scale):
        ratio = (steps * scale).var() / event.variance
        return abs(ratio - 1) * math.sqrt(len(steps) / 2) > 4.9

    assert not far(1.0)
    assert far(1.01)
    assert far(0.99)


@pytest.mark.parametrize("multiplier", [0, -1.0, 1e-4, 2897.0, math.nan, "1"])
def test_a_multiplier_out_of_range_is_refused(multiplier):
    with pytest.raises(ValueError, match="multiplier must be"):
        jf.noise.Skellam(multiplier=multiplier)


def test_what_the_proof_does_not_cover_is_refused():
    with pytest.raises(TypeError, match="Skellam noise covers one norm"):
        jf.privacy.central(
            sampling=jf.sampling.Full(population=100),
            clipping=jf.clipping.Adaptive(quantile=0.5, initial=0.1),
            noise=jf.noise.Skellam(multiplier=1.0),
        )
    with pytest.raises(TypeError, match="noise"):
        jf.privacy.local(
            sampling=jf.sampling.Full(population=100),
            clipping=jf.clipping.Fixed(norm=1.0),
            noise=jf.noise.Skellam(multiplier=1.0),
        )
    large = central(sampling=jf.sampling.Full(population=5000))
    with pytest.raises(ValueError, match="rounding would cost over 1 %; take fewer"):
        large.init({"w": jnp.zeros(1000)})
    huge = central(sampling=jf.sampling.Full(population=2**21))
    with pytest.raises(ValueError, match="must fit 32 bits"):
        huge.init({"w": jnp.zeros(3)})
    noise = jf.noise.Skellam(multiplier=1.0)
    floats = ClippedSum(total={"w": jnp.zeros(3)}, step=jnp.float32(1), levels=5)
    with pytest.raises(TypeError, match="int32 leaves, got float32"):
        noise.release(floats, key=jf.keys.simulated(0))


@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
@pytest.mark.parametrize("multiplier", [0.7, 3.0, 500.0])
def test_an_attack_comes_near_the_number_and_would_expose_a_wrong_one(
    multiplier, relation, monkeypatch
):
    event = central(multiplier=multiplier).event(rounds=1).event
    found = jf.accounting.derive(event, 9, delta=1e-5, relation=relation)
    if found.epsilon > 0.1:
        assert 0.6 * found.epsilon < found.attack_epsilon < found.epsilon
    assert found.attack_epsilon <= found.epsilon
    of_leaf = _rdp.of_leaf
    monkeypatch.setattr(_rdp, "of_leaf", lambda *args: of_leaf(*args) / 4)
    _epsilon.checked.cache_clear()
    if found.epsilon > 0.1:
        with pytest.raises(jf.accounting.AccountingError, match="an attack reaches"):
            jf.accounting.derive(event, 9, delta=1e-5, relation=relation)
    monkeypatch.undo()
    _epsilon.checked.cache_clear()


def test_the_attack_is_exact_for_little_noise():
    """Against sums over the law itself, scale by scale."""
    event = jf.accounting.Skellam(l1_sensitivity=3.0, l2_sensitivity=3.0, variance=40.0)
    k = np.arange(-400, 401)
    law = stats.skellam(80.0, 80.0).pmf(k)  # of four rounds
    shifted = stats.skellam(80.0, 80.0).pmf(k - 12)
    hits, alarms = np.cumsum(shifted[::-1]), np.cumsum(law[::-1])
    worth = (hits > 1e-3) & (alarms > 1e-30)
    exact = np.log((hits[worth] - 1e-3) / alarms[worth]).max()
    found = jf.accounting.derive(event, 4, delta=1e-3).attack_epsilon
    assert found == pytest.approx(exact, rel=1e-6)


def test_record_and_replay_of_neighbours():
    """As in tests/privacy/test_sensitivity.py: 50 pairs, hostile clients, exactly."""
    are_there = jnp.ones(replays.COHORT, bool)
    for multiplier, shape in ((1.0, "layers"), (40.0, "vector")):
        few = jf.sampling.Full(population=9)
        privacy = central(multiplier=multiplier, sampling=few)
        params = jax.tree.map(
            jnp.zeros, replays.SHAPES[shape], is_leaf=lambda s: isinstance(s, tuple)
        )
        layout = privacy._joint(params)
        run, updates = replays.summing(privacy), replays.cohorts(params, seed=3)
        keys = jax.random.split(jf.keys.simulated(0), (replays.PAIRS, replays.COHORT))
        moved = jf.tree.subtract(
            run(updates, are_there, keys, ()),
            run(updates, are_there.at[0].set(False), keys, ()),
        )
        spent = [replays.budget_spent(layout, moved, p) for p in range(replays.PAIRS)]
        limit = Fraction(multiplier) ** -2
        assert limit * Fraction(9, 10) < max(spent) <= limit
        (part,) = layout.parts
        for pair in range(replays.PAIRS):
            leaves = [np.asarray(a)[pair] for a in jax.tree.leaves(moved.update)]
            assert sum(int(np.abs(a).sum()) for a in leaves) <= part.lattice.levels**2


def test_calibration_reaches_the_most_noise_there_is_and_says_where_it_ends():
    privacy = central(sampling=jf.sampling.Full(population=10))
    most = privacy.calibrated(epsilon=0.0105, delta=1e-5, rounds=60)
    assert 2048 < most.noise.multiplier < 2896
    assert most.epsilon() <= 0.0105
    with pytest.raises(ValueError, match="needs a noise multiplier above 2896"):
        privacy.calibrated(epsilon=0.001, delta=1e-5, rounds=60)


def test_the_trade_off_is_drawn_up_to_the_most_noise_there_is():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = central(multiplier=2500.0).plot_tradeoff(rounds=3, delta=1e-5)
    labels = [line.get_label() for line in figure.axes[0].get_lines()]
    assert "multiplier 2.9e+03" in labels
    pyplot.close(figure)
