"""Robust aggregation as slow NumPy float64 loops, each as its paper writes it.

A rule takes the real reports alone, (clients, parameters), and returns (parameters,).
"""

import numpy as np


def median(reports):
    """Yin et al. 2018, option I."""
    return np.array([np.median(column) for column in reports.T])


def trimmed_mean(reports, fraction):
    """Yin et al. 2018, option II."""
    value = []
    for column in reports.T:
        kept, count = sorted(column), int(fraction * len(column) + 1e-9)
        for _ in range(count):
            kept.remove(max(kept))
            kept.remove(min(kept))
        value.append(np.mean(kept))
    return np.array(value)


def krum(reports, attackers, selected=1):
    """Blanchard et al. 2017; zero for fewer than 2 f + 3 reports."""
    n = len(reports)
    if n < 2 * attackers + 3:
        return np.zeros(reports.shape[1])
    scores = []
    for i, one in enumerate(reports):
        others = [other for j, other in enumerate(reports) if j != i]
        distances = sorted(np.sum((one - other) ** 2) for other in others)
        scores.append(sum(distances[: n - attackers - 2]))
    best = np.argsort(scores)[: min(selected, n - attackers)]
    return np.mean(reports[best], axis=0)


def geometric_median(reports, iterations, smoothing=1e-6):
    """Pillutla et al. 2019, smoothed Weiszfeld, from the coordinates' medians."""
    point = median(reports)
    for iteration in range(iterations):
        top, bottom = np.zeros_like(point), 0.0
        least = smoothing
        if iteration == 0 and len(reports):  # or a report at the start would hold it
            distances = [np.linalg.norm(one - point) for one in reports]
            least = max(least, np.median(distances))
        for one in reports:
            weight = 1 / max(least, np.linalg.norm(one - point))
            top, bottom = top + weight * one, bottom + weight
        point = top / bottom
    return point


def norm_bounded(reports, norm):
    """Sun et al. 2019."""
    clipped = [one / max(1.0, np.linalg.norm(one) / norm) for one in reports]
    return np.mean(clipped, axis=0)
