"""The guarantee in words."""

import math

_NOT_COVERED = (
    "Not covered: metrics, evaluations and logs computed without noise; what the "
    "server itself can see before it adds noise; facts about a client that others' "
    "data reveal; the choice of settings after looking at the same data."
)
_IDEAL = (
    "The number describes ideal Gaussian noise in real arithmetic. The noise of this "
    "version is drawn in floating point, whose last bits can betray an input: train "
    "and study with it in simulations, and release nothing made with it."
)


def central(
    *,
    epsilon: float | None,
    delta: float | None,
    rounds: int | None,
    participation: str,
    clip: float,
    multiplier: float,
) -> str:
    """Returns one paragraph a sentence group: claim, unit, mechanism, limits."""
    if epsilon is None:
        claim = (
            "No claim yet: name a budget with privacy.calibrated(epsilon=..., "
            "delta=..., rounds=...), or ask privacy.epsilon(rounds=..., delta=...)."
        )
    elif math.isinf(epsilon):
        claim = "No privacy guarantee: no noise is added, so epsilon is infinite."
    else:
        # rounded up: a printed epsilon is never below the computed one
        claim = (
            f"After {rounds:,} rounds, models released by this mechanism are "
            f"({up(epsilon)}, {delta:g})-differentially private for each client."
        )
    return "\n".join(
        [
            claim,
            "Unit: one client, with all of its examples in all rounds. Neighbours: one "
            "client's contribution is replaced by zero; the number of clients is "
            "public. Trust: the server clips and adds the noise.",
            f"Mechanism: {participation}; each update is clipped to L2 norm {clip:g}; "
            f"Gaussian noise of {multiplier:.4g} times that norm is added to the sum.",
            _NOT_COVERED,
            _IDEAL,
        ]
    )


def up(epsilon: float) -> str:
    """Returns epsilon with three digits, rounded up."""
    if epsilon <= 0:
        return "0"
    digits = 2 - math.floor(math.log10(epsilon))
    return f"{math.ceil(epsilon * 10.0**digits - 1e-9) / 10.0**digits:.6g}"
