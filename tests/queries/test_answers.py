"""What an answer says it cost, what keys do, and what nobody gets to see."""

import math
import re

import dp_accounting
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed import queries
from tests.problems import logistic_loss, logistic_params, ragged_data
from tests.queries.common import KEY, QUERIES, clients, mechanism, replaced

SIZES = (1, 2, 4, 3, 1, 7, 2, 2)
BY_EXAMPLES = [name for name in QUERIES if name.endswith("examples")]


def numbers(value):
    """All numbers of an answer, whatever its kind, as one vector."""
    if isinstance(value, queries.Scaling):
        value = value.answer
    if isinstance(value, queries.Answer):
        value = value.value
    if isinstance(value, dict):
        value = tuple(value.values())
    parts = value if isinstance(value, tuple) else (value,)
    return np.concatenate([np.ravel(part) for part in parts])


@pytest.mark.parametrize(
    ("name", "rate"),
    [(name, None) for name in BY_EXAMPLES] + [("mean_examples", 0.5)],
)
def test_a_query_costs_one_round_and_says_so(name, rate):
    privacy = mechanism(len(SIZES), rate=rate, multiplier=3.0, delta=1e-3)
    answer = QUERIES[name](clients(SIZES), privacy, KEY)
    assert answer.event == privacy.event(rounds=1)
    assert answer.epsilon == privacy.epsilon(rounds=1, delta=1e-3)
    said = re.search(r"cost: epsilon ([\d.]+) at delta 0.001 for each", repr(answer))
    assert said is not None
    assert answer.epsilon <= float(said[1]) <= 1.01 * answer.epsilon


def test_a_cost_without_a_delta_is_not_named():
    answer = QUERIES["categories_examples"](clients(SIZES), mechanism(len(SIZES)), KEY)
    assert answer.epsilon is None
    assert "cost: one release, no delta named" in repr(answer)
    assert answer.event == mechanism(len(SIZES)).event(rounds=1)


@pytest.mark.parametrize("name", BY_EXAMPLES)
def test_the_same_question_with_the_same_key_has_the_same_answer(name):
    privacy = mechanism(len(SIZES))
    data = clients(SIZES)
    first, again = (numbers(QUERIES[name](data, privacy, KEY)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("name", BY_EXAMPLES)
def test_answers_are_never_exact(name):
    """Over all keys different, and with much noise far from the statistic."""
    data = clients(SIZES)
    found = [
        numbers(QUERIES[name](data, mechanism(len(SIZES)), jf.keys.simulated(seed)))
        for seed in range(4)
    ]
    exact = numbers(QUERIES[name](data, mechanism(len(SIZES), multiplier=1e-6), KEY))
    for one in found:
        assert np.mean(one == exact) <= 0.5  # counts of 0 and bounds may agree
        assert np.abs(one - exact).max() > 1e-3
    noisy = [
        numbers(
            QUERIES[name](
                data, mechanism(len(SIZES), multiplier=1e4), jf.keys.simulated(seed)
            )
        )
        for seed in range(8)
    ]
    assert np.isfinite(noisy).all()
    spread = np.std(noisy, axis=0).max()
    assert spread > 0.3


def residual(data, key):
    answer = queries.histogram(
        data,
        "x",
        edges=np.linspace(-2, 3, 101),
        privacy=mechanism(len(SIZES), norm=20.0, multiplier=5.0),
        key=key,
        non_negative=False,
    )
    exact = [np.histogram(c, np.linspace(-2, 3, 101))[0] for c in data.arrays["x"].T]
    return (answer.value - exact) / answer.standard_error


def test_one_key_for_two_data_sets_does_not_reuse_the_noise():
    """Otherwise the difference of two answers would be a client, without noise."""
    data = clients(SIZES)
    left, same = residual(data, KEY), residual(data, KEY)
    right = residual(replaced(data, 0, 0.25), KEY)
    np.testing.assert_array_equal(left, same)
    # 200 independent pairs: the difference has variance 2; false alarm below 1e-9
    assert 1.0 < np.var(left - right) < 3.5


def test_one_key_for_two_questions_does_not_reuse_noise_or_cohort():
    values = np.arange(400) % 3
    data = jf.data.FederatedData.from_arrays(
        {"a": values, "b": values}, client=np.arange(400)
    )
    privacy = mechanism(400, rate=0.5, multiplier=1e-6)
    found = [
        queries.histogram(data, n, categories=[0, 1, 2], privacy=privacy, key=KEY).value
        for n in "ab"
    ]
    # all but exact counts of two cohorts: equal ones have a chance of 1e-3
    assert np.abs(found[0] - found[1]).max() > 1
    full = mechanism(400, multiplier=5.0)
    found = [
        queries.histogram(data, n, categories=[0, 1, 2], privacy=full, key=KEY).value
        for n in "ab"
    ]
    assert np.abs(found[0] - found[1]).min() > 1e-6


def test_training_and_queries_add_up_to_one_gaussian():
    """Full participation: multipliers add as 1 / z**2, against the analytic number."""
    training = mechanism(len(SIZES), multiplier=12.0)
    privacy = mechanism(len(SIZES), multiplier=4.0)
    data = clients(SIZES)
    spends = [(training, 30)]
    spends += [QUERIES[name](data, privacy, KEY) for name in ("mean_examples",) * 2]
    spends += [QUERIES["scaling_examples"](data, privacy, KEY)]
    together = 1 / math.sqrt(30 / 12**2 + 3 / 4**2)
    exact = dp_accounting.get_epsilon_gaussian(together, 1e-3)
    found = queries.composed_epsilon(spends, delta=1e-3)
    assert exact * (1 - 1e-9) <= found <= 1.005 * exact
    alone = queries.composed_epsilon(spends[1:2], delta=1e-3)
    assert alone == pytest.approx(privacy.epsilon(rounds=1, delta=1e-3), rel=0.005)


def test_a_calibrated_mechanism_counts_its_rounds_and_a_sampled_one_its_event():
    privacy = mechanism(1000, rate=0.1).calibrated(epsilon=1.0, delta=1e-4, rounds=20)
    found = queries.composed_epsilon([privacy], delta=1e-4)
    assert found == pytest.approx(1.0, rel=0.01)
    assert queries.composed_epsilon([(privacy, 20)], delta=1e-4) == found
    more = queries.composed_epsilon([privacy, (privacy, 5)], delta=1e-4)
    assert more == pytest.approx(privacy.epsilon(rounds=25), rel=0.01)


def test_training_without_noise_is_infinite():
    exact = mechanism(8, multiplier=0.0)
    assert queries.composed_epsilon([(exact, 1)], delta=1e-3) == math.inf


def evaluate(looks=2, **options):
    data = clients(SIZES)
    settings = {
        "bounds": {"square": (0, 4)},
        "privacy": mechanism(len(SIZES), multiplier=3.0, delta=1e-3),
        "looks": looks,
        "key": KEY,
    }
    return queries.evaluation(
        lambda params, rows: {"square": (rows["x"][:, 0] - params) ** 2},
        data,
        **(settings | options),
    )


def test_an_evaluation_charges_every_new_look_and_refuses_more_than_planned():
    found = evaluate()
    assert found.event == found.privacy.event(rounds=2)
    assert found.epsilon == found.privacy.epsilon(rounds=2)
    first = found(jnp.float32(0.1))
    assert found(jnp.float32(0.1)) == first  # the same look again is free
    assert len(found.answers) == 1
    second = found(jnp.float32(0.2))
    assert second != first
    assert "2 of 2 looks taken" in repr(found)
    assert found(jnp.float32(0.1)) == first
    with pytest.raises(RuntimeError, match="planned for 2 looks and all are spent"):
        found(jnp.float32(0.3))
    assert all(a.event == found.privacy.event(rounds=1) for a in found.answers)


def test_an_evaluation_is_about_the_metric():
    quiet = mechanism(len(SIZES), norm=7.0, multiplier=1e-6)
    found = evaluate(privacy=quiet)
    x = clients(SIZES).arrays["x"][:, 0]
    exact = np.clip((x - 0.1) ** 2, 0, 4).mean()
    assert found(jnp.float32(0.1)) == {"square": pytest.approx(exact, abs=1e-4)}
    by_client = evaluate(privacy=quiet, weighting="clients")(jnp.float32(0.1))
    owner = np.repeat(np.arange(len(SIZES)), SIZES)
    sums = np.bincount(owner, np.clip((x - 0.1) ** 2, 0, 4))
    assert by_client["square"] == pytest.approx((sums / SIZES).mean(), abs=1e-4)


def test_a_simulation_takes_the_planned_looks():
    data = ragged_data()
    privacy = mechanism(data.num_clients, multiplier=2.0)
    looks = queries.evaluation(
        lambda params, rows: {"score": rows["x"] @ params["w"]},
        data,
        bounds={"score": (-5, 5)},
        privacy=privacy,
        looks=3,
        key=KEY,
        every=2,
    )
    history = jf.simulate(
        jf.algorithms.fedavg(
            jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1),
            privacy,
        ),
        data,
        params=logistic_params(),
        rounds=5,
        seed=0,
        evaluate=looks,
        progress=False,
    )
    assert history.curve("score")[0].tolist() == [2, 4, 5]
    assert [float(a.value["score"]) for a in looks.answers] == pytest.approx(
        history.curve("score")[1].tolist()
    )
    total = queries.composed_epsilon([(privacy, 5), looks], delta=1e-3)
    assert total == pytest.approx(privacy.epsilon(rounds=8, delta=1e-3), rel=0.01)
