"""Private histograms: how many examples, or clients, fall into public bins.

A client's vector is its own histogram, jointly clipped; the counts get independent
noise. (Dwork et al. 2006, "Calibrating noise to sensitivity", section 3.2, with
Gaussian noise and clients as the unit.)

Guarantee: an example adds 1 to one bin of each of k columns, times `1 / sqrt(k)`: a
vector of norm at most 1; the rest is `_release`.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed.data import FederatedData
from jaxfed.ledger import Ledger
from jaxfed.privacy import Central
from jaxfed.queries._answer import Answer
from jaxfed.queries._columns import Array, Columns, array_of
from jaxfed.queries._paid import Paid, source_of
from jaxfed.queries._release import WEIGHTINGS, Clients, check_query, noisy_sums


def histogram(
    data: FederatedData,
    name: str,
    *,
    edges: Any = None,
    categories: Any = None,
    privacy: Central,
    key: jax.Array | None = None,
    ledger: Ledger | None = None,
    columns: Columns = None,
    weighting: str = "examples",
    non_negative: bool = True,
) -> Answer:
    """Releases counts by bin or by category.

    Values outside all bins are not counted; a client with NaN or infinity counts as
    absent. A client whose histogram has a larger L2 norm than
    `privacy.clipping.norm` is scaled down, so that it counts for less.

    Args:
        data: the clients; as many as the sampler counts.
        name: one of `data.arrays`.
        edges: rising numbers; bin i holds `edges[i] <= value < edges[i + 1]`, the last
            bin its upper edge too. Public, as are categories.
        categories: distinct numbers, counted where equal; give these or edges.
        privacy: `privacy.central` with `clipping.Fixed`, its norm in examples.
        key: the root key, for a simulation or a release of your own accounting.
        ledger: what pays for the answer and makes its noise; instead of `key`.
        columns: which columns of a two-dimensional array; all if not given, and all
            are counted into the same bins.
        weighting: `"examples"`, or `"clients"` for the sum of the clients' shares: each
            counts for 1 in all, and a norm of 1 clips nobody.
        non_negative: raise counts below 0 to 0, which adds a bias of up to .4
            standard errors to empty bins.

    Returns:
        An answer whose value is float64 (..., bins), after the shape of an example.
        From a sampled cohort, scaled up to the population.
    """
    check_query(data, privacy)
    check.one_of(WEIGHTINGS, weighting=weighting)
    source = source_of(key, ledger, name=f"histogram of {name!r}")
    array = array_of(data, name, columns)
    bins, place = _binning(edges, categories)
    asked = ("edges", edges) if categories is None else ("categories", categories)
    asked = (asked[0], np.asarray(asked[1], np.float64).tolist())
    noisy = noisy_sums(
        lambda clients: (
            counts(array, place, bins, clients, weighting) / np.sqrt(array.width)
        ),
        array.width * bins,
        data,
        privacy,
        question=repr(("histogram", name, array.columns, weighting, asked)),
        source=source,
    )
    value = noisy.value.reshape(*array.shape, bins) * np.sqrt(array.width)
    error = np.full(value.shape, noisy.stddev * np.sqrt(array.width))
    return Answer(
        query=f"histogram of {name!r} over {weighting}",
        value=np.maximum(value, 0.0) if non_negative else value,
        standard_error=error,
        privacy=privacy,
        private=isinstance(source, Paid),
    )


def counts(
    array: Array,
    place: Callable[[np.ndarray], np.ndarray],
    bins: int,
    clients: Clients,
    weighting: str,
) -> np.ndarray:
    """Returns each client's histograms, (count, width * bins) float64. Private.

    Args:
        array: what to count.
        place: `(values) -> bins`, int64, -1 where there is none.
        bins: how many there are.
        clients: whose.
        weighting: what a client counts for.
    """
    values = array.read(clients)
    is_bad = np.isnan(values)
    bin_of = place(np.where(is_bad, 0.0, values))
    owner, width = clients.owner, array.width
    line = (owner[:, None] * width + np.arange(width)) * bins + bin_of
    weights = np.ones(len(owner))
    if weighting == "clients":
        weights = (1 / clients.sizes)[owner]
    is_in = bin_of >= 0
    found = np.bincount(
        line[is_in],
        np.broadcast_to(weights[:, None], line.shape)[is_in],
        minlength=len(clients.sizes) * width * bins,
    ).reshape(len(clients.sizes), width * bins)
    found[owner[is_bad.any(axis=1)]] = np.nan
    return found


def _binning(
    edges: Any, categories: Any
) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    if (edges is None) == (categories is None):
        given = "neither" if edges is None else "both"
        raise ValueError(
            f"exactly one of edges and categories must be given, got {given}; pass for "
            "example edges=[0, 18, 65, 120]."
        )
    if edges is not None:
        ends = _numbers(edges, "edges")
        if len(ends) < 2 or not (np.diff(ends) > 0).all():
            raise ValueError(
                f"edges must be at least two rising numbers, got {edges!r}; name them "
                "without looking at the data."
            )
        return len(ends) - 1, lambda values: _between(ends, values)
    kinds = _numbers(categories, "categories")
    if len(np.unique(kinds)) != len(kinds) or not len(kinds):
        raise ValueError(
            f"categories must be distinct numbers, got {categories!r}; name each that "
            "a value can be, without looking at the data."
        )
    return len(kinds), lambda values: _equal(kinds, values)


def _between(ends: np.ndarray, values: np.ndarray) -> np.ndarray:
    found = np.searchsorted(ends, values, side="right") - 1
    found = np.where(values == ends[-1], len(ends) - 2, found)
    return np.where(found == len(ends) - 1, -1, found)


def _equal(kinds: np.ndarray, values: np.ndarray) -> np.ndarray:
    order = np.argsort(kinds)
    nearest = np.minimum(np.searchsorted(kinds[order], values), len(kinds) - 1)
    found = order[nearest]
    return np.where(kinds[found] == values, found, -1)


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        found = np.empty((0, 0))
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError(
            f"{name} must be a list of finite numbers, got {values!r}; write them out."
        )
    return found
