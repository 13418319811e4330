"""A block: part of a cohort as one int32 array for each device, and back.

One array, because every array that goes to a device costs a call of its own.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfed.typing import Cohort


class Layout(NamedTuple):
    """The shapes of a block on one device; static, one compiled program for each."""

    chunks: int
    lanes: int
    lines: int
    width: int

    def shapes(self) -> list[tuple[int, ...]]:
        """Returns the shape of every field of the cohort, in their order."""
        pairs, one_each = (self.chunks, self.lanes), (self.chunks,)
        lines = (self.lines, self.width)
        return [pairs] * 4 + [one_each] * 2 + [lines, ()]

    @property
    def size(self) -> int:
        """How many integers that are."""
        return sum(math.prod(shape) for shape in self.shapes())


class Block(NamedTuple):
    """Part of a cohort, laid out for all devices."""

    layout: Layout
    packed: np.ndarray
    """(devices, layout.size) int32."""
    num_clients: int
    owners: list[np.ndarray]
    """One array a device: whose examples it needs, in ascending order. Empty where
    rows are numbered through the whole data."""

    def cut(self, most_steps: np.ndarray) -> "Block":
        """Returns the block in which clients end after so many steps.

        Args:
            most_steps: (num_clients,), at least 1 for the clients of the block.
        """
        packed = self.packed.copy()
        padded = np.append(most_steps, 0)  # of padding, whose numbers are past the end
        for mine in packed:
            fields = unpack(self.layout, mine)
            own = padded[np.minimum(fields.clients, len(most_steps))]
            fields.num_steps[...] = np.minimum(fields.num_steps, own)
        return self._replace(packed=packed)


def pack(layout: Layout, fields: Cohort, num_devices: int) -> np.ndarray:
    """Joins fields of shapes (num_devices, ...) into one array."""
    out = np.empty((num_devices, layout.size), np.int32)
    start = 0
    for shape, values in zip(layout.shapes(), fields, strict=True):
        stop = start + math.prod(shape)
        out[:, start:stop] = np.reshape(values, (num_devices, -1))
        start = stop
    return out


def unpack(layout: Layout, packed: jax.Array | np.ndarray) -> Cohort:
    """Splits the array of one device, (layout.size,), into its fields."""
    fields: list[Any] = []
    start = 0
    for shape in layout.shapes():
        stop = start + math.prod(shape)
        fields.append(packed[start:stop].reshape(shape))
        start = stop
    return Cohort(*fields)
