"""The guarantee of local privacy in words."""

import math

from jaxfed.privacy._statement import up

_NOT_COVERED = (
    "Not covered: that a client takes part, and when; how many took part; metrics, "
    "evaluations and logs computed without noise; facts about a client that others' "
    "data reveal; the choice of settings after looking at the same data."
)


def local(
    *,
    per_report: float | None,
    epsilon: float | None,
    delta: float | None,
    rounds: int | None,
    participation: str,
    mechanism: str,
    precision: str,
) -> str:
    """Returns one line a topic: claim, unit, mechanism, limits, precision."""
    at_delta = f", {delta:g})-" if delta else ")-"
    if epsilon is None:
        claim = (
            "No claim yet: name a budget with privacy.calibrated(epsilon=..., "
            "delta=..., rounds=...), or ask privacy.epsilon(rounds=..., delta=...)."
        )
    else:
        # rounded up: a printed epsilon is never below the computed one
        single = "" if per_report is None else f"; each report alone: {up(per_report)}"
        count = f"{rounds:,} rounds" if rounds != 1 else "1 round"
        claim = (
            f"All reports of a client together, one in each of {count}, are "
            f"({_words(epsilon)}{at_delta}differentially private{single}."
        )
    return "\n".join(
        [
            claim,
            "Unit: one client, with all of its examples in all rounds. Neighbours: any "
            "two data sets of that client (local model). Trust: nobody but the client; "
            "the server sees only noised reports.",
            f"Participation: {participation}. The claim counts a report in every "
            "round; being sampled rarely is not counted in its favour.",
            mechanism,
            _NOT_COVERED,
            precision,
        ]
    )


def _words(epsilon: float) -> str:
    return "infinity" if math.isinf(epsilon) else up(epsilon)
