"""What a vault remembers of the rounds it took part in, durably, before it answers.

The server keeps a budget; a vault does not have to believe it. Its own record refuses
rounds that come too often, too many, twice with another model, out of order, or under
another plan than the run began with. Each round gets 32 secret bytes, written
to disk before anything is computed: whoever is asked the same again, after a crash,
answers with the same bytes, and nobody gets two noises for one answer.

SQLite, with every commit forced to disk. A record that lost its end cannot know it: a
vault that is restored from an older copy should be enrolled anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import sqlite3
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from jaxfed.vault._errors import Refused, TooSoon

_APPLICATION = 0x6A787661
_START = "0" * 64
_TABLE = (
    "CREATE TABLE IF NOT EXISTS participations (number INTEGER PRIMARY KEY, "
    "text TEXT NOT NULL, seed BLOB NOT NULL, hash TEXT NOT NULL)"
)


class Task(NamedTuple):
    """What a server asks for; public."""

    run: str
    """Which run, of which ledger."""
    round: int
    """From 0."""
    attempt: int
    """From 0: a round that was abandoned is tried again."""
    plan: str
    """The hash of the plan."""
    model: str
    """The hash of all that the server sent: model, clip norms and random words."""


class Limits(NamedTuple):
    """What a vault's owner and a plan allow, whichever is stricter."""

    most_rounds: int
    """Of one run."""
    least_separation: int
    """Rounds from one participation to the next."""
    most_attempts: int = 1 << 30
    """At one round."""
    most_runs: int = 1 << 30
    """Runs in all: each has a budget of its own."""


class Participation:
    """The record of one vault.

    Args:
        path: of the file; made if it is not there.

    Raises:
        Refused: it is damaged, or no such file.
    """

    def __init__(self, path: Path):
        self._path = path
        with self._errors():
            path.touch(mode=0o600)
            path.chmod(0o600)  # the seeds of noise are in it
            self._connection = sqlite3.connect(
                str(path), isolation_level=None, timeout=30
            )
            self._close = weakref.finalize(self, self._connection.close)
            execute = self._connection.execute
            execute("PRAGMA synchronous=EXTRA")  # the folder too, after each commit
            (application,) = execute("PRAGMA application_id").fetchone()
            (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and application != _APPLICATION:
                raise Refused(f"{path} must be a vault's record, got another file.")
            execute(f"PRAGMA application_id={_APPLICATION}")
            execute(_TABLE)
            self._all()

    def join(self, task: Task, limits: Limits) -> bytes:
        """Takes part in a round, durably; returns its 32 secret bytes.

        The very same task again gives the same bytes, and counts once; so does another
        attempt at the round. Only the last round of a run can be asked for again: what
        the data say today, with the noise of an older one, would be a second release.

        Raises:
            Refused: the round is not one to take part in; nothing was written.
        """
        with self._errors(), self._transaction():
            known = self._all()
            mine = [(one, seed) for one, seed in known if one.run == task.run]
            for one, seed in mine:
                if (one.round, one.attempt) == (task.round, task.attempt):
                    _require(
                        one == task, "is asked for twice, with another model", task
                    )
                    is_last = task.round == mine[-1][0].round
                    _require(is_last, "comes after a later one", task)
                    return seed
            runs = {one.run for one, _ in known} | {task.run}
            _require(
                len(runs) <= limits.most_runs,
                "is of one run more than is allowed (most_runs)",
                task,
            )
            _check(task, [one for one, _ in mine], limits)
            tries = sum(one.round == task.round for one, _ in mine)
            if tries >= limits.most_attempts:  # the next round may be another matter
                words = "is tried once more than is allowed (most_attempts)"
                raise TooSoon(_words(words, task))
            # a round that is tried again has the bytes it had: one noise for one update
            known_seeds = (found for one, found in mine if one.round == task.round)
            seed = next(known_seeds, None) or secrets.token_bytes(32)
            self._append(task, seed)
        return seed

    def tasks(self) -> list[Task]:
        """Returns all participations, in order."""
        with self._errors():
            return [one for one, _ in self._all()]

    def close(self) -> None:
        """Closes the file."""
        self._close()

    def _all(self) -> list[tuple[Task, bytes]]:
        """Reads everything, and checks that it is as it was written."""
        rows = self._connection.execute(
            "SELECT number, text, seed, hash FROM participations ORDER BY number"
        ).fetchall()
        found, previous = [], _START
        for place, (number, text, seed, digest) in enumerate(rows):
            if (number, digest) != (place, _hash(previous, text, seed)):
                raise Refused(
                    f"{self._path} must be as it was written, but record {place} was "
                    "changed or damaged; bring back a copy, or enrol this vault anew."
                )
            found.append((Task(*json.loads(text)), bytes(seed)))
            previous = digest
        return found

    def _append(self, task: Task, seed: bytes) -> None:
        rows = self._connection.execute(
            "SELECT number, hash FROM participations ORDER BY number DESC LIMIT 1"
        ).fetchall()
        number, previous = (rows[0][0] + 1, rows[0][1]) if rows else (0, _START)
        text = json.dumps(list(task))
        self._connection.execute(
            "INSERT INTO participations VALUES (?, ?, ?, ?)",
            (number, text, seed, _hash(previous, text, seed)),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None, None, None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _errors(self) -> Generator[None, None, None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            raise Refused(
                f"{self._path} could not be read or written: {error}; nothing was "
                "sent. Mend the disk, or let this process write there."
            ) from error


def _check(task: Task, mine: list[Task], limits: Limits) -> None:
    """Refuses a new round of a run."""
    _require(task.round >= 0 and task.attempt >= 0, "has no such number", task)
    if not mine:
        _require(limits.most_rounds >= 1, "is one more than is allowed", task)
        return
    last = mine[-1]
    _require(
        task.plan == mine[0].plan, "has another plan than its run began with", task
    )
    place, before = (task.round, task.attempt), (last.round, last.attempt)
    _require(place > before, "comes after a later one: the server went back", task)
    if task.round == last.round:  # once more, since the server abandoned it
        _require(
            task.model == last.model, "is tried again, but with another model", task
        )
        return
    apart = task.round - last.round
    if apart < limits.least_separation:
        raise TooSoon(_words("comes too soon after the last", task))
    rounds = len({one.round for one in mine})
    _require(rounds < limits.most_rounds, "is one more than is allowed", task)


def _require(condition: bool, what: str, task: Task) -> None:
    if not condition:
        raise Refused(_words(what, task))


def _words(what: str, task: Task) -> str:
    return (
        f"round {task.round} (attempt {task.attempt}) of run {task.run[:12]} {what}; "
        "this vault does not take part."
    )


def _hash(previous: str, text: str, seed: bytes) -> str:
    return hashlib.sha256(previous.encode() + text.encode() + bytes(seed)).hexdigest()
