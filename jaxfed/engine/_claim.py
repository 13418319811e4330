"""What a paid run may claim: under its ledger's terms, for all that was charged."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from jaxfed import accounting
from jaxfed.ledger import Mechanism
from jaxfed.ledger._book import Terms
from jaxfed.privacy import Privacy
from jaxfed.privacy._base import Charged
from jaxfed.privacy._statement import Statement, checked_units, neighbours_of, up


class Claim:
    """The guarantee of one paid run.

    Args:
        mechanism: the run's, in its ledger.
        terms: of the ledger.
        privacy: the run's, with the ledger's delta.
        rounds: how many are planned.
    """

    def __init__(
        self, mechanism: Mechanism, terms: Terms, privacy: Privacy, rounds: int
    ):
        self._mechanism, self._terms, self._privacy = mechanism, terms, privacy
        self._rounds = max(rounds, getattr(privacy, "rounds", None) or 1)
        self._kept: int | None = None

    @property
    def repeats(self) -> int:
        """How many releases were made again, with another sum, and paid again."""
        if self._kept is not None:
            return self._kept
        return self._mechanism.releases - self._mechanism.rounds

    def epsilon(self, rounds: int) -> float:
        """Returns what was spent after so many rounds, all repeats included."""
        return self._epsilon_of(self._mechanism.cost.uses(rounds) + self.repeats)

    def statement(self, units: Sequence[tuple[str, int]] = ()) -> Statement:
        """Returns the guarantee of the planned rounds and of what was repeated.

        A stop that depends on results gives no smaller epsilon; the ledger's budget
        holds whatever was planned.
        """
        repeats, terms, rounds = self.repeats, self._terms, self._rounds
        own = self._privacy.statement(rounds=rounds)
        is_replaced = terms.relation == "replace_one" != own.relation
        charged = self._charged()
        others = tuple(
            (unit, count, self._privacy.epsilon_of_charged(unit, count, charged))
            for unit, count in checked_units(units)
        )
        is_own = own.epsilon is not None and own.epsilon <= terms.epsilon
        if is_own and not (repeats or is_replaced):
            return dataclasses.replace(own, units=others)
        uses = self._mechanism.cost.uses(rounds) + charged.more_uses
        epsilon = min(self._epsilon_of(uses), terms.epsilon)
        again = f" and {repeats:,} that were released again" if repeats else ""
        claim = (
            f"After {rounds:,} rounds{again}, models released by this mechanism are "
            f"({up(epsilon)}, {up(terms.delta, 6)})-differentially private for each "
            f"{terms.unit}."
        )
        return dataclasses.replace(
            own,
            claim=claim,
            epsilon=epsilon,
            epsilons=(),
            relation=terms.relation if is_replaced else own.relation,
            neighbours=neighbours_of(terms.unit, terms.relation)
            if is_replaced
            else own.neighbours,
            units=others,
        )

    def end(self) -> None:
        """Keeps the claim as it is now, whatever is repeated later."""
        self._kept = self.repeats

    def _charged(self) -> Charged:
        """Returns what is claimed; a plan that cannot grow holds all repeats too."""
        cost = self._mechanism.cost
        planned = cost.uses(self._rounds)
        uses = planned + self.repeats
        if not self._terms.adaptive:
            uses = min(uses, cost.uses(cost.rounds))
        return Charged(cost, self._rounds, uses - planned, self._terms.delta)

    def _epsilon_of(self, uses: int) -> float:
        if uses <= len(self._curve):
            return float(self._curve[uses - 1])
        cost = self._mechanism.cost
        return accounting.epsilon(
            cost.event,
            uses,
            delta=self._terms.delta,
            relation=self._terms.relation,
            distance=cost.distance,
        )

    @functools.cached_property
    def _curve(self) -> np.ndarray:
        cost = self._mechanism.cost
        return accounting.epsilon_curve(
            cost.event,
            cost.uses(self._rounds),
            delta=self._terms.delta,
            relation=self._terms.relation,
            distance=cost.distance,
        )
