"""Federated evaluation as rounds: how well a fixed model does on clients' own data.

A client's contribution is one vector: the means of its examples' metrics, centred
between public bounds, beside a constant. The released sums of the first are divided by
that of the last, so that whoever did not answer counts for nothing. It is a step and a
sum like any training, and runs wherever that does: in a simulation, by `train`, as a
plan on vaults. `jaxfed.queries.evaluation` looks at a model between rounds of training,
where the data are at hand.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import clipping, tree
from jaxfed.clients import _measure
from jaxfed.clients._measure import MetricFunction
from jaxfed.typing import (
    Batch,
    Batching,
    ClientResult,
    FederatedAlgorithm,
    LocalWork,
    Metrics,
    Params,
    PyTree,
    Released,
    Shared,
)

ANSWERED = "answered"
_HEADROOM = 1 - 2.0**-10  # more than the clip may shrink what is within its norm
_MOST = 1e37  # whose middle and width are float32
_LEAST = 1e-6  # of a cohort: below that much noise alone is left


class EvaluationState(NamedTuple):
    """What the server keeps: the metrics, the model, and the sums of all rounds."""

    params: Params
    model: Params
    totals: dict[str, jax.Array]
    rounds: jax.Array


class _Carry(NamedTuple):
    model: Params
    sums: jax.Array
    num_examples: jax.Array


def measures(bounds: Mapping[str, tuple[float, float]]) -> dict[str, jax.Array]:
    """Returns the initial parameters of an `evaluation`: the middle of each bound.

    Args:
        bounds: `{name: (lowest, highest)}`.

    Returns:
        Scalars by name; `answered` is there too.
    """
    limits = _checked(bounds)
    middle = {n: jnp.float32((low + high) / 2) for n, (low, high) in limits.items()}
    return {ANSWERED: jnp.float32(0.0), **middle}


def evaluation(
    metric_fn: MetricFunction,
    model: Params,
    *,
    bounds: Mapping[str, tuple[float, float]],
    privacy: Any,
    batch_size: int = 64,
) -> FederatedAlgorithm:
    """Returns the evaluation of a model, to be run with `params=measures(bounds)`.

    After a round, parameter `name` is the mean over clients of each client's mean over
    its examples, and `answered` the mean number of clients that counted, over the
    expected number (without privacy, always 1); both as noisy as the privacy object
    makes them. Of several rounds it is the mean, with as much less noise.

    Args:
        metric_fn: `(params, rows) -> {name: one value per row}`. It is called row by
            row, each as a batch of one. A client with NaN or infinity in any is absent.
        model: the parameters that are evaluated; public, as whatever is broadcast.
        bounds: `{name: (lowest, highest)}` for each metric, by definition; values
            outside are clipped.
        privacy: `privacy.central` or `privacy.local` with a fixed clip, of any norm;
            or `privacy.none(..., weighting="clients")`.
        batch_size: examples a step; all are measured once.

    Raises:
        ValueError: bounds are none, or the clip is not fixed.
    """
    check.function("write (params, rows) -> {name: values}", metric_fn=metric_fn)
    check.positive_integer("pass for example batch_size=64", batch_size=batch_size)
    limits = _checked(bounds)
    scale = _scale(privacy, 1 + len(limits))
    model = jax.tree.map(jnp.asarray, model)

    def init(params: Params) -> EvaluationState:
        if not isinstance(params, dict) or set(params) != {ANSWERED, *limits}:
            got = sorted(params) if isinstance(params, dict) else type(params).__name__
            raise ValueError(
                f"params must be {sorted({ANSWERED, *limits})}, got {got}; pass "
                "algorithms.measures(bounds)."
            )
        zeros = jax.tree.map(jnp.zeros_like, params)
        return EvaluationState(params, model, zeros, jnp.zeros((), jnp.float32))

    def apply(state: EvaluationState, released: Released) -> EvaluationState:
        value = tree.cast_like(released.value, state.params)
        totals = tree.add(state.totals, tree.scale(value, 1 / scale))
        rounds = state.rounds + 1
        count = jnp.maximum(totals[ANSWERED], _LEAST * rounds)
        found = {
            name: (low + high) / 2
            + (high - low) / 2 * jnp.clip(totals[name] / count, -1.0, 1.0)
            for name, (low, high) in limits.items()
        }
        params = {ANSWERED: totals[ANSWERED] / rounds, **found}
        return EvaluationState(params, state.model, totals, rounds)

    return FederatedAlgorithm(
        init=init,
        broadcast=lambda state: Shared(params=state.params, extra=state.model),
        local=_measuring(metric_fn, limits, scale, batch_size),
        aggregator=privacy,
        apply=apply,
        name="evaluation",
    )


def _measuring(
    metric_fn: MetricFunction,
    limits: dict[str, tuple[float, float]],
    scale: float,
    batch_size: int,
) -> LocalWork:
    """Returns local work that measures and learns nothing."""

    def init(shared: Shared, client_state: PyTree) -> _Carry:
        del client_state
        zeros = jnp.zeros(len(limits), jnp.float32)
        return _Carry(shared.extra, zeros, jnp.zeros((), jnp.float32))

    def step(carry: _Carry, batch: Batch, *, key: jax.Array) -> tuple[_Carry, Metrics]:
        del key
        first_real = jnp.argmax(batch.is_real)
        spare = jax.tree.map(lambda a: a[first_real][None], batch.rows)
        rows = tree.where_rows(batch.is_real, batch.rows, spare)
        units = jax.vmap(lambda row: _units(metric_fn, carry.model, row, limits))(rows)
        kept = jnp.where(batch.is_real[:, None], units, 0.0)
        count = jnp.sum(batch.is_real).astype(jnp.float32)
        sums = carry.sums + jnp.sum(kept, axis=0)
        return _Carry(carry.model, sums, carry.num_examples + count), {}

    def finish(shared: Shared, carry: _Carry) -> ClientResult:
        del shared
        means = scale * carry.sums / jnp.maximum(carry.num_examples, 1.0)
        update = {name: means[place] for place, name in enumerate(limits)}
        update[ANSWERED] = jnp.where(carry.num_examples > 0, jnp.float32(scale), 0.0)
        return ClientResult(update, carry.num_examples, ())

    return LocalWork(
        init=init,
        step=step,
        finish=finish,
        batching=Batching(batch_size=batch_size, epochs=1),
        name=f"measuring({', '.join(limits)})",
    )


def _units(
    metric_fn: MetricFunction,
    model: Params,
    row: dict[str, jax.Array],
    limits: dict[str, tuple[float, float]],
) -> jax.Array:
    """Returns one row's metrics, (metrics,) float32, each in [-1, 1]."""
    values = _measure.of_row(metric_fn, model, row, tuple(limits))
    low, high = np.array(list(limits.values()), np.float64).T
    middle, half = np.float32((low + high) / 2), np.float32((high - low) / 2)
    inside = jnp.clip((values - middle) / half, -1.0, 1.0)
    # a value that is none makes the whole vector none: its client is absent
    return jnp.where(jnp.isfinite(values), inside, jnp.float32(jnp.nan))


def _scale(privacy: Any, size: int) -> float:
    """Returns by how much numbers up to 1 are scaled so that no clip touches them."""
    clip = getattr(privacy, "clipping", None)
    if isinstance(clip, clipping.FixedL1):
        return _HEADROOM * clip.norm / size
    if isinstance(clip, clipping.Fixed):
        return _HEADROOM * clip.norm / math.sqrt(size)
    if clip is None and getattr(privacy, "weighting", None) == "clients":
        return 1.0
    raise ValueError(
        f"privacy must have a fixed clip, got {privacy!r}; pass privacy.central("
        "clipping=clipping.Fixed(norm=1.0), ...), or privacy.none(..., "
        'weighting="clients").'
    )


def _checked(bounds: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    remedy = 'pass for example {"accuracy": (0, 1)}'
    check.instance(Mapping, remedy, bounds=bounds)
    if not bounds or ANSWERED in bounds:
        raise ValueError(
            f"bounds must name metrics, and none {ANSWERED!r}, got {list(bounds)}; "
            f"{remedy}."
        )
    found = {}
    for name, pair in bounds.items():
        try:
            low, high = (float(limit) for limit in pair)
            half = float(jnp.float32((high - low) / 2))
            fits = 0 < half < math.inf and -_MOST <= low < high <= _MOST
        except (TypeError, ValueError):
            fits = False
        if not fits or not isinstance(name, str):
            raise ValueError(
                f"bounds of {name!r} must be (lowest, highest), got {pair!r}; {remedy}."
            )
        found[name] = (low, high)
    return dict(sorted(found.items()))
