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
from jaxfed.engine._feed import Fed
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
        self, state: RoundState, blocks: Iterable[Fed], index: Any, key: jax.Array
    ) -> tuple[RoundState, RoundReport]:
        """Starts a round; the results may still be under way when it returns."""
        remaining = iter(blocks)
        block = next(remaining)
        if block.is_last:
            whole, rest = self._programs["whole"], state._replace(clients=())
            return whole(
                rest,
                state.clients,
                block.packed,
                block.arrays,
                index,
                key,
                block.layout,
            )
        blocks = itertools.chain([block], remaining)
        clients, sums = self.add_up(state, blocks, index, key)
        return self.close(state, clients, sums, index, key)

    def add_up(
        self, state: RoundState, blocks: Iterable[Fed], index: Any, key: jax.Array
    ) -> tuple[PyTree, Sums]:
        """Runs a round up to its sum: what clients keep, and each device's sums."""
        first, more = self._programs["first"], self._programs["more"]
        remaining = iter(blocks)
        block = next(remaining)
        sums, clients = first(
            state, block.packed, block.arrays, index, key, block.layout
        )
        rest = state._replace(clients=())
        for block in remaining:
            sums, clients = more(
                rest,
                clients,
                sums,
                block.packed,
                block.arrays,
                index,
                key,
                block.layout,
            )
        return clients, sums

    def close(
        self, state: RoundState, clients: PyTree, sums: Sums, index: Any, key: jax.Array
    ) -> tuple[RoundState, RoundReport]:
        """Releases the sums; `key` is the root of the noise's key."""
        return self._close(state._replace(clients=()), clients, sums, index, key)


@functools.lru_cache(maxsize=32)
def _compiled(
    algorithm: FederatedAlgorithm,
    mesh: Mesh,
    widths: tuple[int, ...],
    is_streamed: bool,
) -> dict[str, Any]:
    part = functools.partial(_part, algorithm, mesh, widths, is_streamed)

    def first(
        state: RoundState, packed: Any, arrays: Any, index: Any, key: Any, layout: Any
    ) -> tuple[Sums, PyTree]:
        return part(state, state.clients, None, packed, arrays, index, key, layout)

    def whole(
        rest: RoundState,
        clients: PyTree,
        packed: Any,
        arrays: Any,
        index: Any,
        key: Any,
        layout: Any,
    ) -> tuple[RoundState, RoundReport]:
        state = rest._replace(clients=clients)
        sums, clients = first(state, packed, arrays, index, key, layout)
        return _close.closed(algorithm, mesh, state, clients, sums, index, key=key)

    return {
        "first": jax.jit(first, static_argnums=5),
        "more": jax.jit(part, static_argnums=7, donate_argnums=(1, 2)),
        "whole": _close.jit(mesh, whole, static_argnums=6, donate_argnums=(1,)),
    }


def _part(
    algorithm: FederatedAlgorithm,
    mesh: Mesh,
    widths: tuple[int, ...],
    is_streamed: bool,
    state: RoundState,
    clients: PyTree,
    sums: Sums | None,
    packed: jax.Array,
    arrays: dict[str, jax.Array],
    index: jax.Array,
    key: jax.Array,
    layout: Layout,
) -> tuple[Sums, PyTree]:
    """Adds one block to the sums of each device, leaves (devices, ...)."""

    def on_one_device(
        state: RoundState,
        clients: PyTree,
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
        if sums is None:
            before = _chunk.zero_sums(common, cohort, clients)
        else:
            before = jax.tree.map(lambda a: a[0], sums)
        after, kept = _round.add_up(common, cohort, clients, before, widths)
        return jax.tree.map(lambda a: a[None], (after, kept))

    run: Any = on_one_device
    if mesh.devices.size > 1:
        mine = P(_devices.AXIS)
        source = mine if is_streamed else P()
        run = jax.shard_map(
            on_one_device,
            mesh=mesh,
            in_specs=(P(), P(), mine, mine, source, P(), P()),
            out_specs=(mine, mine),
            check_vma=False,
        )
    sums, kept = run(state, clients, sums, packed, arrays, index, key)
    numbers = jax.vmap(lambda one: unpack(layout, one).clients)(packed)
    return sums, _round.put_back(clients, numbers, kept)
