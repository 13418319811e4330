"""Local work that is compressed: what changes, what does not, and under which clip."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed import clients
from jaxfed.compression import (
    RandomK,
    Rotated,
    StochasticQuantization,
    TopK,
    compressed,
)
from jaxfed.typing import Batch, LocalWork
from tests.algorithms.test_methods import DATA, PARAMS, SAMPLING, slow
from tests.engine.test_simulate import plans
from tests.problems import flat, logistic_loss, noisy_loss
from tests.reference import compression as twin
from tests.reference import fedavg

BATCHES = {"batch_size": 3, "epochs": 2}
LOOP = jf.engine.Strategy(executor="loop", lanes=2, devices=1)
HEADROOM = 1 - 2.0**-11  # of a clip norm: see `clipping.Fixed`


def sgd(loss=logistic_loss):
    return clients.sgd(loss, optax.sgd(0.2), **BATCHES)


def none(sampling=SAMPLING):
    return jf.privacy.none(sampling=sampling, weighting="clients")


def central(norm, noise=0.0):
    return jf.privacy.central(
        sampling=SAMPLING,
        clipping=jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Gaussian(multiplier=noise),
        delta=1e-3,
    )


def run(local, privacy=None, data=DATA, params=PARAMS, **options):
    algorithm = jf.algorithms.fedavg(local, privacy or none())
    options = {"rounds": 6, "seed": 3, "progress": False, "strategy": LOOP} | options
    return jf.simulate(algorithm, data, params=params, **options)


# ---- what stays as it is


def test_a_compressor_that_loses_nothing_changes_nothing():
    """Bit for bit, dropout included: local work draws what it drew without."""
    rows = {name: jnp.asarray(array[:3]) for name, array in DATA.arrays.items()}
    batch = Batch(rows, jnp.ones(3, bool), jnp.int32(3))
    shared = jf.typing.Shared(PARAMS)

    def update(local):
        carry, step = local.init(shared, ()), jax.jit(local.step)
        for index in range(3):
            key = jf.keys.for_leaf(jf.keys.simulated(1), index)
            carry, _ = step(carry, batch, key=key)
        return flat(local.finish(shared, carry).update)

    plain = update(sgd(noisy_loss))
    for compressor in (TopK(fraction=1.0), RandomK(fraction=1.0)):
        found = update(compressed(sgd(noisy_loss), compressor))
        np.testing.assert_array_equal(found, plain)


def test_every_other_field_is_carried_over():
    local = clients.scaffold(logistic_loss, learning_rate=0.2, **BATCHES)
    mime = clients.mime(logistic_loss, optax.sgd(0.1), **BATCHES)
    changed = {"init", "step", "finish", "init_client", "compression", "name"}
    for one in (local, mime):
        found = compressed(one, TopK(fraction=0.5))
        for field in LocalWork._fields:
            same = getattr(found, field) is getattr(one, field)
            assert same == (field not in changed), field
    assert repr(compressed(sgd(), TopK(fraction=0.5), error_feedback=True)) == (
        "compressed(sgd(batch_size=3, epochs=2), TopK(fraction=0.5), "
        "error_feedback=True)"
    )


def test_methods_that_keep_state_keep_it():
    """SCAFFOLD's variates under error feedback; without loss it is SCAFFOLD."""
    local = clients.scaffold(logistic_loss, learning_rate=0.2, **BATCHES)

    def after(local):
        algorithm = jf.algorithms.scaffold(local, none())
        found = jf.simulate(
            algorithm,
            DATA,
            params=PARAMS,
            rounds=4,
            seed=1,
            progress=False,
            strategy=LOOP,
        )
        return flat(found.params)

    plain = after(local)
    whole = compressed(local, TopK(fraction=1.0), error_feedback=True)
    np.testing.assert_array_equal(after(whole), plain)


# ---- error feedback


@pytest.mark.parametrize("error_feedback", [False, True])
def test_a_clients_own_model_is_evaluated_through_it(error_feedback):
    local = clients.ditto(
        logistic_loss,
        optax.sgd(0.2),
        pull=0.5,
        personal_learning_rate=0.1,
        **BATCHES,
    )
    wrapped = compressed(local, TopK(fraction=0.5), error_feedback=error_feedback)

    def predict(params, rows):
        return rows["x"] @ params["w"] + params["b"]

    look = jf.evaluation.personal(wrapped, predict, DATA, accuracy=jf.metrics.accuracy)
    history = run(wrapped, rounds=2, evaluate=look)
    assert 0 < history.rounds[-1].evaluation["accuracy_mean"] <= 1


def test_private_layers_stay_private_under_error_feedback():
    """With a compressor that loses nothing, FedPer is FedPer."""
    local = clients.personal_layers(
        logistic_loss, optax.sgd(0.2), private=["b"], **BATCHES
    )

    def after(local):
        algorithm = jf.algorithms.fedper(local, none())
        history = jf.simulate(
            algorithm,
            DATA,
            params=PARAMS,
            rounds=3,
            seed=1,
            progress=False,
            strategy=LOOP,
        )
        states = history.client_states(np.arange(DATA.num_clients))
        return history.params, getattr(states, "own", states)

    whole = compressed(local, TopK(fraction=1.0), error_feedback=True)
    for one, other in zip(
        jax.tree.leaves(after(whole)), jax.tree.leaves(after(local)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_an_attack_around_it_draws_numbers_of_its_own():
    from jaxfed.attacks import _wrapper
    from jaxfed.compression import _compressed

    assert _compressed._APART != _wrapper._OWN


def kept(fraction):
    return max(1, round(fraction * len(flat(PARAMS))))


def in_leaf_order(compress):
    """Turns weights then bias, as the twin has them, into the bias and the weights."""

    def turned(vector, *context):
        sent = compress(np.roll(vector, 1), *context)
        return np.roll(sent, -1)

    return turned


def randomly(fraction, factor, seed):
    size = len(flat(PARAMS))

    def compress(vector, round_index, number, num_steps):
        key = twin.seed_of(seed, round_index, number, num_steps)
        places = twin.places_of(key, size, kept(fraction))
        return twin.random_k(vector, places, factor)

    return in_leaf_order(compress)


TOP = in_leaf_order(lambda vector, *context: twin.top_k(vector, kept(0.4)))
TWINS = {
    "top_k": (TopK(fraction=0.4), True, TOP),
    "top_k_without": (TopK(fraction=0.4), False, TOP),
    "random_k": (RandomK(fraction=0.4, unbiased=False), True, randomly(0.4, 1.0, 3)),
    "random_k_without": (RandomK(fraction=0.4), False, randomly(0.4, 2.5, 3)),
}


@pytest.mark.parametrize("name", TWINS)
def test_six_rounds_equal_the_slow_twin(name):
    compressor, feedback, compress = TWINS[name]
    local = compressed(sgd(), compressor, error_feedback=feedback)
    found = flat(run(local).params)

    def kind(weights):
        return twin.Feedback(weights, compress, feedback)

    kind.weighting = "clients"
    wanted = slow(kind, local.batching, rounds=6, seed=3)
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)

    def other(weights):
        return twin.Feedback(weights, compress, not feedback)

    other.weighting = "clients"
    if "random" not in name or feedback:  # errors of an expansive one run away
        without = slow(other, local.batching, rounds=6, seed=3)
        assert np.abs(wanted - without).max() > 1e-3


def test_error_feedback_learns_what_top_k_alone_never_sends():
    """Two clients that pull one coordinate apart, and agree about 19 small ones."""
    centres = np.ones((2, 20), np.float32)
    centres[:, 0] = 3, -3
    data = jf.data.FederatedData.from_arrays({"c": centres}, client=np.arange(2))

    def loss(params, batch, key):
        del key
        return jnp.mean(jnp.sum((params["w"][None] - batch["c"]) ** 2 / 2, axis=-1)), {}

    local = clients.sgd(loss, optax.sgd(0.05), batch_size=1, epochs=1)
    everybody = none(jf.sampling.Full(population=2))

    def error(local):
        found = run(
            local, everybody, data, {"w": jnp.zeros(20)}, rounds=300, seed=0
        ).params["w"]
        return float(jnp.mean(jnp.abs(found - jnp.ones(20).at[0].set(0))))

    top = TopK(fraction=0.05)
    assert error(local) < 1e-3
    assert error(compressed(local, top)) > 0.9
    # one value of 20 in a message: as in 15 rounds of all values; each arrives late
    assert error(compressed(local, top, error_feedback=True)) < 0.2


def test_a_client_that_fails_is_counted():
    """Also where the value that is not finite is not among those that are sent."""
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    x[8:, 0] = 1e30  # one coordinate of the third client's gradients overflows
    data = jf.data.FederatedData.from_arrays({"x": x}, client=np.repeat([0, 1, 2], 4))
    everybody = none(jf.sampling.Full(population=3))

    def loss(params, batch, key):
        del key
        x, w = batch["x"], params["w"][None]
        return jnp.mean(jnp.sum(x**2 * (w - x) ** 2, axis=1)) + params["b"] ** 2, {}

    for compressor, feedback in (
        (TopK(fraction=0.2), True),
        (RandomK(fraction=0.2, unbiased=False), True),
        (RandomK(fraction=0.2), False),
    ):
        local = compressed(
            clients.sgd(loss, optax.sgd(0.01), **BATCHES),
            compressor,
            error_feedback=feedback,
        )
        found = run(local, everybody, data, rounds=3)
        assert [r.private["num_failed"] for r in found.rounds] == [1, 1, 1]
        assert np.isfinite(flat(found.params)).all()


# ---- the clip comes last


def clipped(vector, norm):
    return vector * min(1.0, norm * HEADROOM / np.linalg.norm(vector))


def means(order, norm, rounds, seed):
    """Runs DP-FedAvg without noise in NumPy, with the clip where `order` puts it."""
    weights, lengths = flat(PARAMS), []
    batching = sgd().batching
    compress = randomly(0.4, 2.5, seed)
    for index, cohort in enumerate(plans(DATA, SAMPLING, batching, rounds, seed)):
        total = np.zeros_like(weights)
        for number, batches in fedavg.batches_of(DATA, cohort).items():
            update = fedavg.client_update(weights, batches, learning_rate=0.2)
            context = (index, number, len(batches))
            if order == "clip last":
                sent = compress(update, *context)
                lengths.append(np.linalg.norm(sent))
                total += clipped(sent, norm)
            else:
                total += compress(clipped(update, norm), *context)
        weights = weights + total / SAMPLING.size
    return weights, lengths


def test_the_clip_holds_after_a_compressor_that_expands():
    norm, seed = 0.15, 5
    compressor = RandomK(fraction=0.4)
    assert compressor.expands
    local = compressed(sgd(), compressor)
    found = flat(run(local, central(norm), rounds=4, seed=seed).params)
    wanted, lengths = means("clip last", norm, 4, seed)
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)
    other, _ = means("clip first", norm, 4, seed)
    assert np.abs(other - wanted).max() > 1e-2  # the test would see it
    assert max(lengths) > 2 * norm  # and there was something to clip


def test_one_client_moves_the_sum_by_the_norm_at_most():
    """Whatever a compressor makes of an update, in grid steps and exactly."""
    privacy = central(0.15, noise=1.0)
    state = privacy.init(PARAMS)
    for compressor in (
        RandomK(fraction=0.2),
        StochasticQuantization(bits=1),
        Rotated(inner=RandomK(fraction=0.2)),
    ):
        update = jax.tree.map(lambda a: 50 * a, PARAMS)
        sent = compressor.compress(update, key=jf.keys.simulated(0))
        result = jf.typing.ClientResult(sent, jnp.float32(1), ())
        encoded = privacy.encode(state, result, key=jf.keys.simulated(1))
        integers = np.concatenate(
            [np.ravel(a).astype(object) for a in jax.tree.leaves(encoded.update)]
        )
        levels = privacy._joint(PARAMS).parts[0].lattice.levels
        squared = sum(int(value) ** 2 for value in integers)
        assert (0.99 * levels) ** 2 < squared <= levels**2


def test_zeros_stay_zeros_on_the_grid():
    """So that what top-k leaves out is nothing after the clip, too."""
    privacy = central(0.15, noise=1.0)
    sent = TopK(fraction=0.4).compress(PARAMS, key=jf.keys.simulated(0))
    result = jf.typing.ClientResult(sent, jnp.float32(1), ())
    encoded = privacy.encode(
        privacy.init(PARAMS), result, key=jf.keys.simulated(1)
    ).update
    nonzero = sum(int(jnp.count_nonzero(a)) for a in jax.tree.leaves(encoded))
    assert nonzero == 2


# ---- what is refused


class _Half:
    """A compressor of somebody else's."""

    is_unbiased, expands = False, False

    def compress(self, update, *, key):
        del key
        return jax.tree.map(lambda a: a / 2, update)

    def num_bits(self, like):
        del like
        return 8


def test_a_compressor_of_ones_own_fits():
    history = run(compressed(sgd(), _Half()), rounds=1)
    moved = flat(history.params) - flat(PARAMS)
    whole = flat(run(sgd(), rounds=1).params) - flat(PARAMS)
    np.testing.assert_allclose(moved, whole / 2, atol=1e-6)
    assert history.rounds[0].private["num_bytes_up"] == 4 * 1


def example_level():
    privacy = jf.privacy.example_level(
        sampling=jf.sampling.Full(population=DATA.num_clients),
        sizes=tuple(DATA.client_sizes),
        rate=0.5,
        steps=2,
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=1.0),
    )
    return privacy.sgd(logistic_loss, optax.sgd(0.1))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: compressed(3, TopK(fraction=0.5)), TypeError, "local must be"),
        (lambda: compressed(sgd(), 0.5), TypeError, "compressor must be a compressor"),
        (lambda: compressed(sgd(), TopK), TypeError, "compressor must be a compressor"),
        (
            lambda: compressed(example_level(), TopK(fraction=0.5)),
            ValueError,
            "no noise in its steps.*the key of that noise",
        ),
        (
            lambda: compressed(
                compressed(sgd(), TopK(fraction=0.5)), TopK(fraction=0.5)
            ),
            ValueError,
            "must not be compressed already",
        ),
        (
            lambda: compressed(sgd(), RandomK(fraction=0.5), error_feedback=True),
            ValueError,
            "errors that are kept would grow.*unbiased=False",
        ),
        (
            lambda: compressed(
                sgd(),
                Rotated(inner=StochasticQuantization(bits=4)),
                error_feedback=True,
            ),
            ValueError,
            "must be False with a compressor that expands",
        ),
        (
            lambda: compressed(sgd(), TopK(fraction=0.5), error_feedback=1),
            TypeError,
            "error_feedback must be a bool",
        ),
        (
            lambda: run(
                compressed(sgd(), TopK(fraction=0.5)),
                jf.privacy.local(
                    sampling=SAMPLING,
                    clipping=jf.clipping.Fixed(norm=1.0),
                    noise=jf.noise.Gaussian(multiplier=6.0),
                    delta=1e-3,
                ),
            ),
            ValueError,
            "must not be compressed with privacy.local",
        ),
        (
            lambda: clients.fine_tuned(compressed(sgd(), TopK(fraction=0.5))),
            ValueError,
            r"pass compressed\(fine_tuned\(",
        ),
        (
            lambda: jf.attacks.sign_flip(compressed(sgd(), TopK(fraction=0.5))),
            ValueError,
            r"pass compressed\(sign_flip\(",
        ),
        (
            lambda: jf.deploy.export(
                jf.algorithms.fedavg(
                    compressed(sgd(), TopK(fraction=0.5)), central(1.0, 1.0)
                ),
                DATA,
                PARAMS,
            ),
            ValueError,
            "local work must not be compressed",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()
