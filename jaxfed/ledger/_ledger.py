"""The ledger: what was spent, before anything was released.

Charged first, released after: an interrupted release is counted although it may never
have been made, and no release is ever made that was not counted. There are no refunds.
"""

import contextlib
import copy
import functools
import os
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar

from jaxfed import _check as check
from jaxfed.ledger import _anchor, _opening, _rows
from jaxfed.ledger._book import MANY, Book, checked_terms
from jaxfed.ledger._budget import shown
from jaxfed.ledger._mechanism import Mechanism
from jaxfed.ledger._opening import Opened
from jaxfed.ledger._owner import Owner
from jaxfed.ledger._paid_run import PaidRun
from jaxfed.ledger._permit import Permit
from jaxfed.ledger._rows import Entry
from jaxfed.ledger._writer import Writer
from jaxfed.privacy import Privacy

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _alone(
    method: Callable[Concatenate["Ledger", _P], _T],
) -> Callable[Concatenate["Ledger", _P], _T]:
    """Lets no other thread spend meanwhile: what was checked holds when written."""

    @functools.wraps(method)
    def alone(self: "Ledger", *arguments: _P.args, **options: _P.kwargs) -> _T:
        with self._store.mutex:
            return method(self, *arguments, **options)

    return alone


class Verified(NamedTuple):
    """What `verify` found."""

    entries: int
    head: str
    """The hash of the last entry: publish it, and nobody can change what is before."""
    is_sealed: bool
    """Whether the whole file was compared with its seal, and not only its entries."""
    is_authentic: bool
    """Whether each entry was written with the ledger's secret, which was there."""


class Ledger:
    """A privacy budget on disk; made by `create` and `open`, never by its class.

    Formal guarantee: if every release is made under a permit of this ledger, with
    noise from the permit's key, then all of them together are (epsilon, delta)-
    differentially private for its unit and relation, whatever process was killed or
    started again meanwhile; provided that the file is not replaced by an older one
    together with everything that knows a later head, and that its secret is secret.

    What it holds is public: mechanisms, counts of releases, hashes. Never cohorts,
    counts of clients, or metrics.

    Attributes:
        path: of the file, absolute and without links.
        terms: epsilon, delta, unit and relation of the budget.
    """

    def __init__(self, path: Path, opened: Opened):
        self.path, self.terms = path, opened.book.terms
        self._opened, self._book, self._store = opened, opened.book, opened.store
        self._writer = Writer(path, opened)
        weakref.finalize(self, opened.store.drop)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        epsilon: float,
        delta: float,
        unit: str = "client",
        relation: str = "zero_out",
        adaptive: bool = False,
        purpose: str = "",
        anchor: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Makes a ledger, with a new secret beside it in `<path>-secret`.

        Args:
            path: where; no file may be there. A link stands for what it points to.
            epsilon: the budget, > 0.
            delta: strictly between 0 and 1.
            unit: whose privacy it is: `"client"` or `"example"`.
            relation: what neighbours are: `"zero_out"` or `"replace_one"`.
            adaptive: whether mechanisms may be chosen after looking at releases. If
                not, all are planned before the first release, which is tighter.
            purpose: a few public words.
            anchor: a small file, best on another disk, that notes the last entry
                after every spend: an older copy of the ledger is refused then.

        Raises:
            LedgerError: there is a file already, or it cannot be written.
        """
        terms = checked_terms(
            epsilon=epsilon,
            delta=delta,
            unit=unit,
            relation=relation,
            adaptive=adaptive,
            anchored=anchor is not None,
            purpose=purpose,
        )
        where = _path(path)
        return cls(where, _opening.create(where, terms, _optional(anchor)))

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        anchor: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Opens a ledger after checking every entry; one writer, many readers.

        Args:
            path: of the file.
            read_only: to look at it; needs no secret, and may be done while another
                process writes.
            anchor: the anchor it was created with; a writer must name it.

        Raises:
            LedgerError: it is missing, changed, older than its anchor, or in use.
        """
        where = _path(path)
        opened = _opening.open_(where, _optional(anchor), read_only=read_only)
        return cls(where, opened)

    @property
    def head(self) -> str:
        """The hash of the last entry."""
        return self._book.head

    @property
    def identity(self) -> str:
        """The hash of the first entry: no other ledger has it."""
        return self._book.identity

    @property
    def mechanisms(self) -> list[Mechanism]:
        """What the ledger pays for, in the order of naming."""
        return list(self._book.mechanisms.values())

    @property
    def num_entries(self) -> int:
        """How many entries there are."""
        return len(self._book.entries)

    def history(self) -> list[Entry]:
        """Returns copies of all entries; public."""
        return copy.deepcopy(self._book.entries)

    def epsilon(self) -> float:
        """Returns the epsilon of all releases so far, at the ledger's delta.

        The guarantee is `terms.epsilon`, which this never passes. Of an adaptive
        ledger it is a report for people: whoever stops where it looks good has no
        smaller guarantee than the budget.
        """
        return self._book.budget.epsilon()

    def remaining(self, privacy: Privacy | str) -> int:
        """Returns how many more rounds of a mechanism this ledger will pay for.

        Args:
            privacy: a privacy object, or the name of a planned mechanism.
        """
        if isinstance(privacy, str):
            return self._book.remaining(self._named(privacy))
        cost = self._book.cost_of(privacy, getattr(privacy, "rounds", None) or 1)
        same = self._book.like(privacy)
        left = sum(m.left for m in same)
        if self.terms.adaptive or not (same or self._book.has_releases):
            fits = self._book.budget.rounds_left(cost)
            left = min(left, fits) if same else fits
            left = left if cost.may_repeat else min(left, cost.rounds)
        return left

    @_alone
    def plan(
        self, what: Any, rounds: int | None = None, *, name: str | None = None
    ) -> Mechanism:
        """Names a mechanism, and keeps its share of a budget that is not adaptive.

        Args:
            what: a privacy object, or an event of dp-accounting or of jaxfed.
            rounds: how many releases; the planned ones of `what` if not given.
            name: for people, and to find it again; one of its own if not given.

        Raises:
            BudgetExhausted: it does not fit, or comes after the first release of a
                ledger that is not adaptive; the message says how much would fit.
            ValueError: it has another unit, or no proof under this relation.
        """
        self._store.check_writable()
        shown = "this mechanism" if name is None else f"mechanism {name!r}"
        if name is None:
            counts = range(len(self.mechanisms) + 1, 2 * len(self.mechanisms) + 2)
            free = (f"mechanism {count}" for count in counts)
            name = next(each for each in free if self._book.named(each) is None)
        check.name("name the mechanism in a few words", name=name)
        if self._book.named(name) is not None:
            raise ValueError(
                f"name must be new in this ledger, got {name!r}; give it another one."
            )
        if isinstance(what, (list, tuple)) and not what:
            raise ValueError("what is charged must be an event, got an empty list.")
        self._book.cost_of(what, 1)  # says first what is wrong with `what`
        rounds = getattr(what, "rounds", None) if rounds is None else rounds
        remedy = "pass how many releases you plan"
        count = check.positive_integer(remedy, rounds=rounds)
        if count > MANY:
            raise ValueError(f"rounds must be <= {MANY:,}, got {count:,}; {remedy}.")
        cost = self._book.cost_of(what, count)
        self._book.budget.admit(cost, shown)
        with self._writer.transaction() as written:
            facts = Mechanism(0, name, cost).facts()
            entry = self._writer.append(written, "mechanism", facts)
        return self._book.mechanisms[entry.number]

    @_alone
    def charge(self, what: Any, *, name: str | None = None) -> Permit:
        """Spends one release, durably, and permits it.

        Args:
            what: the name of a planned mechanism, a privacy object (one round of it)
                or an event; one that is not planned yet is planned for this once, an
                event in an adaptive ledger for as often as it fits.
            name: of a mechanism that is new.

        Returns:
            A permit, whose `key(digest_of_the_sum)` gives the noise's key.

        Raises:
            BudgetExhausted: it does not fit; nothing was spent.
            LedgerError: it could not be written; nothing may be released.
        """
        mechanism = self._found(what, name)
        with self.spending(mechanism, mechanism.rounds) as permit:
            pass
        return permit

    @_alone
    def begin(
        self,
        mechanism: Mechanism,
        *,
        plan: str,
        inputs: bytes,
        program: bytes,
        execution: dict[str, Any],
    ) -> PaidRun:
        """Begins a run of a planned mechanism, or goes on with the one that began.

        Args:
            mechanism: from `plan`.
            plan: a public SHA-256 of what is run.
            inputs: a digest of all that it runs on, data included; private. The entry
                holds an HMAC of it.
            program: a digest of the code that computes the sums, kept in the same way.
            execution: public facts about what computes it, such as versions. Where they
                changed, the run goes on, but no earlier round is repeated for nothing.

        Raises:
            LedgerError: the run began with another plan or program, or on other data.
        """
        self._writer.owned(mechanism)
        facts = {
            "mechanism": mechanism.number,
            "plan": plan,
            "inputs": self._owner.sealed(inputs),
            "program": self._owner.sealed(b"program" + program),
            "execution": execution,
        }
        if mechanism.run is None and mechanism.releases:
            raise ValueError(
                f"mechanism {mechanism.name!r} was charged one release at a time; "
                "plan one of its own for a run, under another name."
            )
        if mechanism.run is None:
            with self._writer.transaction() as written:
                self._writer.append(written, "run", facts)
        else:
            mechanism.go_on(facts)
        return PaidRun(self, mechanism)

    def may_begin(self, mechanism: Mechanism, *, plan: str, inputs: bytes) -> bool:
        """Returns whether a mechanism is unused, or that of such a run; see `begin`."""
        run = mechanism.run
        if run is None:
            return not mechanism.releases
        return (run["plan"], run["inputs"]) == (plan, self._owner.sealed(inputs))

    @contextlib.contextmanager
    def spending(
        self,
        mechanism: Mechanism,
        round_index: int,
        inputs: bytes | None = None,
        *,
        about: str = "",
    ) -> Generator[Permit]:
        """Spends one release of a mechanism, together with the model it makes.

        Inside, the release is computed with the permit's key; nothing of it may leave
        the process before the end, which makes spend and model durable at once.

        Args:
            mechanism: from `plan`.
            round_index: which of its rounds, from 0, in order; or one that was released
                before, for its repetition.
            inputs: a digest of the sum that is noised and of all that decides on it.
            about: a public word that is stored with it.

        Raises:
            BudgetExhausted: it does not fit; nothing was spent.
            LedgerError: it could not be written; nothing may be released.
            ValueError: the round is not the next one.
        """
        with (
            self._store.mutex,  # what is checked must still hold when it is written
            self._writer.paying(mechanism, round_index, inputs, about) as permit,
        ):
            yield permit

    @_alone
    def verify(self) -> Verified:
        """Reads the file again and checks every entry, and that charges follow.

        Where this process may read the secret, also who wrote them. Whether plans fit
        the budget is computed by `python -m jaxfed.ledger verify`.

        Raises:
            LedgerError: something is not as it was written.
        """
        key = _opening.mac_key_of(self.path, self._opened.owner)
        rows = self._store.committed_rows(len(self._book.entries))
        entries = _rows.entries_of(rows, where=str(self.path), key=key)
        Book(entries, where=str(self.path))
        known = self._book.entries
        if [e.hash for e in entries[: len(known)]] != [e.hash for e in known]:
            raise _rows.changed(str(self.path), len(entries) - 1, "is of another chain")
        is_sealed = self._store.mode == "read" and self._store.seal is not None
        return Verified(len(entries), entries[-1].hash, is_sealed, key is not None)

    @_alone
    def export(self, path: str | os.PathLike[str]) -> None:
        """Writes everything an auditor needs as JSON; it holds no secret."""
        from jaxfed.ledger import _export

        _export.write(_path(path), self)

    def close(self) -> None:
        """Closes the file, and seals it if this was its writer."""
        with self._opened.exits:  # the lock is let go last
            self._store.close(len(self._book.entries), self.head)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        terms = self.terms
        return (
            f"Ledger({str(self.path)!r}: epsilon {shown(self.epsilon())} of "
            f"{terms.epsilon:g} spent at delta {terms.delta:g} for each {terms.unit}, "
            f"{len(self._book.entries)} entries"
            f"{', closed' if self._store.is_closed else ''})"
        )

    @_alone
    def check_writable(self) -> None:
        """Refuses to pay where it was closed, or opened to be read.

        Raises:
            LedgerError: it was.
        """
        self._store.check_writable()

    def tag(self, digest: bytes) -> str:
        """Returns twelve digits that name some data, and tell nothing about it."""
        return self._owner.sealed(b"tag" + digest)[:12]

    def check_extends(self, *, identity: str, count: int, head: str, by: str) -> None:
        """Refuses to be another ledger, or an older copy, than somebody knows of.

        Args:
            identity: of the ledger.
            count: how many entries there were.
            head: the hash of the last of those.
            by: who knows that, for the message.

        Raises:
            LedgerError: it is.
        """
        _anchor.check_extends(self._book.entries, 1, identity, self.path, by=by)
        _anchor.check_extends(self._book.entries, count, head, self.path, by=by)

    @property
    def _owner(self) -> Owner:
        return self._writer.owner

    def _named(self, name: str) -> Mechanism:
        found = self._book.named(name)
        if found is not None:
            return found
        known = [m.name for m in self.mechanisms]
        hint = check.nearest(name, known) or "plan it first with ledger.plan(...)."
        raise ValueError(
            f"a mechanism must be planned under its name, got {name!r}; known are "
            f"{', '.join(map(repr, known)) or 'none'}; {hint}"
        )

    def _found(self, what: Any, name: str | None) -> Mechanism:
        """Returns the mechanism that a charge is for, planned now if need be."""
        if isinstance(what, str):
            found = self._named(what)
            if found.run is not None:
                raise ValueError(
                    f"mechanism {what!r} belongs to a run, which is charged by "
                    "jaxfed.train or the query alone; plan one of its own for releases "
                    "of yours."
                )
            return found
        same = [m for m in self._book.like(what) if m.run is None]
        if name is not None:
            same = [m for m in same if m.name == name]
        if same:  # one that has releases left, if there is one
            return max(same, key=lambda m: m.left > 0)
        many = self.terms.adaptive and not isinstance(what, Privacy)
        return self.plan(what, MANY if many else 1, name=name)


def _path(path: str | os.PathLike[str]) -> Path:
    check.instance((str, os.PathLike), "name a file", path=path)
    return Path(os.path.realpath(path))  # whatever folder the process goes to


def _optional(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else _path(path)
