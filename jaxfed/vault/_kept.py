"""What an algorithm keeps at a client between its rounds; it never leaves the vault.

A file a round, so that a round which is asked for again begins where it began before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jaxfed.vault import _wire
from jaxfed.vault._errors import Refused, WireError
from jaxfed.vault._numpy import np
from jaxfed.vault._plan import Plan
from jaxfed.vault._task import Task, report_types
from jaxfed.vault._types import Type


class Kept:
    """The states of one vault.

    Args:
        folder: of this vault.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def before(self, task: Task, plan: Plan) -> list[np.ndarray]:
        """Returns the state before a round: that of the last one, or the first.

        Raises:
            Refused: it was damaged.
        """
        expected = _types(plan)
        files = self._files("kept", task)
        found = [place for place in files if _round(place) < task.round]
        if not expected or not found:
            return list(plan.start)
        try:
            arrays, _ = _wire.decode(found[-1].read_bytes(), expected)
        except (OSError, WireError) as error:
            raise Refused(
                f"{found[-1]} must hold this vault's state: {error}; bring back a "
                "copy, or enrol this vault anew."
            ) from None
        return [arrays[name] for name in expected]

    def after(self, task: Task, plan: Plan, values: Sequence[np.ndarray]) -> None:
        """Keeps the state after a round, durably.

        Raises:
            Refused: it could not be written.
        """
        if not plan.kept:
            return
        self._write("kept", task, _wire.encode(dict(zip(_types(plan), values)), {}))

    def drop(self, task: Task) -> None:
        """Forgets the state after a round whose report did not count.

        Raises:
            Refused: it could not be removed.
        """
        try:
            self._place("kept", task).unlink(missing_ok=True)
        except OSError as error:
            raise Refused(
                f"{self._place('kept', task)} could not be removed: {error.strerror}."
            ) from None

    def report(self, task: Task, plan: Plan) -> list[np.ndarray] | None:
        """Returns what was already computed to be sent in a round, if it was.

        Raises:
            Refused: it was damaged.
        """
        place = self._place("report", task)
        if not place.exists():
            return None
        expected = report_types(plan.update, counts=False)
        try:
            arrays, _ = _wire.decode(place.read_bytes(), expected)
        except (OSError, WireError) as error:
            raise Refused(
                f"{place} must hold the report of round {task.round}: {error}; bring "
                "back a copy. Another report of the round would tell more."
            ) from None
        return [arrays[f"update/{one.name}"] for one in plan.update]

    def keep_report(self, task: Task, plan: Plan, values: Sequence[np.ndarray]) -> None:
        """Keeps a report durably before it is sent: a round has one, whatever changes.

        Raises:
            Refused: it could not be written.
        """
        names = [f"update/{one.name}" for one in plan.update]
        self._write("report", task, _wire.encode(dict(zip(names, values)), {}))

    def _write(self, kind: str, task: Task, data: bytes) -> None:
        place = self._place(kind, task)
        draft = place.with_suffix(".new")
        try:
            with open(draft, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, place)
            self._settle()
            for old in self._files(kind, task)[:-2]:
                old.unlink()
        except OSError as error:
            raise Refused(
                f"{place} could not be written: {error.strerror}; nothing was sent."
            ) from None

    def _settle(self) -> None:
        """Forces the folder to disk: a name that a power cut takes away was no name."""
        if os.name == "nt":  # which has no such thing
            return
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _place(self, kind: str, task: Task) -> Path:
        return self._folder / f"{kind}-{task.run}-{task.round:08d}"

    def _files(self, kind: str, task: Task) -> list[Path]:
        found = self._folder.glob(f"{kind}-{task.run}-*")
        return sorted((one for one in found if not one.suffix), key=_round)


def _round(place: Path) -> int:
    return int(place.name.rpartition("-")[2])


def _types(plan: Plan) -> dict[str, Type]:
    return {
        f"{number:04d}/{one.name}": one.type for number, one in enumerate(plan.kept)
    }
