"""A running total of privacy loss, at a constant cost per round.

The loss distribution of one use of each event is computed once; a round is one
convolution with it. It is a report: it decides nothing. Where the events or the time
to stop depend on outputs, a total of this kind is no guarantee (Rogers et al. 2016,
arXiv:1605.08294); `RenyiFilter` is.
"""

import functools
from typing import Any

import numpy as np

from jaxfed import _check as check
from jaxfed.accounting import _epsilon, _events, _grid, _pld, _rdp

_INTERVAL = 1e-3  # of losses: epsilon is rounded up by about 0.3 % of itself
_MOST_INTERVALS = 8192  # in epsilon; beyond, the interval doubles
_REFRESH = 1024  # convolutions before the total is computed anew, from counts
_TAIL = 3e-6  # of delta: the tail that one convolution may count as infinite loss


class Odometer:
    """The epsilon spent so far.

    Args:
        delta: strictly between 0 and 1.
        relation: what neighbours are.
        distance: of the whole run from an ideal one; see `accounting.epsilon`.
    """

    def __init__(
        self, *, delta: float, relation: str = "zero_out", distance: float = 0.0
    ) -> None:
        self._delta = check.open_probability(_epsilon._DELTA, delta=delta)
        self._relation = check.one_of(_events.RELATIONS, relation=relation)
        self._distance = check.non_negative(distance=distance)
        self._counts: dict[Any, int] | None = {}
        self._interval = _INTERVAL
        self._total: _grid.Total | None = None
        self._renyi = np.zeros(len(_rdp.ORDERS))
        self._convolutions = 0

    @property
    def events(self) -> tuple[tuple[Any, int], ...] | None:
        """The simple events so far with their counts; None after one not private."""
        return None if self._counts is None else tuple(self._counts.items())

    def add(self, event: Any, count: int = 1) -> None:
        """Adds `count` uses of an event.

        Raises:
            ValueError: the event cannot be accounted under this relation.
            AccountingError: two derivations of it contradict each other.
        """
        parts = _events.parts(event, count, self._relation)
        if parts is None or self._counts is None:
            self._counts = self._total = None
            return
        self._prepare(parts)
        self._total = self._with(parts)
        self._renyi = self._renyi + _rdp.of_parts(parts, self._relation)
        for leaf, times in parts:
            self._counts[leaf] = self._counts.get(leaf, 0) + times
        self._convolutions += len(parts)
        if self._convolutions >= _REFRESH:  # each convolution adds 1e-15 to delta
            self._rebuild()

    def epsilon(self) -> float:
        """Returns an upper bound of epsilon for all that was added."""
        if self._counts is None:
            return float("inf")
        if not self._counts:
            return 0.0
        found = self._read(self._total, self._renyi)
        if _MOST_INTERVALS * self._interval < found < float("inf"):
            while found > _MOST_INTERVALS * self._interval:
                self._interval *= 2
            self._rebuild()
        return found

    def epsilon_if(self, event: Any, count: int = 1) -> float:
        """Returns what `epsilon` would be after `add(event, count)`; adds nothing."""
        parts = _events.parts(event, count, self._relation)
        if parts is None or self._counts is None:
            return float("inf")
        if not (parts or self._counts):
            return 0.0
        self._prepare(parts)
        renyi = self._renyi + _rdp.of_parts(parts, self._relation)
        return self._read(self._with(parts), renyi)

    def _read(self, total: _grid.Total | None, renyi: np.ndarray) -> float:
        def of_delta(delta: float) -> float:
            if total is None:
                return _rdp.epsilon_of(renyi, delta)
            return _grid.epsilon_of(total, delta, self._interval)

        return _epsilon.at_distance(of_delta, self._delta, self._distance)

    def _prepare(self, parts: tuple[_events.Part, ...]) -> None:
        """Checks each event that is new, and widens the grid if its noise is small."""
        assert self._counts is not None
        for leaf, _ in parts:
            if leaf not in self._counts:
                _epsilon.checked(((leaf, 1),), self._relation, self._delta)
                least = _INTERVAL * _pld.coarser(leaf, 1)
                if least > self._interval:
                    self._interval = least
                    self._rebuild()

    def _with(self, parts: tuple[_events.Part, ...]) -> _grid.Total | None:
        """Returns the losses with more uses, or None where only a Renyi bound is."""
        events = self.events or ()
        if events and self._total is None:
            return None
        if not _pld.resolves((*events, *parts), self._relation, self._delta):
            return None
        return self._composed(self._total, parts)

    def _composed(
        self, total: _grid.Total | None, parts: tuple[_events.Part, ...]
    ) -> _grid.Total | None:
        tail = self._delta * _TAIL
        for leaf, count in parts:
            loss = _uses(leaf, count, self._relation, self._interval, tail)
            total = loss if total is None else _grid.composed(total, loss, tail)
        return total

    def _rebuild(self) -> None:
        self._convolutions = 0
        if self._total is not None:
            self._total = self._composed(None, self.events or ())


@functools.lru_cache(maxsize=32)
def _uses(
    leaf: Any, count: int, relation: str, interval: float, tail: float
) -> _grid.Total:
    """Returns some uses of an event without far tails, which slow convolutions."""
    loss = (
        _pld.base(leaf, relation, interval)
        if count == 1
        else _pld.of_leaf(leaf, count, relation, interval)
    )
    return _grid.total_of(loss, tail)
