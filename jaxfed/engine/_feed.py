"""How examples reach the devices: resident, or block by block from the host.

Resident data is put there once. On CPU nothing is copied: all devices read the host's
own memory, memory-mapped files included. Data larger than the budget of a device is
streamed: each block carries the rows of its own clients, gathered and sent while the
block before it is computed.
"""

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxfed.data import FederatedData
from jaxfed.engine import _devices
from jaxfed.engine._block import Block, Layout, unpack
from jaxfed.engine._planner import rounded_up
from jaxfed.typing import PyTree


class Fed(NamedTuple):
    """A block with all that it needs, on the devices."""

    layout: Layout
    host: np.ndarray
    packed: jax.Array
    arrays: dict[str, jax.Array]
    is_last: bool
    states: PyTree = ()
    """What its clients have kept, leaves (devices, chunks, lanes, ...)."""
    room: PyTree = ()
    """Of that shape, and written over: what they keep from now on goes there."""

    def clients(self, place: int) -> np.ndarray:
        """Returns the numbers of one device's clients, (chunks, lanes)."""
        return unpack(self.layout, self.host[place]).clients  # ty: ignore


Keep = Callable[[Fed, PyTree], None]
"""Takes a block, and what its clients keep from now on."""


class Resident:
    """All examples on every device."""

    is_streamed = False

    def __init__(self, mesh: Mesh, arrays: dict[str, Any]):
        self._mesh, self._arrays = mesh, _devices.everywhere(mesh, arrays)

    def feed(self, blocks: Iterable[Block]) -> Iterator[Fed]:
        """Yields blocks as they are planned."""
        for block, is_last in _marked(blocks):
            packed = _devices.one_each(self._mesh, block.packed)
            yield Fed(block.layout, block.packed, packed, self._arrays, is_last)


class Streamed:
    """Each block with the examples of its own clients, one block ahead."""

    is_streamed = True

    def __init__(self, mesh: Mesh, data: FederatedData, arrays: dict[str, Any]):
        self._mesh, self._data, self._arrays = mesh, data, arrays
        self._rows = 1
        self._places = _devices.local_places(mesh)

    def feed(self, blocks: Iterable[Block]) -> Iterator[Fed]:
        """Yields blocks; a thread plans and gathers the next one meanwhile."""
        source = _marked(blocks)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._next, source)
            while (fed := ahead.result()) is not None:
                ahead = pool.submit(self._next, source)
                yield fed

    def _next(self, source: Iterator[tuple[Block, bool]]) -> Fed | None:
        block, is_last = next(source, (None, True))
        if block is None:
            return None
        sizes = self._data.client_sizes
        needed = max(int(sizes[owned].sum()) for owned in block.owners)
        self._rows = max(self._rows, rounded_up(needed))
        arrays = {n: self._gathered(a, block.owners) for n, a in self._arrays.items()}
        packed = _devices.one_each(self._mesh, block.packed)
        return Fed(block.layout, block.packed, packed, arrays, is_last)

    def _gathered(self, source: np.ndarray, owners: list[np.ndarray]) -> jax.Array:
        """Returns (devices, rows, ...): each device's clients, one after the other."""
        offsets = self._data.offsets
        shape = (len(owners), self._rows, *source.shape[1:])
        out = _devices.empty(shape, source.dtype)
        for place in self._places:
            start = 0
            for first, stop in _runs(offsets, owners[place]):
                out[place, start : start + stop - first] = source[first:stop]
                start += stop - first
            out[place, start:] = 0
        return _devices.one_each(self._mesh, out)


def _runs(offsets: np.ndarray, owned: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields row ranges of clients, neighbours joined."""
    if len(owned) == 0:
        return
    breaks = np.flatnonzero(np.diff(owned) != 1) + 1
    firsts = owned[np.concatenate([[0], breaks])]
    lasts = owned[np.concatenate([breaks - 1, [len(owned) - 1]])]
    yield from zip(offsets[firsts].tolist(), offsets[lasts + 1].tolist(), strict=True)


def _marked(blocks: Iterable[Block]) -> Iterator[tuple[Block, bool]]:
    """Yields each block with whether it is the last."""
    source = iter(blocks)
    block = next(source, None)
    while block is not None:
        following = next(source, None)
        yield block, following is None
        block = following
