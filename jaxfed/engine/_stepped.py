"""The executor `stepped`: one compiled program a local step, called from Python.

Each device has its queue; steps are started one device after the other and run while
Python goes on. A step costs a call of some 20 microseconds, and no loop surrounds it:
what a compiler does badly inside loops, such as the gradient of a convolution on CPU
(jax-ml/jax#12868), runs at its full speed.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxfed.engine import _chunk, _close, _devices, _round
from jaxfed.engine._block import Layout, unpack
from jaxfed.engine._chunk import Common, Progress, Sums
from jaxfed.engine._feed import Fed, Keep
from jaxfed.engine._round import RoundState
from jaxfed.typing import Cohort, FederatedAlgorithm, PyTree, RoundReport


class _Site(NamedTuple):
    """What one device works with during a block."""

    state: RoundState
    states: PyTree
    packed: jax.Array
    arrays: dict[str, jax.Array]
    index: Any
    key: jax.Array


class _Worker(NamedTuple):
    """Where one device stands in its queue."""

    chunk: jax.Array
    step: jax.Array
    progress: Progress
    sums: Sums
    room: PyTree
    """What the block's clients keep from now on, leaves (chunks, lanes, ...)."""


class Stepped:
    """Runs the rounds of one algorithm step by step.

    Args:
        algorithm: what to run.
        mesh: on which devices.
        widths: the batch widths of the planner.
        is_streamed: whether each device gets the rows of its own clients only.
    """

    def __init__(
        self,
        algorithm: FederatedAlgorithm,
        mesh: Mesh,
        widths: tuple[int, ...],
        is_streamed: bool,
    ):
        self._mesh = mesh
        self._begin, self._steps, self._end = _compiled(algorithm, widths, is_streamed)
        self._close = _close.compiled(algorithm, mesh)

    def run(
        self,
        state: RoundState,
        blocks: Iterable[Fed],
        index: Any,
        key: jax.Array,
        keep: Keep,
    ) -> tuple[RoundState, RoundReport]:
        """Starts a round; the results may still be under way when it returns."""
        sums = self.add_up(state, blocks, index, key, keep)
        return self.close(state, sums, index, key)

    def add_up(
        self,
        state: RoundState,
        blocks: Iterable[Fed],
        index: Any,
        key: jax.Array,
        keep: Keep,
    ) -> Sums:
        """Runs a round up to each device's sums; `keep` gets what clients keep."""
        sums: list[Any] = [None] * len(_devices.local_places(self._mesh))
        for block in blocks:
            sites = self._sites(state, block, index, key)
            rooms = _devices.copies(self._mesh, block.room)
            workers = [
                self._begin(of_device, room, site, block.layout)
                for of_device, room, site in zip(sums, rooms, sites, strict=True)
            ]
            workers = self._driven(workers, sites, block)
            sums = [worker.sums for worker in workers]
            keep(block, self._joined([worker.room for worker in workers]))
        return self._joined(sums)

    def close(
        self, state: RoundState, sums: Sums, index: Any, key: jax.Array
    ) -> tuple[RoundState, RoundReport]:
        """Releases the sums; `key` is the root of the noise's key."""
        return self._close(state, sums, index, key)

    def _joined(self, parts: list[PyTree]) -> PyTree:
        return _devices.joined(self._mesh, [_first_axis(part) for part in parts])

    def _sites(
        self, state: RoundState, block: Fed, index: Any, key: Any
    ) -> list[_Site]:
        """Returns each local device's own copies."""
        parts = (
            state,
            block.states,
            block.packed,
            block.arrays,
            index,
            jax.random.key_data(key),
        )
        impl = jax.random.key_impl(key)
        return [
            _Site(*own, jax.random.wrap_key_data(data, impl=impl))
            for *own, data in _devices.copies(self._mesh, parts)
        ]

    def _driven(
        self, workers: list[_Worker], sites: list[_Site], block: Fed
    ) -> list[_Worker]:
        """Starts one program after the other on all devices, in turn."""
        todo = [
            _programs(unpack(block.layout, block.host[place]))
            for place in _devices.local_places(self._mesh)
        ]
        active = list(range(len(workers)))
        while active:
            for i in list(active):
                worker, what = workers[i], next(todo[i], None)
                if what is None:
                    active.remove(i)
                elif what == _END:
                    workers[i] = self._end(worker, sites[i], block.layout)
                else:
                    progress, step = self._steps[what](
                        worker.progress,
                        worker.step,
                        worker.chunk,
                        sites[i],
                        block.layout,
                    )
                    workers[i] = worker._replace(progress=progress, step=step)
        return workers


_END = -1


def _programs(cohort: Cohort) -> Iterator[int]:
    """Yields which program comes next: the width of a step, or the end of a chunk."""
    for chunk in range(int(cohort.num_chunks)):
        total, tail = int(cohort.num_steps[chunk].max()), int(cohort.tail[chunk])
        length = max(1, int(cohort.pass_steps[chunk]))
        for step in range(total):
            yield tail if (step + 1) % length == 0 else 0
        yield _END


@functools.partial(jax.jit, donate_argnums=0)
def _first_axis(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a[None], tree)


@functools.lru_cache(maxsize=32)
def _compiled(
    algorithm: FederatedAlgorithm, widths: tuple[int, ...], is_streamed: bool
) -> tuple[Any, list[Any], Any]:
    """Returns the programs `begin`, one `step` for each width, and `end`."""

    def opened(site: _Site, layout: Layout) -> tuple[Common, Cohort]:
        arrays = site.arrays
        if is_streamed:
            arrays = jax.tree.map(lambda a: a[0], arrays)
        common = _round.in_common(
            algorithm, site.state, arrays, site.index, key=site.key
        )
        return common, unpack(layout, site.packed[0])

    def begin(sums: Sums | None, room: PyTree, site: _Site, layout: Layout) -> _Worker:
        common, cohort = opened(site, layout)
        if sums is None:
            states = jax.tree.map(lambda a: a[0], site.states)
            sums = _chunk.zero_sums(common, cohort, states)
        room = jax.tree.map(lambda a: a[0], room)
        zero = jnp.zeros((), jnp.int32)
        progress = started(common, cohort, zero, site)
        return _Worker(zero, zero, progress, sums, room)

    def kept_by(site: _Site, chunk: jax.Array) -> PyTree:
        return _chunk.kept_by(jax.tree.map(lambda a: a[0], site.states), chunk)

    def started(
        common: Common, cohort: Cohort, chunk: jax.Array, site: _Site
    ) -> Progress:
        lanes = _chunk.lanes_of(cohort, chunk)
        return _chunk.begin(common, lanes, cohort.rows, kept_by(site, chunk))

    def step(
        width: int | None,
        progress: Progress,
        number: jax.Array,
        chunk: jax.Array,
        site: _Site,
        layout: Layout,
    ) -> tuple[Progress, jax.Array]:
        common, cohort = opened(site, layout)
        lanes, rows = _chunk.lanes_of(cohort, chunk), cohort.rows[:, :width]
        return _chunk.advance(common, lanes, rows, progress, number), number + 1

    def end(worker: _Worker, site: _Site, layout: Layout) -> _Worker:
        common, cohort = opened(site, layout)
        lanes = _chunk.lanes_of(cohort, worker.chunk)
        kept = kept_by(site, worker.chunk)
        sums, kept = _chunk.end(
            common, lanes, worker.progress, worker.sums, kept, worker.chunk
        )
        room = _chunk.with_kept(worker.room, worker.chunk, kept)
        following, zero = worker.chunk + 1, jnp.zeros((), jnp.int32)
        progress = started(common, cohort, following, site)
        return _Worker(following, zero, progress, sums, room)

    steps = [
        jax.jit(functools.partial(step, width), static_argnums=4, donate_argnums=(0, 1))
        for width in (None, *widths[1:])
    ]
    return (
        jax.jit(begin, static_argnums=3, donate_argnums=(0, 1)),
        steps,
        jax.jit(end, static_argnums=2, donate_argnums=0),
    )
