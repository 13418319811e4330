"""Correlated noise: one charge for the horizon, and a contract that is kept."""

import dataclasses
import math
import os
import subprocess
import sys
import textwrap

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.typing import ClientResult
from tests.problems import logistic_loss, logistic_params, ragged_data

ROUNDS = 24
NOISES = {
    "blt": jf.noise.BLT(multiplier=3.0),
    "banded": jf.noise.Banded(multiplier=3.0, bands=6),
    "tree": jf.noise.Tree(multiplier=3.0),
}


def min_separation(population=40, size=4, separation=6, most=4):
    return jf.sampling.MinSeparation(
        population=population,
        size=size,
        separation=separation,
        max_participations=most,
    )


def correlated(name="blt", rounds=ROUNDS, **options):
    settings: dict = {
        "sampling": min_separation(),
        "clipping": jf.clipping.Fixed(norm=0.5),
        "noise": NOISES[name],
    }
    return jf.privacy.central(rounds=rounds, **(settings | options))


def released_noise(privacy, rounds, dimension, seed=0):
    """Runs the mechanism on empty cohorts: (rounds, dimension) of the summed noise."""
    params = {"w": jnp.zeros(dimension)}
    state = privacy.init(params)
    nothing = ClientResult(params, jnp.float32(1), ())
    zero = privacy.encode(state, nothing, key=jf.keys.simulated(seed))
    step = jax.jit(privacy.release)
    found = []
    for index in range(rounds):
        key = jf.keys.for_round(jf.keys.simulated(seed), index)
        state, released = step(state, zero, key=key)
        found.append(np.asarray(released.value["w"], np.float64))
    return np.array(found) * privacy.sampling.expected_clients


@pytest.mark.parametrize("name", NOISES)
def test_the_run_is_one_gaussian_charged_whole(name):
    privacy = correlated(name)
    event = privacy.event(rounds=ROUNDS)
    assert isinstance(event, dp_accounting.GaussianDpEvent)
    assert privacy.event(rounds=1) == event
    strategy = privacy.noise.sensitivity(ROUNDS, privacy.participation)
    assert event.noise_multiplier == pytest.approx(3.0 / strategy, rel=1e-12)
    exact = dp_accounting.get_epsilon_gaussian(event.noise_multiplier, 1e-4)
    assert exact <= privacy.epsilon(delta=1e-4) <= 1.005 * exact


@pytest.mark.parametrize("name", NOISES)
def test_the_grid_gives_at_least_the_multiplier_that_is_accounted(name):
    """sigma over the sensitivity of the integers, rounding included."""
    for dimension in (5, 100_000):
        privacy = correlated(name)
        layout = privacy._layout({"w": jnp.zeros(dimension)})
        moved = layout.stream.sensitivity(
            norm=layout.lattice.levels, dimension=dimension
        )
        stddev = math.sqrt(layout.stream.sampler.scale**2 - 4)
        accounted = privacy.event(rounds=1).noise_multiplier
        assert stddev / moved >= accounted * (1 - 1e-12)
        assert stddev / moved <= 1.001 * accounted
        most = layout.stream.largest + 4 * layout.lattice.levels
        assert most < 2**31


@pytest.mark.parametrize("name", NOISES)
def test_prefix_sums_carry_the_error_of_the_strategy(name):
    # 40,000 coordinates: standard error of a variance .7 %; 24 rounds at 5.5 of them
    # (false alarm 1e-6). Independent noise would be far above, as the last line shows.
    privacy = correlated(name)
    dimension = 40_000
    noise = np.cumsum(released_noise(privacy, ROUNDS, dimension), axis=0)
    strategy = privacy.noise.strategy(ROUNDS, privacy.participation)
    stddev = 3.0 * 0.5
    wanted = stddev**2 * strategy.prefix_errors()
    layout = privacy._layout({"w": jnp.zeros(dimension)})
    extra = layout.stream.sampler.scale / (3.0 * layout.lattice.levels)
    found = noise.var(axis=1) / extra**2  # what rounding added to the noise
    np.testing.assert_allclose(found, wanted, rtol=5.5 * math.sqrt(2 / dimension))
    assert found[-1] < 0.75 * ROUNDS * stddev**2


@pytest.mark.parametrize(
    ("sampling", "kind"),
    [
        (min_separation(), jf.noise.BLT),
        (jf.sampling.Cyclic(population=40, groups=8), jf.noise.BLT),
        (jf.sampling.BallsInBins(population=40, bins=8), jf.noise.BLT),
        (jf.sampling.Poisson(population=40, rate=0.1), jf.noise.Gaussian),
        (jf.sampling.FixedSize(population=40, size=4), jf.noise.Gaussian),
        (jf.sampling.Full(population=40), jf.noise.Gaussian),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_correlated_noise_is_the_default_where_no_chance_is_promised(sampling, kind):
    privacy = jf.privacy.central(
        sampling=sampling, clipping=jf.clipping.Fixed(norm=0.5), rounds=ROUNDS
    )
    assert privacy.noise == kind(multiplier=1.0)
    assert getattr(privacy.noise, "buffers", 2) == 2
    budget = {"epsilon": 4.0, "delta": 1e-3, "rounds": ROUNDS}
    assert privacy.calibrated(**budget).epsilon() <= 4.0


def test_cohorts_that_break_the_contract_are_refused():
    data = ragged_data(sizes=(3,) * 40)
    privacy = correlated()

    def draw(self, round_index, *, key):
        del key
        return np.arange(4) + 4 * (round_index % 5)  # back after 5 rounds, not 6

    local = jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1)
    algorithm = jf.algorithms.fedavg(local, privacy)

    def run(rounds=ROUNDS):
        return jf.simulate(
            algorithm,
            data,
            params=logistic_params(),
            rounds=rounds,
            seed=0,
            progress=False,
        )

    assert len(run(8).rounds) == 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jf.sampling.MinSeparation, "draw", draw)
        with pytest.raises(ValueError, match="before 6 rounds have passed, got 4"):
            run()


def test_rounds_beyond_the_horizon_are_refused():
    privacy = correlated(rounds=3)
    data = ragged_data(sizes=(3,) * 40)
    local = jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1)
    with pytest.raises(ValueError, match="rounds must be <= the horizon of the noise"):
        jf.simulate(
            jf.algorithms.fedavg(local, privacy),
            data,
            params=logistic_params(),
            rounds=4,
            seed=0,
            progress=False,
        )
    for ask in (
        privacy.event,
        lambda rounds: privacy.epsilon(rounds=rounds, delta=1e-4),
    ):
        with pytest.raises(ValueError, match="the noise covers no more"):
            ask(rounds=4)


@pytest.mark.parametrize("name", NOISES)
def test_calibration_meets_the_budget(name):
    privacy = correlated(name).calibrated(epsilon=2.0, delta=1e-4, rounds=ROUNDS)
    assert 1.99 <= privacy.epsilon() <= 2.0
    words = str(privacy.statement())
    for part in (
        "24 rounds",
        "within 6",
        "more than 4",
        "correlated discrete Gaussian",
    ):
        assert part in words
    assert (privacy.epsilon_curve(5) == privacy.epsilon()).all()
    less = dataclasses.replace(
        privacy.noise, multiplier=0.99 * privacy.noise.multiplier
    )
    assert dataclasses.replace(privacy, noise=less).epsilon() > 2.0


def test_less_error_than_independent_noise_at_the_same_budget():
    """Without amplification by sampling, the reason to correlate."""
    independent = jf.privacy.central(
        sampling=min_separation(),
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=jf.noise.Gaussian(multiplier=1.0),
    ).calibrated(epsilon=2.0, delta=1e-4, rounds=ROUNDS)
    sums = []
    for privacy in (
        independent,
        correlated().calibrated(epsilon=2.0, delta=1e-4, rounds=ROUNDS),
    ):
        noise = released_noise(privacy, ROUNDS, 4000)
        sums.append(np.cumsum(noise, axis=0)[-1].std())
    assert sums[1] < 0.8 * sums[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": None}, "correlated noise needs its horizon"),
        ({"rounds": 0}, "correlated noise needs its horizon"),
        ({"delta": 0.5}, "delta must be < 1 / population"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        correlated(**change)


def test_a_moving_clip_is_refused():
    adaptive = jf.clipping.Adaptive(quantile=0.5, initial=0.1)
    with pytest.raises(TypeError, match="clipping must be a Fixed, got Adaptive"):
        correlated(clipping=adaptive)


def test_participation_limits_what_independent_noise_costs():
    """A client that takes part 3 times of 24 composes 3 Gaussians, not 24."""
    privacy = correlated(noise=jf.noise.Gaussian(multiplier=3.0), rounds=None)
    uses = privacy.sampling.participation(24).max_participations
    assert uses == 3
    exact = dp_accounting.get_epsilon_gaussian(3.0 / math.sqrt(uses), 1e-4)
    assert exact <= privacy.epsilon(rounds=24, delta=1e-4) <= 1.005 * exact
    curve = dataclasses.replace(privacy, delta=1e-4).epsilon_curve(24)
    assert curve[0] == curve[5] < curve[-1]


def test_fixed_size_is_accounted_at_twice_the_sensitivity():
    privacy = jf.privacy.central(
        sampling=jf.sampling.FixedSize(population=10_000, size=100),
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=1.0),
        delta=1e-6,
    )
    renyi = dp_accounting.rdp.RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
    )
    event = dp_accounting.SampledWithoutReplacementDpEvent(
        10_000, 100, dp_accounting.GaussianDpEvent(0.5)
    )
    renyi.compose(event, 100)
    found = privacy.epsilon(rounds=100)
    assert found == pytest.approx(renyi.get_epsilon(1e-6), rel=0.02)
    assert "replaced by any other" in str(privacy.statement(rounds=10))


def test_rounds_beyond_the_horizon_release_nothing_even_when_compiled():
    noise = released_noise(correlated(rounds=3), 5, 4)
    assert np.isfinite(noise[:3]).all()
    assert np.isnan(noise[3:]).all()


def test_a_sum_that_was_not_encoded_is_refused():
    """Integer noise on a float total would leave its fractions bare."""
    privacy = correlated()
    params = {"w": jnp.zeros(4)}
    with pytest.raises(TypeError, match="total must hold int32 leaves, got float32"):
        privacy.release(
            privacy.init(params), {"w": jnp.full(4, 0.25)}, key=jf.keys.simulated(0)
        )


@pytest.mark.slow
def test_the_state_of_the_noise_can_be_spread_over_devices():
    """Split along the parameters over four devices: the same bits, and still split."""
    script = textwrap.dedent("""
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        import jaxfed as jf
        from jaxfed.typing import ClientResult

        params = {"w": jnp.zeros(64), "b": jnp.zeros(3)}
        mesh = Mesh(np.array(jax.devices()), ("model",))

        def spread(a):
            axes = [None] * (a.ndim - 1) + ["model"] if a.shape[-1:] == (64,) else []
            return jax.device_put(a, NamedSharding(mesh, PartitionSpec(*axes)))

        for noise in (
            jf.noise.BLT(multiplier=3.0),
            jf.noise.Banded(multiplier=3.0, bands=3),
            jf.noise.Tree(multiplier=3.0),
        ):
            privacy = jf.privacy.central(
                sampling=jf.sampling.Cyclic(population=8, groups=2),
                clipping=jf.clipping.Fixed(norm=0.5), noise=noise, rounds=8)
            key = jf.keys.secure(bytes(32), context=b"test")
            state = privacy.init(params)
            update = {"w": jnp.linspace(-1, 1, 64), "b": jnp.ones(3)}
            result = ClientResult(update, jnp.float32(1), ())
            total = privacy.encode(state, result, key=key)
            release = jax.jit(lambda s, t, k: privacy.release(s, t, key=k))
            one, many = state, jax.tree.map(spread, state)
            for index in range(4):
                draw = jf.keys.for_round(key, index)
                one, wanted = release(one, total, draw)
                many, found = release(many, jax.tree.map(spread, total), draw)
                for a, b in zip(
                    *map(jax.tree.leaves, ((one, wanted), (many, found))), strict=True
                ):
                    np.testing.assert_array_equal(a, b)
            kept = [a for a in jax.tree.leaves(many) if a.shape[-1:] == (64,)]
            assert kept
            assert all(a.addressable_shards[0].data.shape[-1] == 16 for a in kept)
        print(len(jax.devices()))
    """)
    flags = "--xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["4"]
