"""Every example is sampled, clipped and noised as its silo's epsilon says."""

import dataclasses

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.engine._block import unpack
from jaxfed.engine._planner import Planner
from jaxfed.privacy import _dp_sgd, _joint
from jaxfed.typing import Batch, Batching
from tests.problems import FEATURES, logistic_loss, logistic_params, noisy_loss

SIZES = (40, 25, 12)


def silos(sizes=SIZES, seed=0):
    rng = np.random.default_rng(seed)
    clients = {}
    for index, size in enumerate(sizes):
        x = rng.normal(0.2 * index, 1.0, (size, FEATURES)).astype(np.float32)
        clients[index] = {"x": x, "y": (x.sum(axis=1) > 0).astype(np.int32)}
    return jf.data.FederatedData.from_clients(clients)


DATA = silos()


def example_level(multiplier=1.0, rate=0.3, norm=0.5, steps=2, **options):
    settings: dict = {
        "sampling": jf.sampling.Full(population=len(SIZES)),
        "sizes": DATA.client_sizes,
        "clipping": jf.clipping.Fixed(norm=norm),
        "noise": jf.noise.Gaussian(multiplier=multiplier),
    }
    return jf.privacy.example_level(rate=rate, steps=steps, **(settings | options))


def simulate(privacy, local=None, rounds=3, data=DATA, **options):
    local = local or privacy.sgd(logistic_loss, optax.sgd(0.5), **options)
    return jf.simulate(
        jf.algorithms.fedavg(local, privacy),
        data,
        params=logistic_params(),
        rounds=rounds,
        seed=0,
        progress=False,
    )


def planned_batches(batching, clients, key):
    """Returns the row numbers of all batches of one lane, (batches, batch size)."""
    planner = Planner(DATA, batching, max_clients=3, lanes=1)
    (block,) = planner.plan(np.array(clients), key=key)
    (packed,) = block.packed
    cohort = unpack(block.layout, packed)
    return cohort.rows[: cohort.num_steps.sum()]


def test_epsilons_are_those_of_poisson_sampled_steps():
    """A second accountant, RDP of the untruncated sampling, is near and above."""
    privacy = example_level(rate=0.05, steps=10, sizes=(400, 300, 200))
    epsilons = privacy.epsilons(rounds=30, delta=1e-4)
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    renyi = dp_accounting.rdp.RdpAccountant(neighboring_relation=relation)
    gaussian = dp_accounting.GaussianDpEvent(1.0)
    renyi.compose(dp_accounting.PoissonSampledDpEvent(0.05, gaussian), 300)
    bound = renyi.get_epsilon(1e-4)
    assert ((0.7 * bound < epsilons) & (epsilons < bound)).all()
    assert privacy.epsilon(rounds=30, delta=1e-4) == epsilons.max()
    for silo in range(3):
        event = privacy.silo_event(silo, 30)
        assert event.count == 300
        assert event.event.dataset_size == privacy.sizes[silo]


def test_client_and_batch_rates_are_never_multiplied():
    """A chosen silo's examples get no more protection from the others' absence."""
    full = example_level()
    sampled = dataclasses.replace(
        full, sampling=jf.sampling.Poisson(population=3, rate=0.1)
    )
    for rounds in (1, 20):
        np.testing.assert_array_equal(
            sampled.epsilons(rounds=rounds, delta=1e-3),
            full.epsilons(rounds=rounds, delta=1e-3),
        )


def test_poisson_batches_have_the_law_that_is_accounted():
    # 4,000 batches of a silo of 25 at rate .3 with cap 16 (mean 7.5). Each example's
    # inclusion is within 5.1 standard errors (false alarm 25 * 3.5e-7), pairs too; a
    # rate of .33, or shuffled batches of fixed size, would show.
    batching = Batching(batch_size=16, steps=4000, rate=0.3)
    lines = planned_batches(batching, [1], key=jf.keys.simulated(77))
    assert len(lines) == 4000
    joined = np.zeros((4000, 25))
    for index, line in enumerate(lines):
        own = line[line >= 0] - DATA.offsets[1]
        assert len(set(own)) == len(own)
        joined[index, own] = 1
    error = 5.1 * np.sqrt(0.3 * 0.7 / 4000)
    assert np.abs(joined.mean(axis=0) - 0.3).max() < error
    assert error < 0.04
    pairs = joined.T @ joined / 4000
    off = pairs[~np.eye(25, dtype=bool)]
    assert np.abs(off - 0.09).max() < 5.9 * np.sqrt(0.09 * 0.91 / 4000)
    sizes = joined.sum(axis=1)
    assert sizes.max() <= 16
    # binomial variance 5.25; a fixed batch size would have none
    assert abs(sizes.var() - 5.25) < 5.1 * 5.25 * np.sqrt(2 / 4000) + 0.05
    assert (planned_batches(batching, [1], key=jf.keys.simulated(78)) != lines).any()


def test_a_batch_that_exceeds_the_cap_keeps_a_uniform_part():
    batching = Batching(batch_size=5, steps=6000, rate=0.9)
    lines = planned_batches(batching, [2], key=jf.keys.simulated(5))
    own = lines[lines >= 0] - DATA.offsets[2]
    assert np.bincount(np.sum(lines >= 0, axis=1), minlength=6)[5] > 5900
    share = np.bincount(own, minlength=12) / 6000  # 5 / 12 each, standard error .0064
    assert np.abs(share - 5 / 12).max() < 5.1 * 0.0064


def test_a_rate_of_one_takes_every_example_in_every_step():
    privacy = example_level(rate=1.0)
    batching = privacy.sgd(logistic_loss, optax.sgd(0.1)).batching
    rows = planned_batches(batching, range(3), key=jf.keys.simulated(1))
    found = np.bincount(rows[rows >= 0], minlength=DATA.num_examples)
    assert (found == privacy.steps).all()


@pytest.mark.parametrize("microbatch_size", [None, 1, 3, 7])
def test_sum_is_that_of_clipped_gradients_whatever_the_microbatch(microbatch_size):
    privacy = example_level(multiplier=0.0)
    params = logistic_params()
    rows = {name: jnp.asarray(array[:16]) for name, array in DATA.arrays.items()}
    is_real = jnp.arange(16) % 3 != 0
    rows["x"] = jnp.where(is_real[:, None], rows["x"], jnp.nan)  # inert padding
    layout = privacy._joint(params)
    total, _ = _dp_sgd._clipped_sum(
        layout,
        logistic_loss,
        params,
        Batch(rows, is_real, jnp.int32(40)),
        microbatch_size,
        key=jf.keys.simulated(0),
    )
    wanted = np.zeros(FEATURES + 1)
    for i in np.flatnonzero(np.asarray(is_real)):
        x = np.append(np.asarray(rows["x"][i], np.float64), 1.0)
        w = np.append(np.asarray(params["w"]), params["b"]).astype(np.float64)
        gradient = (1 / (1 + np.exp(-x @ w)) - float(rows["y"][i])) * x
        wanted += gradient * min(1.0, 0.5 / np.linalg.norm(gradient))
    step = 0.5 / layout.parts[0].lattice.target
    found = np.append(np.asarray(total.update["w"]), total.update["b"]) * step
    # one step a contribution for the rounding; clipped ones are 0.05 % shorter
    np.testing.assert_allclose(found, wanted, atol=16 * step + 16 * 0.5 * 2**-11)


def test_one_example_moves_a_step_by_at_most_the_levels():
    """Record and replay: the same step with and without one hostile example."""
    privacy = example_level()
    params = logistic_params()
    layout = privacy._joint(params)
    levels = layout.parts[0].lattice.levels
    base = {name: np.array(array[:8]) for name, array in DATA.arrays.items()}
    for value in (0.0, 1e-30, 1.0, 1e20, 3e38, np.nan, np.inf):
        sums = []
        for is_present in (True, False):
            rows = {name: jnp.asarray(array) for name, array in base.items()}
            rows["x"] = rows["x"].at[3].set(value)
            is_real = jnp.ones(8, bool).at[3].set(is_present)
            total, _ = _dp_sgd._clipped_sum(
                layout,
                logistic_loss,
                params,
                Batch(rows, is_real, jnp.int32(40)),
                None,
                key=jf.keys.simulated(0),
            )
            sums.append([int(i) for a in jax.tree.leaves(total) for i in a.ravel()])
        moved = sum((a - b) ** 2 for a, b in zip(*sums, strict=True))
        assert moved <= levels**2


def test_noise_of_a_step_has_the_accounted_scale():
    privacy = example_level(multiplier=2.0, norm=0.5)
    params = {"w": jnp.zeros(20_000)}
    layout = privacy._joint(params)
    zero = _joint.Encoded({"w": jnp.zeros(20_000, jnp.int32)}, ())
    _, released = _joint.release(layout, (), zero, 7.5, key=jf.keys.simulated(3))
    draws = np.asarray(released.value["w"], np.float64) * 7.5
    # 20,000 draws: standard error of the stddev 0.5 %
    assert abs(draws.std() / (2.0 * 0.5) - 1) < 5.1 * 0.005


@pytest.mark.slow
def test_training_learns_and_an_empty_batch_is_noise_alone():
    privacy = example_level(multiplier=0.3, rate=0.5, norm=1.0, steps=5)
    history = simulate(privacy, rounds=15, microbatch_size=4)
    losses = history.curve("loss")[1]
    assert losses[-1] < 0.7 * losses[0]
    rare = example_level(multiplier=1.0, rate=1e-6, steps=1)
    first = simulate(rare, rounds=1)
    assert bool(jnp.isfinite(first.params["w"]).all())
    assert (np.asarray(first.params["w"]) != np.asarray(logistic_params()["w"])).all()


def test_calibration_keeps_every_silo_in_the_budget():
    privacy = example_level().calibrated(epsilon=2.0, delta=1e-3, rounds=10)
    epsilons = privacy.epsilons()
    assert (epsilons <= 2.0).all()
    assert epsilons.max() > 1.99
    words = str(privacy.statement())
    for part in ("each of its examples", "by silo", "2", "0.001", "server is not"):
        assert part in words
    assert privacy.epsilon_curve(10)[-1] == pytest.approx(2.0, rel=0.01)
    assert jf.privacy.from_json(privacy.to_json()) == privacy
    assert "No claim yet" in str(example_level().statement())


def test_the_local_work_must_be_the_objects_own():
    privacy = example_level(multiplier=1.0)
    plain = jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1)
    with pytest.raises(ValueError, match="must be this privacy object's own"):
        simulate(privacy, plain)
    quieter = example_level(multiplier=0.1).sgd(logistic_loss, optax.sgd(0.1))
    with pytest.raises(ValueError, match="must be this privacy object's own"):
        simulate(privacy, quieter)
    with pytest.raises(ValueError, match="sizes must be those of the data"):
        simulate(privacy, data=silos((41, 25, 12)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (3, 4)}, "sizes must name every silo: got 2"),
        ({"sizes": (3, 4, 0)}, "sizes must be an integer >= 1, got 0"),
        ({"sizes": (3, 4, 1.5)}, "sizes must be an integer >= 1, got 1.5"),
        ({"rate": 0.0}, r"rate must be in \(0, 1\]"),
        ({"steps": 0}, "steps must be an integer >= 1"),
        ({"delta": 0.5}, "delta must be < 1 / the largest silo"),
        ({"weighting": "size"}, "weighting must be one of"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        example_level(**change)
    with pytest.raises(TypeError, match="clipping must be a Fixed or PerLayer"):
        example_level(clipping=jf.clipping.Adaptive(quantile=0.5, initial=1.0))


@pytest.mark.slow
def test_a_random_loss_gets_a_key_for_every_row():
    history = simulate(example_level(), example_level().sgd(noisy_loss, optax.sgd(0.1)))
    kept = history.curve("kept")[1]
    assert len(set(kept)) == len(kept)
