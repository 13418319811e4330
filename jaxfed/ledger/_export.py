"""A ledger as one JSON document, for an auditor who has neither the file nor SQLite.

It holds the text and hash of every entry, so that the chain can be computed again with
any SHA-256, and a summary for people. It holds no secret.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxfed.ledger import _files, _rows
from jaxfed.ledger._book import Book
from jaxfed.ledger._errors import LedgerError
from jaxfed.ledger._rows import Row

if TYPE_CHECKING:
    from jaxfed.ledger._ledger import Ledger

_WHAT = "a jaxfed privacy ledger"


def write(path: Path, ledger: "Ledger") -> None:
    """Writes the document; the old file or the new one is there, never a part.

    Raises:
        LedgerError: it cannot be written, or its place is the ledger's own.
    """
    _files.checked_folder(path)
    anchor = ledger._opened.anchor
    own = _files.files_of(ledger.path) + ([] if anchor is None else [anchor])
    for place in (path, path.with_name(path.name + ".new")):
        if place.resolve() in {file.resolve() for file in own}:
            raise LedgerError(
                f"{path} must not be one of the ledger's own files, got {place.name}; "
                "name another place for what is exported."
            )
    if path.exists() and _exported(path) != ledger.identity:
        raise LedgerError(
            f"{path} must be new, or an earlier export of this ledger, got another "
            "file; name another place, or remove it."
        )
    text = json.dumps(document(ledger), indent=1, allow_nan=False) + "\n"
    with _files.writing(path):
        _files.replace(path, text)


def _exported(path: Path) -> str | None:
    """Returns which ledger a file is the export of, if it is one."""
    try:
        found = json.loads(path.read_bytes())
        return found["entries"][0]["hash"] if found["what"] == _WHAT else None
    except (OSError, LookupError, TypeError, ValueError, RecursionError):
        return None


def document(ledger: "Ledger") -> dict[str, Any]:
    """Returns the document as plain values."""
    rows = ledger._store.rows()[: ledger.num_entries]
    return {
        "what": _WHAT,
        "how_to_check": (
            "The hash of an entry is the SHA-256 of its text; its text names the hash "
            "of the entry before as previous. Check with: python -m jaxfed.ledger "
            "verify FILE"
        ),
        "entries": [{"text": row.text, "hash": row.hash} for row in rows],
        "head": ledger.head,
        "summary": _summary(ledger._book),
    }


def _summary(book: Book) -> dict[str, Any]:
    return {
        "budget": book.terms._asdict(),
        "epsilon_spent": book.budget.epsilon(),
        "mechanisms": [
            {
                "name": m.name,
                "releases": m.releases,
                "planned": m.cost.rounds,
                "uses": m.uses,
            }
            for m in book.mechanisms.values()
        ],
    }


def _check_summary(found: Any, book: Book, path: Path) -> None:
    """Refuses a summary that its entries do not give.

    Another version may have rounded epsilon further up.
    """
    wanted = _summary(book)
    spent = wanted.pop("epsilon_spent")
    is_one = isinstance(found, dict)
    said = dict(found).pop("epsilon_spent", None) if is_one else None
    rest = {k: v for k, v in found.items() if k != "epsilon_spent"} if is_one else None
    is_enough = isinstance(said, float) and said >= spent * (1 - 1e-3)
    if rest != wanted or not is_enough:
        raise LedgerError(
            f"{path} must have the summary that its entries add up to, got another "
            "one; believe the entries, or export the ledger again."
        )


def read(path: Path) -> Book:
    """Reads a document and checks its chain.

    Raises:
        LedgerError: it is not one, or was changed.
    """
    try:
        found = json.loads(path.read_text("ascii"))
        is_one = isinstance(found, dict) and found.get("what") == _WHAT
        rows = [
            Row(number, each["text"], each["hash"], "")
            for number, each in enumerate(found["entries"] if is_one else [])
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LedgerError(
            f"{path} must be what Ledger.export wrote, got a file that cannot be read "
            f"as that: {error}."
        ) from error
    if not is_one:
        raise LedgerError(f"{path} must be what Ledger.export wrote, got another file.")
    entries = _rows.entries_of(rows, where=str(path), key=None)
    if found.get("head") != entries[-1].hash:
        raise _rows.changed(str(path), len(entries) - 1, "is not the head it names")
    book = Book(entries, where=str(path))
    _check_summary(found.get("summary"), book, path)
    return book
