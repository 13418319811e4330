"""Privacy loss distributions of events, rounded towards more privacy loss.

Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380
(connect-the-dots discretisation); the arithmetic is dp-accounting's.

Adaptive queries compose like fixed ones (Zhu, Dong, Wang 2022, arXiv:2106.08567,
theorem 10), as long as the events themselves were fixed beforehand.
"""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfed.accounting import _attack, _events, _pure, _rdp

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

# Losses are rounded up to multiples of an interval, which is refined from a coarse
# first answer to a part of epsilon. Rounding then costs about 0.1 % of epsilon, and
# up to 1 % in runs of 10,000 rounds.
_FIRST_INTERVAL, _LEAST_INTERVAL, _INTERVALS = 2e-2, 1e-5, 2000
_SMALL_NOISE = 0.3  # below it the interval grows, to keep the grid of losses small
LEAST_DELTA = 1e-13  # convolutions in float64 resolve no less
_MOST_LOSS = 500.0  # so that exp of a loss, and of its rounding, is a float64
_MOST_GROWTH = 120.0  # of a grid: noise of .027, whose loss is about 700


def resolves(parts: tuple[_events.Part, ...], relation: str, delta: float) -> bool:
    """Returns whether the loss distribution gives the number; else a Renyi bound does.

    It does where every event has one, and where float64 holds what it needs: delta is
    not below what convolutions resolve, and the loss is not so large that it promises
    nothing (a bound of it, or where none is known what an attack reaches).
    """
    if delta < LEAST_DELTA or not all(
        type(leaf).__name__ in _LOSSES for leaf, _ in parts
    ):
        return False
    if any(_is_pure(leaf) and uses > _pure.MOST_ROUNDS for leaf, uses in parts):
        return False
    if any(coarser(leaf, uses) > _MOST_GROWTH for leaf, uses in parts):
        return False
    loss = _rdp.epsilon_of(_rdp.of_parts(parts, relation), delta)
    if math.isinf(loss):
        loss = _attack.epsilon(parts, relation, delta)
    return loss <= _MOST_LOSS


@functools.lru_cache(maxsize=16)
def finest(
    parts: tuple[_events.Part, ...], relation: str, delta: float
) -> tuple["PrivacyLossDistribution", ...]:
    """Returns upper bounds of the composition, the last fine enough for `delta`."""
    losses = [composed(parts, relation, _FIRST_INTERVAL)]
    found = float(losses[0].get_epsilon_for_delta(delta))
    if not 0 < found < _INTERVALS * _FIRST_INTERVAL:
        return tuple(losses)
    for _ in range(3):  # again where the first answer was far too coarse
        before, interval = found, max(_LEAST_INTERVAL, found / _INTERVALS)
        losses.append(composed(parts, relation, interval))
        found = min(found, float(losses[-1].get_epsilon_for_delta(delta)))
        if found > before / 2 or found == 0:
            break
    return tuple(losses)


def epsilon_of(losses: tuple["PrivacyLossDistribution", ...], delta: float) -> float:
    """Returns the least epsilon that any of several upper bounds gives."""
    return min(float(loss.get_epsilon_for_delta(delta)) for loss in losses)


def composed(
    parts: tuple[_events.Part, ...], relation: str, interval: float
) -> "PrivacyLossDistribution":
    """Returns the loss of all parts; in little noise on a coarser grid than asked."""
    growth = max((coarser(leaf, count) for leaf, count in parts), default=1.0)
    total = None
    for leaf, count in parts:
        loss = of_leaf(leaf, count, relation, interval * growth)
        total = loss if total is None else total.compose(loss)
    if total is None:
        from dp_accounting.pld import privacy_loss_distribution as pld

        return pld.identity(value_discretization_interval=interval)
    return total


def of_leaf(
    leaf: Any, count: int, relation: str, interval: float
) -> "PrivacyLossDistribution":
    """Returns the loss of `count` uses of one simple event on a grid of losses."""
    name = type(leaf).__name__
    if name in _GAUSSIAN:  # several Gaussians are one
        multiplier = _GAUSSIAN[name](leaf) / math.sqrt(count)
        return _gaussian(multiplier, relation, interval)
    if _is_pure(leaf):  # and pure ones are binomial, rounded once and not at each use
        return _binomial(_rdp.pure_epsilon(leaf, relation), count, interval)
    return base(leaf, relation, interval).self_compose(count)


def _is_pure(leaf: Any) -> bool:
    return type(leaf).__name__ == "PureEpsilon"


@functools.lru_cache(maxsize=32)
def base(leaf: Any, relation: str, interval: float) -> "PrivacyLossDistribution":
    """Returns the loss of one use of a simple event."""
    return _LOSSES[type(leaf).__name__](leaf, relation, interval)


def _gaussian(
    multiplier: float, relation: str, interval: float, rate: float = 1.0
) -> "PrivacyLossDistribution":
    from dp_accounting.pld import privacy_loss_distribution as pld

    return pld.from_gaussian_mechanism(
        multiplier,
        value_discretization_interval=interval,
        sampling_prob=rate,
        neighboring_relation=_events.upstream(relation),
    )


def _laplace(
    scale: float, relation: str, interval: float, rate: float = 1.0
) -> "PrivacyLossDistribution":
    from dp_accounting.pld import privacy_loss_distribution as pld

    return pld.from_laplace_mechanism(
        scale / _events.factor(relation),
        value_discretization_interval=interval,
        sampling_prob=rate,
    )


def _discrete_laplace(
    leaf: Any, relation: str, interval: float
) -> "PrivacyLossDistribution":
    from dp_accounting.pld import privacy_loss_distribution as pld

    return pld.from_discrete_laplace_mechanism(
        leaf.noise_parameter,
        sensitivity=leaf.sensitivity * _events.factor(relation),
        value_discretization_interval=interval,
    )


def _poisson(leaf: Any, relation: str, interval: float) -> "PrivacyLossDistribution":
    rate, noise = leaf.sampling_probability, leaf.event.noise_multiplier
    if type(leaf.event).__name__ == "LaplaceDpEvent":
        return _laplace(noise, relation, interval, rate)
    return _gaussian(noise, relation, interval, rate)


def _truncated(leaf: Any, relation: str, interval: float) -> "PrivacyLossDistribution":
    from dp_accounting.pld import privacy_loss_distribution as pld

    return pld.from_truncated_subsampled_gaussian_mechanism(
        dataset_size=leaf.dataset_size,
        sampling_probability=leaf.sampling_probability,
        truncated_batch_size=leaf.truncated_batch_size,
        noise_multiplier=leaf.noise_multiplier,
        value_discretization_interval=interval,
        neighboring_relation=_events.upstream(relation),
    )


def _mixture(leaf: Any, relation: str, interval: float) -> "PrivacyLossDistribution":
    from dp_accounting.pld import privacy_loss_distribution as pld

    del relation  # its own: what the sensitivities were computed for
    return pld.from_mixture_gaussian_mechanism(
        leaf.standard_deviation,
        leaf.sensitivities,
        leaf.sampling_probs,
        value_discretization_interval=interval,
    )


def _randomized_response(
    leaf: Any, relation: str, interval: float
) -> "PrivacyLossDistribution":
    from dp_accounting.pld import privacy_loss_distribution as pld

    return pld.from_randomized_response(
        leaf.noise_parameter,
        leaf.num_buckets,
        value_discretization_interval=interval,
        neighboring_relation=_events.upstream(relation),
    )


def _binomial(epsilon: float, uses: int, interval: float) -> "PrivacyLossDistribution":
    """Returns the loss of `uses` of a pure mechanism, theorem 3.3 of `_pure`."""
    from dp_accounting.pld import pld_pmf
    from dp_accounting.pld import privacy_loss_distribution as pld

    log_mass, loss = _pure.losses(epsilon, uses)
    up = np.ceil(loss / interval).astype(np.int64)
    mass = np.bincount(up - up.min(), weights=np.exp(log_mass))
    pmf = pld_pmf.DensePLDPmf(
        interval,
        int(up.min()),
        mass / mass.sum() * (1 + _pure.ROUNDING_UP),  # more than logarithms lose
        0.0,
        pessimistic_estimate=True,
    )
    return pld.PrivacyLossDistribution(pmf)


def _group(leaf: Any, relation: str, interval: float) -> "PrivacyLossDistribution":
    from dp_accounting.pld import privacy_loss_distribution as pld

    from jaxfed.accounting import _groups

    inner = leaf.event
    noise, rate = inner.noise_multiplier, inner.sampling_probability
    free = _mixture(_groups._joining(leaf.size, rate, noise), relation, interval)
    full, drawn = leaf.cases()
    moved = _gaussian(noise / leaf.size, relation, interval)
    still = pld.identity(value_discretization_interval=interval)
    return moved.compute_mixture(still, drawn).compute_mixture(free, full)


def _tree_multiplier(leaf: Any) -> float:
    # the nodes above one client's only leaf are that many Gaussians, and the others
    # do not depend on it
    return leaf.noise_multiplier / math.sqrt(_rdp.tree_depth(leaf.step_counts))


_GAUSSIAN: dict[str, Callable[[Any], float]] = {
    "GaussianDpEvent": lambda leaf: leaf.noise_multiplier,
    "SingleEpochTreeAggregationDpEvent": _tree_multiplier,
}
_LOSSES: dict[str, Callable[[Any, str, float], "PrivacyLossDistribution"]] = {
    **{
        name: lambda leaf, relation, interval, of=of: _gaussian(
            of(leaf), relation, interval
        )
        for name, of in _GAUSSIAN.items()
    },
    "LaplaceDpEvent": lambda leaf, relation, interval: _laplace(
        leaf.noise_multiplier, relation, interval
    ),
    "DiscreteLaplaceDpEvent": _discrete_laplace,
    "PoissonSampledDpEvent": _poisson,
    "TruncatedSubsampledGaussianDpEvent": _truncated,
    "MixtureOfGaussiansDpEvent": _mixture,
    "RandomizedResponseDpEvent": _randomized_response,
    "PureEpsilon": lambda leaf, relation, interval: _binomial(
        _rdp.pure_epsilon(leaf, relation), 1, interval
    ),
    "TruncatedGroup": _group,
}


def coarser(leaf: Any, count: int) -> float:
    """Returns by how much the grid grows, to stay small in little noise."""
    name = type(leaf).__name__
    if name in _GAUSSIAN:
        noise = _GAUSSIAN[name](leaf) / math.sqrt(count)
    elif name == "TruncatedSubsampledGaussianDpEvent":
        noise = leaf.noise_multiplier
    elif name in ("PoissonSampledDpEvent", "TruncatedGroup"):
        noise = leaf.event.noise_multiplier
    else:
        noise = getattr(leaf, "standard_deviation", 1.0)
    noise /= getattr(leaf, "size", 1)
    return max(1.0, (_SMALL_NOISE / noise) ** 2)
