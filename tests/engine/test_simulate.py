"""A simulation equals slow loops, and its inputs change what they should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.engine import _round
from jaxfed.engine._planner import Planner
from jaxfed.typing import Batching
from tests.problems import (
    cohort_of,
    flat,
    logistic_loss,
    logistic_params,
    ragged_data,
)
from tests.reference import fedavg as twin

TOLERANCE = 1e-5


def plans(data, sampling, batching, rounds, seed):
    """Returns the plans that `simulate` makes, from the same keys."""
    root = jf.keys.simulated(seed)
    planner = Planner(data, batching, max_clients=sampling.max_clients, lanes=1)
    for index in range(rounds):

        def key(purpose, index=index):
            return jf.keys.for_round(jf.keys.for_purpose(root, purpose), index)

        run_key = jf.keys.for_purpose(root, jf.keys.Purpose.SAMPLING)
        clients = sampling.draw(index, key=run_key)
        yield cohort_of(planner, clients, key=key(jf.keys.Purpose.SHUFFLING))


@pytest.mark.parametrize("weighting", ["examples", "clients"])
@pytest.mark.parametrize(
    ("batch_size", "epochs", "steps", "momentum"),
    [(3, 2, None, 0.0), (64, 1, None, 0.9), (1, 1, None, 0.5), (4, None, 5, 0.9)],
)
def test_equals_the_slow_twin(batch_size, epochs, steps, momentum, weighting):
    data, params = ragged_data(), logistic_params()
    sampling = jf.sampling.FixedSize(population=data.num_clients, size=4)
    algorithm = jf.algorithms.fedavg(
        jf.clients.sgd(
            logistic_loss,
            optax.sgd(0.3, momentum=momentum),
            batch_size=batch_size,
            epochs=epochs,
            steps=steps,
        ),
        jf.privacy.none(sampling=sampling, weighting=weighting),
    )
    history = jf.simulate(
        algorithm, data, params=params, rounds=4, seed=3, progress=False
    )
    weights = flat(params)
    batching = Batching(batch_size=batch_size, epochs=epochs, steps=steps)
    for cohort in plans(data, sampling, batching, rounds=4, seed=3):
        batches = twin.batches_of(data, cohort)
        updates = [
            twin.client_update(weights, b, learning_rate=0.3, momentum=momentum)
            for b in batches.values()
        ]
        sizes = [
            data.client_sizes[i] if weighting == "examples" else 1 for i in batches
        ]
        weights = weights + twin.weighted_mean(updates, sizes)
    np.testing.assert_allclose(flat(history.params), weights, atol=TOLERANCE, rtol=0)
    assert np.abs(weights - flat(params)).max() > 100 * TOLERANCE  # it moved


def test_private_round_equals_the_slow_twin_but_for_its_noise():
    data, params = ragged_data(scale=3.0), logistic_params()
    sampling = jf.sampling.Poisson(population=data.num_clients, rate=0.7)
    privacy = jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=0.2),
        noise=jf.noise.Gaussian(multiplier=0.0),
    )
    local = jf.clients.sgd(logistic_loss, optax.sgd(0.3), batch_size=4, epochs=2)
    algorithm = jf.algorithms.fedavg(local, privacy)
    history = jf.simulate(
        algorithm, data, params=params, rounds=5, seed=1, progress=False
    )
    weights = flat(params)
    clipped = 0
    for cohort in plans(data, sampling, local.batching, rounds=5, seed=1):
        updates = [
            twin.client_update(weights, b, learning_rate=0.3)
            for b in twin.batches_of(data, cohort).values()
        ]
        clipped += sum(np.linalg.norm(u) > 0.2 for u in updates)
        weights = weights + twin.clipped_mean(
            updates or [np.zeros_like(weights)],
            0.2 * (1 - 2**-11),  # the documented headroom of the clip
            0.7 * data.num_clients,
        )
    assert clipped >= 3
    np.testing.assert_allclose(flat(history.params), weights, atol=TOLERANCE, rtol=0)


def test_server_optimizer_is_fed_minus_the_mean_update():
    data, params = ragged_data(), logistic_params()
    local = jf.clients.sgd(logistic_loss, optax.sgd(0.3), batch_size=4, epochs=1)
    none = jf.privacy.none(sampling=jf.sampling.Full(population=data.num_clients))

    def run(server_optimizer, rounds):
        algorithm = jf.algorithms.fedavg(local, none, server_optimizer=server_optimizer)
        return jf.simulate(
            algorithm, data, params=params, rounds=rounds, seed=0, progress=False
        ).params

    plain = flat(run(None, 1)) - flat(params)
    with jax.numpy_dtype_promotion("standard"):  # which optax.adam itself needs
        adam = flat(run(optax.adam(0.01), 1)) - flat(params)
    np.testing.assert_allclose(adam, 0.01 * np.sign(plain), atol=1e-5)


def test_same_seed_same_bits_and_other_seed_other_bits():
    data = ragged_data()
    privacy = jf.privacy.central(
        sampling=jf.sampling.Poisson(population=data.num_clients, rate=0.5),
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=jf.noise.Gaussian(multiplier=1.0),
    )
    algorithm = jf.algorithms.fedavg(
        jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1), privacy
    )

    def run(seed):
        history = jf.simulate(
            algorithm,
            data,
            params=logistic_params(),
            rounds=3,
            seed=seed,
            progress=False,
        )
        return flat(history.params)

    np.testing.assert_array_equal(run(5), run(5))
    assert (run(5) != run(6)).all()
    assert (run(5) != run(2**40 + 5)).all()


def test_noise_has_the_scale_that_is_accounted():
    # Clients that send nothing leave noise alone. 40,000 draws: the false alarm of
    # |variance ratio - 1| < 0.036 is 3.5e-7 (5.1 standard errors); a 5 % wrong
    # standard deviation misses it by more than 9 standard errors.
    data = jf.data.FederatedData.from_clients(
        {i: {"x": np.zeros((1, 1), np.float32)} for i in range(20)}
    )
    privacy = jf.privacy.central(
        sampling=jf.sampling.Poisson(population=20, rate=0.25),
        clipping=jf.clipping.Fixed(norm=0.4),
        noise=jf.noise.Gaussian(multiplier=1.5),
    )

    def still(params, batch, key):
        del key
        return 0.0 * jnp.sum(params) * jnp.mean(batch["x"]), {}

    algorithm = jf.algorithms.fedavg(
        jf.clients.sgd(still, optax.sgd(1.0), batch_size=1, epochs=1), privacy
    )
    history = jf.simulate(
        algorithm, data, params=jnp.zeros(40_000), rounds=1, seed=0, progress=False
    )
    stddev = 1.5 * privacy.sensitivity() / (20 * 0.25)
    ratio = np.var(np.asarray(history.params, np.float64)) / stddev**2
    assert abs(ratio - 1) < 0.036
    assert abs(ratio * 1.05**2 - 1) > 0.036
    assert abs(ratio * 0.95**2 - 1) > 0.036


def test_empty_cohort_is_a_full_noisy_round_and_is_charged():
    data = ragged_data()
    population = data.num_clients
    sampling = jf.sampling.Poisson(population=population, rate=1e-9, cap=2)
    privacy = jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=1.0),
        delta=1e-3,
    )
    algorithm = jf.algorithms.fedavg(
        jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1), privacy
    )
    history = jf.simulate(
        algorithm, data, params=logistic_params(), rounds=2, seed=0, progress=False
    )
    assert [r.private["num_clients"] for r in history.rounds] == [0, 0]
    assert (flat(history.params) != flat(logistic_params())).all()
    assert history.rounds[1].epsilon is not None


def test_a_failing_client_changes_nothing_and_is_counted():
    clean = ragged_data((4, 4, 4))
    arrays = {name: array.copy() for name, array in clean.arrays.items()}
    arrays["y"][6] = 7
    broken = jf.data.FederatedData(
        arrays=arrays, offsets=clean.offsets, client_ids=clean.client_ids
    )

    def loss_fn(params, batch, key):
        loss, metrics = logistic_loss(params, batch, key)
        return loss * jnp.where(batch["y"] == 7, jnp.nan, 1.0).mean(), metrics

    local = jf.clients.sgd(loss_fn, optax.sgd(0.1), batch_size=4, epochs=2)

    def run(data, chosen):
        privacy = jf.privacy.none(sampling=jf.sampling.Full(population=chosen))
        algorithm = jf.algorithms.fedavg(local, privacy)
        return jf.simulate(
            algorithm, data, params=logistic_params(), rounds=1, seed=0, progress=False
        )

    history = run(broken, 3)
    without = run(clean.select(["client-0", "client-2"]), 2)
    assert history.rounds[0].private["num_failed"] == 1
    assert history.rounds[0].private["loss"] == pytest.approx(
        without.rounds[0].private["loss"], rel=1e-6
    )
    np.testing.assert_allclose(
        flat(history.params), flat(without.params), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["fixed", "correlated", "none"])
def test_an_update_too_large_to_clip_fails_like_one_that_is_not_finite(kind):
    """It is finite, but zero in the sum: the record says so, and no metric has it."""
    data = ragged_data((4, 4, 4))
    arrays = {name: array.copy() for name, array in data.arrays.items()}
    arrays["y"][6] = 7
    broken = jf.data.FederatedData(
        arrays=arrays, offsets=data.offsets, client_ids=data.client_ids
    )
    clip = jf.clipping.Fixed(norm=1e-3)
    if (
        kind == "none"
    ):  # the update fits a float32, its product with 4 examples does not
        privacy = jf.privacy.none(sampling=jf.sampling.Full(population=3))
    elif kind == "correlated":
        privacy = jf.privacy.central(
            sampling=jf.sampling.Cyclic(population=3, groups=1),
            clipping=clip,
            noise=jf.noise.Tree(multiplier=1.0),
            rounds=1,
        )
    else:
        privacy = jf.privacy.central(
            sampling=jf.sampling.Full(population=3),
            clipping=clip,
            noise=jf.noise.Gaussian(multiplier=1.0),
        )
    scale = 3e38 if kind == "none" else 1e25

    def loss_fn(params, batch, key):
        loss, metrics = logistic_loss(params, batch, key)
        slope = (params["w"].sum() * scale).astype(jnp.float32)
        return loss + jnp.where(batch["y"] == 7, slope, 0.0).mean(), metrics

    local = jf.clients.sgd(loss_fn, optax.sgd(2.0), batch_size=4, epochs=1)
    history = jf.simulate(
        jf.algorithms.fedavg(local, privacy),
        broken,
        params=logistic_params(),
        rounds=1,
        seed=0,
        progress=False,
    )
    report = history.rounds[0].private
    assert (report["num_clients"], report["num_failed"]) == (3, 1)
    assert 0 < report["loss"] < 2
    assert np.isfinite(flat(history.params)).all()


def test_epsilon_of_each_round_is_that_of_the_mechanism():
    data = ragged_data()
    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=data.num_clients),
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=3.0),
        delta=1e-4,
    )
    algorithm = jf.algorithms.fedavg(
        jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1), privacy
    )
    history = jf.simulate(
        algorithm, data, params=logistic_params(), rounds=4, seed=0, progress=False
    )
    for record in history.rounds:
        expected = privacy.epsilon(rounds=record.round, delta=1e-4)
        assert record.epsilon == pytest.approx(expected, rel=2e-3)
    assert history.epsilon == privacy.epsilon(rounds=4, delta=1e-4)
    assert history.private is False


def test_memory_does_not_grow_with_the_cohort():
    """The compiled round of a ten times larger cohort needs no larger temporaries."""
    data = ragged_data([4] * 400)
    local = jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1)

    def temporaries(size):
        sampling = jf.sampling.FixedSize(population=400, size=size)
        algorithm = jf.algorithms.fedavg(local, jf.privacy.none(sampling=sampling))
        params = {"w": jnp.zeros(4), "b": jnp.zeros(())}
        planner = Planner(data, local.batching, max_clients=size, lanes=8)
        arrays = {n: jnp.asarray(a) for n, a in data.arrays.items()}
        run = functools.partial(_round.run_round, algorithm)
        compiled = (
            jax.jit(run)
            .lower(
                _round.init_state(algorithm, params, 400),
                cohort_of(planner, np.arange(size), key=jf.keys.simulated(1)),
                arrays,
                jnp.int32(0),
                key=jf.keys.simulated(0),
            )
            .compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(400) <= temporaries(40)


def test_bfloat16_parameters_train():
    data = ragged_data()
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), logistic_params())

    def loss_fn(params, batch, key):
        wide = jax.tree.map(lambda a: a.astype(jnp.float32), params)
        return logistic_loss(wide, batch, key)

    privacy = jf.privacy.none(sampling=jf.sampling.Full(population=data.num_clients))
    algorithm = jf.algorithms.fedavg(
        jf.clients.sgd(loss_fn, optax.sgd(0.5), batch_size=4, epochs=2), privacy
    )
    history = jf.simulate(algorithm, data, params=params, rounds=2, seed=0)
    assert history.params["w"].dtype == jnp.bfloat16
    assert history.rounds[1].private["loss"] < history.rounds[0].private["loss"]
