"""The guarantee in words."""

import math

import numpy as np

_MOST_SILOS = 20
_REPLACED = {"zero_out": "zero", "replace_one": "any other"}
_UNNAMED = (
    "No claim yet: name a budget with privacy.calibrated(epsilon=..., delta=..., "
    "rounds=...), or ask privacy.epsilon(rounds=..., delta=...)."
)
_NOT_COVERED = (
    "Not covered: metrics, evaluations and logs computed without noise; what the "
    "server itself can see before it adds noise; facts about a client that others' "
    "data reveal; the choice of settings after looking at the same data."
)
_PRECISION = (
    "The number holds for the arithmetic that runs, not for an ideal: integer sums, "
    "discrete noise, and a deviation of the noise from its law of at most 2**-46 over "
    "the run, which is part of delta. It needs secret keys of 256 bits: noise drawn "
    "from a simulation's seed can be recomputed, and nothing made with it is private."
)


def central(
    *,
    epsilon: float | None,
    delta: float | None,
    rounds: int | None,
    participation: str,
    clip: str,
    multiplier: float,
    relation: str,
    law: str = "discrete Gaussian noise",
) -> str:
    """Returns one paragraph a sentence group: claim, unit, mechanism, limits."""
    if epsilon is None:
        claim = _UNNAMED
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
            f"client's contribution is replaced by {_REPLACED[relation]}; the number "
            "of clients is public. Trust: the server clips and adds the noise.",
            f"Mechanism: {participation}; {clip}; "
            f"{law} of {multiplier:.4g} times that norm is added to the exact "
            "integer sum.",
            _NOT_COVERED,
            _PRECISION,
        ]
    )


def example_level(
    *,
    epsilons: np.ndarray | None,
    delta: float | None,
    rounds: int | None,
    rate: float,
    steps: int,
    clip: str,
    multiplier: float,
) -> str:
    """Returns the guarantee for single examples: claim, unit, mechanism, limits."""
    if epsilons is None:
        claim = _UNNAMED
    elif math.isinf(epsilons.max()):
        claim = "No privacy guarantee: no noise is added, so epsilon is infinite."
    else:
        claim = (
            f"After {rounds:,} rounds, all that a silo sends is ({up(epsilons.max())}, "
            f"{delta:g})-differentially private for each of its examples; by silo, "
            f"epsilon is {', '.join(up(e) for e in epsilons[:_MOST_SILOS])}"
            f"{', ...' if len(epsilons) > _MOST_SILOS else ''}."
        )
    return "\n".join(
        [
            claim,
            "Unit: one example in one silo; a person with several examples, or in "
            "several silos, has less protection. Neighbours: one example's "
            "contribution is replaced by zero; the sizes of silos are public. Trust: "
            "the silo clips and adds the noise; the server is not trusted. Every silo "
            "is assumed to take part in every round.",
            f"Mechanism: {steps:,} steps a round, each joined by every "
            f"example independently with probability {rate:g}; {clip}; discrete "
            f"Gaussian noise of {multiplier:.4g} times that norm is added to the exact "
            "integer sum.",
            _NOT_COVERED,
            _PRECISION,
        ]
    )


def up(epsilon: float) -> str:
    """Returns epsilon with three digits, rounded up."""
    if epsilon <= 0:
        return "0"
    digits = 2 - math.floor(math.log10(epsilon))
    return f"{math.ceil(epsilon * 10.0**digits - 1e-9) / 10.0**digits:.6g}"
