"""The time to a target: what methods and servers are compared by."""

from typing import Any


def seconds_to(history: Any, name: str, *, at_least: float) -> float | None:
    """Returns the virtual seconds after which a recorded value was first reached.

    Args:
        history: from `jaxfed.simulate_in_time`. Private, as its records are.
        name: of the value, for example `"accuracy"`.
        at_least: the target.

    Returns:
        The seconds, or None if no recorded round reached it.

    Raises:
        ValueError: no round recorded that name, or virtual time.
    """
    rounds, values = history.curve(name)
    numbers, seconds = history.curve("virtual_seconds")
    when = dict(zip(numbers.tolist(), seconds.tolist(), strict=True))
    for number, value in zip(rounds.tolist(), values.tolist(), strict=True):
        if value >= at_least:
            return when[number]
    return None
