"""Every epsilon comes from the objects that run, and follows their settings."""

import dataclasses
import math

import dp_accounting
import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed.privacy import _statement
from jaxfed.privacy._joint import Encoded
from jaxfed.typing import ClientResult, ClippedSum
from tests.problems import NO_WORK


def central(*, population=10_000, rate=0.01, cap=150, norm=1.0, multiplier=1.0):
    return jf.privacy.central(
        sampling=jf.sampling.Poisson(population=population, rate=rate, cap=cap),
        clipping=jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )


def test_published_number():
    """Truncated Poisson at N = 10,000, q = 1 %, T = 1,000, z = 1, delta 1e-6."""
    epsilon = central().epsilon(rounds=1000, delta=1e-6)
    assert epsilon == pytest.approx(2.138, abs=1e-3)


def test_untruncated_number_and_the_cost_of_a_tight_cap():
    loose = central(cap=400).epsilon(rounds=1000, delta=1e-6)
    assert loose == pytest.approx(2.125, abs=1e-3)
    tight = central(cap=130).epsilon(rounds=1000, delta=1e-6)
    assert tight == pytest.approx(4.92, abs=0.02)


def test_full_participation_is_the_analytic_gaussian():
    """A second accountant: Balle and Wang 2018 in dp-accounting, no discretisation."""
    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=4),
        clipping=jf.clipping.Fixed(norm=0.3),
        noise=jf.noise.Gaussian(multiplier=4.0),
    )
    exact = dp_accounting.get_epsilon_gaussian(4.0 / math.sqrt(25), 1e-5)
    epsilon = privacy.epsilon(rounds=25, delta=1e-5)
    assert exact <= epsilon <= 1.005 * exact


def test_bracketed_by_a_renyi_accountant():
    """RDP of plain Poisson sampling: above the number, and not by much."""
    epsilon = central().epsilon(rounds=1000, delta=1e-6)
    renyi = dp_accounting.rdp.RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    gaussian = dp_accounting.GaussianDpEvent(1.0)
    renyi.compose(dp_accounting.PoissonSampledDpEvent(0.01, gaussian), 1000)
    bound = renyi.get_epsilon(1e-6)
    assert epsilon <= bound <= 1.35 * epsilon


@pytest.mark.parametrize(
    ("change", "direction"),
    [
        ({"rate": 0.011}, 1),
        ({"cap": 140}, 1),
        ({"multiplier": 1.1}, -1),
        ({"population": 9_000, "rate": 0.01}, 0),
        ({"norm": 7.0}, 0),
    ],
)
def test_epsilon_and_event_follow_every_change(change, direction):
    base, changed = central(), central(**change)
    before = base.epsilon(rounds=100, delta=1e-6)
    after = changed.epsilon(rounds=100, delta=1e-6)
    if "norm" in change:  # noise is relative to the clip: epsilon cannot change
        assert after == before
        assert changed.sensitivity() == 7.0
        return
    assert changed.event(rounds=100) != base.event(rounds=100)
    assert after != before
    assert direction == 0 or (after - before) * direction > 0


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    norm=st.floats(1e-3, 1e3), multiplier=st.floats(0.5, 20), rate=st.floats(0.01, 1)
)
def test_noise_that_is_drawn_is_the_noise_that_is_accounted(norm, multiplier, rate):
    privacy = central(
        population=100, rate=rate, cap=None, norm=norm, multiplier=multiplier
    )
    event = privacy.event(rounds=3).event
    assert event.noise_multiplier * privacy.sensitivity() == pytest.approx(
        privacy.noise.multiplier * privacy.clipping.norm, rel=1e-12
    )
    assert event.truncated_batch_size == privacy.sampling.max_clients


def test_nobody_can_pass_a_sensitivity_an_event_or_an_epsilon():
    parts = {
        "sampling": jf.sampling.Full(population=4),
        "clipping": jf.clipping.Fixed(norm=1.0),
        "noise": jf.noise.Gaussian(multiplier=1.0),
    }
    for name in ("sensitivity", "l2_bound", "event", "epsilon", "stddev"):
        with pytest.raises(TypeError, match=name):
            jf.privacy.central(**parts, **{name: 1.0})
        assert name not in {f.name for f in dataclasses.fields(jf.privacy.Central)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        jf.privacy.central(**parts).noise = jf.noise.Gaussian(multiplier=9.0)


@pytest.mark.parametrize(
    "epsilon", [pytest.param(0.2, marks=pytest.mark.nightly), 1.0, 8.0]
)
def test_calibration_meets_the_budget_and_wastes_little(epsilon):
    privacy = central().calibrated(epsilon=epsilon, delta=1e-6, rounds=200)
    assert 0.995 * epsilon <= privacy.epsilon() <= epsilon
    assert privacy.rounds == 200
    assert privacy.delta == 1e-6
    less = dataclasses.replace(
        privacy, noise=jf.noise.Gaussian(multiplier=0.998 * privacy.noise.multiplier)
    )
    assert less.epsilon() > 0.999 * epsilon


def test_calibration_agrees_with_dp_accounting():
    privacy = central().calibrated(epsilon=2.0, delta=1e-6, rounds=100)
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    multiplier = dp_accounting.calibrate_dp_mechanism(
        lambda: dp_accounting.pld.PLDAccountant(relation, 1e-3),
        lambda z: dp_accounting.SelfComposedDpEvent(privacy.sampling.event(z), 100),
        2.0,
        1e-6,
        dp_accounting.LowerEndpointAndGuess(0.2, 1.0),
        tol=1e-4,
    )
    assert privacy.noise.multiplier == pytest.approx(multiplier, rel=1e-3)


def test_encode_clips_and_ignores_the_weight():
    privacy = central(norm=1.0)
    update = {"w": jnp.array([30.0, 40.0])}
    results = [ClientResult(update, jnp.float32(w), ()) for w in (1, 1e6, -5, jnp.nan)]
    key = jf.keys.simulated(0)
    encoded = [privacy.encode((), r, key=key).update["w"] for r in results]
    for one in encoded:
        np.testing.assert_array_equal(one, encoded[0])
    levels = privacy._joint(update).parts[0].lattice.levels
    square = sum(int(x) ** 2 for x in np.asarray(encoded[0]))
    assert (0.999 * levels) ** 2 < square <= levels**2


@hypothesis.given(
    st.lists(st.floats(width=32), min_size=3, max_size=3),
    st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]),
)
def test_one_adversarial_client_moves_the_sum_by_at_most_the_sensitivity(values, dtype):
    privacy = central(norm=0.7)
    values = np.clip(np.array(values, np.float32), -6e4, 6e4)
    result = ClientResult(jnp.asarray(values).astype(dtype), jnp.float32(1), ())
    encoded = privacy.encode((), result, key=jf.keys.simulated(0)).update
    (part,) = privacy._joint(values).parts
    square = sum(int(x) ** 2 for x in np.asarray(encoded))
    assert square <= part.lattice.levels**2  # in exact arithmetic
    assert part.lattice.target == part.lattice.levels
    assert privacy.sensitivity("replace_one") == 2 * privacy.sensitivity()


def test_release_divides_by_a_public_constant():
    """The mean is the same whoever took part: a zero client changes nothing."""
    privacy = central(multiplier=0.0)
    like = {"w": jnp.zeros(2)}
    target = privacy._joint(like).parts[0].lattice.target
    total = Encoded({"w": jnp.array([10 * target, -5 * target], jnp.int32)}, ())
    _, released = privacy.release((), total, key=jf.keys.simulated(0))
    np.testing.assert_allclose(released.value["w"], [0.1, -0.05], rtol=1e-6)


def test_a_run_with_too_many_draws_is_refused():
    params = {"w": jnp.zeros(1_000_000)}
    others: dict = {"local": NO_WORK, "client_sizes": np.ones(10_000)}
    central().validate(params=params, rounds=1000, **others)
    with pytest.raises(ValueError, match="must be at most 2\\*\\*-46"):
        central().validate(params=params, rounds=10**12, **others)


def test_statement_is_complete_and_never_rounds_epsilon_down():
    privacy = central().calibrated(epsilon=1.0, delta=1e-6, rounds=100)
    words = str(privacy.statement())
    for part in (
        "100 rounds",
        "1e-06",
        "one client",
        "replaced by zero",
        "10,000 clients",
        "Not covered",
        "arithmetic that runs",
    ):
        assert part in words
    claimed = float(words.split("(")[1].split(",")[0])
    assert privacy.epsilon() <= claimed <= 1.01 * privacy.epsilon()
    assert "No claim yet" in str(central().statement())
    silent = dataclasses.replace(central(multiplier=0.0), delta=1e-6, rounds=3)
    assert silent.epsilon() == math.inf
    assert "No privacy guarantee" in str(silent.statement())


@hypothesis.given(st.floats(1e-4, 1e4))
def test_a_printed_epsilon_is_never_below_the_computed_one(epsilon):
    printed = float(_statement.up(epsilon))
    assert epsilon * (1 - 1e-9) <= printed <= 1.011 * epsilon


def test_none_says_so_everywhere():
    privacy = jf.privacy.none(sampling=jf.sampling.Full(population=4))
    assert "No privacy guarantee" in str(privacy.statement())
    assert privacy.epsilon(rounds=1, delta=1e-5) == math.inf
    assert "NoPrivacy" in repr(privacy)
    assert isinstance(privacy.event(rounds=2), dp_accounting.NonPrivateDpEvent)
    assert np.isinf(privacy.epsilon_curve(3)).all()


def test_plot_of_the_tradeoff():
    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=50),
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=1.0),
    ).calibrated(epsilon=1.0, delta=1e-6, rounds=20)
    figure = privacy.plot_tradeoff()
    lines = figure.axes[0].get_lines()
    assert len(lines) == 5
    at_end = [line.get_ydata()[-1] for line in lines]
    assert at_end == sorted(at_end, reverse=True)
    assert at_end[2] == pytest.approx(1.0, abs=0.01)


def test_clipped_sum_has_no_way_out():
    clipped = ClippedSum(total=jnp.ones(2, jnp.int32), step=jnp.float32(1), levels=1)
    with pytest.raises(TypeError):
        clipped / 2
