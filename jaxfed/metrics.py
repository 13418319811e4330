"""Measures of predictions, computed on the host in float64.

Outputs are a model's raw scores: (n,) or (n, 1) log-odds for two classes, (n, classes)
logits otherwise. Labels are (n,) integers.
"""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A measure `metric(outputs, labels) -> float`; NaN where it is undefined."""

    name: str
    whole: Callable[[np.ndarray, np.ndarray], float] | None = None
    """The measure of all rows together, or None if it is a mean over rows."""
    per_row: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    """(n,) float64 whose mean is the measure, or None."""
    higher_is_better: bool = True

    def __call__(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Returns the measure of all rows together."""
        outputs, labels = _aligned(outputs, labels)
        if self.per_row is not None:
            return float(np.mean(self.per_row(outputs, labels)))
        assert self.whole is not None
        return float(self.whole(outputs, labels))


def _aligned(outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    outputs = np.asarray(outputs, np.float64)
    labels = np.asarray(labels)
    if outputs.ndim == 2 and outputs.shape[1] == 1:
        outputs = outputs[:, 0]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if len(outputs) != len(labels) or labels.ndim != 1 or outputs.ndim > 2:
        raise ValueError(
            f"outputs of shape {outputs.shape} do not match labels of shape "
            f"{labels.shape}; give one row of outputs and one label per example."
        )
    if len(labels) == 0:
        raise ValueError("there are no rows to measure; pass at least one.")
    return outputs, labels


def _correct(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    guess = outputs.argmax(axis=1) if outputs.ndim == 2 else outputs > 0
    return (guess == labels).astype(np.float64)


def _negative_log_likelihood(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if outputs.ndim == 1:
        return np.logaddexp(0.0, np.where(labels == 1, -outputs, outputs))
    top = outputs.max(axis=1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(outputs - top).sum(axis=1))
    return total - outputs[np.arange(len(labels)), labels.astype(np.int64)]


def _area_under_curve(outputs: np.ndarray, labels: np.ndarray) -> float:
    if outputs.ndim != 1:
        raise ValueError(
            f"auc needs one score per row, got outputs of shape {outputs.shape}; use "
            "it for two classes only."
        )
    positive = labels == 1
    num_positive, num_negative = positive.sum(), (~positive).sum()
    if num_positive == 0 or num_negative == 0 or np.isnan(outputs).any():
        return float("nan")
    _, inverse, counts = np.unique(outputs, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share their mean
    above = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


accuracy = Metric(name="accuracy", per_row=_correct)
"""The share of rows whose largest output (or the sign of the only one) is right.

>>> accuracy(np.array([2.0, -1.0, 0.5]), np.array([1, 0, 0])).__round__(3)
0.667
"""

log_loss = Metric(
    name="log_loss", per_row=_negative_log_likelihood, higher_is_better=False
)
"""The mean negative log likelihood, in nats."""

auc = Metric(name="auc", whole=_area_under_curve)
"""The area under the receiver operating characteristic, by ranks (Mann-Whitney).

NaN where only one class is present.

>>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
0.75
"""
