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

    def __post_init__(self) -> None:
        if (self.whole is None) == (self.per_row is None):
            given = "neither" if self.whole is None else "both"
            raise ValueError(
                f"exactly one of whole and per_row must be given, got {given}; pass "
                "per_row for a mean over rows."
            )

    def __call__(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Returns the measure of all rows together."""
        outputs, labels = aligned(outputs, labels)
        if self.per_row is not None:
            return float(np.mean(self.per_row(outputs, labels)))
        assert self.whole is not None
        return float(self.whole(outputs, labels))


def aligned(outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns outputs, (n,) or (n, classes) float64, and labels, (n,).

    Raises:
        ValueError: their shapes do not match, or there are no rows.
    """
    outputs = np.asarray(outputs, np.float64)
    labels = np.asarray(labels)
    if outputs.ndim == 2 and outputs.shape[1] == 1:
        outputs = outputs[:, 0]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if outputs.ndim not in (1, 2) or labels.shape != outputs.shape[:1]:
        raise ValueError(
            f"outputs of shape {outputs.shape} do not match labels of shape "
            f"{labels.shape}; give one row of outputs and one label per example."
        )
    if len(labels) == 0:
        raise ValueError("there are no rows to measure; pass at least one.")
    return outputs, labels


def _correct(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    _check_classes(outputs, labels)
    if outputs.ndim == 1:
        right = (outputs > 0) == (labels == 1)
        return (right & ~np.isnan(outputs)).astype(np.float64)
    right = outputs.argmax(axis=1) == labels
    return (right & ~np.isnan(outputs).any(axis=1)).astype(np.float64)


def _negative_log_likelihood(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    _check_classes(outputs, labels)
    with np.errstate(invalid="ignore"):  # NaN outputs give NaN, without a warning
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
    _check_classes(outputs, labels)
    positive = labels == 1
    num_positive, num_negative = positive.sum(), (~positive).sum()
    if num_positive == 0 or num_negative == 0 or np.isnan(outputs).any():
        return float("nan")
    _, inverse, counts = np.unique(outputs, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share their mean
    above = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def _check_classes(outputs: np.ndarray, labels: np.ndarray) -> None:
    count = 2 if outputs.ndim == 1 else outputs.shape[1]
    bad = ~np.isin(labels, np.arange(count))
    if bad.any():
        raise ValueError(
            f"labels must be whole numbers from 0 to {count - 1}, got "
            f"{labels[bad][0].item()!r}; renumber the classes from 0."
        )


accuracy = Metric(name="accuracy", per_row=_correct)
"""The share of rows whose largest output (or the sign of the only one) is right.

A row whose outputs hold NaN is wrong.

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
