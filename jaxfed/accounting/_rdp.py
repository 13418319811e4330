"""Renyi differential privacy of events, vectorised over orders, in float64.

Mironov 2017, arXiv:1702.07476 (definition, Gaussian, Laplace); Mironov, Talwar, Zhang
2019, arXiv:1908.10530 (Poisson-sampled Gaussian); Wang, Balle, Kasiviswanathan 2019,
arXiv:1808.00087, theorem 27 (sampling without replacement); Kairouz et al. 2021,
arXiv:2103.00039, appendix D (tree); Bun, Steinke 2016, arXiv:1605.02065 (zCDP, pure
epsilon); Agarwal, Kairouz, Liu 2021, arXiv:2110.04995, theorem 3.5 (Skellam).
Conversion: Canonne, Kamath, Steinke 2020, arXiv:2004.00010, proposition 12.

Formal guarantee: for every order a, `rdp` bounds the Renyi divergence of order a
between the outputs on neighbouring datasets, in both directions. The relation acts
on the sensitivity: replace-one doubles it, which halves a noise multiplier.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxfed.accounting import _events, _moments

ORDERS = (
    *(1 + x / 10 for x in range(1, 100)),
    *(float(x) for x in range(11, 64)),
    *(float(x) for x in (80, 96, 128, 192, 256, 384, 512, 768, 1024)),
)
_SERIES_TO = 256  # without replacement: larger orders use the simpler of two bounds
_QUADRATURE_TO = 256.0
_LEAST_ORDER = 1.01  # conversions lose all accuracy below
_Orders = tuple[float, ...]


def rdp(
    event: Any,
    rounds: int = 1,
    *,
    relation: str = "zero_out",
    orders: _Orders | np.ndarray = ORDERS,
) -> np.ndarray:
    """Returns the Renyi differential privacy of `rounds` uses of `event`.

    Args:
        event: an event of dp-accounting or of jaxfed, or a list of them.
        rounds: how many uses; the events must be chosen beforehand.
        relation: `"zero_out"`, `"replace_one"` or `"add_remove"`.
        orders: each > 1.

    Returns:
        (len(orders),) float64; infinity where the event is not private, or where no
        bound is computed at that order.
    """
    asked = tuple(float(order) for order in orders)
    if not all(order > 1 for order in asked):
        raise ValueError(f"orders must be > 1, got {min(asked)}; leave them out.")
    return of_parts(_events.parts(event, rounds, relation), relation, asked).copy()


def of_parts(
    parts: tuple[_events.Part, ...] | None, relation: str, orders: _Orders = ORDERS
) -> np.ndarray:
    """Returns the sum over simple events; see `rdp`."""
    if parts is None:
        return np.full(len(orders), math.inf)
    total = np.zeros(len(orders))
    for leaf, count in parts:
        total = total + count * of_leaf(leaf, relation, orders)
    return total


def epsilon_of(rdp: np.ndarray, delta: float, orders: _Orders = ORDERS) -> float:
    """Returns the least epsilon that Renyi bounds give for a delta."""
    order, bound = np.asarray(orders), np.asarray(rdp)
    with np.errstate(invalid="ignore"):
        found = bound + np.log1p(-1 / order) - np.log(delta * order) / (order - 1)
    found = np.where(order > _LEAST_ORDER, found, math.inf)
    # a divergence this small keeps the total variation itself below delta
    found = np.where(delta**2 + np.expm1(-bound) > 0, 0.0, found)
    return max(0.0, float(found.min(initial=math.inf)))


def delta_of(rdp: np.ndarray, epsilon: float, orders: _Orders = ORDERS) -> float:
    """Returns the least delta that Renyi bounds give for an epsilon."""
    order, bound = np.asarray(orders), np.asarray(rdp)
    found = (order - 1) * (bound - epsilon + np.log1p(-1 / order)) - np.log(order)
    found = np.where(order > _LEAST_ORDER, found, 0.0)
    with np.errstate(divide="ignore"):
        found = np.minimum(found, 0.5 * np.log(-np.expm1(-bound)))
    return float(np.exp(min(0.0, found.min(initial=0.0))))


@functools.lru_cache(maxsize=512)
def of_leaf(leaf: Any, relation: str, orders: _Orders = ORDERS) -> np.ndarray:
    """Returns the bounds of one simple event, read-only and cached."""
    bound = _BOUNDS[type(leaf).__name__](leaf, relation, np.asarray(orders))
    bound = np.maximum(0.0, np.where(np.isnan(bound), math.inf, bound))
    bound.flags.writeable = False
    return bound


def _gaussian(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    return _zcdp_curve(_gaussian_rho(leaf.noise_multiplier, relation), orders)


def _gaussian_rho(multiplier: float, relation: str) -> float:
    return 0.5 * (_events.factor(relation) / multiplier) ** 2


def _zcdp_curve(rho: float, orders: np.ndarray) -> np.ndarray:
    return rho * orders


def _zcdp(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    # group privacy: two steps of zero-out make one replacement, at four times rho
    return leaf.xi + _events.factor(relation) ** 2 * leaf.rho * orders


def _tree(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    rho = _gaussian_rho(leaf.noise_multiplier, relation)
    return tree_depth(leaf.step_counts) * _zcdp_curve(rho, orders)


def tree_depth(steps: int) -> int:
    """Returns how many nodes of a binary tree over `steps` leaves hold one leaf."""
    return steps.bit_length()


def _laplace(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    loss = _events.factor(relation) / leaf.noise_multiplier  # proposition 6
    rest = (orders - 1) * np.expm1(loss * (1 - 2 * orders)) / (2 * orders - 1)
    return loss + _divided(np.log1p(rest), orders)


def _discrete_laplace(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    shift = leaf.sensitivity * _events.factor(relation)
    return _both(_moments.discrete_laplace(leaf.noise_parameter, shift), orders)


def _pure(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    # the worst mechanism with that epsilon: randomised response on two answers
    epsilon = pure_epsilon(leaf, relation)
    log_mass = np.array([-epsilon, 0.0]) - math.log1p(math.exp(-epsilon))
    return _both(_moments.Nodes(log_mass, np.array([epsilon, -epsilon])), orders)


def pure_epsilon(leaf: Any, relation: str) -> float:
    """Returns the bound of the loss of a `PureEpsilon` under a relation."""
    doubled = relation == "replace_one" and leaf.relation == "zero_out"
    return leaf.epsilon * (2 if doubled else 1)


def _randomized_response(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    return _both(_moments.atoms(*randomized_response(leaf, relation)), orders)


def randomized_response(
    leaf: Any, relation: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the answers' probabilities on two neighbouring inputs."""
    other, buckets = leaf.noise_parameter / leaf.num_buckets, leaf.num_buckets
    same = 1 - other * (buckets - 1)
    if relation == "replace_one":
        rest = (other * (buckets - 2),) if buckets > 2 else ()
        return (same, other, *rest), (other, same, *rest)
    return (same, 1 - same), (1 / buckets, 1 - 1 / buckets)


def _mixture(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    top = tuple(zip(leaf.sensitivities, leaf.sampling_probs, strict=True))
    return _quadrature(top, ((0.0, 1.0),), leaf.standard_deviation, orders, both=True)


def _poisson(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    rate, multiplier = leaf.sampling_probability, leaf.event.noise_multiplier
    if type(leaf.event).__name__ == "LaplaceDpEvent":
        found = np.full(len(orders), math.inf)
        small = orders <= _QUADRATURE_TO
        nodes = _moments.laplace(rate, multiplier, _QUADRATURE_TO)
        if nodes is not None:
            found[small] = _both(nodes, orders[small])
        return found
    return _divided(_poisson_moment(rate, multiplier, relation, orders), orders)


def _poisson_moment(
    rate: float, multiplier: float, relation: str, orders: np.ndarray
) -> np.ndarray:
    """Returns log A of the Poisson-sampled Gaussian.

    Under zero-out, exactly for integer orders (section 3.3, eq. 6 without its first
    two terms, which add up to one), by quadrature for the others. The direction
    with the mixture on top is the larger one (their theorem 5).
    """
    top, bottom = ((0.0, 1 - rate), (1.0, rate)), ((0.0, 1.0),)
    if relation == "replace_one":
        bottom = ((0.0, 1 - rate), (-1.0, rate))
        return _quadrature_moment(top, bottom, multiplier, orders)
    whole = orders == np.floor(orders)
    found = np.empty(len(orders))
    found[whole] = _binomial_moment(rate, multiplier, orders[whole])
    found[~whole] = _quadrature_moment(top, bottom, multiplier, orders[~whole])
    return found


def _binomial_moment(rate: float, stddev: float, orders: np.ndarray) -> np.ndarray:
    if not len(orders):
        return orders
    k = np.arange(2, int(orders.max()) + 1)
    terms = _log_choose(orders, k) + k * np.log(rate)
    if rate < 1:
        terms = terms + (orders[:, None] - k) * np.log1p(-rate)
    terms = terms + _log_expm1(k * (k - 1) / (2 * stddev**2))
    return np.logaddexp(0.0, _moments.log_sum(terms))


def _truncated(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    """Bounds the pair of Ganesh et al. 2025, arXiv:2508.15089, by joint convexity.

    Either the others leave room, and the client joins as in Poisson sampling, or the
    cohort is full and the client may have pushed out another one.
    """
    full, rate = truncation(leaf)
    room = _poisson_moment(
        leaf.sampling_probability, leaf.noise_multiplier, relation, orders
    )
    if not full:
        return _divided(room, orders)
    pushed = _poisson_moment(rate, leaf.noise_multiplier / 2, "replace_one", orders)
    return _divided(_moments.log_mean([room, pushed], [1 - full, full]), orders)


@functools.lru_cache(maxsize=256)
def truncation(leaf: Any) -> tuple[float, float]:
    """Returns P(others fill the cohort), and P(client in a cohort that is full)."""
    from scipy import stats

    cap, size = leaf.truncated_batch_size, leaf.dataset_size
    full = float(stats.binom.sf(cap - 1, size - 1, leaf.sampling_probability))
    more = float(stats.binom.sf(cap, size, leaf.sampling_probability))
    return full, more * cap / size / full if full else 0.0


def _group(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    from jaxfed.accounting import _groups

    inner = leaf.event
    noise, rate = inner.noise_multiplier, inner.sampling_probability
    joining = _groups._joining(leaf.size, rate, noise)
    free = _mixture(joining, relation, orders) * (orders - 1)
    moved = _zcdp_curve(_gaussian_rho(noise / leaf.size, relation), orders)
    full, drawn = leaf.cases()
    cases = [free, moved * (orders - 1), np.zeros(len(orders))]
    chances = [1 - full, full * drawn, full * (1 - drawn)]
    return _divided(_moments.log_mean(cases, chances), orders)


def _without_replacement(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    """Theorem 27 at integer orders; between them log A is convex (corollary 10)."""
    rate = leaf.sample_size / leaf.source_dataset_size
    del relation  # only "replace_one", which the event's multiplier is relative to
    stddev = leaf.event.noise_multiplier
    low, high = np.floor(orders), np.ceil(orders)
    whole = np.unique(np.concatenate([low, high, [2.0]]))
    moments = _without_replacement_moment(rate, stddev, whole)
    lower = np.where(low > 1, np.interp(low, whole, moments), 0.0)
    upper, share = np.interp(high, whole, moments), orders - low
    return _divided((1 - share) * lower + share * upper, orders)


def _without_replacement_moment(
    rate: float, stddev: float, orders: np.ndarray
) -> np.ndarray:
    i = np.arange(2, int(orders.max()) + 1)
    simple = math.log(2) + i * (i - 1) / (2 * stddev**2)
    sharp = np.full(len(i), math.inf)
    nodes = _moments.gaussian_mixtures(
        ((1.0, 1.0),), ((0.0, 1.0),), stddev, float(min(i[-1] + 1, _SERIES_TO))
    )
    if nodes is not None:  # even central moments of P / Q, E_Q[(P / Q - 1) ** 2m]
        even = 2.0 * np.arange(1, min(i[-1] + 1, _SERIES_TO) // 2 + 1)
        excess = np.abs(np.expm1(-np.abs(nodes.loss)))  # |P / Q - 1| over max(1, P / Q)
        log_excess = np.log(np.maximum(excess, 1e-300)) + np.maximum(nodes.loss, 0.0)
        powers = even[:, None] * log_excess
        central = _moments.log_sum(powers + nodes.log_mass)
        used = i[: 2 * len(even) - 1]
        below, above = central[used // 2 - 1], central[(used + 1) // 2 - 1]
        sharp[: len(used)] = math.log(4) + (below + above) / 2
    chosen = np.minimum(sharp, simple)
    large = np.where(orders[:, None] > _SERIES_TO, simple, chosen)
    large[:, 0] = min(math.log(4) + _log_expm1(1 / stddev**2), simple[0])
    terms = _log_choose(orders, i) + i * np.log(rate) + large
    return np.logaddexp(0.0, _moments.log_sum(terms))


def _skellam(leaf: Any, relation: str, orders: np.ndarray) -> np.ndarray:
    """Theorem 3.5 at the next integer order: divergences grow with the order."""
    a, times = np.ceil(orders), _events.factor(relation)
    one, two = leaf.l1_sensitivity * times, leaf.l2_sensitivity * times
    first = ((2 * a - 1) * two**2 + 6 * one) / (4 * leaf.variance**2)
    second = 3 * one / (2 * leaf.variance)
    return a * two**2 / (2 * leaf.variance) + np.minimum(first, second)


def _both(nodes: _moments.Nodes, orders: np.ndarray) -> np.ndarray:
    ahead = _moments.log_moment(orders, nodes)
    return _divided(
        np.maximum(ahead, _moments.log_moment(orders, nodes.swapped())), orders
    )


def _quadrature(
    top: Any, bottom: Any, stddev: float, orders: np.ndarray, both: bool
) -> np.ndarray:
    found = _quadrature_moment(top, bottom, stddev, orders)
    if both:
        found = np.maximum(found, _quadrature_moment(bottom, top, stddev, orders))
    return _divided(found, orders)


def _quadrature_moment(
    top: Any, bottom: Any, stddev: float, orders: np.ndarray
) -> np.ndarray:
    """Returns log A for two mixtures; infinity at orders that need too many nodes."""
    found = np.full(len(orders), math.inf)
    for limit in (11.0, 64.0, _QUADRATURE_TO):  # three grids, each as long as needed
        nodes = _moments.gaussian_mixtures(top, bottom, stddev, limit)
        chosen = np.isinf(found) & (orders <= limit)
        if nodes is None:
            break
        found[chosen] = _moments.log_moment(orders[chosen], nodes)
    return found


def _divided(log_moments: np.ndarray, orders: np.ndarray) -> np.ndarray:
    return log_moments / (orders - 1)


def _log_choose(orders: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Returns log C(order, k), (orders, k); -inf where k exceeds the order."""
    table = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, orders.max() + 1)))])
    n = orders.astype(np.int64)[:, None]
    left = n - k
    found = table[n] - table[k] - table[np.maximum(left, 0)]
    return np.where(left >= 0, found, -np.inf)


def _log_expm1(x: Any) -> Any:
    """Returns log(exp(x) - 1) for x > 0."""
    return x + np.log(-np.expm1(-x))


_BOUNDS: dict[str, Callable[[Any, str, np.ndarray], np.ndarray]] = {
    "GaussianDpEvent": _gaussian,
    "LaplaceDpEvent": _laplace,
    "DiscreteLaplaceDpEvent": _discrete_laplace,
    "ZCDpEvent": _zcdp,
    "RandomizedResponseDpEvent": _randomized_response,
    "MixtureOfGaussiansDpEvent": _mixture,
    "PoissonSampledDpEvent": _poisson,
    "TruncatedSubsampledGaussianDpEvent": _truncated,
    "SampledWithoutReplacementDpEvent": _without_replacement,
    "SingleEpochTreeAggregationDpEvent": _tree,
    "PureEpsilon": _pure,
    "Skellam": _skellam,
    "TruncatedGroup": _group,
}
