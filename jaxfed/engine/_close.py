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
from jaxfed.engine._chunk import Sums
from jaxfed.engine._round import RoundState
from jaxfed.typing import FederatedAlgorithm, PyTree, RoundReport


@functools.lru_cache(maxsize=32)
def compiled(algorithm: FederatedAlgorithm, mesh: Mesh) -> Any:
    """Returns `(state, clients, sums, round_index, key) -> (state, report)`.

    Leaves of `sums` have one entry for each device of the mesh.
    """

    def program(
        encoded: PyTree, rest: Sums, state: Any, clients: PyTree, index: Any, key: Any
    ) -> Any:
        sums = rest._replace(encoded=encoded)
        return closed(algorithm, mesh, state, clients, sums, index, key=key)

    # counts are too small for a result to take their place, of which JAX would warn
    run = jit(mesh, program, donate_argnums=(0,))

    def close(
        state: RoundState, clients: PyTree, sums: Sums, index: Any, key: jax.Array
    ) -> tuple[RoundState, RoundReport]:
        rest = sums._replace(encoded=())
        return run(sums.encoded, rest, state, clients, index, key)

    return close


@functools.cache
def putting_back(mesh: Mesh) -> Any:
    """Returns the compiled `put_back`."""
    return jit(mesh, _round.put_back, donate_argnums=(0,))


def jit(mesh: Mesh, program: Any, **options: Any) -> Any:
    """Compiles a program whose results every device has a copy of."""
    if mesh.size > 1:
        options["out_shardings"] = _devices.replicated(mesh)
    return jax.jit(program, **options)


def closed(
    algorithm: FederatedAlgorithm,
    mesh: Mesh,
    state: RoundState,
    clients: PyTree,
    sums: Sums,
    index: jax.Array,
    *,
    key: jax.Array,
) -> tuple[RoundState, RoundReport]:
    """Adds what the devices have, releases it, and updates the model; for tracing."""
    if mesh.size == 1:
        total = jax.tree.map(lambda a: a[0], sums)
    else:
        add = jax.shard_map(
            _added,
            mesh=mesh,
            in_specs=P(_devices.AXIS),
            out_specs=P(),
            check_vma=False,
        )
        total = add(sums)
    with noise.shared_over(mesh):
        return _round.close(algorithm, state, clients, total, index, key=key)


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
