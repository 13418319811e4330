"""Metrics over all examples, over clients, and of clients' own models."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxfed import _check as check
from jaxfed.data import FederatedData
from jaxfed.evaluation._evaluation import (
    Evaluation,
    PersonalEvaluation,
    PublicEvaluation,
)
from jaxfed.evaluation._predictors import PersonalPredictor, Predict, Predictor
from jaxfed.metrics import Metric, aligned
from jaxfed.typing import LocalWork, Params


def central(
    predict: Predict,
    data: FederatedData | Mapping[str, Any],
    *,
    labels: str = "y",
    every: int = 1,
    **metrics: Metric | Callable[[np.ndarray, np.ndarray], float],
) -> Evaluation:
    """Returns an evaluation over all examples of all clients together.

    Args:
        predict: `(params, rows) -> outputs`.
        data: federated data, or a mapping of arrays with the same names.
        labels: the array with the labels.
        every: evaluate after every so many rounds, and after the last.
        **metrics: what to measure, by the name under which to record it.

    Raises:
        ValueError: no metric is given, or the data has no such labels.
    """
    arrays = dict(data.arrays if isinstance(data, FederatedData) else data)
    _require(arrays, labels, metrics)
    predictor = Predictor(predict, arrays)

    def compute(params: Params) -> dict[str, float]:
        outputs = predictor(params)
        return {n: float(m(outputs, arrays[labels])) for n, m in metrics.items()}

    return Evaluation(compute=compute, every=every)


def public(
    predict: Predict,
    examples: Mapping[str, Any],
    *,
    labels: str = "y",
    every: int = 1,
    **metrics: Metric | Callable[[np.ndarray, np.ndarray], float],
) -> PublicEvaluation:
    """Returns an evaluation on examples that are public, which `train` may record.

    Args:
        predict: `(params, rows) -> outputs`.
        examples: a mapping of arrays. That nobody's privacy is in them is your word:
            no client's data, also not of clients who do not take part.
        labels: the array with the labels.
        every: evaluate after every so many rounds, and after the last.
        **metrics: what to measure, by the name under which to record it.

    Raises:
        TypeError: federated data was passed, which is clients'.
        ValueError: no metric is given, or the examples have no such labels.
    """
    remedy = (
        "clients' data is not public; measure on it with queries.evaluation(..., "
        "ledger=ledger)"
    )
    check.instance(Mapping, remedy, examples=examples)
    exact = central(predict, examples, labels=labels, every=every, **metrics)
    return PublicEvaluation(compute=exact.compute, every=every)


def federated(
    predict: Predict,
    data: FederatedData,
    *,
    labels: str = "y",
    every: int = 1,
    groups: str | None = None,
    **metrics: Metric | Callable[[np.ndarray, np.ndarray], float],
) -> Evaluation:
    """Returns an evaluation of how the model serves each client.

    For a metric `accuracy` it records `accuracy_mean` (over clients, each counting
    alike), `accuracy_worst_decile` (the mean over the worst tenth of clients, Li et
    al. 2020, arXiv:1905.10497) and, with groups, `accuracy_gap` (the best group's mean
    minus the worst group's). Clients for whom a metric is undefined are left out.

    Args:
        predict: `(params, rows) -> outputs`.
        data: federated data.
        labels: the array with the labels.
        every: evaluate after every so many rounds, and after the last.
        groups: one of `data.columns`, naming each client's group.
        **metrics: what to measure, by the name under which to record it.

    Raises:
        ValueError: no metric is given, or the data has no such labels or groups.
    """
    membership = _membership(data, labels, groups, metrics)
    predictor = Predictor(predict, dict(data.arrays))

    def compute(params: Params) -> dict[str, float]:
        outputs = predictor(params)
        return _distributions(metrics, outputs, data, labels, membership)

    return Evaluation(compute=compute, every=every)


def personal(
    local: LocalWork,
    predict: Predict,
    data: FederatedData,
    *,
    labels: str = "y",
    every: int = 1,
    groups: str | None = None,
    **metrics: Metric | Callable[[np.ndarray, np.ndarray], float],
) -> PersonalEvaluation:
    """Returns an evaluation of how each client's own model serves it.

    As `federated`, which measures the server's model: a client's model is what `local`
    makes of the server's parameters and of what the client keeps. Clients who never
    took part are measured with what they begin with.

    Args:
        local: what clients do, for example `clients.ditto(...)`.
        predict: `(params, rows) -> outputs`, of one model.
        data: federated data of the same clients in the same order, such as test rows.
        labels: as in `federated`.
        every: as in `federated`.
        groups: as in `federated`.
        **metrics: as in `federated`.

    Raises:
        ValueError: no metric is given, the data has no such labels or groups, or
            clients of `local` have no model of their own.
    """
    check.instance(LocalWork, "pass for example clients.ditto(...)", local=local)
    if local.personal is None:
        raise ValueError(
            f"clients must have models of their own, got {local!r}; use "
            "evaluation.federated for the server's, or wrap it in clients.fine_tuned."
        )
    check.function("write (params, rows) -> outputs", predict=predict)
    membership = _membership(data, labels, groups, metrics)
    predictor = PersonalPredictor(local.personal, predict, data)

    def compute(params: Params, states: Any) -> dict[str, float]:
        outputs = predictor(params, states)
        return _distributions(metrics, outputs, data, labels, membership)

    return PersonalEvaluation(
        compute=compute,  # ty: ignore
        every=every,
        local=local,
        client_ids=data.client_ids,
    )


def per_client(
    metric: Metric | Callable[[np.ndarray, np.ndarray], float],
    outputs: np.ndarray,
    data: FederatedData,
    labels: str = "y",
) -> np.ndarray:
    """Returns a metric for each client, (num_clients,) float64. Private."""
    targets = np.asarray(data.arrays[labels])
    if isinstance(metric, Metric) and metric.per_row is not None:
        rows = metric.per_row(*aligned(outputs, targets))
        return np.add.reduceat(rows, data.offsets[:-1]) / data.client_sizes
    bounds = zip(data.offsets[:-1], data.offsets[1:], strict=True)
    return np.array([float(metric(outputs[a:b], targets[a:b])) for a, b in bounds])


def _membership(
    data: FederatedData, labels: str, groups: str | None, metrics: Mapping[str, Any]
) -> np.ndarray | None:
    """Checks what to measure client by client; returns each client's group."""
    check.instance(FederatedData, "use evaluation.central for plain arrays", data=data)
    _require(data.arrays, labels, metrics)
    if groups is None:
        return None
    if groups not in data.columns:
        raise ValueError(
            f"groups must be one of the columns {sorted(data.columns)}, got "
            f"{groups!r}; give the data such a column."
        )
    return np.asarray(data.columns[groups])


def _distributions(
    metrics: Mapping[str, Any],
    outputs: np.ndarray,
    data: FederatedData,
    labels: str,
    membership: np.ndarray | None,
) -> dict[str, float]:
    found = {}
    for name, metric in metrics.items():
        values = per_client(metric, outputs, data, labels)
        higher = getattr(metric, "higher_is_better", True)
        found |= _distribution(name, values, membership, higher)
    return found


def _distribution(
    name: str, values: np.ndarray, membership: np.ndarray | None, higher: bool
) -> dict[str, float]:
    known = ~np.isnan(values)
    ordered = np.sort(values[known])
    if not higher:
        ordered = ordered[::-1]
    worst = ordered[: max(1, len(ordered) // 10)]
    nan = float("nan")
    found = {
        f"{name}_mean": float(ordered.mean()) if len(ordered) else nan,
        f"{name}_worst_decile": float(worst.mean()) if len(ordered) else nan,
    }
    if membership is not None:
        means = [
            values[known & (membership == group)].mean()
            for group in np.unique(membership)
            if (known & (membership == group)).any()
        ]
        found[f"{name}_gap"] = float(max(means) - min(means)) if means else nan
    return found


def _require(
    arrays: Mapping[str, Any], labels: str, metrics: Mapping[str, Any]
) -> None:
    if not metrics:
        raise ValueError(
            "there is nothing to measure; pass for example accuracy=metrics.accuracy."
        )
    for name, metric in metrics.items():
        check.function("pass one of jaxfed.metrics", **{name: metric})
    if labels not in arrays:
        raise ValueError(
            f"labels must be one of the arrays {sorted(arrays)}, got {labels!r}; name "
            "the array that holds them."
        )
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(
            f"arrays must have one length of at least 1, got {lengths}; give every "
            "example one row in each array."
        )
