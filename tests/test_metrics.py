"""Metrics against slow, independent loops."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfed.metrics import Metric, accuracy, auc, log_loss


def slow_auc(scores, labels):
    """The share of pairs (positive, negative) in the right order; ties count half."""
    wins, pairs = 0.0, 0
    for score, label in zip(scores, labels, strict=True):
        for other, other_label in zip(scores, labels, strict=True):
            if label == 1 and other_label == 0:
                pairs += 1
                wins += 1.0 if score > other else 0.5 if score == other else 0.0
    return wins / pairs if pairs else math.nan


def slow_accuracy(outputs, labels):
    right = 0
    for row, label in zip(outputs, labels, strict=True):
        if np.ndim(row) == 0:
            guess = 1 if row > 0 else 0
        else:
            guess = max(range(len(row)), key=lambda k, row=row: (row[k], -k))
        right += guess == label
    return right / len(labels)


def slow_log_loss(outputs, labels):
    total = 0.0
    for row, label in zip(outputs, labels, strict=True):
        logits = [0.0, float(row)] if np.ndim(row) == 0 else [float(v) for v in row]
        top = max(logits)
        odds = [math.exp(v - top) for v in logits]
        total -= logits[int(label)] - top - math.log(math.fsum(odds))
    return total / len(labels)


@st.composite
def two_classes(draw):
    # few different scores, so that ties are common
    count = draw(st.integers(1, 30))
    scores = draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count))
    labels = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    return np.array(scores, np.float64) / 2, np.array(labels)


@st.composite
def several_classes(draw):
    rows, classes = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    size = rows * classes
    values = draw(st.lists(st.floats(-50, 50), min_size=size, max_size=size))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    return np.array(values).reshape(rows, classes), np.array(labels)


@given(two_classes())
def test_two_classes_equal_the_slow_loops(problem):
    scores, labels = problem
    assert accuracy(scores, labels) == pytest.approx(slow_accuracy(scores, labels))
    assert log_loss(scores, labels) == pytest.approx(slow_log_loss(scores, labels))
    expected = slow_auc(scores, labels)
    assert auc(scores, labels) == pytest.approx(expected, nan_ok=True)


@given(several_classes())
def test_several_classes_equal_the_slow_loops(problem):
    outputs, labels = problem
    assert accuracy(outputs, labels) == pytest.approx(slow_accuracy(outputs, labels))
    assert log_loss(outputs, labels) == pytest.approx(
        slow_log_loss(outputs, labels), rel=1e-12, abs=1e-12
    )


@given(two_classes(), st.sampled_from([np.exp, np.arctan, lambda s: 3 * s - 7]))
def test_auc_sees_ranks_only(problem, rising):
    scores, labels = problem
    if len({*labels}) == 2:
        assert auc(rising(scores), labels) == auc(scores, labels)
        assert auc(-scores, labels) == pytest.approx(1 - auc(scores, labels))
        assert auc(scores, 1 - labels) == pytest.approx(1 - auc(scores, labels))


def test_two_logits_say_what_their_difference_says():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 2)), rng.integers(0, 2, 200)
    odds = logits[:, 1] - logits[:, 0]
    assert accuracy(logits, labels) == accuracy(odds, labels)
    assert log_loss(logits, labels) == pytest.approx(log_loss(odds, labels), rel=1e-12)


def test_known_values():
    assert auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75
    assert auc(np.zeros(4), np.array([0, 0, 1, 1])) == 0.5
    assert log_loss(np.zeros((3, 10)), np.arange(3)) == pytest.approx(math.log(10))
    assert accuracy(np.array([0.0]), np.array([0])) == 1.0  # no odds: class 0
    assert accuracy(np.ones((2, 3)), np.array([0, 1])) == 0.5  # a tie: the first


def test_extreme_scores_neither_overflow_nor_warn():
    far = np.array([1e300, -1e300])
    assert log_loss(far, np.array([1, 0])) == 0.0
    assert log_loss(far, np.array([0, 1])) == 1e300
    assert log_loss(np.array([[1e4, -1e4]]), np.array([1])) == 2e4
    assert auc(np.array([np.inf, -np.inf]), np.array([1, 0])) == 1.0
    # a class that is ruled out costs nothing unless it is the right one
    ruled_out = np.array([[0.0, -np.inf]])
    assert log_loss(ruled_out, np.array([0])) == 0.0
    assert log_loss(ruled_out, np.array([1])) == math.inf


@pytest.mark.parametrize(
    "outputs", [[0.3, np.nan, -0.2], [[0.3, 0.1], [np.nan, 0.0], [0.1, 0.2]]]
)
@pytest.mark.parametrize("label", [0, 1])
def test_a_model_without_an_answer_is_not_right(outputs, label):
    """NaN never counts as class 0, which would flatter a model that diverged."""
    labels = np.array([1, label, 0])
    right = accuracy(np.array(outputs)[[0, 2]], labels[[0, 2]])
    assert accuracy(np.array(outputs), labels) == pytest.approx(right * 2 / 3)
    assert math.isnan(log_loss(np.array(outputs), labels))
    if np.ndim(outputs) == 1:
        assert math.isnan(auc(np.array(outputs), labels))


@pytest.mark.parametrize("label", [0, 1])
def test_auc_of_one_class_is_undefined(label):
    assert math.isnan(auc(np.array([0.1, 0.2]), np.full(2, label)))


@pytest.mark.parametrize("metric", [accuracy, log_loss, auc], ids=lambda m: m.name)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_columns_and_dtypes_of_labels_change_nothing(metric, dtype):
    scores = np.array([0.5, -1.5, 2.0, 0.25])
    labels = np.array([1, 0, 0, 1])
    expected = metric(scores, labels)
    assert metric(scores[:, None], labels.astype(dtype)[:, None]) == expected
    assert metric(jnp.asarray(scores, jnp.bfloat16), jnp.asarray(labels)) == expected
    assert type(metric(scores, labels)) is float


@pytest.mark.parametrize("metric", [accuracy, log_loss, auc], ids=lambda m: m.name)
@pytest.mark.parametrize(("labels", "odd"), [([0, 2], "2"), ([-1, 1], "-1")])
def test_labels_that_are_no_classes_are_refused(metric, labels, odd):
    with pytest.raises(ValueError, match=f"whole numbers from 0 to 1, got {odd}; renu"):
        metric(np.array([0.1, 0.2]), np.array(labels))
    with pytest.raises(ValueError, match=r"from 0 to 1, got 0\.5"):
        metric(np.array([0.1, 0.2]), np.array([0.5, 1.0]))


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [((3,), (2,)), ((3, 2), (3, 2)), ((3, 2, 2), (3,)), ((), ()), ((3,), ())],
)
def test_shapes_that_do_not_match_are_refused(outputs, labels):
    with pytest.raises(ValueError, match="do not match labels of shape"):
        accuracy(np.zeros(outputs), np.zeros(labels, int))


def test_nothing_cannot_be_measured():
    with pytest.raises(ValueError, match="no rows to measure; pass at least one"):
        auc(np.zeros(0), np.zeros(0))


def test_one_way_to_define_a_metric():
    def error(outputs, labels):
        return (outputs - labels) ** 2

    mean_error = Metric(name="mse", per_row=error, higher_is_better=False)
    assert mean_error(np.array([1.0, 2.5]), np.array([0.5, 2.0])) == 0.25
    with pytest.raises(ValueError, match=r"exactly one of whole and per_row .* both"):
        Metric(name="mse", per_row=error, whole=lambda o, t: 0.0)
    with pytest.raises(
        ValueError, match=r"exactly one of whole and per_row .* neither"
    ):
        Metric(name="mse")
