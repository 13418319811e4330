"""Epsilon by privacy loss distributions, rounded towards more privacy loss.

Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380
(connect-the-dots discretisation); the arithmetic is dp-accounting's.

Neighbouring datasets differ in one client whose contribution is replaced by zero
(`REPLACE_SPECIAL`); the population is public.
"""

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from jaxfed import _check as check

if TYPE_CHECKING:
    from dp_accounting import DpEvent
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

# Losses are rounded up to multiples of an interval, which is refined once, from a
# coarse first answer, to a part of epsilon: rounding then costs about 0.1 % of it.
_FIRST_INTERVAL, _LEAST_INTERVAL, _INTERVALS = 2e-2, 1e-5, 2000
_SMALL_NOISE = 0.3  # below it the interval grows, to keep the grid of losses small
_CURVE_POINTS, _CURVE_INTERVALS, _CURVE_LEAST_INTERVAL = 100, 1000, 2e-4


def epsilon(event: "DpEvent", rounds: int, *, delta: float) -> float:
    """Returns an upper bound of epsilon for `rounds` independent uses of `event`.

    Args:
        event: one round: a Gaussian, a Poisson-sampled Gaussian or a truncated one.
        rounds: how many, >= 1.
        delta: strictly between 0 and 1.

    Returns:
        Epsilon; infinity where the event is not private.

    Raises:
        ValueError: an argument is out of range, or the event is of another kind.
    """
    check.positive_integer(rounds=rounds)
    check.open_probability("1e-5 or 1 / population ** 1.1 are usual", delta=delta)
    return _cached_epsilon(event, rounds, delta)


def epsilon_curve(event: "DpEvent", rounds: int, *, delta: float) -> np.ndarray:
    """Returns epsilon after each of 1, 2, ..., `rounds` rounds, (rounds,) float64.

    In runs of more than 100 rounds, 50 evenly spread rounds are computed and those
    between them report the next one's epsilon, which is an upper bound of theirs.
    Values before the last are rounded up a little more than `epsilon` does.
    """
    check.positive_integer(rounds=rounds)
    check.open_probability("1e-5 or 1 / population ** 1.1 are usual", delta=delta)
    return _cached_curve(event, rounds, delta).copy()


@functools.lru_cache(maxsize=256)
def _cached_epsilon(event: "DpEvent", rounds: int, delta: float) -> float:
    loss = _loss(event, rounds, _FIRST_INTERVAL)
    if loss is None:
        return math.inf
    found = float(loss.get_epsilon_for_delta(delta))
    if 0 < found < _INTERVALS * _FIRST_INTERVAL:
        finer = _loss(event, rounds, max(_LEAST_INTERVAL, found / _INTERVALS))
        assert finer is not None  # as the coarser one
        found = min(found, float(finer.get_epsilon_for_delta(delta)))
    return found


@functools.lru_cache(maxsize=32)
def _cached_curve(event: "DpEvent", rounds: int, delta: float) -> np.ndarray:
    last = _cached_epsilon(event, rounds, delta)
    if math.isinf(last):
        return np.full(rounds, math.inf)
    step = 1 if rounds <= _CURVE_POINTS else -(-2 * rounds // _CURVE_POINTS)
    interval = max(_CURVE_LEAST_INTERVAL, last / _CURVE_INTERVALS)
    stride = _loss(event, step, interval)
    assert stride is not None  # a finite total has finite parts
    curve, total = np.full(rounds, last), stride
    for end in range(step, rounds, step):
        curve[end - step : end] = total.get_epsilon_for_delta(delta)
        total = total.compose(stride)
    return np.minimum(curve, last)


@functools.lru_cache(maxsize=64)
def _loss(
    event: "DpEvent", count: int, interval: float
) -> "PrivacyLossDistribution | None":
    """Returns the loss of `count` uses of `event`; None where it is not private."""
    import dp_accounting
    from dp_accounting.pld import privacy_loss_distribution as pld

    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    if isinstance(event, dp_accounting.NonPrivateDpEvent):
        return None
    if isinstance(event, dp_accounting.GaussianDpEvent):
        if event.noise_multiplier == 0:
            return None
        stddev = event.noise_multiplier / math.sqrt(count)
        return pld.from_gaussian_mechanism(
            stddev,
            value_discretization_interval=interval * _coarser(stddev),
            neighboring_relation=relation,
        )
    if isinstance(event, dp_accounting.TruncatedSubsampledGaussianDpEvent):
        if event.noise_multiplier == 0:
            return None
        return pld.from_truncated_subsampled_gaussian_mechanism(
            dataset_size=event.dataset_size,
            sampling_probability=event.sampling_probability,
            truncated_batch_size=event.truncated_batch_size,
            noise_multiplier=event.noise_multiplier,
            value_discretization_interval=interval * _coarser(event.noise_multiplier),
            neighboring_relation=relation,
        ).self_compose(count)
    raise ValueError(
        f"event must be a Gaussian, truncated Poisson-sampled Gaussian or non-private "
        f"event, got {type(event).__name__}; let `privacy.event(rounds=1)` build it."
    )


def _coarser(noise_multiplier: float) -> float:
    return max(1.0, (_SMALL_NOISE / noise_multiplier) ** 2)
