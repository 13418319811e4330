"""A guarantee as a statement: in words for people, in fields for programs."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_MOST_SILOS = 20
_REPLACED = {"zero_out": "zero", "replace_one": "any other"}
UNNAMED = (
    "No claim yet: name a budget with privacy.calibrated(epsilon=..., delta=..., "
    "rounds=...), or ask privacy.epsilon(rounds=..., delta=...)."
)
NOT_NOISED = "metrics, evaluations and logs computed without noise"
FROM_OTHERS = "facts about a client that others' data reveal"
CHOICES = "the choice of settings after looking at the same data"
_NOT_COVERED = (
    NOT_NOISED,
    "what the server itself can see before it adds noise",
    FROM_OTHERS,
    CHOICES,
)
_PRECISION = (
    "the number holds for the arithmetic that runs, not for an ideal: integer sums, "
    "discrete noise, and a deviation of the noise from its law of at most 2**-46 over "
    "the run, which is part of delta. It needs secret keys of 256 bits: noise drawn "
    "from a simulation's seed can be recomputed, and nothing made with it is private"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
    """What a privacy object guarantees, of whom, against whom, and what it does not.

    `str(statement)` is for a privacy officer, `to_json()` for a program.

    Attributes:
        claim: the guarantee in one sentence, its numbers rounded up.
        epsilon: the upper bound itself; None while no budget is named, infinity for
            no guarantee. With silos, that of the worst.
        delta: the delta of the claim, or None.
        rounds: the rounds of the claim, or None.
        epsilons: with silos, epsilon of each one; else empty.
        unit: whose privacy it is: `"client"`, `"example"` or `"none"`.
        relation: `"zero_out"`, `"replace_one"` or `"none"`.
        protects: the unit in words.
        neighbours: the relation in words.
        trust: who is trusted to do what.
        sampling: who takes part, as far as the claim rests on it.
        mechanism: what is clipped and which noise is added.
        not_covered: what the claim is not about.
        precision: how the claim deals with finite arithmetic and with keys.
        units: other units, as (unit, how many change together, their epsilon).
        hypothetical: whether all this is about a run that nobody made; the claim then
            begins with that word.
    """

    claim: str
    epsilon: float | None
    delta: float | None
    rounds: int | None
    unit: str
    relation: str
    sampling: str
    protects: str = ""
    neighbours: str = ""
    trust: str = ""
    mechanism: str = ""
    not_covered: tuple[str, ...] = ()
    precision: str = ""
    epsilons: tuple[float, ...] = ()
    units: tuple[tuple[str, int, float], ...] = ()
    hypothetical: bool = False

    def __str__(self) -> str:
        lines = [f"{name}: {'; '.join(texts)}." for name, texts in self.parts.items()]
        return "\n".join([self.claim, *lines])

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """What the claim rests on, in words by name; some parts are several phrases."""
        others = "Other units, hypothetical" if self.hypothetical else "Other units"
        parts = {
            "Unit": (self.protects,),
            "Neighbours": (self.neighbours,),
            "Trust": (self.trust,),
            "Participation": (self.sampling,),
            "Mechanism": (self.mechanism,),
            others: tuple(self._other(*other) for other in self.units),
            "Not covered": self.not_covered,
            "In finite precision": (self.precision,),
        }
        return {name: texts for name, texts in parts.items() if any(texts)}

    def _other(self, unit: str, count: int, epsilon: float) -> str:
        words = f"one {unit}" if count == 1 else f"{count:,} {unit}s together"
        if self.unit == unit == "example" and count > 1:
            words += " in one silo"
        at_will = unit == "example" and self.unit == "client"
        shown = "no claim" if math.isinf(epsilon) else f"epsilon {up(epsilon)}"
        return f"{words}{', changed at will' if at_will else ''}: {shown}"

    def to_json(self) -> str:
        """Returns the fields as one line of JSON; an infinite epsilon is a word.

        A hypothetical statement has `hypothetical_epsilon` and `hypothetical_epsilons`,
        and no `epsilon`.
        """
        name = "hypothetical_epsilon" if self.hypothetical else "epsilon"
        fields = dataclasses.asdict(self)
        del fields["epsilon"], fields["epsilons"]
        fields[name] = _finite(self.epsilon)
        fields[f"{name}s"] = [_finite(epsilon) for epsilon in self.epsilons]
        fields["units"] = [
            {"unit": unit, "count": count, name: _finite(epsilon)}
            for unit, count, epsilon in self.units
        ]
        return json.dumps(fields, allow_nan=False)


def neighbours_of(unit: str, relation: str) -> str:
    """Returns a relation between neighbours in words."""
    public = {"client": "the number of clients is", "example": "the sizes of silos are"}
    return (
        f"one {unit}'s contribution is replaced by {_REPLACED[relation]}; "
        f"{public[unit]} public"
    )


def checked_units(units: Sequence[tuple[str, int]]) -> Sequence[tuple[str, int]]:
    """Returns other units to state epsilon of, checked for their form."""
    for one in units:
        if not (isinstance(one, tuple) and len(one) == 2):
            raise TypeError(
                f"units must hold pairs of a unit and a count, got {one!r}; pass "
                'for example units=[("example", 1), ("client", 2)].'
            )
    return units


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
) -> Statement:
    """Returns the statement of client-level privacy with a trusted server."""
    if epsilon is None:
        claim = UNNAMED
    elif math.isinf(epsilon):
        claim = _nothing(multiplier)
    else:
        claim = (
            f"After {rounds:,} rounds, models released by this mechanism are "
            f"({up(epsilon)}, {up(delta or 0, 6)})-differentially private for each "
            "client."
        )
    return Statement(
        claim=claim,
        epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        unit="client",
        relation=relation,
        protects="one client, with all of its examples in all rounds",
        neighbours=neighbours_of("client", relation),
        trust="the server clips and adds the noise",
        sampling=participation,
        mechanism=f"{clip}; {law} of {multiplier:.4g} times that norm is added to the "
        "exact integer sum",
        not_covered=_NOT_COVERED,
        precision=_PRECISION,
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
) -> Statement:
    """Returns the statement of privacy for single examples, in each silo."""
    if epsilons is None:
        claim = UNNAMED
    elif math.isinf(epsilons.max()):
        claim = _nothing(multiplier)
    else:
        claim = (
            f"After {rounds:,} rounds, all that a silo sends is ({up(epsilons.max())}, "
            f"{up(delta or 0, 6)})-differentially private for each of its examples; by "
            f"silo, epsilon is {', '.join(up(e) for e in epsilons[:_MOST_SILOS])}"
            f"{', ...' if len(epsilons) > _MOST_SILOS else ''}."
        )
    return Statement(
        claim=claim,
        epsilon=None if epsilons is None else float(epsilons.max()),
        epsilons=() if epsilons is None else tuple(float(e) for e in epsilons),
        delta=delta,
        rounds=rounds,
        unit="example",
        relation="zero_out",
        protects="one example in one silo; a person with several examples, or in "
        "several silos, has less protection",
        neighbours=neighbours_of("example", "zero_out"),
        trust="the silo clips and adds the noise; the server is not trusted",
        sampling="every silo is assumed to take part in every round; in each of "
        f"{steps:,} step{'s' if steps > 1 else ''} a round, every example joins "
        f"independently with probability {rate:g}",
        mechanism=f"{clip}; discrete Gaussian noise of {multiplier:.4g} times that "
        "norm is added to the exact integer sum of each step",
        not_covered=_NOT_COVERED,
        precision=_PRECISION,
    )


def up(value: float, digits: int = 3) -> str:
    """Returns a number with few digits, never below what was computed."""
    if value <= 0:
        return "0"
    text = f"{value:.{digits}g}"
    if float(text) < value:
        digit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
        text = f"{float(text) + digit:.{digits}g}"
    return f"{float(text):g}"


def _nothing(multiplier: float) -> str:
    if multiplier == 0:
        return "No privacy guarantee: no noise is added, so epsilon is infinite."
    return "No privacy guarantee: noise so small has no finite epsilon at this delta."


def _finite(epsilon: float | None) -> Any:
    return "infinity" if epsilon is not None and math.isinf(epsilon) else epsilon
