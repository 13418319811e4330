"""Epsilon from events, derived twice: a number that two accountants agree on.

The number is the privacy loss distribution's where there is one, and the Renyi bound
elsewhere (sampling without replacement, Skellam, zCDP), or where delta or the noise is
below what a discretised distribution resolves. The other method is the second opinion,
and an explicit attack the third: the three must be in order, or nothing is said.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxfed import _check as check
from jaxfed.accounting import _attack, _events, _pld, _rdp

_SLACK, _SLACK_ABSOLUTE = 1.02, 0.02  # conversion from Renyi bounds is never tighter
_CURVE_POINTS, _CURVE_INTERVALS, _CURVE_LEAST_INTERVAL = 100, 1000, 2e-4
_DELTA = "1e-5 or 1 / population ** 1.1 are usual"
_STEPS = 200


class AccountingError(RuntimeError):
    """Two derivations of the same epsilon contradict each other."""


class Derivation(NamedTuple):
    """One epsilon with where it comes from.

    `epsilon` is the number, `method` is `"PLD"` or `"RDP"`, `renyi_epsilon` the
    second opinion (an upper bound), `attack_epsilon` what an attack reaches (a lower
    bound). The last two are about the ideal mechanism, at distance 0.
    """

    epsilon: float
    method: str
    renyi_epsilon: float
    attack_epsilon: float


def epsilon(
    event: Any,
    rounds: int,
    *,
    delta: float,
    relation: str = "zero_out",
    distance: float = 0.0,
) -> float:
    """Returns an upper bound of epsilon for `rounds` independent uses of `event`.

    Args:
        event: one round: an event of dp-accounting or of jaxfed, or a list of
            events, which stands for all of them.
        rounds: how many, >= 1. How many and which must not depend on outputs; where
            they do, use `RenyiFilter`.
        delta: strictly between 0 and 1.
        relation: what neighbours are: `"zero_out"`, `"replace_one"`, `"add_remove"`.
        distance: the total variation distance between all that is released and what
            the ideal mechanism would have released, for each of two neighbours. It
            costs (1 + exp(epsilon)) * distance of delta.

    Returns:
        Epsilon; infinity where the event is not private, or `distance` uses up delta.

    Raises:
        ValueError: an argument is out of range, or the event cannot be accounted.
        AccountingError: two derivations contradict each other.
    """
    return derive(
        event, rounds, delta=delta, relation=relation, distance=distance
    ).epsilon


def derive(
    event: Any,
    rounds: int,
    *,
    delta: float,
    relation: str = "zero_out",
    distance: float = 0.0,
) -> Derivation:
    """Returns epsilon with the method and both opinions; see `epsilon`."""
    check.positive_integer(rounds=rounds)
    check.open_probability(_DELTA, delta=delta)
    check.non_negative(distance=distance)
    parts = _events.parts(event, rounds, relation)
    if parts is None:
        return Derivation(math.inf, "PLD", math.inf, math.inf)
    ideal = checked(parts, relation, float(delta))
    if not distance:
        return ideal
    of_delta = profile(parts, relation, float(delta))[0]
    return ideal._replace(epsilon=at_distance(of_delta, delta, distance))


def epsilon_curve(
    event: Any,
    rounds: int,
    *,
    delta: float,
    relation: str = "zero_out",
    distance: float = 0.0,
) -> np.ndarray:
    """Returns epsilon after each of 1, 2, ..., `rounds` rounds, (rounds,) float64.

    In runs of more than 100 rounds, 50 evenly spread rounds are computed and those
    between them report the next one's epsilon, which is an upper bound of theirs.
    Values before the last are rounded up a little more than `epsilon` does, and each
    is charged the whole `distance`.
    """
    last = epsilon(event, rounds, delta=delta, relation=relation, distance=distance)
    if math.isinf(last):
        return np.full(rounds, math.inf)
    parts = _events.parts(event, 1, relation)
    assert parts is not None  # a finite total has finite parts
    return _cached_curve(
        parts, rounds, float(delta), relation, float(distance), last
    ).copy()


def at_distance(
    epsilon_of: Callable[[float], float], delta: float, distance: float
) -> float:
    """Returns the least epsilon of a run that is `distance` from an ideal one.

    If the ideal is (e, d)-private and both neighbours' outputs are within total
    variation `distance` of it, then for every set S, P(S) <= exp(e) Q(S) + d +
    (1 + exp(e)) * distance. From below, e grows until d fits beside that.
    """
    if not distance:
        return epsilon_of(delta)
    found = 0.0
    for _ in range(_STEPS):
        left = delta - (1 + math.exp(min(found, 700.0))) * distance
        if left <= 0:
            return math.inf
        needed = epsilon_of(left)
        if needed <= found:
            return found
        found = needed * (1 + 1e-9)
    return math.inf


def profile(
    parts: tuple[_events.Part, ...], relation: str, delta: float
) -> tuple[Callable[[float], float], str]:
    """Returns epsilon as a function of deltas near or below `delta`, and the method."""

    def by_renyi(delta: float) -> float:
        return _rdp.epsilon_of(_rdp.of_parts(parts, relation), delta)

    if not _pld.resolves(parts, relation, delta):
        return by_renyi, "RDP"
    losses = _pld.finest(parts, relation, delta)

    def by_losses(delta: float) -> float:
        if delta < _pld.LEAST_DELTA:
            return by_renyi(delta)
        return _pld.epsilon_of(losses, delta)

    return by_losses, "PLD"


def trial(
    event: Any, rounds: int, *, delta: float, relation: str, distance: float
) -> float:
    """Returns epsilon without the second opinion: for a search, never for a claim."""
    parts = _events.parts(event, rounds, relation)
    if parts is None:
        return math.inf
    return at_distance(profile(parts, relation, delta)[0], delta, distance)


@functools.lru_cache(maxsize=256)
def checked(parts: tuple[_events.Part, ...], relation: str, delta: float) -> Derivation:
    of_delta, method = profile(parts, relation, delta)
    found = Derivation(
        of_delta(delta),
        method,
        _rdp.epsilon_of(_rdp.of_parts(parts, relation), delta),
        _attack.epsilon(parts, relation, delta),
    )
    return agreed(found, parts, relation)


def agreed(
    found: Derivation, parts: tuple[_events.Part, ...], relation: str
) -> Derivation:
    """Returns the derivation if its three numbers are in order.

    Raises:
        AccountingError: they are not; one of them is wrong.
    """
    least = found.attack_epsilon * (1 - 1e-6) - 1e-6
    if least > min(found.epsilon, found.renyi_epsilon):
        fault = "an attack reaches more than was accounted"
    elif found.epsilon > found.renyi_epsilon * _SLACK + _SLACK_ABSOLUTE:
        fault = "the loss distribution is above the Renyi bound"
    else:
        return found
    what = ", ".join(f"{count} x {leaf}" for leaf, count in parts)
    raise AccountingError(
        f"epsilon must be the same by two methods, got {found.method} "
        f"{found.epsilon:.6g}, Renyi {found.renyi_epsilon:.6g} and an attack at "
        f"{found.attack_epsilon:.6g} for {what} under {relation!r}: {fault}; claim "
        "nothing for this event, and report it with your version of dp-accounting."
    )


@functools.lru_cache(maxsize=32)
def _cached_curve(
    parts: tuple[_events.Part, ...],
    rounds: int,
    delta: float,
    relation: str,
    distance: float,
    last: float,
) -> np.ndarray:
    step = 1 if rounds <= _CURVE_POINTS else -(-2 * rounds // _CURVE_POINTS)
    curve = np.full(rounds, last)
    ends = range(step, rounds, step)
    by_renyi = not _pld.resolves(_times(parts, rounds), relation, delta)
    renyi = _rdp.of_parts(parts, relation)
    interval = max(_CURVE_LEAST_INTERVAL, last / _CURVE_INTERVALS)
    stride = total = None
    for end in ends:
        if by_renyi:
            of_delta = functools.partial(_rdp.epsilon_of, end * renyi)
        else:
            stride = stride or _pld.composed(_times(parts, step), relation, interval)
            total = stride if total is None else total.compose(stride)
            of_delta = total.get_epsilon_for_delta
        curve[end - step : end] = at_distance(of_delta, delta, distance)
    return np.minimum(curve, last)


def _times(parts: tuple[_events.Part, ...], count: int) -> tuple[_events.Part, ...]:
    return tuple((leaf, times * count) for leaf, times in parts)
