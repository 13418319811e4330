"""Private feature scaling: what it does to arrays, and to a model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed import queries
from tests.queries.common import KEY, LOWER, UPPER, clients, mechanism

QUIET = 1e-6


def fitted(data, multiplier=QUIET, **options):
    settings = {"lower": LOWER, "upper": UPPER, "key": KEY}
    privacy = mechanism(data.num_clients, multiplier=multiplier)
    return queries.scaling(data, "x", privacy=privacy, **(settings | options))


def people(count=300):
    sizes = np.random.default_rng(0).integers(1, 6, count)
    data = clients(sizes)
    inside = np.clip(data.arrays["x"], LOWER, UPPER)
    return dataclasses.replace(data, arrays={**data.arrays, "x": inside})


def test_a_scaled_array_has_no_mean_and_unit_deviation():
    data = people()
    scaling = fitted(data)
    x = scaling.apply(data).arrays["x"]
    weights = np.repeat(1 / data.client_sizes, data.client_sizes)
    average = np.average(x, axis=0, weights=weights)
    np.testing.assert_allclose(average, 0, atol=1e-3)
    spread = np.average((x - average) ** 2, axis=0, weights=weights)
    np.testing.assert_allclose(spread, 1, atol=1e-3)
    assert x.dtype == np.float32
    expected = (data.arrays["x"] - scaling.shift) / scaling.scale
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_other_arrays_columns_and_clients_stay():
    data = people()
    scaling = fitted(data, columns=[1])
    assert scaling.shift.shape == scaling.scale.shape == (1,)
    scaled = scaling.apply(data)
    np.testing.assert_array_equal(scaled.arrays["y"], data.arrays["y"])
    np.testing.assert_array_equal(
        scaled.arrays["x"][:, 0], data.arrays["x"][:, 0].astype(np.float32)
    )
    assert abs(scaled.arrays["x"][:, 1].mean()) < 0.2
    np.testing.assert_array_equal(scaled.offsets, data.offsets)
    np.testing.assert_array_equal(scaled.client_ids, data.client_ids)
    one = fitted(data, columns=1)
    assert one.shift.shape == ()
    np.testing.assert_allclose(
        one.apply(data).arrays["x"], scaled.arrays["x"], atol=1e-5
    )


def test_it_applies_to_other_clients_and_refuses_other_shapes():
    data = people()
    scaling = fitted(data)
    few = data.select([0, 1])
    np.testing.assert_array_equal(
        scaling.apply(few).arrays["x"],
        scaling.apply(data).arrays["x"][: few.num_examples],
    )
    narrow = dataclasses.replace(data, arrays={"x": data.arrays["x"][:, :1]})
    with pytest.raises(
        ValueError, match=r"examples of shape \(2,\), got \(1,\); apply"
    ):
        scaling.apply(narrow)
    with pytest.raises(TypeError, match="data must be a FederatedData, got dict"):
        scaling.apply(dict(data.arrays))


def test_a_constant_column_is_not_blown_up():
    data = people()
    flat = np.array(data.arrays["x"])
    flat[:, 1] = 0.25
    data = dataclasses.replace(data, arrays={"x": flat})
    for seed in range(20):
        scaling = fitted(data, multiplier=2.0, key=jf.keys.simulated(seed))
        x = scaling.apply(data).arrays["x"]
        error = scaling.answer.standard_error.standard_deviation
        assert (scaling.scale >= 0.7 * error).all()
        assert (scaling.scale > 0).all()
        # off by its noise at most: a shift of 5 standard errors of the mean
        shift = scaling.answer.standard_error.mean[1]
        assert np.abs(x[:, 1]).max() <= 6 * shift / scaling.scale[1] + 1e-3
        assert np.abs(x).max() < 10


def trained(data):
    """Logistic regression, 150 steps with momentum over all rows."""
    x, y = jnp.asarray(data.arrays["x"]), jnp.asarray(data.arrays["y"], jnp.float32)
    params = {"w": jnp.zeros(x.shape[1]), "b": jnp.zeros(())}
    optimizer = optax.sgd(0.3, momentum=0.9)

    def loss(params):
        logits = x @ params["w"] + params["b"]
        return optax.sigmoid_binary_cross_entropy(logits, y).mean()

    @jax.jit
    def run(params):
        def step(_, carry):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, 150, step, (params, optimizer.init(params)))[0]

    return run(params)


def test_a_model_learns_as_well_as_with_exact_scaling():
    """RAND HIE at epsilon 0.2 for every person: within .003 of the area under curve.

    The features are first spoiled by public factors, so that scaling is needed: the
    same training without it is worse by more than .01.
    """
    data = jf.data.rand_hie()
    width = data.arrays["x"].shape[1]
    factors = np.where(np.arange(width) % 2, 30.0, 0.02)
    ends = np.where(np.array(jf.data.RAND_HIE_FEATURES) == "last_year_visits", 4.0, 1.0)
    spoiled = dataclasses.replace(
        data,
        arrays={**data.arrays, "x": (data.arrays["x"] * factors).astype(np.float32)},
    )
    train, test = spoiled.split_clients(test=0.2, seed=0)
    privacy = mechanism(train.num_clients).calibrated(epsilon=0.2, delta=1e-5, rounds=1)
    scaling = queries.scaling(
        train,
        "x",
        lower=-factors,
        upper=factors * ends,
        privacy=privacy,
        key=KEY,
    )
    x = np.asarray(train.arrays["x"], np.float64)
    exact = dataclasses.replace(scaling, shift=x.mean(axis=0), scale=x.std(axis=0))
    nothing = dataclasses.replace(scaling, shift=np.zeros(width), scale=np.ones(width))

    def area(scale):
        params, held = trained(scale.apply(train)), scale.apply(test)
        scores = held.arrays["x"] @ np.asarray(params["w"]) + float(params["b"])
        return jf.metrics.auc(scores, held.arrays["y"])

    private, best, worst = area(scaling), area(exact), area(nothing)
    assert scaling.epsilon <= 0.2
    assert private > best - 0.003
    assert worst < best - 0.01
