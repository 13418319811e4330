"""What a history claims is true of the run that it describes."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed._config import Configuration
from tests.problems import logistic_loss, logistic_params, ragged_data

DATA = ragged_data()


def run(privacy, rounds, loss=logistic_loss, **options):
    algorithm = jf.algorithms.fedavg(
        jf.clients.sgd(
            loss, options.pop("optimizer", optax.sgd(0.1)), batch_size=4, epochs=1
        ),
        privacy,
    )
    settings: dict = {"params": logistic_params(), "seed": 0, "progress": False}
    return jf.simulate(algorithm, DATA, rounds=rounds, **(settings | options))


def central(rounds=5, epsilon=1.0):
    return jf.privacy.central(
        sampling=jf.sampling.Full(population=DATA.num_clients),
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=jf.noise.Gaussian(multiplier=1.0),
    ).calibrated(epsilon=epsilon, delta=1e-3, rounds=rounds)


def test_more_rounds_than_planned_are_claimed_as_run(tmp_path):
    privacy = central(rounds=2)
    history = run(privacy, rounds=6)
    assert history.epsilon == privacy.epsilon(rounds=6)
    assert history.epsilon > 1.0
    assert "After 6 rounds" in history.statement
    assert str(privacy.statement(rounds=6)) in history.statement
    history.to_json(tmp_path / "history.json")
    document = json.loads((tmp_path / "history.json").read_text())
    assert "After 6 rounds" in document["statement"]


def test_a_stopped_run_claims_the_planned_rounds_and_evaluates_once_more():
    evaluate = jf.evaluation.central(
        lambda params, rows: rows["x"] @ params["w"],
        DATA,
        every=10,
        accuracy=jf.metrics.accuracy,
    )
    history = run(
        central(rounds=20),
        rounds=20,
        evaluate=evaluate,
        callbacks=[lambda history: len(history.rounds) == 3],
    )
    assert len(history.rounds) == 3
    assert "After 20 rounds" in history.statement
    assert set(history.rounds[-1].evaluation) == {"accuracy"}
    assert history.rounds[0].evaluation == {}


def test_a_simulation_never_reads_as_private():
    for privacy in (
        central(),
        jf.privacy.none(sampling=jf.sampling.Full(population=DATA.num_clients)),
    ):
        history = run(privacy, rounds=1)
        assert history.private is False
        assert history.statement.startswith("Simulation: nothing in it may be released")
        with pytest.raises(AttributeError):
            history.private = True


@pytest.mark.parametrize(
    "base",
    [jf.sampling.Poisson, jf.sampling.Full, jf.clipping.Fixed, jf.noise.Gaussian],
)
def test_what_carries_a_guarantee_cannot_be_derived_from(base):
    with pytest.raises(TypeError, match="must not derive"):
        type("Bent", (base,), {})


def test_a_foreign_sampler_or_aggregator_cannot_claim(monkeypatch):
    # The class stays known to its family only as long as this test runs.
    monkeypatch.setattr(Configuration, "_kinds", dict(Configuration._kinds))

    class Quiet(jf.sampling.Sampler):
        population = 6
        max_clients = 6
        expected_clients = 6.0

        def draw(self, round_index, *, key):
            return np.arange(6)

        def event(self, noise_multiplier):
            return jf.sampling.Full(population=6).event(1e9)

        def participation(self, rounds):
            return jf.sampling.Full(population=6).participation(rounds)

        def describe(self):
            return "everyone"

    with pytest.raises(TypeError, match="one of jaxfed's own samplers"):
        jf.privacy.central(
            sampling=Quiet(population=6),
            clipping=jf.clipping.Fixed(norm=1.0),
            noise=jf.noise.Gaussian(multiplier=1.0),
        )

    class Duck:
        sampling = jf.sampling.Full(population=DATA.num_clients)
        init = encode = release = staticmethod(lambda *a, **k: ())

    with pytest.raises(TypeError, match="privacy must be a Privacy"):
        run(Duck(), rounds=1)


def test_a_name_cannot_be_taken_over():
    with pytest.raises(TypeError, match="already a configuration named Full"):
        type("Full", (jf.sampling.Sampler,), {})


@pytest.mark.parametrize("delta", [0.5, 1 / DATA.num_clients])
def test_delta_is_checked_wherever_it_enters(delta):
    privacy = central()
    with pytest.raises(ValueError, match="delta must be < 1 / population"):
        privacy.epsilon(rounds=1, delta=delta)
    with pytest.raises(ValueError, match="delta must be < 1 / population"):
        jf.privacy.central(
            sampling=privacy.sampling,
            clipping=privacy.clipping,
            noise=privacy.noise,
            delta=delta,
        )
    changed = privacy.to_json().replace("0.001", str(delta))
    with pytest.raises(ValueError, match="delta must be < 1 / population"):
        jf.privacy.from_json(changed)


@pytest.mark.parametrize("levels", [0, -1, np.nan, np.inf, 0.5])
def test_a_forged_bound_is_refused(levels):
    clipped = jf.typing.ClippedSum(
        total=jnp.ones(2, jnp.int32), step=jnp.float32(1), levels=levels
    )
    with pytest.raises(ValueError, match="levels must be"):
        jf.noise.Gaussian(multiplier=1.0).release(clipped, key=jf.keys.simulated(0))


def losses(batch, params):
    return (
        batch["x"] @ params["w"] + params["b"] - batch["y"].astype(jnp.float32)
    ) ** 2


@pytest.mark.parametrize("kind", ["sum", "weighted", "normalised"])
def test_a_loss_that_is_no_mean_over_rows_is_refused(kind):
    def loss_fn(params, batch, key):
        each = losses(batch, params)
        weights = batch["x"][:, 0] ** 2
        centred = each - each.mean()
        value = {
            "sum": each.sum(),
            "weighted": (weights * each).sum() / weights.sum(),
            "normalised": (centred**2).mean(),
        }[kind]
        return value, {}

    none = jf.privacy.none(sampling=jf.sampling.Full(population=DATA.num_clients))
    with pytest.raises(ValueError, match="must be the mean over the batch's rows"):
        run(none, rounds=1, loss=loss_fn)


def test_two_evaluations_of_one_name_are_refused():
    none = jf.privacy.none(sampling=jf.sampling.Full(population=DATA.num_clients))
    with pytest.raises(ValueError, match="two evaluations record 'a'"):
        run(none, rounds=1, evaluate=[lambda p: {"a": 1.0}, lambda p: {"a": 2.0}])


def test_an_overflowing_sum_is_an_error_and_an_overflowing_client_counts_as_zero():
    update = {"w": jnp.full(2, 3e38)}
    privacy = jf.privacy.none(sampling=jf.sampling.Full(population=2))
    result = jf.typing.ClientResult(update, jnp.float32(20), ())
    encoded = privacy.encode((), result, key=jf.keys.simulated(0))
    assert float(encoded["weight"]) == 0.0
    none = jf.privacy.none(
        sampling=jf.sampling.Full(population=DATA.num_clients), weighting="clients"
    )
    with pytest.raises(RuntimeError, match="not finite although single"):
        run(
            none,
            rounds=1,
            loss=lambda p, b, k: (3e38 * p["w"][0] + 0 * b["x"][0, 0], {}),
            optimizer=optax.sgd(1.0),
        )


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(0.01, weight_decay=0.1),
        optax.polyak_sgd(),
        optax.sgd(optax.linear_schedule(0.1, 0.0, 10)),
        optax.contrib.reduce_on_plateau(),
        optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(0.01)),
    ],
)
def test_optax_optimizers_of_every_kind_run(optimizer):
    import jax

    none = jf.privacy.none(sampling=jf.sampling.Full(population=DATA.num_clients))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        history = run(none, rounds=2, optimizer=optimizer)
    assert np.isfinite(np.asarray(history.params["w"])).all()


def test_a_batch_larger_than_any_client_costs_no_more_memory():
    from jaxfed.engine._planner import Planner
    from jaxfed.typing import Batching

    batching = Batching(batch_size=10**9, epochs=1)
    planner = Planner(DATA, batching, max_clients=6, lanes=2)
    (block,) = planner.plan(np.arange(6), key=jf.keys.simulated(1))
    assert block.layout[2:] == (6, int(DATA.client_sizes.max()))


def test_float64_data_beyond_float32_is_refused():
    x = np.array([[1e39], [1.0]])
    data = jf.data.FederatedData.from_arrays({"x": x}, client=[0, 1])
    none = jf.privacy.none(sampling=jf.sampling.Full(population=2))
    local = jf.clients.sgd(
        lambda p, b, k: (jnp.mean(b["x"] * p), {}),
        optax.sgd(0.1),
        batch_size=1,
        epochs=1,
    )
    with pytest.raises(ValueError, match="values beyond float32"):
        jf.simulate(
            jf.algorithms.fedavg(local, none),
            data,
            params=jnp.ones(()),
            rounds=1,
            seed=0,
        )


def test_a_cap_equal_to_the_mean_is_accepted():
    for rate in (0.07, 0.14, 0.28, 0.55, 0.56):
        sampler = jf.sampling.Poisson(population=100, rate=rate, cap=round(100 * rate))
        assert sampler.max_clients == round(100 * rate)


def test_the_default_cap_is_wide_enough_for_small_means():
    small = jf.sampling.Poisson(population=1000, rate=0.001)
    wide = jf.sampling.Poisson(population=1000, rate=0.001, cap=40)
    left, right = (
        jf.accounting.epsilon(s.event(1.0), 100, delta=1e-6) for s in (small, wide)
    )
    assert left <= 1.01 * right
