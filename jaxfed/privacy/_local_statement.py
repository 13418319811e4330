"""The statement of local privacy."""

import math

from jaxfed.privacy import _statement
from jaxfed.privacy._statement import Statement, up

_NOT_COVERED = (
    "that a client takes part, and when",
    "how many took part",
    _statement.NOT_NOISED,
    _statement.FROM_OTHERS,
    _statement.CHOICES,
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
) -> Statement:
    """Returns the statement of privacy against everybody, the server included."""
    at_delta = f", {up(delta, 6)})-" if delta else ")-"
    if epsilon is None:
        claim = _statement.UNNAMED
    else:
        single = "" if per_report is None else f"; each report alone: {up(per_report)}"
        count = f"{rounds:,} rounds" if rounds != 1 else "1 round"
        claim = (
            f"All reports of a client together, one in each of {count}, are "
            f"({_words(epsilon)}{at_delta}differentially private{single}."
        )
    return Statement(
        claim=claim,
        epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        unit="client",
        relation="replace_one",
        protects="one client, with all of its examples in all rounds",
        neighbours="any two data sets of that client (local model)",
        trust="nobody but the client; the server sees only noised reports",
        sampling=f"{participation}; the claim counts a report in every round, being "
        "sampled rarely is not counted in its favour",
        mechanism=mechanism,
        not_covered=_NOT_COVERED,
        precision=precision,
    )


def _words(epsilon: float) -> str:
    return "infinity" if math.isinf(epsilon) else up(epsilon)
