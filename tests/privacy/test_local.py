"""Local privacy: what a client sends is private, and its epsilon is the true one."""

import dataclasses
import functools
import math

import dp_accounting
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import jaxfed as jf
from jaxfed.privacy import _reports
from jaxfed.typing import ClientResult
from tests.problems import logistic_loss, logistic_params, ragged_data

FULL = jf.sampling.Full(population=50)
MECHANISMS = {
    "gaussian": (jf.noise.Gaussian(multiplier=2.0), jf.clipping.Fixed),
    "laplace": (jf.noise.Laplace(multiplier=0.5), jf.clipping.FixedL1),
    "privunit": (jf.noise.PrivUnit(epsilon=4.0), jf.clipping.Fixed),
}
ADDITIVE = ("gaussian", "laplace")


def local(name, *, sampling=FULL, norm=1.0, noise=None):
    default, clip = MECHANISMS[name]
    return jf.privacy.local(
        sampling=sampling, clipping=clip(norm=norm), noise=noise or default
    )


@functools.cache
def encoder(privacy):
    def encode(values, key):
        result = ClientResult({"w": values}, jnp.float32(1), ())
        return privacy.encode((), result, key=key)["w"]

    return jax.jit(encode), jax.jit(jax.vmap(encode, (None, 0)))


def encode(privacy, values, *, key=None):
    key = jf.keys.simulated(5) if key is None else key
    return np.asarray(encoder(privacy)[0](jnp.asarray(values), key)).astype(np.int64)


# What is claimed


@pytest.mark.parametrize("multiplier", [6.0, 30.0])  # epsilon below 20: see at_distance
@pytest.mark.parametrize("rounds", [1, 4])
def test_gaussian_is_accounted_at_twice_the_norm(multiplier, rounds):
    """A second accountant: the analytic Gaussian (Balle and Wang 2018)."""
    privacy = local("gaussian", noise=jf.noise.Gaussian(multiplier=multiplier))
    event = privacy.event(rounds=rounds).event
    assert event.noise_multiplier == pytest.approx(multiplier / 2, rel=1e-10)
    assert event.noise_multiplier < multiplier / 2
    exact = dp_accounting.get_epsilon_gaussian(
        multiplier / privacy.sensitivity() / math.sqrt(rounds), 1e-5
    )
    assert exact * (1 - 1e-9) <= privacy.epsilon(rounds=rounds, delta=1e-5)
    assert privacy.epsilon(rounds=rounds, delta=1e-5) <= 1.005 * exact


def test_published_error_of_local_gaussian():
    """d sigma**2 for a unit vector at delta 1e-5: 4676, 1441 and 14411 (references)."""
    for epsilon, dimension, error in ((4, 1000, 4676), (8, 1000, 1441)):
        privacy = local("gaussian").calibrated(epsilon=epsilon, delta=1e-5, rounds=1)
        found = dimension * privacy.noise.multiplier**2
        assert found == pytest.approx(error, rel=3e-3)
        private = jf.noise.PrivUnit(epsilon=epsilon).cap(dimension)
        assert found > 9 / private.mean**2  # a direction is nine times better


def test_discrete_gaussian_is_no_worse_than_the_accounted_continuous_one():
    """The theorem behind the event, at a scale at which it is felt: sigma 2.5.

    delta(epsilon) of integers against that of a continuous Gaussian of variance 4
    less. The last line: without the 4, the claim would be false here.
    """
    sigma, shift, x = 2.5, 3, np.arange(-80, 81)
    mass = np.exp(-(x**2) / (2 * sigma**2))
    mass /= mass.sum()
    other = np.roll(mass, shift)  # the ends are below 1e-200
    is_needed = False
    for epsilon in np.linspace(0.05, 4, 80):
        discrete = np.maximum(mass - np.exp(epsilon) * other, 0).sum()

        claimed = delta_gaussian(math.sqrt(sigma**2 - 4) / shift, epsilon)
        assert discrete <= claimed * (1 + 1e-12)
        is_needed |= discrete > delta_gaussian(sigma / shift, epsilon)
    assert is_needed
    assert _reports._ROUNDED_VARIANCE == 4


def delta_gaussian(multiplier, epsilon):
    """Balle and Wang 2018, theorem 8, in closed form."""
    a, b = 1 / (2 * multiplier), epsilon * multiplier
    upper = stats.norm.cdf(a - b)
    return upper - math.exp(epsilon) * stats.norm.cdf(-a - b)


@pytest.mark.parametrize(("name", "single"), [("laplace", 4.0), ("privunit", 4.0)])
def test_pure_reports_add_up_at_delta_zero_and_less_otherwise(name, single):
    privacy = local(name)
    assert privacy.epsilon(rounds=1) == pytest.approx(single, rel=1e-12)
    assert privacy.epsilon(rounds=5) == pytest.approx(5 * single, rel=1e-12)
    many = privacy.epsilon(rounds=50, delta=1e-5)
    assert many < 50 * single
    np.testing.assert_allclose(privacy.epsilon_curve(3), single * np.arange(1, 4))
    accountant = dp_accounting.pld.PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_SPECIAL, 1e-3
    )
    accountant.compose(privacy.event(rounds=50))
    assert accountant.get_epsilon(1e-5) == pytest.approx(many, rel=2e-3)


@pytest.mark.parametrize("name", MECHANISMS)
def test_sampling_is_never_counted_in_the_clients_favour(name):
    everybody = local(name).epsilon(rounds=7, delta=1e-5)
    for sampling in (
        jf.sampling.Poisson(population=50, rate=0.02),
        jf.sampling.FixedSize(population=50, size=1),
    ):
        rarely = local(name, sampling=sampling)
        assert rarely.epsilon(rounds=7, delta=1e-5) == everybody


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("rounds", [1, 10])
def test_calibration_meets_the_budget_and_wastes_little(name, rounds):
    privacy = local(name).calibrated(epsilon=6.0, delta=1e-6, rounds=rounds)
    assert 0.995 * 6 <= privacy.epsilon() <= 6
    assert privacy.epsilon_curve(rounds)[-1] == privacy.epsilon()
    again = jf.privacy.from_json(privacy.to_json())
    assert again == privacy
    if name == "gaussian":
        with pytest.raises(ValueError, match=r"delta=0 needs noise\.Laplace"):
            local(name).calibrated(epsilon=6.0, delta=0.0, rounds=rounds)
    else:
        pure = local(name).calibrated(epsilon=6.0, delta=0.0, rounds=rounds)
        assert 0.995 * 6 <= pure.epsilon() <= 6


def test_nobody_can_pass_a_sensitivity_an_event_or_a_scale():
    """H17: the scale of the noise and the clip are one fact."""
    parts = {
        "sampling": FULL,
        "clipping": jf.clipping.FixedL1(norm=1.0),
        "noise": jf.noise.Laplace(multiplier=1.0),
    }
    for name in ("sensitivity", "l2_bound", "event", "epsilon", "stddev"):
        with pytest.raises(TypeError, match=name):
            jf.privacy.local(**parts, **{name: 1.0})
    for name in MECHANISMS:
        small, large = local(name, norm=0.1), local(name, norm=10.0)
        assert small.sensitivity() == 0.2
        assert large.sensitivity("zero_out") == 10.0
        assert small.epsilon(rounds=2, delta=1e-5) == large.epsilon(
            rounds=2, delta=1e-5
        )


def test_noise_and_clip_must_fit():
    with pytest.raises(TypeError, match=r"Laplace needs clipping.FixedL1"):
        jf.privacy.local(
            sampling=FULL,
            clipping=jf.clipping.Fixed(norm=1.0),
            noise=jf.noise.Laplace(multiplier=1.0),
        )
    with pytest.raises(TypeError, match=r"PrivUnit needs clipping.Fixed\("):
        jf.privacy.local(
            sampling=FULL,
            clipping=jf.clipping.FixedL1(norm=1.0),
            noise=jf.noise.PrivUnit(epsilon=1.0),
        )
    with pytest.raises(TypeError, match="noise must be"):
        jf.privacy.local(sampling=FULL, clipping=jf.clipping.Fixed(norm=1.0), noise=3)
    for noise in (0.0, 1e-4, 1e5):
        with pytest.raises(ValueError, match=r"multiplier must be in \[0.001, 10000\]"):
            local("gaussian", noise=jf.noise.Gaussian(multiplier=noise))
    with pytest.raises(ValueError, match="multiplier must be > 0"):
        jf.noise.Laplace(multiplier=0.0)


# What is sent


class _Silent:
    """Records the exact report: a sampler that draws nothing."""

    largest, distance = 2**23, 0.0

    def draw(self, shape, *, key):
        del key
        return jnp.zeros(shape, jnp.int32)


floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@pytest.mark.parametrize("name", ADDITIVE)
@hypothesis.given(
    st.lists(floats, min_size=5, max_size=5),
    st.lists(floats, min_size=5, max_size=5),
    st.sampled_from([1e-12, 0.37, 1.0, 1e12]),
    st.sampled_from([1e-3, 0.77, 3.0, 1e4]),
)
def test_two_inputs_differ_by_at_most_the_accounted_distance(
    name, left, right, norm, multiplier
):
    """Record and replay: the integers before noise, in whole numbers."""
    kind = type(MECHANISMS[name][0])
    privacy = local(name, norm=norm, noise=kind(multiplier=multiplier))
    report = dataclasses.replace(privacy._report(), sampler=_Silent(), shift=0)

    def exact(values):
        update = jnp.array(values, jnp.float32)
        drawn = report.encode(update, key=jf.keys.simulated(0))
        return [int(v) for v in np.asarray(drawn)]

    moved = [a - b for a, b in zip(exact(left), exact(right), strict=True)]
    if name == "gaussian":
        assert sum(m * m for m in moved) <= (2 * report.levels) ** 2
        accounted = privacy.event(rounds=1).event.noise_multiplier
        assert accounted <= report.scale / (2 * report.levels)
    else:
        assert sum(abs(m) for m in moved) <= 2 * report.levels
        accounted = privacy.epsilon(rounds=1)
        assert accounted >= 2 * report.levels / report.scale


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize(
    "values",
    [[0.0] * 4, [3e38] * 4, [np.nan] * 4, [np.inf, 0, 0, 0], [1e-45, 0, 0, 0]],
)
def test_reports_have_one_form_and_one_range(name, values):
    privacy = local(name)
    report = encode(privacy, np.array(values, np.float32))
    assert report.dtype == np.int64
    assert np.abs(report).max() <= privacy._report().largest
    if not np.isfinite(values).all() or max(np.abs(values)) < 1e-40:
        # a client that failed sends what a client with nothing to say sends
        np.testing.assert_array_equal(report, encode(privacy, np.zeros(4, np.float32)))
    assert (report != 0).any()


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("cap", [1, 100, 3000, 1_000_000])
def test_a_cohort_of_the_largest_reports_fits_int32(name, cap):
    privacy = local(name, sampling=jf.sampling.Full(population=cap))
    assert cap * privacy._report().largest < 2**31
    result = ClientResult(jnp.ones(300), jnp.float32(1), ())
    spec = jax.eval_shape(
        lambda k: privacy.encode((), result, key=k), jf.keys.simulated(0)
    )
    assert spec.dtype == jnp.int32


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_cohort_too_large_is_refused_when_built(name):
    sampling = jf.sampling.Full(population=200_000_000)
    with pytest.raises(ValueError, match="32 bits; use a smaller"):
        local(name, sampling=sampling)


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("population", [50, 300_000])
def test_the_mean_of_reports_is_the_clipped_update(name, population):
    # 20,000 reports of 5 coordinates at 5.6 standard errors: a false alarm of 1e-7.
    # At 300,000 clients reports are rounded at random, hundreds of units to one.
    # Cutting towards zero moves a coordinate by at most one unit.
    sampling = jf.sampling.Full(population=population)
    privacy, count = local(name, sampling=sampling, norm=0.5), 20_000
    values = np.array([0.3, -0.2, 0.01, 0.0, 1e-4], np.float32) / 4
    keys = jax.random.split(jf.keys.simulated(1), count)
    drawn = np.asarray(encoder(privacy)[1](jnp.asarray(values), keys), np.float64)
    unit = privacy._report().unit(5)
    value, error = unit * drawn.mean(axis=0), unit * drawn.std(axis=0) / count**0.5
    assert (np.abs(value - values) < 5.6 * error + unit).all()
    # the power: the first coordinate is seen, and its sign
    assert abs(value[0] + values[0]) > 5.6 * error[0] or name == "gaussian"
    total = {"w": jnp.asarray(drawn.sum(axis=0) / 100, jnp.float32).astype(jnp.int32)}
    _, released = privacy.release((), total, key=jf.keys.simulated(2))
    np.testing.assert_allclose(
        released.value["w"] * population / (count / 100), value, atol=2 * unit
    )


@pytest.mark.parametrize("name", ADDITIVE)
@pytest.mark.parametrize("population", [50, 300_000])
def test_noise_has_the_accounted_scale(name, population):
    """P2, with the report's rounding: 200,000 numbers, 5.1 standard errors.

    A false alarm of 3.5e-7; a scale that is 2 % wrong is refused.
    """
    sampling = jf.sampling.Full(population=population)
    privacy = local(name, sampling=sampling)
    drawn = encode(privacy, np.zeros(200_000, np.float32)) * privacy._report().unit(1)
    expected = privacy.noise.multiplier * (1 if name == "gaussian" else math.sqrt(2))
    kurtosis = 3 if name == "gaussian" else 6
    error = 5.1 * math.sqrt((kurtosis - 1) / 200_000) / 2

    def passes(scale):
        return abs(drawn.std() * scale / expected - 1) < error + 0.004

    assert passes(1)
    assert not passes(1.02)
    assert not passes(0.98)


def test_different_clients_and_leaves_get_different_noise():
    for name in MECHANISMS:
        privacy = local(name)
        keys = [jf.keys.for_client(jf.keys.simulated(0), i) for i in range(2)]
        one, two = (encode(privacy, np.zeros(9, np.float32), key=k) for k in keys)
        assert np.mean(one == two) < 0.3
        update = {"a": jnp.zeros(9), "b": jnp.zeros(9)}
        result = ClientResult(update, jnp.float32(1), ())
        both = jax.jit(privacy.encode)((), result, key=jf.keys.simulated(4))
        assert np.mean(np.asarray(both["a"]) == np.asarray(both["b"])) < 0.3


def test_a_model_too_large_for_the_sampler_is_refused(monkeypatch):
    privacy = local("gaussian")
    far = dataclasses.replace(privacy._report(), distance=2.0**-56)
    monkeypatch.setattr(jf.privacy.Local, "_report", lambda self: far)
    assert privacy.init({"w": jnp.zeros(4)}) == ()
    with pytest.raises(ValueError, match="params must be few enough"):
        privacy.init({"w": jnp.zeros(5)})


@pytest.mark.parametrize("name", ADDITIVE)
@pytest.mark.parametrize("multiplier", [1e-3, 1.0, 1e4])
def test_the_grid_never_grows_a_norm(name, multiplier):
    """50 opposite pairs at the bound; upward rounding is seen at 64 levels."""
    kind = type(MECHANISMS[name][0])
    privacy = local(name, noise=kind(multiplier=multiplier))
    report = dataclasses.replace(privacy._report(), sampler=_Silent(), shift=0)
    exact = jax.jit(lambda values: report.encode(values, key=jf.keys.simulated(0)))
    for update in np.random.default_rng(0).normal(size=(50, 30)).astype(np.float32):
        pair = [np.asarray(exact(s * update)).astype(np.int64) for s in (1, -1)]
        moved = [abs(int(a) - int(b)) for a, b in zip(*pair, strict=True)]
        power = 2 if name == "gaussian" else 1
        total, bound = sum(m**power for m in moved), (2 * report.levels) ** power
        assert 0.5 * bound < total <= bound


# What is said and what is learned


@pytest.mark.parametrize("name", MECHANISMS)
def test_statement_is_complete_and_never_rounds_epsilon_down(name):
    privacy = local(name).calibrated(epsilon=3.7, delta=1e-5, rounds=6)
    words = str(privacy.statement())
    for part in (
        "6 rounds",
        "1e-05",
        "nobody but the client",
        "Not covered",
        "metrics",
        "each report alone",
        "not counted in its favour",
    ):
        assert part in words
    claimed = float(words.split("are (")[1].split(",")[0])
    assert privacy.epsilon() <= claimed <= 1.01 * privacy.epsilon()
    assert ("floating point" in words) == (name == "privunit")
    if name == "gaussian":
        assert "No claim yet" in str(local(name).statement())
    else:
        assert "1 round, are (4)-diff" in str(local(name).statement(rounds=1))


@pytest.mark.parametrize("name", MECHANISMS)
def test_the_engine_runs_it_and_learns(name):
    """100 clients with a large epsilon: the loss falls by a third at least."""
    data = ragged_data(sizes=(10,) * 100, seed=3, scale=0.5)
    noise = {
        "gaussian": jf.noise.Gaussian(multiplier=0.5),
        "laplace": jf.noise.Laplace(multiplier=0.2),
        "privunit": jf.noise.PrivUnit(epsilon=16.0),
    }[name]
    privacy = local(name, sampling=jf.sampling.Full(population=100), noise=noise)
    work = jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=10, epochs=3)
    algorithm = jf.algorithms.fedavg(work, privacy)
    start = jax.tree.map(lambda a: -3 * a, logistic_params())
    history = jf.simulate(
        algorithm, data, params=start, rounds=15, seed=0, progress=False
    )
    rows = {n: jnp.asarray(a) for n, a in data.arrays.items()}

    def loss(params):
        return float(logistic_loss(params, rows, jf.keys.simulated(0))[0])

    assert loss(history.params) < 0.7 * loss(start)
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(history.params))
    if name != "gaussian":
        assert history.epsilon == pytest.approx(privacy.epsilon(rounds=15))
