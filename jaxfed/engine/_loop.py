"""The executor `loop`: a whole round, or a whole block, in one compiled program.

Nothing returns to Python between the first local step and the new model. Several
devices run their queues side by side (`shard_map`) and meet once, in the sum.
"""

import functools
import itertools
from collections.abc import Iterable
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxfed.engine import _chunk, _close, _devices, _round
from jaxfed.engine._block import Layout, unpack
from jaxfed.engine._chunk import Sums
from jaxfed.engine._feed import Fed, Keep
from jaxfed.engine._round import RoundState
from jaxfed.typing import FederatedAlgorithm, PyTree, RoundReport


class Loop:
    """Runs the rounds of one algorithm, each in one program where one block holds it.

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
        self._programs = _compiled(algorithm, mesh, widths, is_streamed)
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
        remaining = iter(blocks)
        block = next(remaining)
        if not block.is_last:
            blocks = itertools.chain([block], remaining)
            return self.close(
                state, self.add_up(state, blocks, index, key, keep), index, key
            )
        state, report, states = self._programs["whole"](
            state,
            block.states,
            block.room,
            block.packed,
            block.arrays,
            index,
            key,
            block.layout,
        )
        keep(block, states)
        return state, report

    def add_up(
        self,
        state: RoundState,
        blocks: Iterable[Fed],
        index: Any,
        key: jax.Array,
        keep: Keep,
    ) -> Sums:
        """Runs a round up to each device's sums; `keep` gets what clients keep."""
        sums, part = None, self._programs["first"]
        for block in blocks:
            sums, states = part(
                state,
                block.states,
                block.room,
                sums,
                block.packed,
                block.arrays,
                index,
                key,
                block.layout,
            )
            keep(block, states)
            part = self._programs["more"]
        assert sums is not None
        return sums

    def close(
        self, state: RoundState, sums: Sums, index: Any, key: jax.Array
    ) -> tuple[RoundState, RoundReport]:
        """Releases the sums; `key` is the root of the noise's key."""
        return self._close(state, sums, index, key)


@functools.lru_cache(maxsize=32)
def _compiled(
    algorithm: FederatedAlgorithm,
    mesh: Mesh,
    widths: tuple[int, ...],
    is_streamed: bool,
) -> dict[str, Any]:
    part = functools.partial(_part, algorithm, mesh, widths, is_streamed)

    def whole(
        state: RoundState,
        states: PyTree,
        room: PyTree,
        packed: Any,
        arrays: Any,
        index: Any,
        key: Any,
        layout: Any,
    ) -> tuple[RoundState, RoundReport, PyTree]:
        sums, states = part(
            state, states, room, None, packed, arrays, index, key, layout
        )
        state, report = _close.closed(algorithm, mesh, state, sums, index, key=key)
        return state, report, states

    options: dict[str, Any] = {}
    if mesh.size > 1:
        same = _devices.replicated(mesh)
        options["out_shardings"] = (same, same, _devices.split(mesh))
    return {
        "first": jax.jit(part, static_argnums=8, donate_argnums=2),
        "more": jax.jit(part, static_argnums=8, donate_argnums=(2, 3)),
        "whole": jax.jit(whole, static_argnums=7, donate_argnums=2, **options),
    }


def _part(
    algorithm: FederatedAlgorithm,
    mesh: Mesh,
    widths: tuple[int, ...],
    is_streamed: bool,
    state: RoundState,
    states: PyTree,
    room: PyTree,
    sums: Sums | None,
    packed: jax.Array,
    arrays: dict[str, jax.Array],
    index: jax.Array,
    key: jax.Array,
    layout: Layout,
) -> tuple[Sums, PyTree]:
    """Adds one block to the sums of each device, leaves (devices, ...).

    Returns:
        The sums, and what the block's clients keep, as it came.
    """

    def on_one_device(
        state: RoundState,
        states: PyTree,
        room: PyTree,
        sums: Sums | None,
        packed: jax.Array,
        arrays: dict[str, jax.Array],
        index: jax.Array,
        key: jax.Array,
    ) -> tuple[Sums, PyTree]:
        if is_streamed:
            arrays = jax.tree.map(lambda a: a[0], arrays)
        common = _round.in_common(algorithm, state, arrays, index, key=key)
        cohort = unpack(layout, packed[0])
        states, room = jax.tree.map(lambda a: a[0], (states, room))
        if sums is None:
            before = _chunk.zero_sums(common, cohort, states)
        else:
            before = jax.tree.map(lambda a: a[0], sums)
        after = _round.add_up(common, cohort, states, room, before, widths)
        return jax.tree.map(lambda a: a[None], after)

    run: Any = on_one_device
    if mesh.devices.size > 1:
        mine = P(_devices.AXIS)
        source = mine if is_streamed else P()
        run = jax.shard_map(
            on_one_device,
            mesh=mesh,
            in_specs=(P(), mine, mine, mine, mine, source, P(), P()),
            out_specs=(mine, mine),
            check_vma=False,
        )
    return run(state, states, room, sums, packed, arrays, index, key)
