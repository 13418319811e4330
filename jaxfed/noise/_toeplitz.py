"""Lower-triangular Toeplitz matrices as power series, on the host in float64.

The matrix C with C[t, t - j] = c_j is the series c_0 + c_1 x + c_2 x^2 + ...; products
and inverses of matrices are those of series. Noise C^-1 Z added to the inputs x gives
prefix sums with error A C^-1 Z, where A is the matrix of ones (Kairouz et al. 2021,
arXiv:2103.00039; Choquette-Choo et al. 2023, arXiv:2306.08153).
"""

import numpy as np

from jaxfed.typing import Participation

_ROUNDED_UP = 1 + 2.0**-40  # more than the float64 sums below can lose


def product(left: np.ndarray, right: np.ndarray, count: int) -> np.ndarray:
    """Returns the first `count` coefficients of a product of series."""
    size = _transform_size(len(left) + len(right))
    spectrum = np.fft.rfft(left, size) * np.fft.rfft(right, size)
    return np.fft.irfft(spectrum, size)[:count]


def correlation(left: np.ndarray, right: np.ndarray, count: int) -> np.ndarray:
    """Returns `sum_i left[i + j] * right[i]` for j = 0 .. count - 1."""
    size = _transform_size(len(left) + len(right))
    spectrum = np.fft.rfft(left, size) * np.conj(np.fft.rfft(right, size))
    return np.fft.irfft(spectrum, size)[:count]


def inverse(coefficients: np.ndarray, count: int) -> np.ndarray:
    """Returns the first `count` coefficients of 1 / c, by Newton's iteration."""
    found = np.array([1 / coefficients[0]])
    while len(found) < count:
        reach = min(2 * len(found), count)
        residual = -product(coefficients[:reach], found, reach)
        residual = np.pad(residual, (0, reach - len(residual)))
        residual[0] += 2
        found = product(residual, found, reach)
    return found


def prefix_errors(coefficients: np.ndarray, rounds: int) -> np.ndarray:
    """Returns the variance of each prefix sum for noise C^-1 Z, Z of variance 1."""
    return np.cumsum(np.cumsum(inverse(coefficients, rounds)) ** 2)


def worst_pattern(
    coefficients: np.ndarray, rounds: int, participation: Participation
) -> np.ndarray:
    """Returns C u for participations from round 0 on, as close as is allowed."""
    column = coefficients[:rounds]
    return repeated(np.pad(column, (0, rounds - len(column))), participation)


def repeated(values: np.ndarray, participation: Participation) -> np.ndarray:
    """Returns `sum_m values[t - m separation]` over m = 0 .. participations - 1."""
    gap, count = participation.min_separation, len(values)
    rows = np.pad(values, (0, -count % gap)).reshape(-1, gap)
    totals = np.cumsum(rows, axis=0)
    most = participation.max_participations
    if most < len(rows):
        totals[most:] = totals[most:] - totals[:-most]
    return totals.reshape(-1)[:count]


def sensitivity(
    coefficients: np.ndarray, rounds: int, participation: Participation
) -> float:
    """Returns the largest norm of C u over all patterns that the contract allows.

    u stacks one contribution of norm at most 1 a participation. The maximum is at
    participations from round 0 on at exactly the least separation,

    - for C of at most `min_separation` bands: columns of participations are
      orthogonal, and earlier columns are longer (Choquette-Choo et al. 2023,
      arXiv:2306.08153);
    - for non-negative, non-increasing coefficients (Kalinin and Lampert 2024,
      arXiv:2405.13763, theorem 2).

    The value is exact but for float64, and rounded up.

    Raises:
        ValueError: the matrix is of neither kind.
    """
    bands = min(len(coefficients), rounds)
    steps = np.diff(np.append(coefficients[:bands], 0.0))
    is_single = participation.max_participations == 1
    is_banded = bands <= participation.min_separation
    if not (is_single or is_banded or (steps <= 0).all()):
        raise ValueError(
            "coefficients must be non-negative and non-increasing, or at most "
            f"min_separation = {participation.min_separation}, got {bands} that are "
            "not; no sensitivity is known: use fewer bands."
        )
    moved = worst_pattern(coefficients, rounds, participation)
    return float(np.sqrt(moved @ moved)) * _ROUNDED_UP


def _transform_size(count: int) -> int:
    return 1 << (count - 1).bit_length()
