"""The history of a run: what happened in each round, and how to read and save it."""

import csv
import dataclasses
import html
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed.privacy import Privacy
from jaxfed.privacy._statement import Statement, up
from jaxfed.typing import Params, PyTree

_BARS = "▁▂▃▄▅▆▇█"
_BAR_COUNT = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One round, for people."""

    round: int
    """From 1."""
    epsilon: float | None
    """Spent after this round; in a simulation, as it would be, and None while no delta
    is named."""
    evaluation: dict[str, float]
    """What `evaluate` returned; empty in rounds without evaluation. Private in a
    simulation."""
    private: dict[str, float]
    """Exact cohort size, failures, bytes down to clients and up from them, and mean
    local metrics. Private; empty in a run that releases."""
    released: dict[str, float] = dataclasses.field(default_factory=dict)
    """What the mechanism itself made public, such as the adaptive `clip_norm`."""
    seconds: float | None
    """Wall time of the round, evaluation included. None in a run that releases: it
    tells how many clients came, and how many examples they have."""
    hypothetical: bool = False
    """Whether epsilon is that of a run nobody made; see `privacy.hypothetical`."""

    def row(self) -> dict[str, Any]:
        """Returns one flat row for a table."""
        parts = (
            ("evaluation", self.evaluation),
            ("released", self.released),
            ("private", self.private),
        )
        flat = {f"{p}.{n}": v for p, values in parts for n, v in values.items()}
        epsilon = _epsilon_name(self.hypothetical)
        start = {"round": self.round, epsilon: self.epsilon}
        if self.seconds is not None:
            start["seconds"] = self.seconds
        return start | flat


class LedgerFacts(NamedTuple):
    """The ledger of a run when the run ended; public."""

    name: str
    """Of the file."""
    head: str
    entries: int
    epsilon: float
    """Spent by everything in the ledger."""
    budget: float
    delta: float
    unit: str
    relation: str
    repeats: int
    """Of this run, releases of rounds that had been released before, paid again."""


class History:
    """The result of a run: final parameters, a record per round, and the guarantee.

    Attributes:
        params: the parameters after the last round.
        state: the whole server state after the last round.
        rounds: a `RoundRecord` for each round.
        algorithm: the printed form of what was run.
        strategy: how it was executed, and why so.
        delta: the delta of every epsilon, or None.
        hypothetical: whether every epsilon is that of a run which nobody made, as with
            `privacy.hypothetical`. Files then name it `hypothetical_epsilon`.
        private: whether all of it was released with privacy: True for `train`. False
            for a simulation, whose noise is reproducible and whose records are exact.
    """

    def __init__(
        self,
        *,
        algorithm: str,
        privacy: Privacy,
        params: Params,
        rounds: int = 0,
        strategy: str = "",
        private: bool = False,
        claim: Callable[..., Statement] | None = None,
        ledger: LedgerFacts | Callable[[], LedgerFacts] | None = None,
        client_states: Callable[[np.ndarray], PyTree] | None = None,
    ):
        self.algorithm, self.strategy = algorithm, strategy
        self._private, self._planned = private, rounds
        self._claim, self._ledger = claim, ledger
        self.delta, self.hypothetical = privacy.delta, privacy.is_hypothetical
        self._privacy = privacy
        self.params = params
        self.state: Any = None
        self._states = client_states
        self.rounds: list[RoundRecord] = []

    @property
    def private(self) -> bool:
        """Whether everything in it was released with privacy."""
        return self._private

    @property
    def ledger(self) -> LedgerFacts | None:
        """What paid for it, as it was when the run ended; None for a simulation."""
        noted = self._ledger
        return noted if noted is None or isinstance(noted, LedgerFacts) else noted()

    @property
    def statement(self) -> str:
        """What is guaranteed, in words; of a simulation, what a real run could claim.

        For the rounds that were run, or the planned ones if the run was stopped
        before: a stop that depends on results gives no smaller epsilon. Of a run that
        releases, under the terms of its ledger, rounds that were repeated included.
        """
        claim = self._claimed()
        if self.private:
            facts = self.ledger
            if facts is None:
                return str(claim)
            budget = f"({up(facts.budget, 6)}, {up(facts.delta, 6)})"
            return (
                f"{claim}\nLedger: all that {facts.name} pays for, this run included, "
                f"is together {budget}-differentially private for each {facts.unit}."
            )
        could = "A real run of the same mechanism could claim:"
        if self.hypothetical:
            could = "HYPOTHETICAL: only a real run with the larger cohort could claim:"
        return f"Simulation: nothing in it may be released as private. {could}\n{claim}"

    @property
    def epsilon(self) -> float | None:
        """Epsilon after the last round; of a simulation, as it would be, if at all."""
        return self.rounds[-1].epsilon if self.rounds else None

    @property
    def seconds(self) -> float | None:
        """Wall time of all rounds; None of a run that releases."""
        if self.private:
            return None
        return sum(record.seconds or 0.0 for record in self.rounds)

    def client_states(self, clients: Any) -> PyTree:
        """Returns what clients kept after the last round. Private.

        Args:
            clients: (count,) client numbers, in the order of the data.

        Returns:
            Leaves (count, ...).

        Raises:
            ValueError: it is a run that releases, a copy, or there are no such clients.
        """
        if self._states is None:
            raise ValueError(
                "client states must stay with their clients in a run that releases, "
                "and are not in a copy of a history; look at them in a simulation."
            )
        return self._states(np.asarray(clients))

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy or a pickle has: not the clients' states."""
        return self.__dict__ | {"_states": None}

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rounds in which a value was recorded, and the values.

        Args:
            name: a name that `evaluate` returned, a released number such as
                `clip_norm`, or a local metric such as `loss`; where several have the
                name, it is the first of these.

        Raises:
            ValueError: no round recorded that name.
        """
        evaluated = [(r.round, r.evaluation) for r in self.rounds]
        released = [(r.round, r.released) for r in self.rounds]
        local = [(r.round, r.private) for r in self.rounds]
        for records in (evaluated, released, local):
            found = [(number, v[name]) for number, v in records if name in v]
            if found:
                break
        else:
            known = sorted(
                {n for _, values in [*evaluated, *released, *local] for n in values}
            )
            raise ValueError(
                f"no round recorded {name!r}; known are {', '.join(known) or 'none'}."
            )
        rounds, values = zip(*found, strict=True)
        return np.array(rounds), np.array(values)

    def to_csv(self, path: Any) -> None:
        """Writes one line per round. A simulation's values are exact, hence private."""
        rows = [record.row() for record in self.rounds]
        names = list(dict.fromkeys(name for row in rows for name in row))
        with _place(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)

    def to_json(self, path: Any) -> None:
        """Writes everything but the parameters; not-a-number becomes null."""
        document = {
            "private": self.private,
            "hypothetical": self.hypothetical,
            "algorithm": self.algorithm,
            "statement": self.statement,
            _epsilon_name(self.hypothetical): _json_number(self.epsilon),
            "delta": self.delta,
            "ledger": None if self.ledger is None else self.ledger._asdict(),
            "rounds": [
                {name: _json_number(value) for name, value in record.row().items()}
                for record in self.rounds
            ],
        }
        text = json.dumps(document, indent=1, allow_nan=False)
        _place(path).write_text(text + "\n", encoding="utf-8")

    def plot(self, *names: str) -> Any:
        """Draws curves over rounds, epsilon below; needs the extra `plot`.

        Args:
            *names: what to draw; every evaluated name and local metric if not given.

        Returns:
            A matplotlib figure.
        """
        from jaxfed.engine import _plot

        return _plot.history(self, names)

    def report(
        self,
        path: Any,
        *,
        title: str = "Privacy report",
        units: Sequence[tuple[str, int]] = (),
    ) -> None:
        """Writes one HTML page for a privacy officer; it loads nothing from anywhere.

        It says what is guaranteed, what was spent, released and kept back, and how to
        check the ledger. Of a run that releases it is public. A simulation's page holds
        exact values, hence is private, and says so.

        Args:
            path: of the file.
            title: of the page; public.
            units: of what else to state epsilon, as in `Privacy.statement`.

        Raises:
            OSError: the folder is missing or full; a file that was there is as it was.
        """
        from jaxfed.engine import _report

        _report.write(self, self._claimed(units), path, title)

    def __repr__(self) -> str:
        num_rounds = len(self.rounds)
        took = f"in {self.seconds or 0.0:.1f} s (simulation: not private)"
        budget = _budget(self.epsilon, self.delta, hypothetical=self.hypothetical)
        if self.private:
            budget, took = budget.removesuffix(", as it would be"), "(released)"
        lines = [
            f"History of {num_rounds} rounds {took}",
            f"  {self.algorithm}",
            f"  {budget}",
        ]
        for name in self._names():
            values = self.curve(name)[1]
            curve = f"{values[0]:8.4f} -> {values[-1]:8.4f}  {_bars(values)}"
            if len(values) == 1:
                curve = f"{values[0]:8.4f}"
            lines.append(f"  {name:<24} {curve}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return f"<pre>{html.escape(repr(self))}</pre>"

    def _claimed(self, units: Sequence[tuple[str, int]] = ()) -> Statement:
        if self._claim is not None:
            return self._claim(units)
        planned = max(self._planned, getattr(self._privacy, "rounds", None) or 1)
        rounds = max(planned, len(self.rounds))
        return self._privacy.statement(rounds=rounds, units=units)

    def _end(self) -> None:
        """Keeps what paid for the run as it is now."""
        self._ledger = self.ledger

    def _names(self) -> list[str]:
        found = dict.fromkeys(n for r in self.rounds for n in r.evaluation)
        found |= dict.fromkeys(n for r in self.rounds for n in r.released)
        local = dict.fromkeys(
            n for r in self.rounds for n in r.private if not n.startswith("num_")
        )
        return [*found, *(n for n in local if n not in found)]

    def _record(self, record: RoundRecord, state: Any, params: Params) -> None:
        if self.private and (record.private or record.seconds is not None):
            raise AssertionError("a released history holds no private values")
        self.rounds.append(record)
        self.state, self.params = state, params


def _place(path: Any) -> Path:
    check.instance((str, os.PathLike), 'pass for example "history.csv"', path=path)
    place = Path(path)
    if not place.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"path must be in a folder that exists, got {str(place)!r}; make the "
            "folder first, or choose another."
        )
    return place


def _epsilon_name(hypothetical: bool) -> str:
    """Names the column: what reads `epsilon` must not find a hypothetical one."""
    return "hypothetical_epsilon" if hypothetical else "epsilon"


def _budget(
    epsilon: float | None, delta: float | None, *, hypothetical: bool = False
) -> str:
    if hypothetical:
        budget = _budget(epsilon, delta).removesuffix(", as it would be")
        return f"hypothetical {budget}; of a run with a larger cohort, not of this one"
    if epsilon is None:
        return "epsilon unknown: name a delta, privacy.epsilon(rounds=..., delta=...)"
    if math.isinf(epsilon):
        return "no privacy guarantee: epsilon is infinite"
    return f"epsilon {up(epsilon)} at delta {delta:g}, as it would be"


def _bars(values: np.ndarray) -> str:
    """Draws values as a line of block characters, the lowest to the highest."""
    if len(values) > _BAR_COUNT:
        parts = np.array_split(values, _BAR_COUNT)
        values = np.array([part[-1] for part in parts])
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return ""
    low, span = known.min(), np.ptp(known) or 1.0
    top = len(_BARS) - 1
    return "".join(
        _BARS[round((v - low) / span * top)] if np.isfinite(v) else " " for v in values
    )


def _json_number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def host_numbers(values: Any) -> dict[str, float]:
    """Converts a mapping or named tuple of scalar arrays to Python floats."""
    values = values if isinstance(values, dict) else values._asdict()
    return {name: float(value) for name, value in jax.device_get(values).items()}
