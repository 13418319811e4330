"""Evaluations of a model, over all examples at once or client by client.

What they return is exact, and so private when it is computed on clients' data: in a
simulation it is there to be looked at, a release must not carry it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed import _program
from jaxfed.data import FederatedData
from jaxfed.metrics import Metric, aligned
from jaxfed.typing import Params

Predict = Callable[[Params, dict[str, jax.Array]], Any]
"""`(params, rows) -> outputs`, one row of outputs per row."""
RELEASED = (
    "pass evaluation.public(...) for examples that are public, or "
    "queries.evaluation(..., ledger=ledger) for clients'"
)
_BLOCK = 8192  # rows predicted at once, which bounds memory


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """A function of the parameters that is called every `every` rounds."""

    compute: Callable[[Params], dict[str, float]]
    every: int = 1

    def validate(self, *, rounds: int, ledger: Any = None) -> None:
        """Checks, before anything runs, that it may be called in such a run.

        Args:
            rounds: how many are planned.
            ledger: what pays for the run; None for a simulation.

        Raises:
            ValueError: it may not.
        """
        del rounds
        if ledger is not None:
            raise ValueError(
                f"evaluate must release public values alone, got {self!r}, which shows "
                f"exact ones; {RELEASED}."
            )

    def __post_init__(self) -> None:
        check.positive_integer(every=self.every)

    def __call__(self, params: Params) -> dict[str, float]:
        """Returns named numbers."""
        return self.compute(params)


class PublicEvaluation(Evaluation):
    """An evaluation on examples that are public, as whoever made it says."""

    def validate(self, *, rounds: int, ledger: Any = None) -> None:
        """Accepts every run."""


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
    predictor = _Predictor(predict, arrays)

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
    check.instance(FederatedData, "use evaluation.central for plain arrays", data=data)
    _require(data.arrays, labels, metrics)
    if groups is not None and groups not in data.columns:
        raise ValueError(
            f"groups must be one of the columns {sorted(data.columns)}, got "
            f"{groups!r}; give the data such a column."
        )
    membership = None if groups is None else np.asarray(data.columns[groups])
    predictor = _Predictor(predict, dict(data.arrays))

    def compute(params: Params) -> dict[str, float]:
        outputs, found = predictor(params), {}
        for name, metric in metrics.items():
            values = per_client(metric, outputs, data, labels)
            higher = getattr(metric, "higher_is_better", True)
            found |= _distribution(name, values, membership, higher)
        return found

    return Evaluation(compute=compute, every=every)


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


class _Predictor:
    """Predicts all rows of some arrays in blocks of one static shape."""

    def __init__(self, predict: Predict, arrays: dict[str, np.ndarray]):
        check.function("write (params, rows) -> outputs", predict=predict)
        self._predict = jax.jit(predict)
        self._arrays = arrays
        self._rows = len(next(iter(arrays.values())))

    def __call__(self, params: Params) -> np.ndarray:
        block = min(_BLOCK, self._rows)
        parts = []
        for start in range(0, self._rows, block):
            stop = min(start + block, self._rows)
            first = stop - block  # the last block overlaps: one shape, one trace
            rows = {n: np.asarray(a[first:stop]) for n, a in self._arrays.items()}
            outputs = np.asarray(self._outputs(params, rows), np.float64)
            if outputs.shape[:1] != (block,):
                raise ValueError(
                    f"predict must return one row of outputs per row, got shape "
                    f"{outputs.shape} for {block} rows; do not average over rows."
                )
            parts.append(outputs[start - first :])
        return np.concatenate(parts)

    def program_of(self, params: Params) -> bytes:
        """Returns a digest of what is computed. Private, as what it closes over."""
        rows = {
            name: jax.ShapeDtypeStruct(
                (min(_BLOCK, self._rows), *np.shape(a)[1:]),
                jax.dtypes.canonicalize_dtype(np.asarray(a).dtype),
            )
            for name, a in self._arrays.items()
        }
        return _program.digest_of(self._outputs, params, rows)

    def _outputs(self, params: Params, rows: dict[str, np.ndarray]) -> jax.Array:
        try:
            return self._predict(params, rows)
        except Exception as error:
            shown = ", ".join(f"{n}: {a.dtype}{list(a.shape)}" for n, a in rows.items())
            raise ValueError(
                f"predict fails on rows of {{{shown}}}: {error}\nIt must accept "
                "(params, rows); check the names and shapes of model and data."
            ) from error


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
