"""Numbered rows of arrays, in memory or in a file: where client states lie."""

import tempfile
import weakref
from typing import Protocol

import numpy as np


class Rows(Protocol):
    """Numbered rows of leaves."""

    def read(
        self, numbers: np.ndarray, known: np.ndarray, out: list[np.ndarray]
    ) -> None:
        """Fills `out`, leaves (count, ...), where rows are known to be written."""
        ...

    def write(self, numbers: np.ndarray, leaves: list[np.ndarray]) -> None:
        """Takes over leaves (count, ...)."""
        ...


class InMemory:
    """Rows in memory; those never written take none."""

    def __init__(self, first: list[np.ndarray], count: int):
        self._leaves = [np.zeros((count, *leaf.shape), leaf.dtype) for leaf in first]

    def read(
        self, numbers: np.ndarray, known: np.ndarray, out: list[np.ndarray]
    ) -> None:
        if known.any():
            for leaf, place in zip(self._leaves, out, strict=True):
                np.take(leaf, numbers, axis=0, out=place, mode="clip")  # no buffer

    def write(self, numbers: np.ndarray, leaves: list[np.ndarray]) -> None:
        for leaf, new in zip(self._leaves, leaves, strict=True):
            leaf[numbers] = new


class InFile:
    """Rows in a file without a name; those never written take no space."""

    def __init__(self, first: list[np.ndarray], directory: str | None):
        self._size = sum(leaf.nbytes for leaf in first)
        self._where = directory or tempfile.gettempdir()
        try:
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 -- open as long as the run
                dir=self._where, buffering=0
            )
        except OSError as error:
            raise self._error("opened", error) from error
        weakref.finalize(self, self._file.close)

    def read(
        self, numbers: np.ndarray, known: np.ndarray, out: list[np.ndarray]
    ) -> None:
        row = np.empty(self._size, np.uint8)
        for place in np.flatnonzero(known).tolist():
            self._file.seek(int(numbers[place]) * self._size)
            if self._file.readinto(row) != self._size:
                raise self._error("read", OSError("it is shorter than it was written"))
            start = 0
            for leaf in out:
                stop = start + leaf[place].nbytes
                leaf[place] = row[start:stop].view(leaf.dtype).reshape(leaf.shape[1:])
                start = stop

    def write(self, numbers: np.ndarray, leaves: list[np.ndarray]) -> None:
        try:
            for place, number in enumerate(numbers.tolist()):
                self._file.seek(number * self._size)
                row = b"".join(leaf[place].tobytes() for leaf in leaves)
                done = 0
                while done < len(row):
                    done += self._file.write(row[done:])
        except OSError as error:
            raise self._error("written", error) from error

    def _error(self, action: str, error: OSError) -> RuntimeError:
        return RuntimeError(
            f"what clients keep lies in a file in {self._where}, which could not be "
            f"{action}: {error}; pass Strategy(state_directory=...) with more space."
        )
