"""Composition of pure reports, exactly.

Kairouz, Oh and Viswanath 2015, arXiv:1311.0776, theorem 3.3: what several epsilon-
private reports of one client reveal together is at most what as many randomised
responses reveal, whose privacy loss is binomial. Nothing is discretised.
"""

import functools
import math
from fractions import Fraction

import numpy as np

from jaxfed import _check as check

MOST_ROUNDS = 1_000_000
_CURVE_POINTS = 100
_BISECTIONS = 60
# The binomial's logarithms are good to 1e-9 and the bisection to 2**-60 of its range.
ROUNDING_UP = 1e-8


def pure_epsilon(epsilon: float, rounds: int, *, delta: float) -> float:
    """Returns an upper bound of epsilon for `rounds` reports of `epsilon` each.

    Args:
        epsilon: of one report, with delta 0.
        rounds: how many, between 1 and 1,000,000.
        delta: 0 <= delta < 1; at 0 the answer is `rounds * epsilon`.

    Raises:
        ValueError: an argument is out of range.
    """
    epsilon = check.positive(epsilon=epsilon)
    rounds = check.positive_integer(rounds=rounds)
    if rounds > MOST_ROUNDS:
        raise ValueError(f"rounds must be <= {MOST_ROUNDS:,}, got {rounds}.")
    if check.non_negative("0 is allowed here", delta=delta) >= 1:
        raise ValueError(f"delta must be in [0, 1), got {delta}; 0 or 1e-5 are usual.")
    return _composed(epsilon, rounds, float(delta))


def pure_epsilon_curve(epsilon: float, rounds: int, *, delta: float) -> np.ndarray:
    """Returns epsilon after each of 1, 2, ..., `rounds` reports, (rounds,) float64.

    Of more than 100, 50 evenly spread ones are computed; those between them report
    the next one's epsilon, which is an upper bound of theirs.
    """
    last = pure_epsilon(epsilon, rounds, delta=delta)
    added_up = np.array([_added_up(epsilon, k) for k in range(1, rounds + 1)])
    if delta == 0:
        return added_up
    step = 1 if rounds <= _CURVE_POINTS else -(-2 * rounds // _CURVE_POINTS)
    curve = np.full(rounds, last)
    for end in range(step, rounds, step):
        curve[end - step : end] = _composed(float(epsilon), end, float(delta))
    return np.minimum(curve, added_up)


def calibrate_pure(rounds: int, *, epsilon: float, delta: float) -> float:
    """Returns the largest epsilon of one report with at most `epsilon` after `rounds`.

    Within 0.05 % below the largest one.
    """
    epsilon = check.positive("pass for example epsilon=8.0", epsilon=epsilon)
    low, high = epsilon / rounds * (1 - 1e-12), 2 * epsilon  # the low one adds up
    while high > low * (1 + 5e-4):
        middle = (low * high) ** 0.5
        fits = pure_epsilon(middle, rounds, delta=delta) <= epsilon
        low, high = (middle, high) if fits else (low, middle)
    return low


@functools.lru_cache(maxsize=1024)
def _composed(epsilon: float, rounds: int, delta: float) -> float:
    added_up = _added_up(epsilon, rounds)
    if delta == 0:
        return added_up
    log_mass, loss = losses(epsilon, rounds)

    def delta_at(value: float) -> float:
        excess = -np.expm1(np.minimum(value - loss, 0.0))
        return float(np.exp(log_mass) @ excess)

    low, high = 0.0, added_up
    if delta_at(low) <= delta:
        return 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_at(middle) <= delta else (middle, high)
    return min(added_up, high + ROUNDING_UP * (1 + high))


def losses(epsilon: float, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns log probabilities and values of the privacy loss, (rounds + 1,)."""
    lies = np.arange(rounds + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, rounds + 1)))])
    log_count = log_factorial[-1] - log_factorial - log_factorial[::-1]
    log_mass = log_count - rounds * math.log1p(math.exp(-epsilon)) - lies * epsilon
    return log_mass, (rounds - 2 * lies) * epsilon


def _added_up(epsilon: float, rounds: int) -> float:
    total = rounds * epsilon
    is_below = Fraction(total) < rounds * Fraction(epsilon)
    return math.nextafter(total, math.inf) if is_below else total
