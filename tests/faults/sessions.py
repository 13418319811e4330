"""Scripts that use a ledger as a run does, and tell what leaves the process.

Each goes on wherever a process before it was stopped.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from jaxfed.ledger import Ledger, LedgerError

RUN = {
    "plan": hashlib.sha256(b"plan").hexdigest(),
    "inputs": b"data",
    "program": b"code",
    "execution": {},
}
ROUNDS = 4000
Say = Callable[[str], None]


def places(folder: Path, anchored: bool) -> tuple[Path, Path | None]:
    """Returns where the ledger and its anchor are; the anchor in another folder."""
    (folder / "elsewhere").mkdir(exist_ok=True)
    anchor = folder / "elsewhere" / "anchor" if anchored else None
    return folder / "ledger", anchor


def digest(*words: object) -> bytes:
    return hashlib.sha256(repr(words).encode()).digest()


def create(folder: Path, anchored: bool) -> Ledger:
    path, anchor = places(folder, anchored)
    return Ledger.create(path, epsilon=5.0, delta=1e-5, anchor=anchor)


def opened(folder: Path, anchored: bool, **options) -> Ledger:
    path, anchor = places(folder, anchored)
    return Ledger.open(path, anchor=anchor, **options)


def planned(ledger: Ledger, name: str):
    """Returns a mechanism, planned now if it was not yet."""
    from dp_accounting import dp_event

    found = {m.name: m for m in ledger.mechanisms}.get(name)
    if found is None:
        found = ledger.plan(dp_event.GaussianDpEvent(100.0), ROUNDS, name=name)
    return found


def release(say: Say, permit) -> None:
    """What an adversary sees: only if the permit says that it may."""
    if permit.state == "durable":
        say(permit._charge.hash)


def work(ledger: Ledger, say: Say, *, charges: int, rounds: int) -> None:
    """Charges one by one, then goes on with a run whose models the ledger notes."""
    single, many = planned(ledger, "single"), planned(ledger, "run")
    for _ in range(charges):
        release(say, ledger.charge(single.name))
    run = ledger.begin(many, **RUN)
    for index in range(many.rounds, many.rounds + rounds):
        with run.spending(index, digest(index)) as permit:
            permit.pays_for(hashlib.sha256(digest(index)).hexdigest())
        release(say, permit)


def whole(folder: Path, say: Say, *, anchored: bool) -> None:
    """Creates, plans, charges, closes; opens, charges, closes."""
    with create(folder, anchored) as ledger:
        work(ledger, say, charges=2, rounds=1)
    again(folder, say, anchored=anchored)


def again(folder: Path, say: Say, *, anchored: bool) -> None:
    """Opens, charges, closes."""
    with opened(folder, anchored) as ledger:
        work(ledger, say, charges=1, rounds=1)


def crowded(folder: Path, say: Say, *, anchored: bool) -> None:
    """The same with a reader who keeps the file open, and a log that is folded."""
    with create(folder, anchored) as ledger:
        ledger._store._connection.execute("PRAGMA wal_autocheckpoint=6")
        work(ledger, say, charges=1, rounds=1)
        with opened(folder, anchored, read_only=True):
            work(ledger, say, charges=3, rounds=2)
            ledger.close()
        with opened(folder, anchored) as ledger:
            ledger._store._connection.execute("PRAGMA wal_autocheckpoint=6")
            work(ledger, say, charges=3, rounds=2)


def endless(folder: Path, say: Say, *, anchored: bool) -> None:
    """Opens, charges and closes until somebody kills it."""
    while True:
        with contextlib.closing(opened(folder, anchored)) as ledger:
            work(ledger, say, charges=3, rounds=2)


def too_early(folder: Path, say: Say, *, anchored: bool) -> None:
    """A seeded defect: lets go of a release before its spend is on disk."""
    with opened(folder, anchored) as ledger:
        single = planned(ledger, "single")
        for _ in range(2):
            with ledger.spending(single, single.rounds) as permit:
                say(permit._charge.hash)


def replayed(folder: Path, say: Say, *, anchored: bool) -> None:
    """Releases the same three rounds every time, and tells the bits of their noise."""
    import jax

    with opened(folder, anchored) as ledger:
        run = ledger.begin(planned(ledger, "run"), **RUN)
        for index in range(2, 5):  # the first that no process has released
            with run.spending(index, digest(index)) as permit:
                bits = jax.random.key_data(permit.key(digest(index))).tolist()
            release(lambda _, i=index, b=bits: say(json.dumps([i, b])), permit)


SESSIONS = {
    function.__name__: function
    for function in (replayed, whole, again, crowded, endless, too_early)
}


class Found:
    """What a reader of the disk finds after a fault.

    Args:
        folder: of the ledger; it is opened, so that it changes.
        released: the hashes of the entries that paid for what left the process.
        anchored: whether there is an anchor.
    """

    def __init__(self, folder: Path, released: list[str], anchored: bool):
        self.wrong: list[str] = []
        self.charges: list[str] = []
        self.error = ""
        try:
            self._look(folder, anchored)
        except LedgerError as error:
            self.error = str(error)
            if released or not self._is_unfinished(folder, anchored):
                self.wrong.append(f"unreadable: {error}")
        missing = len(set(released) - set(self.charges))
        if missing:
            self.wrong.append(f"under-count: {missing} of {len(released)} missing")
        self.extra = len(self.charges) - len(released)

    def _look(self, folder: Path, anchored: bool) -> None:
        with opened(folder, anchored, read_only=True) as ledger:
            seen = [entry.hash for entry in ledger.history()]
        with opened(folder, anchored) as ledger:
            entries = ledger.history()
            if ledger.verify().entries != len(entries):
                self.wrong.append("verify counts other entries")
        if [entry.hash for entry in entries] != seen:
            self.wrong.append("a reader sees other entries than a writer")
        self.charges = [e.hash for e in entries if e.kind == "charge"]

    def _is_unfinished(self, folder: Path, anchored: bool) -> bool:
        """Whether a creation was cut off, and the message says so and helps."""
        if not (folder / "ledger").exists():
            with contextlib.suppress(OSError):
                (folder / "ledger-secret").unlink()
        elif "remove it with its secret" in self.error:
            for path in [*folder.glob("ledger*"), *folder.glob("elsewhere/*")]:
                path.unlink()
        else:
            return False
        create(folder, anchored).close()
        return True
