"""The adaptive norm finds its quantile, and its report is paid for."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed.privacy import _joint
from jaxfed.typing import ClientResult

CLIENTS = 200
PARAMS = {"w": jnp.zeros(2)}


def central(initial=0.1, quantile=0.5, multiplier=1.0, population=CLIENTS, **options):
    return jf.privacy.central(
        sampling=jf.sampling.Full(population=population),
        clipping=jf.clipping.Adaptive(quantile=quantile, initial=initial, **options),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )


def run(privacy, norms, rounds, seed=0):
    """Drives the mechanism itself with clients of these update norms."""
    import jax

    updates = {"w": jnp.asarray(norms[:, None] * [0.6, 0.8], jnp.float32)}

    @jax.jit
    def one_round(state, key):
        def encode(update):
            return privacy.encode(
                state,
                ClientResult(update, jnp.float32(1), ()),
                key=jf.keys.simulated(1),
            )

        encoded = jax.vmap(encode)(updates)
        total = jax.tree.map(lambda a: jnp.sum(a, 0, dtype=jnp.int32), encoded)
        return privacy.release(state, total, key=key)[0]

    state, found = privacy.init(PARAMS), []
    for index in range(rounds):
        key = jf.keys.for_round(jf.keys.simulated(seed), index)
        state = one_round(state, key)
        found.append(float(state))
    return np.array(found)


@pytest.mark.parametrize(
    ("initial", "quantile", "rounds"),
    [
        (1e-3, 0.5, 100),
        (1.0, 0.5, 100),
        (1e3, 0.5, 100),
        (1.0, 0.3, 100),
        (1.0, 0.8, 100),
        (1e-3, 0.3, 200),  # the largest step upwards is exp(0.2 * quantile)
        (1e3, 0.8, 250),  # and downwards exp(0.2 * (1 - quantile))
    ],
)
def test_converges_to_the_quantile_from_far_away(initial, quantile, rounds):
    norms = np.random.default_rng(0).lognormal(0, 0.4, CLIENTS)
    found = run(central(initial, quantile), norms, rounds)
    wanted = np.quantile(norms, quantile)
    assert abs(np.median(found[-20:]) / wanted - 1) < 0.1


def test_direction_is_right():
    """Peers have it inverted: everybody clipped must make the norm grow."""
    assert np.all(np.diff(run(central(0.01), np.full(CLIENTS, 10.0), 10)) > 0)
    assert np.all(np.diff(run(central(100.0), np.full(CLIENTS, 10.0), 10)) < 0)


def test_the_rule_of_the_paper():
    clipping = jf.clipping.Adaptive(quantile=0.7, initial=2.0, learning_rate=0.3)
    for share in (0.0, 0.25, 0.7, 1.0):
        moved = clipping.adapt(jnp.float32(2.0), jnp.float32(share))
        assert moved == pytest.approx(2.0 * math.exp(-0.3 * (share - 0.7)), rel=1e-6)
    # noise beyond [0, 1] is clamped
    assert clipping.adapt(jnp.float32(2), jnp.float32(9.0)) == clipping.adapt(
        jnp.float32(2), jnp.float32(1.0)
    )


@pytest.mark.parametrize(
    ("multiplier", "clients", "published"),
    [(1.0, 100, 1.005038), (2.0, 100, 2.041241), (0.5, 50, 0.502519)],
)
def test_published_multipliers(multiplier, clients, published):
    """Andrew et al. 2021, theorem 1, with sigma_b = clients / 20."""
    privacy = central(
        multiplier=multiplier, population=clients, count_stddev=clients / 20
    )
    layout = privacy._joint(PARAMS)
    assert layout.parts[0].noise.multiplier == pytest.approx(published, abs=1e-6)
    assert layout.count.noise.multiplier == pytest.approx(clients / 10)


@pytest.mark.parametrize("multiplier", [0.4, 1.0, 7.0])
def test_all_parts_together_are_one_gaussian_of_the_multiplier(multiplier):
    for clipping in (
        jf.clipping.Adaptive(quantile=0.5, initial=1.0),
        jf.clipping.PerLayer(norms={"a": 1.0, "b": 0.1, "": 3.0}),
        jf.clipping.Fixed(norm=2.0),
    ):
        params = {"a": jnp.zeros(7), "b": jnp.zeros((3, 5)), "c": jnp.zeros(())}
        sampling = jf.sampling.Poisson(population=1000, rate=0.05)
        layout = _joint.joint(
            clipping,
            multiplier,
            params,
            max_contributions=sampling.max_clients,
            expected_contributions=sampling.expected_clients,
        )
        parts = [*layout.parts, *([layout.count] if layout.count else [])]
        precision = sum(part.noise.multiplier**-2 for part in parts)
        assert precision == pytest.approx(multiplier**-2, rel=1e-12)


def test_a_count_that_would_spend_everything_is_refused():
    with pytest.raises(ValueError, match="count_stddev must be > multiplier / 2 = 2"):
        central(multiplier=4.0, count_stddev=1.5).init(PARAMS)


def test_a_failed_or_absent_client_counts_as_neither():
    privacy = central()
    state = privacy.init(PARAMS)
    levels = privacy._joint(PARAMS).count.lattice.levels
    for norm, half in ((0.01, 1), (5.0, -1), (np.nan, 0), (np.inf, 0), (0.0, 1)):
        update = {"w": jnp.array([norm, 0.0], jnp.float32)}
        encoded = privacy.encode(
            state, ClientResult(update, jnp.float32(1), ()), key=jf.keys.simulated(1)
        )
        assert int(encoded.count) == half * levels


def test_history_shows_the_released_norm():
    import optax

    from tests.problems import logistic_loss, logistic_params, ragged_data

    data = ragged_data()
    privacy = central(population=data.num_clients)
    local = jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1)
    history = jf.simulate(
        jf.algorithms.fedavg(local, privacy),
        data,
        params=logistic_params(),
        rounds=3,
        seed=0,
        progress=False,
    )
    rounds, norms = history.curve("clip_norm")
    assert list(rounds) == [1, 2, 3]
    assert len(set(norms)) == 3
    assert "clip_norm" in repr(history)
    assert history.rounds[0].row()["released.clip_norm"] == norms[0]
