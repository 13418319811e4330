"""Who took part when, and whether a next cohort keeps the contract.

Correlated noise is calibrated to a contract of participation. A sampler keeps it by
construction; whoever draws cohorts in another way, or lets clients choose, has it
checked here before a round is released.
"""

from typing import NamedTuple

import numpy as np

from jaxfed import _check as check
from jaxfed.sampling import _base
from jaxfed.typing import Participation

_NEVER = -1


class Attendance(NamedTuple):
    """Every client's last round and number of rounds: 8 bytes a client. Private."""

    last_round: np.ndarray
    """(population,) int32; -1 for a client that never took part."""
    count: np.ndarray
    """(population,) int32."""


def no_attendance(population: int) -> Attendance:
    """Returns the attendance before the first round."""
    population = _base.checked_population(population)
    return Attendance(
        last_round=np.full(population, _NEVER, np.int32),
        count=np.zeros(population, np.int32),
    )


def attend(
    attendance: Attendance,
    cohort: np.ndarray,
    *,
    round_index: int,
    participation: Participation,
) -> Attendance:
    """Returns the attendance after a cohort, which must keep the contract.

    Args:
        attendance: of all earlier rounds; it is left as it was.
        cohort: distinct client numbers, (count,) integers.
        round_index: this round, later than all earlier ones.
        participation: the contract.

    Raises:
        ValueError: a client is named twice, comes back too early, or has taken part
            often enough. The message counts clients but names none.
    """
    check.instance(
        Participation,
        "pass sampler.participation(rounds)",
        participation=participation,
    )
    round_index = _base.round_number(round_index)
    cohort = _checked_cohort(cohort, population=len(attendance.count))
    if len(attendance.last_round) and round_index <= attendance.last_round.max():
        raise ValueError(
            f"round_index must be > {attendance.last_round.max()}, the last round on "
            f"record, got {round_index}; rounds are recorded once, in order."
        )
    last, count = attendance.last_round[cohort], attendance.count[cohort]
    early = (last != _NEVER) & (round_index - last < participation.min_separation)
    often = count >= participation.max_participations
    for broken, rule in (
        (early, f"before {participation.min_separation} rounds have passed"),
        (often, f"more than {participation.max_participations} times"),
    ):
        if broken.any():
            raise ValueError(
                f"no client may take part {rule}, got {int(broken.sum())} such "
                f"clients in round {round_index}; the noise does not cover this "
                "cohort: draw it with the sampler that the noise was made for."
            )
    last_round, counts = attendance.last_round.copy(), attendance.count.copy()
    last_round[cohort] = round_index
    counts[cohort] += 1
    return Attendance(last_round, counts)


def _checked_cohort(cohort: np.ndarray, *, population: int) -> np.ndarray:
    cohort = np.asarray(cohort)
    if cohort.ndim != 1 or (cohort.dtype.kind not in "iu" and cohort.size):
        raise ValueError(
            f"cohort must be one row of client numbers, got {cohort.dtype} of shape "
            f"{cohort.shape}; pass what draw() returned."
        )
    cohort = cohort.astype(np.int64)
    if cohort.size and not 0 <= cohort.min() <= cohort.max() < population:
        raise ValueError(
            f"cohort must hold client numbers in [0, {population}), got "
            f"{cohort.min()} to {cohort.max()}; was it drawn from another population?"
        )
    if len(np.unique(cohort)) != len(cohort):
        raise ValueError(
            f"cohort must name a client once, got {len(cohort)} numbers for "
            f"{len(np.unique(cohort))} clients; remove the repetitions."
        )
    return cohort
