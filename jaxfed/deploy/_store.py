"""What a coordinator keeps on disk: its plan, its attempts, and released models.

No report, and no sum of reports, is ever written. A model is written before the ledger
pays for it and named by its hash; the entry that pays names the same hash. So after a
crash, at any moment, the newest charge has its model, and a model that nobody paid for
is removed unread. (Where reports are paid for before they come, the entry names the
model that clients were sent, and `after.json` the one that came of it.)
"""

import contextlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxfed.vault import _task

_PLAN, _ATTEMPTS, _MODEL = "plan", "attempts.jsonl", "model"
_RECORDS, _AFTER = "records.json", "after.json"


class Attempt(NamedTuple):
    """One try at a round; public but for nothing: no counts."""

    round: int
    attempt: int
    state: str
    """"opened", "abandoned" or "released"."""


class After(NamedTuple):
    """The model after a round whose reports were paid for before they came."""

    round: int
    model: str
    """Its hash."""
    seal: str
    """An HMAC of both, by the ledger's secret."""


class StoreError(RuntimeError):
    """The folder of a coordinator cannot be read or written; nothing was released."""


class Store:
    """The folder of one run.

    Args:
        folder: made if it is not there.

    Raises:
        StoreError: it cannot be used.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed(error) from None

    def plan(self) -> bytes | None:
        """Returns the plan that the run began with, as it was sent."""
        return self._read(_PLAN)

    def keep_plan(self, sealed: bytes) -> None:
        """Keeps the plan."""
        self._write(_PLAN, sealed)

    def attempts(self) -> list[Attempt]:
        """Returns all attempts so far; a last line that was cut off is left out."""
        text = (self._read(_ATTEMPTS) or b"").decode("utf-8", "replace")
        found = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError, TypeError):
                found.append(Attempt(**json.loads(line)))
        return found

    def note(self, attempt: Attempt) -> None:
        """Writes down an attempt, durably."""
        place = self._folder / _ATTEMPTS
        try:
            with open(place, "ab") as file:
                if file.tell() and not self._ends_line(place):
                    file.write(b"\n")
                file.write(json.dumps(attempt._asdict()).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failed(error) from None

    def keep_model(self, leaves: Sequence[Any]) -> str:
        """Writes a model, durably; returns its hash."""
        file = io.BytesIO()
        arrays: dict[str, Any] = {
            f"leaf_{i:05d}": np.asarray(leaf) for i, leaf in enumerate(leaves)
        }
        np.savez(file, **arrays)
        data = file.getvalue()
        digest = _task.digest(data)
        self._write(f"{_MODEL}-{digest}.npz", data)
        return digest

    def model(self, digest: str) -> list[np.ndarray]:
        """Reads the model of a hash.

        Raises:
            StoreError: it is missing, or not as it was written.
        """
        data = self._read(f"{_MODEL}-{digest}.npz")
        if data is None or _task.digest(data) != digest:
            raise StoreError(
                f"{self._folder} must hold the model {digest[:12]} that the ledger "
                "paid for last, whole; bring back a copy of that file, or begin a run "
                "under another name."
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return [found[name] for name in sorted(found.files)]

    def keep_after(self, index: int, model: str, seal: str) -> None:
        """Keeps which model came of a round."""
        text = json.dumps(After(index, model, seal)._asdict())
        self._write(_AFTER, text.encode("ascii"))

    def after(self) -> After | None:
        """Returns which model came of the last round, if it is known."""
        try:
            found = After(**json.loads(self._read(_AFTER) or b"{}"))
        except (ValueError, TypeError):
            return None
        return found if all(isinstance(x, str) for x in found[1:]) else None

    def records(self) -> list[dict[str, Any]]:
        """Returns what was recorded of released rounds."""
        return list(json.loads(self._read(_RECORDS) or b"[]"))

    def keep_records(self, records: Sequence[dict[str, Any]]) -> None:
        """Keeps what is recorded of all released rounds."""
        self._write(_RECORDS, json.dumps(list(records)).encode())

    def keep_only(self, digest: str | None) -> None:
        """Removes all models but one."""
        try:
            for place in self._folder.glob(f"{_MODEL}-*"):
                if place.name != f"{_MODEL}-{digest}.npz":
                    place.unlink()
        except OSError as error:
            raise self._failed(error) from None

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from None

    def _write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all, durably."""
        place = self._folder / name
        draft = place.with_name(f"{_MODEL}-draft.new")
        try:
            with open(draft, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, place)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._failed(error) from None

    def _ends_line(self, place: Path) -> bool:
        with open(place, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self._folder} could not be read or written: {error.strerror or error}; "
            "nothing was released. Free some space, or let this process write there."
        )
