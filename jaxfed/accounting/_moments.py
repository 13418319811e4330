"""Moments of privacy losses by quadrature: the numbers behind Renyi divergences.

For a pair of output distributions P and Q with loss u = log(P / Q), the Renyi
divergence of order a is log(A) / (a - 1) with A = E_Q[exp(a u)]. What is summed here
is A - 1 = E_Q[exp(a u) - 1 - a (exp(u) - 1)], whose terms are all >= 0 (Bernoulli),
so that nothing cancels however little is lost per round.

Nodes are exact atoms for discrete outputs, Gauss-Legendre panels for Laplace noise,
and for Gaussian mixtures the trapezoidal rule, which converges exponentially for
analytic integrands: the step is a small part of both the standard deviation and the
distance to the nearest complex zero of the mixture (errors below 1e-14, tested).
"""

from typing import NamedTuple

import numpy as np

_MOST_NODES = 2**13  # orders whose integrand needs a longer grid are left out
_TAIL = 14.0  # standard deviations; the mass outside is below 1e-43
_PIECE = 64  # orders summed at a time: bounds the memory


class Nodes(NamedTuple):
    """A pair of distributions on nodes: log of Q's mass, and log of P over Q."""

    log_mass: np.ndarray
    loss: np.ndarray

    def swapped(self) -> "Nodes":
        """Returns the pair with P and Q exchanged."""
        return Nodes(self.log_mass + self.loss, -self.loss)


def log_moment(orders: np.ndarray, nodes: Nodes) -> np.ndarray:
    """Returns log E_Q[(P / Q) ** order] for each order > 1."""
    pieces = [
        log_sum(_log_excess(orders[at : at + _PIECE, None], nodes.loss) + nodes[0])
        for at in range(0, len(orders), _PIECE)
    ]
    return np.logaddexp(0.0, np.concatenate(pieces)) if pieces else np.zeros(0)


def log_mean(log_values: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """Returns the log of the weighted mean of values that are given by their logs."""
    stacked = np.stack(
        [v + np.log(w) for v, w in zip(log_values, weights, strict=True) if w > 0]
    )
    return log_sum(stacked.T)


def gaussian_mixtures(
    top: tuple[tuple[float, float], ...],
    bottom: tuple[tuple[float, float], ...],
    stddev: float,
    order: float,
) -> Nodes | None:
    """Returns nodes for two mixtures of Gaussians, good for orders up to `order`.

    Args:
        top: (shift, probability) of each component of P.
        bottom: the same of Q.
        stddev: of every component.
        order: the largest order that will be asked for.

    Returns:
        None where the grid would be too long.
    """
    ups, downs = [s for s, _ in top], [s for s, _ in bottom]
    span = max(ups + downs) - min(ups + downs)
    right = max(ups + downs) + (order - 1) * max(0.0, max(ups) - min(downs))
    left = min(ups + downs) - (order - 1) * max(0.0, max(downs) - min(ups))
    step = min(stddev / 4, stddev**2 / (2 * span)) if span else stddev / 4
    left, right = left - _TAIL * stddev, right + _TAIL * stddev
    count = int((right - left) / step) + 2
    if count > _MOST_NODES:
        return None
    x = left + step * np.arange(count)
    base = -0.5 * (x / stddev) ** 2 + np.log(step / (stddev * np.sqrt(2 * np.pi)))
    low = _log_ratio(bottom, x, stddev)
    return Nodes(base + low, _log_ratio(top, x, stddev) - low)


def laplace(rate: float, scale: float, order: float) -> Nodes | None:
    """Returns nodes for Laplace noise at 0, and at 1 with probability `rate`.

    Good for orders up to `order`; None where there would be too many nodes.
    """
    panels = 4 + int(np.ceil(order / (10 * scale)))  # the integrand's e-folds are few
    if 20 * panels > _MOST_NODES:
        return None
    points, weights = np.polynomial.legendre.leggauss(20)
    starts = np.arange(panels)[:, None] / panels
    x = (starts + (points + 1) / (2 * panels)).ravel()
    log_mass = np.tile(np.log(weights / (4 * panels * scale)), panels) - x / scale
    # left of 0 and right of 1 the loss is constant
    log_mass = np.concatenate([[np.log(0.5)], log_mass, [np.log(0.5) - 1 / scale]])
    shifted = np.concatenate([[-1.0], 2 * x - 1, [1.0]]) / scale
    return Nodes(log_mass, _log_one_plus(rate, shifted))


def discrete_laplace(parameter: float, sensitivity: int) -> Nodes:
    """Returns the atoms of discrete Laplace noise at 0 and at `sensitivity`."""
    x = np.arange(1, sensitivity)
    tail = -np.log1p(np.exp(-parameter))  # log P(noise <= 0)
    inside = np.log(np.tanh(parameter / 2)) - parameter * x
    log_mass = np.concatenate([[tail], inside, [tail - parameter * sensitivity]])
    loss = parameter * np.concatenate(
        [[-sensitivity], 2 * x - sensitivity, [sensitivity]]
    )
    return Nodes(log_mass, loss.astype(np.float64))


def atoms(top: tuple[float, ...], bottom: tuple[float, ...]) -> Nodes:
    """Returns nodes for two discrete distributions, given by their probabilities."""
    log_mass = np.log(np.asarray(bottom, np.float64))
    return Nodes(log_mass, np.log(np.asarray(top, np.float64)) - log_mass)


def _log_ratio(
    mixture: tuple[tuple[float, float], ...], x: np.ndarray, stddev: float
) -> np.ndarray:
    """Returns the log of a mixture's density over that of a Gaussian at zero."""
    shifts, weights = np.asarray(mixture).T[:, :, None]
    exponent = shifts * (2 * x - shifts) / (2 * stddev**2)
    if len(mixture) == 1:
        return exponent[0]
    gain = (weights * np.expm1(np.minimum(exponent, 1.0))).sum(axis=0)
    with np.errstate(divide="ignore"):  # a component of probability zero
        far = log_sum((exponent + np.log(weights)).T)
    is_near = (exponent.max(axis=0) < 1.0) & (gain > -0.5)
    return np.where(is_near, np.log1p(np.maximum(gain, -0.5)), far)


def _log_one_plus(rate: float, exponent: np.ndarray) -> np.ndarray:
    """Returns log(1 - rate + rate * exp(exponent))."""
    if rate == 1:
        return exponent
    gain = rate * np.expm1(np.minimum(exponent, 1.0))
    far = np.logaddexp(np.log1p(-rate), np.log(rate) + exponent)
    is_near = (exponent < 1.0) & (gain > -0.5)
    return np.where(is_near, np.log1p(np.maximum(gain, -0.5)), far)


def _log_excess(order: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Returns log(exp(a u) - 1 - a (exp(u) - 1)) >= -inf, without cancellation."""
    power = order * loss
    found = np.expm1(np.minimum(power, 40.0))
    found -= order * np.expm1(np.minimum(loss, 40.0))
    tiny = np.abs(power) < 0.05
    found[tiny] = _excess_series(power[tiny], (order + 0 * loss)[tiny])
    with np.errstate(divide="ignore"):  # a loss of exactly zero adds nothing
        found = np.log(np.maximum(found, 0.0, out=found), out=found)
    large = power > 40.0  # exp(-40) is left out beside the two largest terms
    rest = np.exp((loss - power)[large] + np.log(order + 0 * loss)[large])
    found[large] = power[large] + np.log1p(-np.minimum(rest, 1 - 1e-16))
    return found


def _excess_series(power: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The same, not its log, for |a u| < 0.05: nine terms, good to 1e-16."""
    total = np.zeros_like(power)
    for k in range(10, 1, -1):  # the sum of (a u)^k (1 - a^(1 - k)) / k!
        total = total * power / (k + 1) - np.expm1((1 - k) * np.log(order))
    return total * power**2 / 2


def log_sum(values: np.ndarray) -> np.ndarray:
    """Returns log(sum(exp(values))) over the last axis."""
    largest = values.max(axis=-1)
    safe = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore", over="ignore"):  # beside an infinite value
        return safe + np.log(np.exp(values - safe[..., None]).sum(axis=-1))
