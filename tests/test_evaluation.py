"""Evaluations against slow loops over clients."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed import evaluation
from jaxfed.data import FederatedData
from jaxfed.metrics import Metric, accuracy, auc, log_loss

BLOCK = 8192
SQUARED_ERROR = Metric(
    name="squared_error",
    per_row=lambda outputs, labels: (outputs - labels) ** 2,
    higher_is_better=False,
)


def people(sizes, seed=0, columns=None):
    rng = np.random.default_rng(seed)
    clients = {}
    for i, size in enumerate(sizes):
        x = rng.normal(0.2 * (i % 5), 1.0, (size, 2)).astype(np.float32)
        y = (x[:, 0] + rng.normal(size=size) > 0).astype(np.int32)
        clients[i] = {"x": x, "y": y}
    return FederatedData.from_clients(clients, columns=columns)


def score(params, rows):
    return rows["x"] @ params


PARAMS = jnp.array([1.0, -0.5])


def slow_scores(data):
    """Row by row, in float32 as the model computes."""
    weights = np.asarray(PARAMS)
    return np.array([np.float32(row @ weights) for row in data.arrays["x"]], np.float64)


def slow_per_client(metric, data):
    scores = slow_scores(data)
    values = []
    for i in range(data.num_clients):
        own = slice(int(data.offsets[i]), int(data.offsets[i + 1]))
        values.append(metric(scores[own], data.arrays["y"][own]))
    return values


def test_central_measures_all_rows_together():
    data = people((5, 1, 9))
    scores, labels = slow_scores(data), data.arrays["y"]
    evaluate = evaluation.central(score, data, acc=accuracy, area=auc, nll=log_loss)
    found = evaluate(PARAMS)
    assert list(found) == ["acc", "area", "nll"]
    assert found["acc"] == accuracy(scores, labels)
    assert found["area"] == auc(scores, labels)
    assert found["nll"] == pytest.approx(log_loss(scores, labels), rel=1e-6)
    assert all(type(value) is float for value in found.values())


def test_central_takes_plain_arrays_and_functions():
    data = people((5, 1, 9))
    arrays = {"x": data.arrays["x"], "sick": list(data.arrays["y"])}
    evaluate = evaluation.central(
        score, arrays, labels="sick", acc=accuracy, top=lambda o, t: max(o)
    )
    found = evaluate(PARAMS)
    assert found["acc"] == accuracy(slow_scores(data), data.arrays["y"])
    assert found["top"] == pytest.approx(slow_scores(data).max(), rel=1e-6)


@pytest.mark.parametrize("metric", [accuracy, auc, log_loss], ids=lambda m: m.name)
def test_per_client_equals_the_slow_loop(metric):
    data = people((5, 1, 9, 30, 2, 40), seed=1)
    found = evaluation.per_client(metric, slow_scores(data), data)
    np.testing.assert_allclose(found, slow_per_client(metric, data), rtol=1e-12)
    if metric is auc:
        assert np.isnan(found[1])
        assert np.isfinite(found).any()


def test_per_client_takes_columns_and_any_function():
    data = people((5, 1, 9))
    scores, labels = slow_scores(data), data.arrays["y"]
    expected = slow_per_client(accuracy, data)
    column = FederatedData(
        arrays={"x": data.arrays["x"], "y": labels[:, None]},
        offsets=data.offsets,
        client_ids=data.client_ids,
    )
    for given in (data, column):
        for outputs in (scores, scores[:, None], jnp.asarray(scores, jnp.float32)):
            np.testing.assert_array_equal(
                evaluation.per_client(accuracy, outputs, given), expected
            )
    sizes = evaluation.per_client(lambda outputs, _: len(outputs), scores, data)
    np.testing.assert_array_equal(sizes, data.client_sizes)


def slow_distribution(values, higher_is_better):
    known = sorted(v for v in values if not math.isnan(v))
    if not higher_is_better:
        known.reverse()
    worst = known[: max(1, len(known) // 10)]
    return sum(known) / len(known), sum(worst) / len(worst)


@pytest.mark.parametrize("metric", [accuracy, log_loss, SQUARED_ERROR, auc])
@pytest.mark.parametrize("count", [1, 9, 10, 20, 29, 57])
def test_the_mean_and_the_worst_tenth_of_clients(metric, count):
    data = people(np.random.default_rng(count).integers(1, 12, count), seed=count)
    found = evaluation.federated(score, data, m=metric)(PARAMS)
    values = slow_per_client(metric, data)
    if all(math.isnan(v) for v in values):
        assert all(math.isnan(v) for v in found.values())
        return
    mean, worst = slow_distribution(values, metric.higher_is_better)
    assert found == pytest.approx({"m_mean": mean, "m_worst_decile": worst}, rel=1e-5)


def test_worst_is_low_accuracy_and_high_loss():
    # ten clients of ten rows; client i answers i rows right
    labels = np.ones((10, 10), np.int32)
    scores = np.array([[1.0] * i + [-1.0] * (10 - i) for i in range(10)], np.float32)
    data = FederatedData.from_arrays(
        {"x": scores.ravel(), "y": labels.ravel()}, client=np.repeat(np.arange(10), 10)
    )
    found = evaluation.federated(
        lambda params, rows: rows["x"] * params, data, acc=accuracy, nll=log_loss
    )(jnp.float32(1))
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    assert found["acc_mean"] == pytest.approx(0.45)
    assert found["acc_worst_decile"] == 0.0
    assert found["nll_worst_decile"] == pytest.approx(wrong)
    assert found["nll_mean"] == pytest.approx(0.45 * right + 0.55 * wrong)


def test_clients_without_a_value_are_left_out():
    data = people((6, 1, 8, 1, 12), seed=3)
    values = slow_per_client(auc, data)
    assert math.isnan(values[1])
    assert math.isnan(values[3])
    found = evaluation.federated(score, data, area=auc)(PARAMS)
    assert found["area_mean"] == pytest.approx(np.nanmean(values))


def test_the_gap_is_between_the_best_and_the_worst_group():
    groups = ["b", "a", "c", "a", "b", "c", "lonely", "a", "c"]
    data = people((6, 9, 8, 5, 12, 7, 1, 1, 1), seed=4, columns={"ward": groups})
    for metric in (accuracy, log_loss, auc):
        values = slow_per_client(metric, data)
        means = []
        for group in ("a", "b", "c", "lonely"):
            own = [
                value
                for value, of in zip(values, groups, strict=True)
                if of == group and not math.isnan(value)
            ]
            if own:  # a group without a value, such as one of a single row, has no mean
                means.append(sum(own) / len(own))
        assert len(means) == (3 if metric is auc else 4)
        found = evaluation.federated(score, data, groups="ward", m=metric)(PARAMS)
        assert found["m_gap"] == pytest.approx(max(means) - min(means), rel=1e-5)
        assert found["m_gap"] > 0


def test_nothing_known_is_nan_everywhere():
    data = people((1, 1, 1), columns={"ward": [0, 1, 1]})
    found = evaluation.federated(score, data, groups="ward", area=auc)(PARAMS)
    assert list(found) == ["area_mean", "area_worst_decile", "area_gap"]
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("rows", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3000])
def test_blocks_join_without_seam_and_are_traced_once(rows):
    traces = []

    def numbered(params, batch):
        traces.append(batch["x"].shape)
        return batch["x"] * params

    seen = []
    arrays = {"x": np.arange(rows, dtype=np.float32), "y": np.zeros(rows, np.int32)}
    evaluate = evaluation.central(
        numbered, arrays, first=lambda outputs, _: seen.append(outputs) or 0.0
    )
    for factor in (1.0, 2.0, 3.0):
        evaluate(jnp.float32(factor))
        np.testing.assert_array_equal(seen[-1], factor * np.arange(rows))
    assert traces == [(min(rows, BLOCK),)]


def test_columns_of_outputs_join_too():
    rows = BLOCK + 17
    arrays = {"x": np.arange(rows, dtype=np.float32), "y": np.zeros(rows, np.int32)}
    seen = []
    evaluation.central(
        lambda params, batch: jnp.stack([batch["x"], params - batch["x"]], axis=1),
        arrays,
        keep=lambda outputs, _: seen.append(outputs) or 0.0,
    )(jnp.float32(2))
    expected = np.stack([np.arange(rows), 2 - np.arange(rows)], axis=1)
    np.testing.assert_array_equal(seen[0], expected)


@pytest.mark.parametrize(
    "outputs", [lambda p, r: p, lambda p, r: r["x"][:-1], lambda p, r: r["x"].T]
)
def test_one_row_of_outputs_per_row(outputs):
    data = people((3, 4))
    evaluate = evaluation.central(outputs, data, acc=accuracy)
    with pytest.raises(ValueError, match=r"got shape .* for 7 rows; do not average"):
        evaluate(PARAMS)


def test_a_failing_model_is_named():
    evaluate = evaluation.central(score, people((3, 4)), acc=accuracy)
    with pytest.raises(
        ValueError, match=r"(?s)predict fails on rows of \{x: float32\["
    ):
        evaluate(jnp.ones(3))


def test_arrays_of_different_lengths_are_refused():
    arrays = {"x": np.ones((4, 2)), "y": np.ones(3)}
    with pytest.raises(ValueError, match=r"one length .* got \{'x': 4, 'y': 3\}"):
        evaluation.central(score, arrays, acc=accuracy)


def simulate(evaluate, rounds):
    data = people((3, 4))

    def loss(params, batch, key):
        del key
        logits = batch["x"] @ params
        labels = batch["y"].astype(jnp.float32)
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean(), {}

    algorithm = jf.algorithms.fedavg(
        jf.clients.sgd(loss, optax.sgd(0.1), batch_size=4, epochs=1),
        jf.privacy.none(sampling=jf.sampling.Full(population=2)),
    )
    return jf.simulate(
        algorithm,
        data,
        params=PARAMS,
        rounds=rounds,
        seed=0,
        evaluate=evaluate,
        progress=False,
    )


@pytest.mark.parametrize(
    ("every", "evaluated"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])]
)
def test_every_so_many_rounds_and_after_the_last(every, evaluated):
    evaluate = evaluation.central(score, people((3, 4)), every=every, acc=accuracy)
    history = simulate(evaluate, rounds=5)
    assert [r.round for r in history.rounds if r.evaluation] == evaluated
    assert history.curve("acc")[0].tolist() == evaluated


def test_an_evaluation_sees_the_parameters_of_its_round():
    seen = []

    def evaluate(params):
        seen.append(np.asarray(params))
        return {"first": float(params[0])}

    history = simulate(evaluate, rounds=3)
    assert len({params.tobytes() for params in seen}) == 3
    np.testing.assert_array_equal(seen[-1], history.params)
    np.testing.assert_array_equal(history.curve("first")[1], [p[0] for p in seen])
