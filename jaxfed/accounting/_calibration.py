"""The least noise that meets a budget."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxfed import _check as check
from jaxfed.accounting import _pld

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_RELATIVE_TOLERANCE = 5e-4
_LEAST, _MOST = 0.1, 1e6


def calibrate_multiplier(
    event: Callable[[float], "DpEvent"], rounds: int, *, epsilon: float, delta: float
) -> float:
    """Returns the smallest noise multiplier with at most `epsilon` after `rounds`.

    Args:
        event: one round's event for a given multiplier.
        rounds: how many rounds will be run.
        epsilon: the budget, > 0.
        delta: strictly between 0 and 1.

    Returns:
        A multiplier within 0.05 % above the smallest one, and never below 0.1: with
        less noise than that, no epsilon is worth its name.

    Raises:
        ValueError: an argument is out of range, or no noise up to 1e6 is enough.
    """
    check.positive("pass for example epsilon=1.0", epsilon=epsilon)

    def fits(multiplier: float) -> bool:
        return _pld.epsilon(event(multiplier), rounds, delta=delta) <= epsilon

    low, high = 0.5, 1.0
    while not fits(high):
        low, high = high, 2 * high
        if high > _MOST:
            raise ValueError(
                f"epsilon={epsilon} with delta={delta} over {rounds} rounds needs a "
                f"noise multiplier above {_MOST:g}, or delta is below what this "
                "accountant can resolve (about 1e-14); ask for a larger epsilon or "
                "delta, or fewer rounds."
            )
    while low < high <= 1.0 and fits(low):  # small multipliers cost most: downwards
        low, high = max(_LEAST, low / 2), low
    while high > low * (1 + _RELATIVE_TOLERANCE):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
