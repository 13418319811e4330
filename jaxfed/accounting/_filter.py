"""A budget that holds although events and stopping depend on earlier outputs.

Feldman, Zrnic 2021, arXiv:2008.11193, theorem 4.3; Lecuyer 2021, arXiv:2103.01379:
for one Renyi order fixed beforehand, stopping before the sum of the divergences
passes a bound B leaves the whole adaptive interaction with divergence at most B.
Which of several orders survives is itself an output, so that delta is split among
them (a union bound); with a single order nothing is lost.

No such theorem holds for privacy loss distributions: stopping when their composition
passes epsilon is not a valid filter for events that are chosen adaptively.
"""

import math
import sys
from typing import Any

import numpy as np

from jaxfed import _check as check
from jaxfed.accounting import _epsilon, _events, _rdp

FILTER_ORDERS = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0)


class BudgetExhausted(RuntimeError):
    """The event asked for does not fit into what is left of the budget."""


class RenyiFilter:
    """Lets events through as long as all of them together keep to a budget.

    Formal guarantee: everything released under permission of `charge` is
    (epsilon, delta)-differentially private under `relation`, although each event,
    and whether there is another one, may depend on all earlier outputs.

    Args:
        epsilon: the budget, > 0.
        delta: strictly between 0 and 1.
        relation: what neighbours are.
        orders: the Renyi orders watched, chosen before anything is released; one
            order, for example from `best_order`, has all of delta.
        distance: of the whole run from an ideal one; see `accounting.epsilon`.

    Raises:
        ValueError: an argument is out of range, or nothing fits the budget.
    """

    def __init__(
        self,
        *,
        epsilon: float,
        delta: float,
        relation: str = "zero_out",
        orders: tuple[float, ...] = FILTER_ORDERS,
        distance: float = 0.0,
    ) -> None:
        self.epsilon = check.positive("pass for example epsilon=1.0", epsilon=epsilon)
        self.delta = check.open_probability(_epsilon._DELTA, delta=delta)
        self.relation = check.one_of(_events.RELATIONS, relation=relation)
        self.orders = tuple(float(order) for order in orders)
        if not self.orders or not min(self.orders) > 1.01:
            raise ValueError(
                f"orders must be numbers > 1.01, got {orders}; leave them out, or "
                "pass orders=(best_order(...),)."
            )
        check.non_negative(distance=distance)
        self._budget = _budgets(self.epsilon, self.delta, self.orders, distance)
        if not (self._budget > 0).any():
            way = "a larger epsilon or delta"
            if (1 + math.exp(min(self.epsilon, 700.0))) * distance >= self.delta:
                way = "a smaller epsilon: e**epsilon times that distance exceeds delta"
            raise ValueError(
                f"epsilon={epsilon} with delta={delta} and distance={distance} leaves "
                f"no budget at any order; ask for {way}."
            )
        self._spent = np.zeros(len(self.orders))

    @property
    def spent(self) -> float:
        """The share of the budget that is gone, at the order where most is left."""
        usable = self._budget > 0
        return float((self._spent[usable] / self._budget[usable]).min())

    @property
    def epsilon_spent(self) -> float:
        """The epsilon whose filter would have let through what was spent so far.

        For people: the guarantee is the budget, whatever was spent of it.
        """
        usable = self._budget > 0
        room = (self._budget - self._spent)[usable].max()
        return max(0.0, self.epsilon - float(room))

    def fits(self, event: Any, count: int = 1) -> bool:
        """Returns whether `charge(event, count)` would be permitted."""
        return bool((self._after(event, count) <= self._budget).any())

    def charge(self, event: Any, count: int = 1) -> None:
        """Spends `count` uses of an event, before any of them is made.

        Raises:
            BudgetExhausted: they do not fit; nothing is spent.
            ValueError: the event cannot be accounted under this relation.
        """
        after = self._after(event, count)
        if not (after <= self._budget).any():
            left = self.rounds_left(event)
            uses = "1 more use" if count == 1 else f"{count:,} more uses"
            raise BudgetExhausted(
                f"{uses} of this event must fit into the budget of epsilon "
                f"{self.epsilon:g} at delta {self.delta:g}, of which "
                f"epsilon {math.ceil(1e4 * self.epsilon_spent) / 1e4:g} counts as "
                f"spent; {left:,} would fit. Use more noise, fewer clients a round or "
                "fewer rounds, or stop here."
            )
        self._spent = after

    def rounds_left(self, event: Any) -> int:
        """Returns how many more uses of an event fit; `sys.maxsize` if it is free."""
        cost = self._after(event, 1) - self._spent
        room = self._budget - self._spent
        with np.errstate(divide="ignore", invalid="ignore"):
            counts = np.where(room >= 0, np.floor(room / cost), 0)
        largest = float(np.nanmax(counts, initial=0.0))
        if not largest < sys.maxsize:
            return sys.maxsize
        found = int(largest)
        while found and not self.fits(event, found):  # the last bits of the division
            found -= 1
        return found

    def _after(self, event: Any, count: int) -> np.ndarray:
        parts = _events.parts(event, count, self.relation)
        for leaf, _ in parts or ():
            _epsilon.checked(((leaf, 1),), self.relation, self.delta)
        return self._spent + _rdp.of_parts(parts, self.relation, self.orders)


def best_order(
    event: Any, *, epsilon: float, delta: float, relation: str = "zero_out"
) -> float:
    """Returns the one Renyi order that lets most uses of an event into a budget.

    Choose it before the first output, from the event that you expect most of.
    """
    rdp = _rdp.of_parts(_events.parts(event, 1, relation), relation)
    room = _budgets(epsilon, delta, _rdp.ORDERS, 0.0, split=False)
    with np.errstate(divide="ignore", invalid="ignore"):
        counts = np.where((room > 0) & (rdp > 0), room / rdp, 0.0)
    return _rdp.ORDERS[int(np.argmax(np.where(np.isfinite(counts), counts, 0.0)))]


def _budgets(
    epsilon: float,
    delta: float,
    orders: tuple[float, ...],
    distance: float,
    split: bool = True,
) -> np.ndarray:
    """Returns the divergence at each order that gives (epsilon, delta) by CKS 2020."""
    left = delta - (1 + math.exp(min(epsilon, 700.0))) * distance
    if left <= 0:
        return np.full(len(orders), -math.inf)
    order = np.asarray(orders)
    share = np.log(left * order / (len(orders) if split else 1))
    return epsilon - np.log1p(-1 / order) + share / (order - 1)
