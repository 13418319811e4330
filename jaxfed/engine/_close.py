"""The end of a round on several devices: one sum, shared noise, one new state."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxfed import noise
from jaxfed.engine import _devices, _round
from jaxfed.engine._chunk import Reports, Sums
from jaxfed.engine._round import RoundState
from jaxfed.typing import FederatedAlgorithm, PyTree, RoundReport


@functools.lru_cache(maxsize=32)
def compiled(algorithm: FederatedAlgorithm, mesh: Mesh) -> Any:
    """Returns `(state, sums, round_index, key) -> (state, report)`.

    Leaves of `sums` have one entry for each device of the mesh.
    """

    def program(
        encoded: PyTree, rest: Sums, state: RoundState, index: Any, key: Any
    ) -> Any:
        sums = rest._replace(encoded=encoded)
        return closed(algorithm, mesh, state, sums, index, key=key)

    # only of a sum can a result take the place: of others, JAX would warn
    is_sum = not getattr(algorithm.aggregator, "keeps_reports", False)
    options: dict[str, Any] = {"donate_argnums": 0} if is_sum else {}
    if mesh.size > 1:
        options["out_shardings"] = _devices.replicated(mesh)
    run = jax.jit(program, **options)

    def close(
        state: RoundState, sums: Sums, index: Any, key: jax.Array
    ) -> tuple[RoundState, RoundReport]:
        return run(sums.encoded, sums._replace(encoded=()), state, index, key)

    return close


def closed(
    algorithm: FederatedAlgorithm,
    mesh: Mesh,
    state: RoundState,
    sums: Sums,
    index: jax.Array,
    *,
    key: jax.Array,
) -> tuple[RoundState, RoundReport]:
    """Adds what the devices have, releases it, and updates the model; for tracing."""
    if isinstance(sums.encoded, Reports):
        rest = _over_devices(mesh, sums._replace(encoded=()))
        total = rest._replace(encoded=sums.encoded)
    else:
        total = _over_devices(mesh, sums)
    with noise.shared_over(mesh):
        return _round.close(algorithm, state, total, index, key=key)


def _over_devices(mesh: Mesh, sums: Sums) -> Sums:
    if mesh.size == 1:
        return jax.tree.map(lambda a: a[0], sums)
    add = jax.shard_map(
        _added,
        mesh=mesh,
        in_specs=P(_devices.AXIS),
        out_specs=P(),
        check_vma=False,
    )
    return add(sums)


def _added(mine: Sums) -> Sums:
    """Sums over devices, all leaves of one dtype in one message."""
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda a: a[0], mine))
    total: list[Any] = [None] * len(leaves)
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        chosen = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
        message = jnp.concatenate([leaves[i].reshape(-1) for i in chosen])
        message = lax.psum(message, _devices.AXIS)
        for i in chosen:
            size = leaves[i].size
            total[i] = message[:size].reshape(leaves[i].shape)
            message = message[size:]
    return structure.unflatten(total)
