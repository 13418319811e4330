"""The least noise, the most rounds or the largest cohort that meets a budget.

Searches try one accountant; what they return is then derived by all of them, as any
other claim (`accounting.derive`).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxfed import _check as check
from jaxfed.accounting import _epsilon, _events, _pld, _rdp

_RELATIVE_TOLERANCE = 5e-4
_LEAST, _MOST = 0.1, 1e6
_LEAST_RATE = 1e-9
_INTERVALS = 2000
_MOST_ROUNDS = 2**31


def calibrate_multiplier(
    event: Callable[[float], Any],
    rounds: int,
    *,
    epsilon: float,
    delta: float,
    relation: str = "zero_out",
    distance: float = 0.0,
    most: float = _MOST,
) -> float:
    """Returns the smallest noise multiplier with at most `epsilon` after `rounds`.

    Args:
        event: one round's event for a given multiplier.
        rounds: how many rounds will be run.
        epsilon: the budget, > 0.
        delta: strictly between 0 and 1.
        relation: what neighbours are.
        distance: of the whole run from an ideal one; see `accounting.epsilon`.
        most: the largest multiplier that the noise can have.

    Returns:
        A multiplier within 0.05 % above the smallest one, and never below 0.1: with
        less noise than that, no epsilon is worth its name.

    Raises:
        ValueError: an argument is out of range, or no noise up to `most` is enough.
    """
    budget = _Budget(rounds, epsilon, delta, relation, distance)
    budget.check()
    low, high = 0.5, 1.0
    while not budget.fits(event(high)):
        low, high = high, min(2 * high, most)
        if low == high:
            raise ValueError(
                f"epsilon={epsilon} with delta={delta} over {rounds} rounds needs a "
                f"noise multiplier above {most:g}, or delta is below what this "
                "accountant can resolve (about 1e-14); ask for a larger epsilon or "
                "delta, or fewer rounds."
            )
    # small multipliers cost most: search downwards
    while low < high <= 1.0 and budget.fits(event(low)):
        low, high = max(_LEAST, low / 2), low
    while high > low * (1 + _RELATIVE_TOLERANCE):
        middle = (low * high) ** 0.5
        is_enough = budget.fits(event(middle))
        low, high = (low, middle) if is_enough else (middle, high)
    budget.confirm(event(high))
    return high


def calibrate_rate(
    event: Callable[[float], Any],
    rounds: int,
    *,
    epsilon: float,
    delta: float,
    relation: str = "zero_out",
    distance: float = 0.0,
) -> float:
    """Returns the largest sampling rate with at most `epsilon` after `rounds`.

    Args:
        event: one round's event for a given rate; where the noise is fixed per
            client, let its multiplier grow with the cohort.
        rounds: how many rounds will be run.
        epsilon: the budget, > 0.
        delta: strictly between 0 and 1.
        relation: what neighbours are.
        distance: of the whole run from an ideal one; see `accounting.epsilon`.

    Returns:
        A rate in (0, 1], within 0.05 % below the largest one.

    Raises:
        ValueError: an argument is out of range, or even a rate of 1e-9 is too much.
    """
    budget = _Budget(rounds, epsilon, delta, relation, distance)
    budget.check()
    high = low = 1.0
    while not budget.fits(event(low)):
        low, high = low / 4, low
        if low < _LEAST_RATE:
            raise ValueError(
                f"epsilon={epsilon} with delta={delta} over {rounds} rounds permits no "
                f"sampling rate above {_LEAST_RATE:g}; ask for a larger epsilon or "
                "delta, fewer rounds or more noise."
            )
    while high > low * (1 + _RELATIVE_TOLERANCE):
        middle = (low * high) ** 0.5
        is_little = budget.fits(event(middle))
        low, high = (middle, high) if is_little else (low, middle)
    budget.confirm(event(low))
    return low


def calibrate_rounds(
    event: Any,
    *,
    epsilon: float,
    delta: float,
    relation: str = "zero_out",
    distance: float = 0.0,
) -> int:
    """Returns the largest number of rounds with at most `epsilon`.

    Args:
        event: one round.
        epsilon: the budget, > 0.
        delta: strictly between 0 and 1.
        relation: what neighbours are.
        distance: of the whole run from an ideal one; see `accounting.epsilon`.

    Returns:
        The count, >= 0; at most one in a thousand below the true one.

    Raises:
        ValueError: an argument is out of range, or every number of rounds fits.
    """
    check.positive("pass for example epsilon=1.0", epsilon=epsilon)
    check.open_probability(_epsilon._DELTA, delta=delta)
    parts = _events.parts(event, 1, relation)
    if parts is None:
        return 0
    if not parts:
        raise ValueError(
            "event must cost something, got one that never spends; it can be run any "
            "number of times."
        )
    fits = functools.partial(_count_fits, parts, epsilon, delta, relation, distance)
    low = _by_renyi(parts, epsilon, delta, relation) if not distance else 0
    while low and not fits(low):  # rare: where Renyi bounds are the tighter ones
        low //= 2
    high = max(1, low + low // 4)
    while fits(high):
        low, high = high, 2 * high
        if high > _MOST_ROUNDS:
            raise ValueError(
                f"epsilon={epsilon} permits more than {_MOST_ROUNDS} rounds; less "
                "noise would still meet the budget."
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    if low:
        _Budget(low, epsilon * (1 + 1e-3), delta, relation, distance).confirm(event)
    return low


def _count_fits(
    parts: tuple[_events.Part, ...],
    epsilon: float,
    delta: float,
    relation: str,
    distance: float,
    count: int,
) -> bool:
    times = tuple((leaf, uses * count) for leaf, uses in parts)
    if _pld.resolves(times, relation, delta):
        loss = _pld.composed(times, relation, epsilon / _INTERVALS)
        of_delta = loss.get_epsilon_for_delta
    else:
        renyi = _rdp.of_parts(times, relation)
        of_delta = functools.partial(_rdp.epsilon_of, renyi)
    return _epsilon.at_distance(of_delta, delta, distance) <= epsilon


def _by_renyi(
    parts: tuple[_events.Part, ...], epsilon: float, delta: float, relation: str
) -> int:
    rdp = _rdp.of_parts(parts, relation)
    low, high = 0, 1
    while high < _MOST_ROUNDS and _rdp.epsilon_of(high * rdp, delta) <= epsilon:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = _rdp.epsilon_of(middle * rdp, delta) <= epsilon
        low, high = (middle, high) if fits else (low, middle)
    return low


class _Budget(NamedTuple):
    """What a run of `rounds` may spend."""

    rounds: int
    epsilon: float
    delta: float
    relation: str
    distance: float

    def check(self) -> None:
        check.positive("pass for example epsilon=1.0", epsilon=self.epsilon)
        check.positive_integer(rounds=self.rounds)
        check.open_probability(_epsilon._DELTA, delta=self.delta)
        check.non_negative(distance=self.distance)

    def fits(self, event: Any) -> bool:
        """Returns whether one accountant finds the event within the budget."""
        return self._spent(_epsilon.trial, event) <= self.epsilon

    def confirm(self, event: Any) -> None:
        """Derives the event as any other claim.

        Raises:
            AccountingError: it is not within the budget after all.
        """
        found = self._spent(_epsilon.epsilon, event)
        if not found <= self.epsilon or math.isnan(found):
            raise _epsilon.AccountingError(
                f"epsilon must be <= {self.epsilon} at the calibrated value, got "
                f"{found}; is the event the same every time it is asked for?"
            )

    def _spent(self, accountant: Callable[..., float], event: Any) -> float:
        return accountant(
            event,
            self.rounds,
            delta=self.delta,
            relation=self.relation,
            distance=self.distance,
        )
