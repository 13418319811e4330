"""What a paid run may claim: under its ledger's terms, for all that was charged."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from jaxfed import accounting
from jaxfed.ledger import Mechanism
from jaxfed.ledger._book import Terms
from jaxfed.privacy import Privacy
from jaxfed.privacy._statement import Statement, neighbours_of, up


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

    @property
    def repeats(self) -> int:
        """How many releases were made again, with another sum, and paid again."""
        return len(self._mechanism.charges) - self._mechanism.rounds

    def epsilon(self, rounds: int) -> float:
        """Returns what was spent after so many rounds, all repeats included."""
        cost = self._mechanism.cost
        uses = cost.uses(rounds) + self.repeats
        if uses <= len(self._curve):
            return float(self._curve[uses - 1])
        return accounting.epsilon(
            cost.event,
            uses,
            delta=self._terms.delta,
            relation=self._terms.relation,
            distance=cost.distance,
        )

    def statement(self, units: Sequence[tuple[str, int]] = ()) -> Statement:
        """Returns the guarantee of the planned rounds and of what was repeated.

        A stop that depends on results gives no smaller epsilon.
        """
        repeats, terms, rounds = self.repeats, self._terms, self._rounds
        own = self._privacy.statement(rounds=rounds)
        is_replaced = terms.relation == "replace_one" != own.relation
        # a repeated round is one more use, as `every` further rounds are
        counted = rounds + repeats * self._mechanism.cost.every
        others = tuple(
            (unit, count, self._epsilon_of(unit, count, counted, is_replaced))
            for unit, count in units
        )
        if not (repeats or is_replaced):
            return dataclasses.replace(own, units=others)
        epsilon = self.epsilon(rounds)
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

    def _epsilon_of(
        self, unit: str, count: int, rounds: int, is_replaced: bool
    ) -> float:
        """Returns epsilon of another unit; to replace is to remove and to add."""
        count *= 2 if is_replaced else 1
        return self._privacy.epsilon_of(unit, count=count, rounds=rounds)

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
