"""Private means and standard deviations of bounded columns, one release each.

A client's vector is its count beside the sums of its values, centred between the
public bounds; noisy sums are divided by the noisy count, which is post-processing.
Joint clipping scales both alike, so that a client with too many examples counts for
less; it does not pull the mean to the middle.

Guarantee: with u in [-1, 1] for each of d columns, an example adds the vector
`(sqrt(t), sqrt((1 - t) / d) u)`, whose norm is at most 1; the rest is `_release`.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed.data import FederatedData
from jaxfed.ledger import Ledger
from jaxfed.privacy import Central
from jaxfed.queries._answer import Answer
from jaxfed.queries._columns import Bounded, Columns, bounded
from jaxfed.queries._paid import Paid, Source, source_of
from jaxfed.queries._release import (
    WEIGHTINGS,
    Clients,
    Contributions,
    check_query,
    noisy_sums,
    ratio_weight,
)


class Moments(NamedTuple):
    """Means and standard deviations, each of the shape of one example."""

    mean: np.ndarray
    standard_deviation: np.ndarray


class Ratios(NamedTuple):
    """Noisy means of quantities in [-1, 1]; public."""

    value: np.ndarray
    """(d,) float64; not clamped."""
    noise: float
    """Standard deviation of the noise on each sum, over the noisy count."""
    noise_of_count: float
    """The same of the count."""


def mean(
    data: FederatedData,
    name: str,
    *,
    lower: Any,
    upper: Any,
    privacy: Central,
    key: jax.Array | None = None,
    ledger: Ledger | None = None,
    columns: Columns = None,
    weighting: str = "examples",
) -> Answer:
    """Releases the mean of an array, or of some of its columns.

    A client of more examples than `privacy.clipping.norm` is scaled down, its sums
    and its count alike, so that it counts for less. Values outside the bounds are
    clipped to them. A client with NaN or infinity counts as absent.

    Args:
        data: the clients; as many as the sampler counts.
        name: one of `data.arrays`, (num_examples, ...).
        lower: what the values are at least, by definition: a number, or one a column.
        upper: what they are at most.
        privacy: `privacy.central` with `clipping.Fixed`, its norm in examples.
        key: the root key, for a simulation or a release of your own accounting.
        ledger: what pays for the answer and makes its noise; instead of `key`.
        columns: which columns of a two-dimensional array; all if not given.
        weighting: `"examples"`, or `"clients"` for the mean of the clients' own means,
            where each counts for 1 and a norm of 1 clips nobody.

    Returns:
        An answer whose value is float64 of the shape of one example, in the bounds.
    """
    check_query(data, privacy)
    check.one_of(WEIGHTINGS, weighting=weighting)
    column = bounded(data, name, columns, lower, upper)
    source = source_of(key, ledger, name=f"mean of {name!r}")

    def sums(clients: Clients) -> np.ndarray:
        return clients.sums(column.units(clients), weighting)

    asked = question("mean", name, column, weighting)
    found = ratios(
        sums,
        column.array.width,
        data,
        privacy,
        weighting,
        question=asked,
        source=source,
    )
    return Answer(
        query=f"mean of {name!r} over {weighting}",
        value=column.from_units(found.value),
        standard_error=_like(column, standard_error(found)),
        privacy=privacy,
        private=isinstance(source, Paid),
    )


def moments(
    data: FederatedData,
    name: str,
    *,
    lower: Any,
    upper: Any,
    privacy: Central,
    key: jax.Array | None = None,
    ledger: Ledger | None = None,
    columns: Columns = None,
    weighting: str = "examples",
) -> Answer:
    """Releases means and standard deviations together, for the cost of one query.

    Arguments as `mean`. The variance is that of single examples, with every example
    (or, weighted by clients, every client) counting alike.

    Returns:
        An answer whose value is `Moments`. A standard deviation can be 0 where noise
        hides a small one; `standard_error` says how small it may be.
    """
    check_query(data, privacy)
    check.one_of(WEIGHTINGS, weighting=weighting)
    column = bounded(data, name, columns, lower, upper)
    source = source_of(key, ledger, name=f"moments of {name!r}")

    def sums(clients: Clients) -> np.ndarray:
        units = column.units(clients)
        # cos(2 a) where units = cos(a): as large as the units, with its own sign
        both = np.concatenate([units, 2 * units**2 - 1], axis=1)
        return clients.sums(both, weighting)

    asked = question("moments", name, column, weighting)
    width = column.array.width
    found = ratios(
        sums, 2 * width, data, privacy, weighting, question=asked, source=source
    )
    first, second = np.clip(found.value[:width], -1, 1), found.value[width:]
    variance = np.clip((second + 1) / 2 - first**2, 0, 1 - first**2)
    deviation = np.sqrt(variance)
    # the first-order effect of the three noises on (second + 1) / 2 - first**2
    error = found.noise * np.sqrt(1 / 4 + 4 * first**2)
    error = np.hypot(error, found.noise_of_count * (2 * first**2 - second / 2))
    # near 0 the root is steeper than that: the least variance that noise could hide
    of_deviation = error / np.maximum(2 * deviation, np.sqrt(error))
    of_mean = standard_error(found)[:width]
    return Answer(
        query=f"moments of {name!r} over {weighting}",
        value=Moments(column.from_units(first), _like(column, deviation)),
        standard_error=Moments(_like(column, of_mean), _like(column, of_deviation)),
        privacy=privacy,
        private=isinstance(source, Paid),
    )


def ratios(
    sums: Contributions,
    dimension: int,
    data: FederatedData,
    privacy: Central,
    weighting: str,
    *,
    question: str,
    source: Source,
) -> Ratios:
    """Releases means of `dimension` quantities in [-1, 1].

    Args:
        sums: `(clients) -> (count, dimension)`: each client's sums or own means.
        dimension: how many.
        data: the clients.
        privacy: the mechanism.
        weighting: what the count counts.
        question: what is asked.
        source: see `noisy_sums`.
    """
    share = ratio_weight(dimension)
    of_count, of_sums = np.sqrt(share), np.sqrt((1 - share) / dimension)

    def contributions(clients: Clients) -> np.ndarray:
        parts = [of_count * clients.counts(weighting), of_sums * sums(clients)]
        return np.concatenate(parts, axis=1)

    noisy = noisy_sums(
        contributions, 1 + dimension, data, privacy, question=question, source=source
    )
    # fewer than one example is noise alone: any number does, as long as it is public
    count = max(float(noisy.value[0] / of_count), 1.0)
    return Ratios(
        noisy.value[1:] / of_sums / count,
        noisy.stddev / of_sums / count,
        noisy.stddev / of_count / count,
    )


def standard_error(found: Ratios) -> np.ndarray:
    """Returns (d,) the noise's standard deviation on each mean, in units."""
    return np.hypot(found.noise, found.noise_of_count * np.clip(found.value, -1, 1))


def question(kind: str, name: str, column: Bounded, *details: Any) -> str:
    """Returns everything that tells one query from another."""
    array = column.array
    ends = (column.middle.tolist(), column.half.tolist())
    return repr((kind, name, array.columns, array.shape, ends, details))


def _like(column: Bounded, units: np.ndarray) -> np.ndarray:
    return (column.half * units).reshape(column.shape)
