"""The end of a round on several devices: one sum, noise shared out, one new state."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxfed.engine import _devices, _round
from jaxfed.engine._chunk import Sums
from jaxfed.typing import FederatedAlgorithm, PyTree

_LEAST_SHARED = 1 << 14  # scalars; a smaller leaf's noise costs less than sharing it


@functools.lru_cache(maxsize=32)
def compiled(algorithm: FederatedAlgorithm, mesh: Mesh) -> Any:
    """Returns `(state, clients, sums, round_index, key) -> (state, report)`.

    Leaves of `sums` have one entry for each device of the mesh.
    """

    def program(state: Any, clients: PyTree, sums: Sums, index: Any, key: Any) -> Any:
        total = totalled(mesh, sums)
        return _round.close(algorithm, state, clients, total, index, key=key)

    return jit(mesh, program, donate_argnums=(2,))


@functools.cache
def putting_back(mesh: Mesh) -> Any:
    """Returns the compiled `put_back`."""
    return jit(mesh, _round.put_back, donate_argnums=(0,))


def jit(mesh: Mesh, program: Any, **options: Any) -> Any:
    """Compiles a program whose results every device has a copy of."""
    if mesh.devices.size > 1:
        options["out_shardings"] = _devices.replicated(mesh)
    return jax.jit(program, **options)


def totalled(mesh: Mesh, sums: Sums) -> Sums:
    """Adds what the devices have, and spreads large leaves over them for the noise."""
    if mesh.devices.size == 1:
        return jax.tree.map(lambda a: a[0], sums)
    add = jax.shard_map(
        _added,
        mesh=mesh,
        in_specs=P(_devices.AXIS),
        out_specs=P(),
        check_vma=False,
    )
    total = add(sums)
    spread = functools.partial(_spread, mesh)
    return total._replace(encoded=jax.tree.map(spread, total.encoded))


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


def _spread(mesh: Mesh, leaf: jax.Array) -> jax.Array:
    count = mesh.devices.size
    axes = [i for i, size in enumerate(leaf.shape) if size % count == 0]
    if leaf.size < _LEAST_SHARED or not axes:
        return leaf
    axis = max(axes, key=lambda i: leaf.shape[i])
    spec = P(*(_devices.AXIS if i == axis else None for i in range(leaf.ndim)))
    return lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))
