"""What clients keep between rounds, on the host: in memory, or in a file.

One row a client. A round's devices get the rows of its own clients, block by block, and
hand them back, so that neither a device nor, with a file, this process holds more than
a cohort. A client that never took part has no row of its own.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxfed.engine import _devices
from jaxfed.engine._feed import Fed
from jaxfed.engine._state_rows import InFile, InMemory, Rows
from jaxfed.typing import PyTree

_AT_ONCE = 1 << 24  # bytes that are copied to or from a saved file


class Kept(NamedTuple):
    """What the clients of a block keep from now on."""

    block: Fed
    states: PyTree
    """Leaves (devices, chunks, lanes, ...)."""


class ClientStates:
    """The states of all clients.

    Attributes:
        is_empty: whether clients keep nothing.
        is_on_disk: whether states lie in a file.

    Args:
        first: the state before a client's first round.
        num_clients: how many clients there are.
        mesh: the devices of the run.
        most_bytes: larger states of all clients lie in a file, not in memory.
        directory: where the file is made, which has no name there and is gone with the
            process; where temporary files are if not given.

    Raises:
        RuntimeError: the file cannot be made.
        TypeError: a client keeps something else than numbers.
    """

    def __init__(
        self,
        first: PyTree,
        num_clients: int,
        *,
        mesh: Mesh,
        most_bytes: int,
        directory: str | None = None,
    ):
        self._structure = jax.tree.structure(first)
        self._first = [_as_numbers(leaf) for leaf in jax.tree.leaves(first)]
        self.is_empty = not self._first
        self._has_begun = np.zeros(num_clients, bool)
        self._mesh, self._waiting = mesh, list[Kept]()
        # new memory costs more than its use: the kernel clears it page by page
        self._lent: dict[int, list[np.ndarray]] = {}
        self._spare: dict[tuple[int, ...], list[np.ndarray]] = {}
        self._rooms: dict[tuple[int, ...], PyTree] = {}
        self._row_bytes = sum(leaf.nbytes for leaf in self._first)
        self.is_on_disk = self._row_bytes * num_clients > most_bytes
        self._rows: Rows = (
            InFile(self._first, directory)
            if self.is_on_disk
            else InMemory(self._first, num_clients)
        )

    def of_block(self, block: Fed) -> PyTree:
        """Returns what a block's clients keep, leaves (devices, chunks, lanes, ...)."""
        if self.is_empty:
            return self._structure.unflatten([])
        shape = self._shape(block)
        leaves = self._spare.pop(shape, None) or self._empty(shape)
        self._lent[id(block.host)] = leaves
        for place in _devices.local_places(self._mesh):
            numbers = block.clients(place).reshape(-1)
            out = [
                leaf[place].reshape(len(numbers), *leaf.shape[3:]) for leaf in leaves
            ]
            self._read(numbers, out)
        arrays = [_devices.one_each(self._mesh, leaf) for leaf in leaves]
        return self._structure.unflatten(arrays)

    def room(self, block: Fed) -> PyTree:
        """Returns memory on the devices for what a block's clients will keep."""
        shape = self._shape(block)
        room = self._rooms.pop(shape, None)
        if room is None:
            leaves = [(shape + a.shape, a.dtype) for a in self._first]
            return self._structure.unflatten(
                [_devices.zeros_each(self._mesh, *leaf) for leaf in leaves]
            )
        return room

    def keep(self, block: Fed, states: PyTree) -> None:
        """Takes over what a block's clients keep, and its memory."""
        if not self.is_empty:
            self._waiting.append(Kept(block, states))
            while len(self._waiting) > 1:
                self._put(self._waiting.pop(0))

    def settle(self) -> None:
        """Waits until everything that is kept lies here."""
        while self._waiting:
            self._put(self._waiting.pop(0))
        self._lent.clear()  # the rest is of rounds that were run again

    def of_clients(self, numbers: np.ndarray) -> PyTree:
        """Returns the states of some clients, leaves (count, ...). Private.

        Raises:
            ValueError: there are no such clients.
        """
        numbers, count = np.asarray(numbers), len(self._has_begun)
        is_whole = numbers.ndim == 1 and numbers.dtype.kind in "iu"
        if not is_whole or ((numbers < 0) | (numbers >= count)).any():
            raise ValueError(
                f"clients must be numbers from 0 to {count - 1}, got {numbers!r}; pass "
                "for example np.arange(data.num_clients)."
            )
        self.settle()
        leaves = self._empty((len(numbers),))
        self._read(numbers, leaves)
        return self._structure.unflatten(leaves)

    def save(self, path: Path) -> str:
        """Writes a file with the rows of all who took part; returns its SHA-256.

        Raises:
            OSError: it cannot be written.
        """
        self.settle()
        digest = hashlib.sha256()
        with path.open("wb") as file:
            os.chmod(path, 0o600)
            for part in self._saved():
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def load(self, path: Path) -> None:
        """Takes over the states that `save` wrote.

        Raises:
            OSError: it cannot be read.
            ValueError: it holds states of another shape.
        """
        self.settle()
        with path.open("rb") as file:
            packed = file.read((len(self._has_begun) + 7) // 8)
            bits = np.frombuffer(packed, np.uint8)
            has_begun = np.unpackbits(bits, count=len(self._has_begun)).astype(bool)
            size = len(packed) + self._row_bytes * int(has_begun.sum())
            if os.fstat(file.fileno()).st_size != size:
                raise ValueError(
                    f"{path} must have the {size} bytes of this run's client states; "
                    "bring back what the run began with."
                )
            for numbers in self._parts(has_begun):
                leaves = self._empty((len(numbers),))
                for leaf in leaves:
                    file.readinto(leaf)
                self._rows.write(numbers, leaves)
        self._has_begun = has_begun

    def _saved(self) -> Iterator[Any]:
        """Yields the bytes of a saved file."""
        yield np.packbits(self._has_begun)
        for numbers in self._parts(self._has_begun):
            leaves = self._empty((len(numbers),))
            self._rows.read(numbers, np.ones(len(numbers), bool), leaves)
            yield from leaves

    def _parts(self, has_begun: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the numbers of clients with a row, a part of them at a time."""
        numbers = np.flatnonzero(has_begun)
        step = max(1, _AT_ONCE // max(1, self._row_bytes))
        for start in range(0, len(numbers), step):
            yield numbers[start : start + step]

    def _empty(self, shape: tuple[int, ...]) -> list[np.ndarray]:
        """Returns leaves (*shape, ...), not filled."""
        return [_devices.empty((*shape, *a.shape), a.dtype) for a in self._first]

    def _read(self, numbers: np.ndarray, out: list[np.ndarray]) -> None:
        """Fills rows; those of padding, and of newcomers, with the first state."""
        known = numbers < len(self._has_begun)
        known[known] = self._has_begun[numbers[known]]
        self._rows.read(numbers, known, out)
        if not known.all():
            for leaf, first in zip(out, self._first, strict=True):
                leaf[~known] = first

    def _put(self, kept: Kept) -> None:
        block, states = kept
        for place, leaves in self._on_host(states):
            numbers = block.clients(place).reshape(-1)
            real = numbers < len(self._has_begun)
            numbers = numbers[real]
            rows = [leaf.reshape(len(real), *leaf.shape[2:]) for leaf in leaves]
            is_start = bool(real[: len(numbers)].all())  # then nothing is copied
            chosen = slice(len(numbers)) if is_start else real
            self._rows.write(numbers, [leaf[chosen] for leaf in rows])
            self._has_begun[numbers] = True
        # all is read, so that no device is at work on what it was lent
        shape = self._shape(block)
        self._rooms = {shape: states}
        mine = self._lent.pop(id(block.host), None)
        if mine is not None:
            self._spare = {shape: mine}

    def _shape(self, block: Fed) -> tuple[int, ...]:
        return (self._mesh.devices.size, *block.clients(0).shape)

    def _on_host(self, states: PyTree) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Yields each device's place and leaves (chunks, lanes, ...)."""
        leaves = jax.tree.leaves(states)
        if jax.process_count() > 1:  # whoever gets a client next needs its state
            same = _devices.replicated(self._mesh)
            everyones = jax.jit(lambda a: a, out_shardings=same)(leaves)
            whole = [np.asarray(a.addressable_data(0)) for a in everyones]
            for place in range(self._mesh.devices.size):
                yield place, [leaf[place] for leaf in whole]
            return
        for place, parts in enumerate(_devices.copies(self._mesh, leaves)):
            yield place, [np.asarray(part)[0] for part in parts]


def _as_numbers(leaf: Any) -> np.ndarray:
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        raise TypeError(
            f"init_client must return numbers, got {dtype}; keep "
            "jax.random.key_data(key)."
        )
    array = np.asarray(leaf)
    return array.astype(
        jax.dtypes.canonicalize_dtype(array.dtype)
    )  # as devices have it
