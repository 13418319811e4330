"""Scale-then-privatise: the same event in other units, and a state of public values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.typing import ClientResult, Released

PARAMS = {"w": jnp.zeros(6), "b": jnp.zeros((2, 2))}
KEY = jf.keys.simulated(0)
SCALED = jf.clipping.Scaled(norm=3.0, floor=0.01, decay=0.9)


def central(clipping=SCALED, multiplier=1.0, population=100):
    return jf.privacy.central(
        sampling=jf.sampling.Full(population=population),
        clipping=clipping,
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )


def random_tree(seed, size=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: jnp.asarray(size * rng.normal(size=a.shape), jnp.float32), PARAMS
    )


def taught(rounds, clipping=SCALED):
    """Returns the state after some released means, and a float64 twin's sizes."""
    state = clipping.init(PARAMS)
    moment = jax.tree.map(lambda a: np.zeros(a.shape), PARAMS)
    for index in range(rounds):
        mean = random_tree(index, size=10.0 ** (index % 3 - 2))
        state = clipping.observe(state, mean)
        moment = jax.tree.map(
            lambda v, m: (
                clipping.decay * v
                + (1 - clipping.decay) * np.asarray(m, np.float64) ** 2
            ),
            moment,
            mean,
        )
    weight = 1 - clipping.decay**rounds if rounds else 1.0
    sizes = jax.tree.map(lambda v: np.sqrt(v / weight) + clipping.floor, moment)
    return state, sizes


@pytest.mark.parametrize("rounds", [0, 1, 7])
def test_units_are_those_of_a_slow_twin(rounds):
    state, sizes = taught(rounds)
    update = random_tree(99)
    scaled = SCALED.scale(state, update)
    back = SCALED.unscale(state, scaled)
    for leaf, size, found, again in zip(
        *map(jax.tree.leaves, (update, sizes, scaled, back)), strict=True
    ):
        np.testing.assert_allclose(found, np.asarray(leaf) / size, rtol=1e-5)
        np.testing.assert_allclose(again, leaf, rtol=1e-6)


@pytest.mark.parametrize("rounds", [0, 7])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_integers_are_those_of_fixed_clipping_in_scaled_units(rounds, dtype):
    state, _ = taught(rounds)
    update = jf.tree.astype(random_tree(5, size=0.05), dtype)
    privacy, fixed = central(), central(jf.clipping.Fixed(norm=SCALED.norm))
    found = privacy.encode(state, ClientResult(update, jnp.float32(1), ()), key=KEY)
    scaled = ClientResult(SCALED.scale(state, update), jnp.float32(1), ())
    expected = fixed.encode((), scaled, key=KEY)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, found, expected))
    levels = privacy._joint(PARAMS).parts[0].lattice.levels
    square = sum(int(x) ** 2 for a in jax.tree.leaves(found) for x in np.ravel(a))
    assert 0 < square <= levels**2


def test_every_layout_of_clients_gives_the_same_integers():
    """With what rounds have taught: division must not turn into something else."""
    size = 4000
    clipping = jf.clipping.Scaled(norm=20.0, floor=1e-3)
    privacy = central(clipping, multiplier=0.2)
    rng = np.random.default_rng(0)
    taught = {"w": jnp.asarray(rng.lognormal(size=size), jnp.float32)}
    state = clipping.observe(clipping.init(taught), taught)
    rows = jnp.asarray(rng.normal(size=(8, size)), jnp.float32)

    def encode(state, row):
        result = ClientResult({"w": row}, jnp.float32(1), ())
        return privacy.encode(state, result, key=KEY).update["w"]

    alone = jnp.stack([jax.jit(encode)(state, row) for row in rows])
    assert jnp.array_equal(alone, jnp.stack([encode(state, row) for row in rows]))
    for width in (2, 8):
        wide = jax.jit(jax.vmap(encode, (None, 0)))
        found = [wide(state, rows[i : i + width]) for i in range(0, 8, width)]
        assert jnp.array_equal(alone, jnp.concatenate(found))
    looped = jax.jit(lambda state, rows: jax.lax.map(lambda r: encode(state, r), rows))
    assert jnp.array_equal(alone, looped(state, rows))


def test_event_and_calibration_are_those_of_fixed_clipping():
    """Algorithm 8 scales by released values only: the accounting does not change."""
    privacy, fixed = central(), central(jf.clipping.Fixed(norm=SCALED.norm))
    assert privacy.event(20) == fixed.event(20)
    budget = {"epsilon": 1.0, "delta": 1e-5, "rounds": 20}
    assert privacy.calibrated(**budget).noise == fixed.calibrated(**budget).noise


def test_the_state_follows_from_what_was_released():
    privacy = central(multiplier=2.0)
    state, _ = taught(3)
    encoded = privacy.encode(
        state, ClientResult(random_tree(1), jnp.float32(1), ()), key=KEY
    )
    after, released = privacy.release(state, encoded, key=KEY)
    assert isinstance(released, Released)
    expected = SCALED.observe(state, released.value)
    for found, wanted in zip(*map(jax.tree.leaves, (after, expected)), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_noise_is_large_where_updates_are_large():
    size = 40_000
    params = {"w": jnp.zeros(size)}
    truth = np.repeat([1e-3, 1.0], size // 2)
    clipping = jf.clipping.Scaled(norm=2.0, floor=1e-6, decay=0.5)
    privacy = central(clipping, multiplier=3.0)
    mean = {"w": jnp.asarray(truth, jnp.float32)}
    state = clipping.observe(clipping.init(params), mean)
    zero = ClientResult(params, jnp.float32(1), ())
    total = privacy.encode(state, zero, key=KEY)
    _, released = privacy.release(state, total, key=KEY)
    noise = np.asarray(released.value["w"], np.float64)
    for half in (slice(0, size // 2), slice(size // 2, size)):
        # 3 * 2 / 100 of the coordinate's size; the estimate's own error is 0.5 %
        deviation = noise[half].std() / (0.06 * truth[half][0])
        assert abs(deviation - 1) < 5 * 0.005


def test_rounds_stay_finite_and_bounded_whatever_a_client_sends():
    privacy = central()
    state, _ = taught(3)
    encode = jax.jit(
        lambda state, update: privacy.encode(
            state, ClientResult(update, jnp.float32(1), ()), key=KEY
        )
    )
    levels = privacy._joint(PARAMS).parts[0].lattice.levels
    for value in (0.0, 1e-38, 1e20, 3e38, np.inf, -np.inf, np.nan):
        update = jax.tree.map(lambda a, v=value: jnp.full_like(a, v), PARAMS)
        encoded = encode(state, update)
        square = sum(int(x) ** 2 for a in jax.tree.leaves(encoded) for x in np.ravel(a))
        assert square <= levels**2
        after, released = privacy.release(state, encoded, key=KEY)
        for leaf in jax.tree.leaves((after, released.value)):
            assert np.isfinite(leaf).all()


@pytest.mark.slow
def test_a_badly_scaled_problem_is_learned_where_one_norm_is_not_enough():
    """A mean whose coordinates differ by 10^4: the small ones drown under one norm."""
    rng = np.random.default_rng(1)
    truth = np.array([100.0, 1.0, 0.01, 100.0, 1.0, 0.01], np.float32)
    population = 2000
    noise = rng.normal(size=(population, 6)).astype(np.float32)
    rows = truth * (1 + 0.1 * noise)
    targets = {"x": rows, "y": np.zeros(population, np.float32)}
    data = jf.data.FederatedData.from_arrays(targets, client=np.arange(population))

    def loss(params, batch, key):
        del key
        return 0.5 * jnp.mean((params["w"][None] - batch["x"]) ** 2 * 6), {}

    local = jf.clients.sgd(loss, optax.sgd(1.0 / 6), batch_size=1, epochs=1)
    errors = {}
    for name, clipping in {
        "scaled": jf.clipping.Scaled(norm=3.0, floor=1e-3, decay=0.9),
        "fixed": jf.clipping.Fixed(norm=100.0),
    }.items():
        privacy = central(clipping, population=population).calibrated(
            epsilon=4.0, delta=1e-5, rounds=200
        )
        history = jf.simulate(
            jf.algorithms.fedavg(
                local,
                privacy,
                server_optimizer=optax.sgd(optax.exponential_decay(0.5, 50, 0.5)),
            ),
            data,
            rounds=200,
            seed=0,
            params={"w": jnp.zeros(6)},
            progress=False,
        )
        errors[name] = np.abs(np.asarray(history.params["w"]) / truth - 1)
    assert errors["scaled"].max() < 0.2
    assert errors["fixed"].max() > 10  # the small coordinates are all noise


def test_a_calibration_that_no_round_accepts_is_refused():
    with pytest.raises(ValueError, match="multiplier \\* norm must be < the expected"):
        central(population=10).calibrated(epsilon=0.5, delta=1e-3, rounds=100)


def test_noise_that_would_feed_on_itself_is_refused():
    privacy = central(multiplier=40.0)  # 40 * 3 for 100 clients
    with pytest.raises(ValueError, match="multiplier \\* norm must be < the expected"):
        privacy.init(PARAMS)
    calm = dataclasses.replace(privacy, noise=jf.noise.Gaussian(multiplier=30.0))
    state = calm.init(PARAMS)
    zero = calm.encode(state, ClientResult(PARAMS, jnp.float32(1), ()), key=KEY)
    release = jax.jit(lambda state, key: calm.release(state, zero, key=key)[0])
    for index in range(200):
        state = release(state, jf.keys.for_round(KEY, index))
    assert all(np.max(a) < 1.0 for a in jax.tree.leaves(state.second_moment))


def test_integer_parameters_are_refused():
    counts = {"w": jnp.zeros(6), "b": jnp.zeros((2, 2), jnp.int32)}
    privacy = central()
    with pytest.raises(TypeError, match="must hold floating-point arrays, got int32"):
        privacy.encode(
            privacy.init(PARAMS), ClientResult(counts, jnp.float32(1), ()), key=KEY
        )
