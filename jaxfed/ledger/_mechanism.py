"""A mechanism that a ledger pays for, and how much of it was used."""

import dataclasses
from typing import Any

from jaxfed import _check as check
from jaxfed.ledger import _codec
from jaxfed.ledger._errors import LedgerError
from jaxfed.ledger._rows import Entry
from jaxfed.privacy import Cost

# what a run keeps to its end, and how people call it
_SAME = {
    "plan": "its algorithm, privacy or model shape",
    "inputs": "its data or initial parameters",
    "program": "its code (loss, model or optimizer)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Charge:
    """One release of a mechanism that was paid for; public."""

    number: int
    """Of the entry."""
    round: int
    """From 0."""
    attempt: int
    """0, or how often this round was released before with another sum."""
    uses: int
    """How many uses of the mechanism's event it cost; 0 where earlier ones cover it."""
    about: str
    """What it was about, such as the hash of the model that was evaluated; public."""
    commitment: str
    """HMAC of the sum, in hexadecimal; tells nothing without the secret."""
    hash: str
    """Of the entry."""


class Mechanism:
    """One mechanism of a ledger: what a use costs, and what was used.

    Attributes:
        number: the entry that named it.
        name: for people; no other mechanism of the ledger has it.
        cost: what all planned rounds cost.
        run: the latest facts of the run that uses it, or None.
        moved: facts of the run where it is executed otherwise now; they are written
            down with its next charge.
    """

    def __init__(self, number: int, name: str, cost: Cost):
        self.number, self.name, self.cost = number, name, cost
        self.run: dict[str, Any] | None = None
        self.moved: dict[str, Any] | None = None
        self._charges: list[Charge] = []
        self._latest: dict[int, Charge] = {}
        self._uses = self._repeats = 0

    @property
    def charges(self) -> tuple[Charge, ...]:
        """Every release, in order."""
        return tuple(self._charges)

    @property
    def releases(self) -> int:
        """How many releases were made."""
        return len(self._charges)

    @property
    def rounds(self) -> int:
        """How many different rounds were released."""
        return len(self._latest)

    @property
    def uses(self) -> int:
        """How many uses of its event were spent."""
        return self._uses

    @property
    def left(self) -> int:
        """How many more releases were planned."""
        return self.cost.rounds - self.releases

    def latest(self, round_index: int) -> Charge | None:
        """Returns the last charge of a round, if there is one."""
        return self._latest.get(round_index)

    def index_of(self, about: str) -> int:
        """Returns the round that was about something, or the next one."""
        same = (c.round for c in self._charges if about and c.about == about)
        return next(same, self.rounds if about else 0)

    def next_uses(self, round_index: int) -> int:
        """Returns how many uses a further release of a round costs."""
        if round_index in self._latest:  # the same clients once more
            return 1
        return self.cost.uses(self.rounds + 1) - self.cost.uses(self.rounds)

    @property
    def current(self) -> dict[str, Any]:
        """The facts of the run as it is executed now; none before it began."""
        return self.moved or self.run or {}

    def go_on(self, facts: dict[str, Any]) -> None:
        """Goes on with the run that began, as it is executed now.

        Raises:
            LedgerError: it is not the run that began.
        """
        run = self.run or {}
        changed = [name for name in _SAME if run[name] != facts[name]]
        is_moved = run["execution"] != facts["execution"]
        before, now = run["execution"], facts["execution"]
        has_moved = before.get("machine") != now.get("machine")
        if has_moved and changed == ["program"]:  # other versions trace otherwise
            changed = []
        if changed:
            raise LedgerError(
                f"run {self.name!r} must go on as it began, but {_SAME[changed[0]]} "
                "changed; bring back what it began with, or start another run under "
                "another name, which spends anew."
            )
        self.moved = facts if is_moved else None

    def check_next(self, round_index: int) -> None:
        """Refuses a round that is neither the next one nor one released before.

        Which clients a round may ask follows from its number (one of several groups,
        say), and so does what it costs after those before it.

        Raises:
            ValueError: it is another one.
        """
        if round_index > self.rounds:
            raise ValueError(
                f"round_index of {self.name!r} must be one of its {self.rounds} rounds "
                f"that were released, or the next one, {self.rounds}, got "
                f"{round_index}; release rounds in order."
            )

    def check_follows(self, charge: Charge) -> None:
        """Checks that a charge is what its plan and the charges before it make it.

        Raises:
            ValueError: it is not.
        """
        counts = (charge.round, charge.attempt, charge.uses)
        texts = (charge.about, charge.commitment)
        if not all(type(count) is int and count >= 0 for count in counts) or not all(
            isinstance(text, str) for text in texts
        ):
            raise ValueError("a charge holds counts and text")
        self.check_next(charge.round)
        latest = self.latest(charge.round)
        attempt = 0 if latest is None else latest.attempt + 1
        if attempt and not self.cost.may_repeat:
            raise ValueError("correlated noise covers each round once")
        if counts[1:] != (attempt, self.next_uses(charge.round)):
            raise ValueError("a charge does not follow from its plan")

    def add(self, charge: Charge) -> None:
        """Counts a release."""
        self._charges.append(charge)
        self._latest[charge.round] = charge
        self._uses += charge.uses

    def __repr__(self) -> str:
        return (
            f"Mechanism({self.name!r}: {self.releases} of {self.cost.rounds} "
            "releases made)"
        )

    def facts(self) -> dict[str, Any]:
        """Returns what its entry holds."""
        cost = self.cost
        return {
            "name": self.name,
            "event": _codec.to_values(cost.event),
            "rounds": cost.rounds,
            "every": cost.every,
            "distance": cost.distance,
            "may_repeat": cost.may_repeat,
        }


def mechanism_of(entry: Entry, *, unit: str, relation: str) -> Mechanism:
    """Returns the mechanism of an entry, of which nothing was used yet."""
    facts = entry.facts
    check.positive_integer(rounds=facts["rounds"])
    check.positive_integer(every=facts["every"])
    check.non_negative(distance=facts["distance"])
    check.instance(bool, "pass True or False", may_repeat=facts["may_repeat"])
    check.instance(str, "name it", name=facts["name"])
    cost = Cost(
        event=_codec.from_values(facts["event"]),
        rounds=facts["rounds"],
        every=facts["every"],
        unit=unit,
        relation=relation,
        distance=facts["distance"],
        may_repeat=facts["may_repeat"],
    )
    return Mechanism(entry.number, facts["name"], cost)


def charge_of(entry: Entry) -> Charge:
    """Returns the charge of an entry."""
    facts = entry.facts
    return Charge(
        number=entry.number,
        round=facts["round"],
        attempt=facts["attempt"],
        uses=facts["uses"],
        about=facts["about"],
        commitment=facts["commitment"],
        hash=entry.hash,
    )
