"""Strategies of least error for their sensitivity, found on the host in float64.

Banded Toeplitz: McKenna 2024, arXiv:2405.15913. Buffered linear Toeplitz (BLT):
Dvijotham et al. 2024, arXiv:2404.16706, and McMahan et al. 2024, arXiv:2408.08868.
Whatever is found here, sensitivity and error are computed from it afterwards: a poor
optimum costs accuracy, never privacy.
"""

from collections.abc import Callable

import numpy as np

from jaxfed.noise import _toeplitz
from jaxfed.typing import Participation

_MEMORY, _STEPS = 20, 500
_STARTS = 8


def banded(rounds: int, bands: int) -> np.ndarray:
    """Returns coefficients, first 1, of least mean error times single sensitivity."""
    weights = np.arange(rounds, 0, -1) / rounds

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        coefficients = np.append(1.0, free)
        error, slope = _error(coefficients, weights, bands)
        square = coefficients @ coefficients
        return (
            float(np.log(error) + np.log(square)),
            slope[1:] / error + 2 * free / square,
        )

    if bands == 1:
        return np.ones(1)
    return np.append(1.0, _minimise(loss, _square_root(bands)[1:])[0])


def buffered(
    rounds: int, buffers: int, participation: Participation
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `(rates, scales)` of least maximum error times sensitivity.

    c_j = sum_i scales_i (1 - rates_i)^(j - 1) with scales > 0 and 0 < rates < 1. The
    loss has a few local optima: the best from eight starts is taken.
    """
    generator = np.random.default_rng(0)  # any fixed choice of starts
    best, chosen = np.inf, np.zeros(2 * buffers)
    for start in range(_STARTS):
        # a rate of 1, 2 / rounds where there are two, has no logarithm of its odds
        slowest = min(2 / rounds, 0.9) if start == 0 else 0.01 / rounds
        rates = np.geomspace(slowest, 0.4, buffers)
        scales = np.full(buffers, 0.4 / buffers)
        if start >= 2:
            low, high = np.log(0.01 / rounds), np.log(0.5)
            rates = np.exp(np.sort(generator.uniform(low, high, buffers)))
            scales = generator.uniform(0.01, 0.4, buffers) / buffers
        begin = np.append(np.log(rates / (1 - rates)), np.log(scales))
        point, value = _minimise(_buffered_loss(rounds, buffers, participation), begin)
        if value < best:
            best, chosen = value, point
    rates = 1 / (1 + np.exp(-chosen[:buffers]))
    order = np.argsort(rates)
    return rates[order], np.exp(chosen[buffers:])[order]


def _buffered_loss(
    rounds: int, buffers: int, participation: Participation
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Returns the loss in log-odds of the rates and logarithms of the scales."""
    powers = np.arange(rounds - 1)
    weights = np.ones(rounds)

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        decays = 1 / (1 + np.exp(point[:buffers]))[:, None]
        scales = np.exp(point[buffers:])
        terms = decays**powers
        coefficients = np.append(1.0, scales @ terms)
        error, slope = _error(coefficients, weights, rounds)
        moved = _toeplitz.worst_pattern(coefficients, rounds, participation)
        square = moved @ moved
        back = _toeplitz.repeated(moved[::-1], participation)[::-1]
        slope = slope / error + 2 * back / square
        derivatives = np.zeros_like(terms)
        derivatives[:, 1:] = powers[1:] * terms[:, :-1]
        by_decay = scales * (derivatives @ slope[1:])
        chain = -(decays * (1 - decays))[:, 0]
        return float(np.log(error) + np.log(square)), np.append(
            by_decay * chain, (terms @ slope[1:]) * scales
        )

    return loss


def _error(
    coefficients: np.ndarray, weights: np.ndarray, count: int
) -> tuple[float, np.ndarray]:
    """Returns `sum_i weights_i e_i^2` for e = 1 / ((1 - x) c), and its gradient in c.

    The derivative of e by c_j is -(e d) shifted by j, with d = 1 / c.
    """
    rounds = len(weights)
    noising = _toeplitz.inverse(coefficients, rounds)
    errors = np.cumsum(noising)
    spread = _toeplitz.product(errors, noising, rounds)
    slope = -2 * _toeplitz.correlation(weights * errors, spread, count)
    return float(weights @ errors**2), slope


def _square_root(count: int) -> np.ndarray:
    """Returns the series of (1 - x)^(-1/2), the optimum without a band."""
    steps = np.arange(1, count)
    return np.append(1.0, np.cumprod((2 * steps - 1) / (2 * steps)))


def _minimise(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]], point: np.ndarray
) -> tuple[np.ndarray, float]:
    """Returns a local minimum and its value, by L-BFGS with backtracking.

    Nocedal and Wright 2006, algorithm 7.5.
    """
    with np.errstate(all="ignore"):  # a step too far is infinite, and taken back
        value, slope = loss(point)
        moves: list[tuple[np.ndarray, np.ndarray]] = []
        for _ in range(_STEPS):
            direction = -_scaled(slope, moves)
            if slope @ direction >= 0:
                direction, moves = -slope, []
            length = 1.0
            while True:
                next_value, next_slope = loss(point + length * direction)
                if next_value <= value + 1e-4 * length * (slope @ direction):
                    break
                length /= 2
                if length < 1e-12:
                    return point, value
            move, turn = length * direction, next_slope - slope
            if move @ turn > 0:
                moves = [*moves, (move, turn)][-_MEMORY:]
            has_settled = value - next_value < 1e-12
            point, value, slope = point + move, next_value, next_slope
            if has_settled:
                break
    return point, value


def _scaled(slope: np.ndarray, moves: list) -> np.ndarray:
    """Returns the inverse Hessian of the last moves times the slope."""
    if not moves:
        return slope * min(1.0, 0.1 / np.abs(slope).max())
    weights = []
    for move, turn in reversed(moves):
        weight = (move @ slope) / (move @ turn)
        weights.append(weight)
        slope = slope - weight * turn
    move, turn = moves[-1]
    slope = slope * (move @ turn) / (turn @ turn)
    for (move, turn), weight in zip(moves, reversed(weights), strict=True):
        slope = slope + (weight - (turn @ slope) / (move @ turn)) * move
    return slope
