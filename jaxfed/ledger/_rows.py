"""Rows: canonical JSON in a chain of hashes.

A row's hash is SHA-256 over its text, and the text names the hash of the row before:
whoever knows the last hash knows all rows. A second value, HMAC-SHA256 with a key from
the ledger's secret, makes rows that only the owner can have written.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxfed.ledger._errors import LedgerError

START = "0" * 64  # the hash before the first row
_RESERVED = ("number", "previous", "time", "nonce", "kind")


class Row(NamedTuple):
    """One entry as it is stored."""

    number: int
    text: str
    """Canonical JSON."""
    hash: str
    """SHA-256 of the text, in hexadecimal."""
    mac: str
    """HMAC-SHA256 of the hash, in hexadecimal."""

    @property
    def body(self) -> dict[str, Any]:
        """The text's values."""
        return json.loads(self.text)


class Entry(NamedTuple):
    """One entry of a ledger, for people; public."""

    number: int
    time: str
    """UTC, ISO 8601."""
    kind: str
    """`"ledger"`, `"mechanism"`, `"run"`, `"charge"` or `"model"`."""
    facts: dict[str, Any]
    hash: str


def canonical(values: dict[str, Any]) -> str:
    """Returns the one text for some values: sorted, without spaces, ASCII.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def made(
    number: int,
    previous: str,
    *,
    time: str,
    kind: str,
    facts: dict[str, Any],
    key: bytes,
) -> Row:
    """Returns the row that follows the one with the hash `previous`."""
    clash = sorted(set(facts) & set(_RESERVED))
    assert not clash, clash
    values = {
        "number": number,
        "previous": previous,
        "time": time,
        "nonce": secrets.token_hex(8),  # two copies that go on apart tell apart
        "kind": kind,
    }
    text = canonical(values | facts)
    found = hashlib.sha256(text.encode("ascii")).hexdigest()
    return Row(number, text, found, mac_of(found, key))


def mac_of(digest: str, key: bytes) -> str:
    """Returns what only a holder of the key can compute from a row's hash."""
    return hmac.new(key, digest.encode("ascii"), hashlib.sha256).hexdigest()


def entries_of(rows: Iterable[Row], *, where: str, key: bytes | None) -> list[Entry]:
    """Returns the entries of rows that form an unbroken chain.

    Args:
        rows: in order.
        where: the file, for messages.
        key: of the MAC; without one it is not checked.

    Raises:
        LedgerError: a row was changed, removed, inserted or moved.
    """
    found = entries_after(rows, 0, START, where=where, key=key)
    if not found or found[0].kind != "ledger":
        raise changed(where, 0, "does not begin a ledger")
    if any(entry.kind == "ledger" for entry in found[1:]):
        raise changed(where, len(found) - 1, "begins another ledger")
    return found


def entries_after(
    rows: Iterable[Row], number: int, previous: str, *, where: str, key: bytes | None
) -> list[Entry]:
    """Returns the entries of rows that continue a chain; see `entries_of`.

    Args:
        rows: in order.
        number: how many come before them.
        previous: the hash of the last of those.
        where: the file, for messages.
        key: of the MAC, or None.
    """
    found: list[Entry] = []
    for place, row in enumerate(rows, start=number):
        _check(row, place, previous, where=where)
        if key is not None and not hmac.compare_digest(mac_of(row.hash, key), row.mac):
            raise changed(where, place, "was not written with this ledger's secret")
        previous = row.hash
        found.append(entry_of(row))
    return found


def entry_of(row: Row) -> Entry:
    """Returns the entry of a row, without checking it."""
    values = row.body
    facts = {name: value for name, value in values.items() if name not in _RESERVED}
    return Entry(row.number, str(values["time"]), str(values["kind"]), facts, row.hash)


def changed(where: str, place: int, what: str) -> LedgerError:
    """Returns the error about a row that is not what was written."""
    return LedgerError(
        f"{where} must be as it was written, but entry {place} {what}; it was changed, "
        "damaged or put together from several files: restore the last good copy that "
        "has every spend, and if there is none, count its budget as spent."
    )


def _check(row: Row, place: int, previous: str, *, where: str) -> None:
    """Makes every check that needs no secret."""
    if not all(isinstance(value, str) for value in (row.text, row.hash, row.mac)):
        raise changed(where, place, "is not text")
    try:
        values = json.loads(row.text)
        is_canonical = isinstance(values, dict) and canonical(values) == row.text
        is_canonical = is_canonical and set(_RESERVED) <= set(values)
        digest = hashlib.sha256(row.text.encode("ascii")).hexdigest()
    except (ValueError, RecursionError):
        raise changed(where, place, "is not the JSON that was written") from None
    if not is_canonical or digest != row.hash:
        raise changed(where, place, "does not have its hash")
    if row.number != place or values.get("number") != place:
        raise changed(where, place, "is not the one that belongs there")
    if values.get("previous") != previous:
        raise changed(where, place, "does not follow the one before")
