"""The anchor: a note of the last entry, kept apart from the ledger.

A ledger alone cannot know that it is an older copy of itself. Whatever remembers a
later head can: this file, a checkpoint, a vault, an auditor.
"""

from pathlib import Path

from jaxfed.ledger import _files
from jaxfed.ledger._book import Terms
from jaxfed.ledger._errors import LedgerError
from jaxfed.ledger._rows import Entry

_FIELDS = ("entries", "head")


def check(
    anchor: Path | None,
    entries: list[Entry],
    where: Path,
    terms: Terms,
    *,
    read_only: bool,
) -> None:
    """Refuses a ledger that does not extend what the anchor noted.

    Raises:
        LedgerError: it does not, or a writer does not name the anchor.
    """
    if anchor is None:
        if terms.anchored and not read_only:
            raise LedgerError(
                f"{where} must be opened with its anchor, got none; open it with "
                "jaxfed.Ledger.open(path, anchor=...), naming the file that was named "
                "when it was created, and pass that ledger."
            )
        return
    if not terms.anchored:
        raise LedgerError(
            f"{where} was created without an anchor, got {anchor}; leave anchor out."
        )
    noted = _files.read_json(anchor, _FIELDS)
    if noted is None:
        cut_off = (
            " If the creation of the ledger was cut off, remove it with its secret and "
            "create it again."
        )
        raise LedgerError(
            f"the anchor must be at {anchor}, got no such file; bring it back: without "
            "it nobody knows whether this is the latest ledger."
            + (cut_off if len(entries) == 1 else "")
        )
    fits = type(noted["entries"]) is int and type(noted["head"]) is str
    if not fits or noted["entries"] < 1:
        raise LedgerError(
            f"the anchor {anchor} must hold a count of entries and a hash, got other "
            "values; bring back a good copy of it."
        )
    check_extends(entries, noted["entries"], noted["head"], where, by=str(anchor))


def check_place(anchor: Path | None, ledger: Path) -> None:
    """Refuses an anchor that would be written over a ledger's own files.

    Raises:
        LedgerError: it would.
    """
    if anchor is None:
        return
    own = {file.resolve() for file in _files.files_of(ledger)}
    for place in (anchor, anchor.with_name(anchor.name + ".new")):
        if place.resolve() in own:
            raise LedgerError(
                f"anchor must not be one of the ledger's own files, got {anchor}; name "
                "a file of its own, best on another disk."
            )


def check_extends(
    entries: list[Entry], count: int, head: str, where: Path, *, by: str
) -> None:
    """Refuses a ledger that has not the first `count` entries somebody knows of.

    Raises:
        LedgerError: it is older, or another one.
    """
    if len(entries) < count:
        raise LedgerError(
            f"{where} must have the {count} entries that {by} knows of, got "
            f"{len(entries)}: it is an older copy, and would forget what was spent; "
            "restore the latest one."
        )
    if entries[count - 1].hash != head:
        raise LedgerError(
            f"{where} must be the ledger that {by} knows of, but entry {count - 1} is "
            "another one; it was edited, forked or swapped: restore the right one."
        )


def write(anchor: Path, count: int, head: str) -> None:
    """Notes the last entry, durably."""
    _files.replace(anchor, _files.json_text({"entries": count, "head": head}))
