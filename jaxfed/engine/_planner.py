"""The planner: from a cohort to packed arrays of row numbers, in vectorised NumPy.

Clients are sorted, longest work first, cut into chunks of `lanes` that are stepped
side by side, and dealt to one queue a device so that all queues take equally long
(longest processing time first: Graham 1969, doi:10.1137/0117039). Long queues are cut
into blocks, so that neither the plan nor what it needs grows with the cohort.

A client's batches depend on the round's key and on its own number and size alone, so
that neither the order of the cohort nor padding changes what it trains on.
"""

import heapq
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfed.data import FederatedData
from jaxfed.engine import _shuffle
from jaxfed.engine._block import Block, Layout, pack
from jaxfed.typing import Batching, Cohort

BLOCK_CLIENTS = 4096
_DEALT_ONE_BY_ONE = 1024  # chunks; the shorter ones that follow are dealt in turns
_SPREAD = 4.0  # standard deviations of a cohort's work that the first shapes allow for


class Planner:
    """Lays out the local steps of cohorts in few shapes."""

    def __init__(
        self,
        data: FederatedData,
        batching: Batching,
        *,
        max_clients: int,
        expected_clients: float | None = None,
        lanes: int = 1,
        widths: tuple[int, ...] = (),
        devices: int = 1,
        block_clients: int = BLOCK_CLIENTS,
        is_streamed: bool = False,
    ):
        """Sizes the first shapes for a typical cohort.

        Args:
            data: all clients' examples.
            batching: how local work wants them.
            max_clients: the sampler's cap.
            expected_clients: how many come; `max_clients` if not given.
            lanes: how many clients are stepped side by side.
            widths: the batch widths that are compiled, the full one first.
            devices: how many queues there are.
            block_clients: how many clients a block has at most, on all devices.
            is_streamed: whether a device gets the rows of its own clients only, so
                that they are numbered within each block.
        """
        if data.num_examples >= 2**31:
            raise ValueError(
                f"data must have fewer than 2**31 examples, got {data.num_examples}; "
                "split it over several runs."
            )
        self._work = _shuffle.Work(data, batching)
        self._widths = widths or (self._work.width,)
        self._lanes, self._devices, self._is_streamed = lanes, devices, is_streamed
        self._queue_chunks = max(1, block_clients // (lanes * devices))
        order = np.lexsort((self._work.remainders, self._work.passes, self._work.steps))
        # longest first, then by the size of the last batch
        self._by_rank = order[::-1].astype(np.int32)
        self._rank = np.empty(len(order), np.int32)
        self._rank[self._by_rank] = np.arange(len(order), dtype=np.int32)
        self._reserve(max_clients, expected_clients or max_clients)

    def plan(self, clients: np.ndarray, *, key: jax.Array) -> Iterator[Block]:
        """Yields the plan of one round, block by block; at least one.

        Args:
            clients: (count,) distinct client numbers.
            key: this round's, for shuffling; consumed.
        """
        source = self._work.source(key)
        queues = self._dealt(self._by_rank[np.sort(self._rank[clients])])
        bounds = np.flatnonzero(np.diff(queues.block)) + 1
        starts = [0, *bounds.tolist(), len(clients)]
        for start, stop in itertools.pairwise(starts):
            yield self._block(_Queues(*(a[start:stop] for a in queues)), source)

    @property
    def steps(self) -> np.ndarray:
        """How many local steps each client takes, (num_clients,)."""
        return self._work.steps

    def waste(self, clients: np.ndarray) -> dict[str, float]:
        """Returns which share of the slots of a round is spent in vain.

        `scheduling`: on devices that wait, and on lanes that are done; `padding`: in
        the last batches, at the widths that are compiled, too.
        """
        queues = self._dealt(self._by_rank[np.sort(self._rank[clients])])
        heads = queues.lane == 0
        ours = self._work.steps[queues.client]
        per_device = np.bincount(queues.device[heads], ours[heads], self._devices)
        places = per_device.max() * self._devices * self._lanes
        full, tail = self._widths[0], np.array(self._widths)[self._tails(queues.client)]
        passes = -(-ours // self._work.passes[queues.client])
        slots = (ours * full - passes * (full - tail)).sum()
        used = (self._work.sizes[queues.client] * passes).sum()
        scheduling = 1 - ours.sum() / places
        return {
            "scheduling": float(scheduling),
            "padding": float(1 - (1 - scheduling) * used / slots),
        }

    def _dealt(self, clients: np.ndarray) -> "_Queues":
        """Sorts clients by block, then device, then place in the device's queue."""
        heads = clients[:: self._lanes]
        device = _deal(self._work.steps[heads], self._devices)
        place = np.empty(len(heads), np.int32)
        for one in range(self._devices):
            mine = device == one
            place[mine] = np.arange(np.count_nonzero(mine), dtype=np.int32)
        blocks = -(-(int(np.max(place, initial=0)) + 1) // self._queue_chunks)
        block, chunk = place % blocks, place // blocks  # long and short work in each
        order = np.lexsort((chunk, device, block)).astype(np.int32)
        lane = np.arange(self._lanes, dtype=np.int32)
        source = (order[:, None] * np.int32(self._lanes) + lane).ravel()
        owner, real = np.repeat(order, self._lanes), source < len(clients)
        source, owner = source[real], owner[real]
        return _Queues(
            clients[source],
            block[owner],
            device[owner],
            chunk[owner],
            source % np.int32(self._lanes),
        )

    def _block(self, queues: "_Queues", source: np.uint64 | jax.Array) -> Block:
        work, clients = self._work, queues.client
        steps = work.steps[clients]
        ends = np.cumsum(steps)
        of_device = np.bincount(queues.device, steps, self._devices).astype(np.int64)
        first = ends - steps - (np.cumsum(of_device) - of_device)[queues.device]
        layout = self._fitting(
            int(np.max(queues.chunk, initial=-1)) + 1, int(np.max(of_device, initial=0))
        )
        shape = (self._devices, layout.chunks, layout.lanes)
        where = (queues.device, queues.chunk, queues.lane)

        def placed(values: np.ndarray, fill: int) -> np.ndarray:
            out = np.full(shape, fill, np.int32)
            out[where] = values
            return out

        owners, base = self._rows_of(queues)
        line = first + queues.device * layout.lines
        rows = work.rows(self._devices * layout.lines, clients, line, base, source)
        num_steps = placed(steps, 0)
        pass_steps, tail = self._passes(num_steps, placed(clients, 0))
        fields: dict[str, Any] = {
            "clients": placed(clients, len(work.sizes)),
            "num_examples": placed(work.sizes[clients], 1),
            "first_step": placed(first, 0),
            "num_steps": num_steps,
            "pass_steps": pass_steps,
            "tail": tail,
            "rows": rows,
            "num_chunks": np.count_nonzero(num_steps[:, :, 0], axis=1),
        }
        packed = pack(layout, Cohort(**fields), self._devices)
        return Block(layout, packed, len(clients), owners)

    def _rows_of(self, queues: "_Queues") -> tuple[list[np.ndarray], np.ndarray]:
        """Returns whose rows each device needs, and where each client's rows begin."""
        if not self._is_streamed:
            return [], self._work.offsets[queues.client]
        owners, base = [], np.empty(len(queues.client), np.int64)
        for one in range(self._devices):
            mine = np.flatnonzero(queues.device == one)
            order = mine[np.argsort(queues.client[mine])]
            owned = queues.client[order]
            lengths = self._work.sizes[owned]
            base[order] = np.cumsum(lengths) - lengths
            owners.append(owned)
        return owners, base

    def _passes(
        self, num_steps: np.ndarray, clients: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many steps a pass of each chunk has, and the class of its last.

        Where passes of a chunk's lanes end at different steps, all steps are full.
        """
        passes = self._work.passes[clients]
        head = passes[:, :, :1]
        is_one_pass = (num_steps <= passes).all(axis=2)
        alike = ((passes == head) | (num_steps == 0)).all(axis=2)
        is_regular = alike | is_one_pass
        pass_steps = np.where(is_regular, head[:, :, 0], num_steps[:, :, 0])
        return pass_steps, np.where(is_regular, self._tails(clients[:, :, 0]), 0)

    def _tails(self, heads: np.ndarray) -> np.ndarray:
        """Returns the narrowest width that holds the last batch of these clients.

        Those beside them in a chunk have no larger one, by the order of the queue.
        """
        remainders = self._work.remainders[heads]
        fits = remainders[..., None] <= np.array(self._widths)
        return fits.sum(axis=-1) - 1

    def _fitting(self, chunks: int, lines: int) -> Layout:
        """Returns shapes that fit; they only grow, in steps of an eighth."""
        self._chunks = max(self._chunks, rounded_up(chunks))
        self._lines = max(self._lines, rounded_up(lines))
        return Layout(self._chunks, self._lanes, self._lines, self._work.width)

    def _reserve(self, most: int, expected: float) -> None:
        steps = self._work.steps.astype(np.float64)
        typical = min(expected + _SPREAD * expected**0.5, most)
        if typical >= len(steps):  # everybody comes
            total = steps.sum()
        else:
            noise = _SPREAD * (typical * np.mean(steps**2)) ** 0.5
            total = typical * steps.mean() + noise
            longest = self._work.steps[self._by_rank[:most]].sum()
            total = min(total, float(longest))
        queue = typical / (self._lanes * self._devices)
        blocks = max(1.0, np.ceil(queue / self._queue_chunks))
        share = total / (self._devices * blocks)
        slack = 0 if self._devices * blocks == 1 else float(np.max(steps))
        self._chunks = rounded_up(int(np.ceil(queue / blocks)) + (self._devices > 1))
        self._lines = rounded_up(int(np.ceil(share + slack)))


class _Queues(NamedTuple):
    """The clients of a cohort in the order of their plan.

    Every field (clients,) int32: of a whole cohort, little may be held at once.
    """

    client: np.ndarray
    block: np.ndarray
    device: np.ndarray
    chunk: np.ndarray
    lane: np.ndarray


def _deal(costs: np.ndarray, devices: int) -> np.ndarray:
    """Deals chunks, longest first, each to the device that is free first."""
    if devices == 1:
        return np.zeros(len(costs), np.int32)
    out = np.empty(len(costs), np.int32)
    free = [(0, device) for device in range(devices)]
    for index, cost in enumerate(costs[:_DEALT_ONE_BY_ONE].tolist()):
        load, device = free[0]
        out[index] = device
        heapq.heapreplace(free, (load + cost, device))
    rest = len(costs) - _DEALT_ONE_BY_ONE
    if rest > 0:  # there and back again, beginning with the device of least load
        order = np.array([device for _, device in sorted(free)])
        turns = np.concatenate([order, order[::-1]])
        out[_DEALT_ONE_BY_ONE:] = np.resize(turns, rest)
    return out


def rounded_up(count: int) -> int:
    """Rounds up to three significant bits and a half: few shapes, little waste."""
    step = max(1, 1 << max(0, count.bit_length() - 4))
    return max(1, -(-count // step) * step)
