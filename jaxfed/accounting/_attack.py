"""The epsilon that a simple attack achieves: no true accounting can be below it.

In every round the attacker knows all other clients and asks whether the release
exceeds a threshold; it then counts the rounds that did (Kairouz, Oh, Viswanath 2015,
arXiv:1311.0776: a test with false alarms x and detections y shows that
y <= exp(epsilon) x + delta). Everything is exact: two Gaussian, binomial or Skellam
tails (of large variance by the Gaussian's).
The attack shares no code with the two accountants, which is what makes it a check of
both. It reaches 60 to 100 % of epsilon.
"""

import functools
import math
from typing import Any

import numpy as np

from jaxfed.accounting import _events, _own_events, _rdp

_COUNTS = 4000  # thresholds tried on the number of rounds
_MOST_EXACT = 1e5  # variance up to which Skellam tails are computed as such


def epsilon(
    parts: tuple[_events.Part, ...] | None, relation: str, delta: float
) -> float:
    """Returns a lower bound of epsilon: the best attack on one kind of event alone."""
    if parts is None:
        return math.inf
    return max((_leaf(*part, relation, delta) for part in parts), default=0.0)


@functools.lru_cache(maxsize=256)
def _leaf(leaf: Any, count: int, relation: str, delta: float) -> float:
    shift = _gaussian_shift(leaf, count, relation)
    if shift is not None:
        from scipy import special

        x = np.linspace(-8, 8 + shift, 2000)
        return _best(special.ndtr(shift - x), special.ndtr(-x), delta)
    if isinstance(leaf, _own_events.Skellam):
        return _skellam(leaf, count, relation, delta)
    hits, alarms = _round(leaf, relation)
    return max(
        (_counted(*pair, count, delta) for pair in zip(hits, alarms, strict=True)),
        default=0,
    )


def _skellam(
    leaf: _own_events.Skellam, count: int, relation: str, delta: float
) -> float:
    """The attack on one coordinate: the sum of all rounds is Skellam again."""
    from scipy import special, stats

    shift = _events.factor(relation) * math.floor(leaf.l2_sensitivity) * count
    variance = leaf.variance * count
    if not shift or not variance:
        return math.inf if shift else 0.0
    stddev = math.sqrt(variance)
    x = np.unique(np.floor(np.linspace(-4 * stddev, shift + 4 * stddev, 2000)))
    if variance < _MOST_EXACT:
        law = stats.skellam(variance / 2, variance / 2)
        return _best(law.sf(x - shift), law.sf(x), delta)
    # the excess kurtosis is 1 / variance: far below what the accountants leave open
    hits = special.ndtr((shift - x - 0.5) / stddev)
    return _best(hits, special.ndtr(-(x + 0.5) / stddev), delta)


def _gaussian_shift(leaf: Any, count: int, relation: str) -> float | None:
    """Returns how many deviations apart two neighbours are, if that is all there is."""
    name, moved = type(leaf).__name__, _events.factor(relation) * math.sqrt(count)
    if name == "GaussianDpEvent":
        return moved / leaf.noise_multiplier
    if name == "SingleEpochTreeAggregationDpEvent":
        depth = _rdp.tree_depth(leaf.step_counts)
        return moved * math.sqrt(depth) / leaf.noise_multiplier
    if name == "ZCDpEvent" and not leaf.xi:  # a Gaussian has that rho
        return moved * math.sqrt(2 * leaf.rho)
    return None


def _round(leaf: Any, relation: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns detections and false alarms of one round, for several thresholds."""
    name, sides = type(leaf).__name__, _events.factor(relation)
    if name in ("LaplaceDpEvent", "DiscreteLaplaceDpEvent"):
        loss = sides * (
            1 / leaf.noise_multiplier
            if name == "LaplaceDpEvent"
            else leaf.noise_parameter * leaf.sensitivity
        )
        # noise at 0 exceeds the shift, and noise at the shift does
        tail = 0.5 if name == "LaplaceDpEvent" else _upper(leaf.noise_parameter)
        return np.array([tail]), np.array([tail * math.exp(-loss)])
    if name == "PureEpsilon":
        loss = _rdp.pure_epsilon(leaf, relation)
        hit = 1 / (1 + math.exp(-loss))
        return np.array([hit]), np.array([hit * math.exp(-loss)])
    if name == "RandomizedResponseDpEvent":
        top, bottom = map(np.asarray, _rdp.randomized_response(leaf, relation))
        return top[:1], bottom[:1]
    shares = _shares(leaf)
    if shares is None:
        return np.zeros(0), np.zeros(0)
    stddev, top = shares
    bottom = tuple((-shift, share) for shift, share in top)
    if relation != "replace_one" or name == "SampledWithoutReplacementDpEvent":
        bottom = ((0.0, 1.0),)
    lowest, highest = min(s for s, _ in bottom + top), max(s for s, _ in top)
    x = np.linspace(lowest - stddev, highest + 4 * stddev, 40)
    return _above(top, x, stddev), _above(bottom, x, stddev)


def _shares(leaf: Any) -> tuple[float, tuple[tuple[float, float], ...]] | None:
    """Returns the deviation of the noise, and where the client moves the sum to."""
    name = type(leaf).__name__
    if name == "MixtureOfGaussiansDpEvent":
        both = zip(leaf.sensitivities, leaf.sampling_probs, strict=True)
        return leaf.standard_deviation, tuple(both)
    if name == "TruncatedSubsampledGaussianDpEvent":
        stddev, rate = leaf.noise_multiplier, _inclusion(leaf)
    elif name == "SampledWithoutReplacementDpEvent":
        rate = leaf.sample_size / leaf.source_dataset_size
        # all others at x: a cohort of them alone looks as if the client were at x,
        # who is moved to -x
        stddev = leaf.event.noise_multiplier
    elif name == "PoissonSampledDpEvent" and hasattr(leaf.event, "noise_multiplier"):
        if type(leaf.event).__name__ != "GaussianDpEvent":
            return None
        rate, stddev = leaf.sampling_probability, leaf.event.noise_multiplier
    else:
        return None
    return stddev, ((0.0, 1 - rate), (1.0, rate))


def _inclusion(leaf: Any) -> float:
    """Returns the probability that a client is in a truncated cohort."""
    from scipy import stats

    size, rate = leaf.dataset_size, leaf.sampling_probability
    cap = leaf.truncated_batch_size
    fits = size * rate * stats.binom.cdf(cap - 1, size - 1, rate)
    return float(fits + cap * stats.binom.sf(cap, size, rate)) / size


def _above(
    mixture: tuple[tuple[float, float], ...], x: np.ndarray, stddev: float
) -> np.ndarray:
    from scipy import special

    return sum(share * special.ndtr((shift - x) / stddev) for shift, share in mixture)


def _upper(parameter: float) -> float:
    """Returns the probability that discrete Laplace noise is >= 0."""
    return 1 / (1 + math.exp(-parameter))


def _counted(hit: float, alarm: float, count: int, delta: float) -> float:
    """Returns the best attack on the number of rounds that exceed the threshold."""
    from scipy import special

    if not 0 < alarm < hit < 1:
        return 0.0
    spread = 12 * math.sqrt(count * hit * (1 - hit)) + 12
    low, high = max(0, count * alarm - spread), min(count - 1, count * hit + spread)
    k = np.unique(np.linspace(low, max(low, high), _COUNTS).astype(np.int64))
    detected = special.bdtrc(k, count, hit)
    return _best(detected, special.bdtrc(k, count, alarm), delta)


def _best(hits: np.ndarray, alarms: np.ndarray, delta: float) -> float:
    good = (hits > delta) & (alarms > 1e-290)
    if not good.any():
        return 0.0
    return max(0.0, float(np.log((hits[good] - delta) / alarms[good]).max()))
