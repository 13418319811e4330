"""Discretised privacy losses as plain arrays, for totals that grow every round.

Koskela et al. 2020, arXiv:1906.03049: one FFT convolution per direction; the same
arithmetic as dp-accounting's, without its loops over the grid (5 to 20 times faster).
Every rounding is towards more loss.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution


class Losses(NamedTuple):
    """Probabilities of the losses (lowest + i) * interval, and of an infinite one."""

    lowest: int
    probabilities: np.ndarray
    infinite: float


Total = tuple[Losses, ...]  # one per direction; equal directions are kept once


def total_of(loss: "PrivacyLossDistribution", tail: float) -> Total:
    """Returns the arrays of a loss distribution, without tails lighter than `tail`."""
    directions = [loss._pmf_remove]
    if not loss._symmetric:
        directions.append(loss._pmf_add)
    dense = [direction.to_dense_pmf() for direction in directions]
    return tuple(
        _shortened(
            Losses(d._lower_loss, np.asarray(d._probs), float(d._infinity_mass)), tail
        )
        for d in dense
    )


def composed(left: Total, right: Total, tail: float) -> Total:
    """Returns the composition; `tail` bounds the mass that moves to infinity."""
    count = max(len(left), len(right))
    return tuple(
        _convolved(left[min(i, len(left) - 1)], right[min(i, len(right) - 1)], tail)
        for i in range(count)
    )


def epsilon_of(total: Total, delta: float, interval: float) -> float:
    """Returns the least epsilon >= 0 whose hockey-stick divergence is <= delta."""
    return max(_epsilon(losses, delta, interval) for losses in total)


def _epsilon(losses: Losses, delta: float, interval: float) -> float:
    if losses.infinite > delta:
        return float("inf")
    index = losses.lowest + np.arange(len(losses.probabilities))
    first = max(0, -losses.lowest)  # losses <= 0 add nothing at epsilon >= 0
    loss = interval * index[first:]
    mass = losses.probabilities[first:]
    if not len(loss):
        return 0.0
    # above[i]: mass of losses >= loss[i]; weight is relative to exp(-loss[i])
    above = losses.infinite + np.cumsum(mass[::-1])[::-1]
    discounted = np.cumsum((mass * np.exp(-loss))[::-1])[::-1]
    # delta at epsilon = loss[i]; it falls as i grows
    at = above - np.exp(np.minimum(loss, 700.0)) * discounted
    over = np.flatnonzero(at > delta)
    start = int(over[-1]) + 1 if len(over) else 0
    if start >= len(loss):
        return float(loss[-1])
    if discounted[start] <= 0:
        return float(max(0.0, loss[start]))
    ratio = (above[start] - delta) / discounted[start]
    return float(max(0.0, np.log(ratio))) if ratio > 0 else 0.0


def _convolved(left: Losses, right: Losses, tail: float) -> Losses:
    from scipy import signal

    both = np.maximum(signal.fftconvolve(left.probabilities, right.probabilities), 0)
    infinite = left.infinite + right.infinite - left.infinite * right.infinite
    return _shortened(Losses(left.lowest + right.lowest, both, infinite), tail)


def _shortened(losses: Losses, tail: float) -> Losses:
    """Moves both tails up: the light losses to a heavier one, the heavy to infinity."""
    mass = losses.probabilities
    low = int(np.searchsorted(np.cumsum(mass), tail, side="right"))
    heavy = np.cumsum(mass[::-1])
    high = len(mass) - int(np.searchsorted(heavy, tail, side="right"))
    low = min(low, high - 1, len(mass) - 1)
    if low < 0:
        return losses
    kept = mass[low:high].copy()
    kept[0] += mass[:low].sum()
    infinite = losses.infinite + float(mass[high:].sum())
    return Losses(losses.lowest + low, kept, infinite)
