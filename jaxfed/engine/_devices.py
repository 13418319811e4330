"""Devices: one per core on CPU, a mesh of them, and how arrays get there.

The same code runs on one device, on several, and on several hosts that have called
`jax.distributed.initialize`: every host plans the whole round, and feeds its part.
"""

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxfed import _check as check
from jaxfed.typing import PyTree

AXIS = "clients"
_ALIGNMENT = 64  # bytes; JAX on CPU uses such host memory as it is
_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def use_cores(count: int | None = None) -> int:
    """Makes JAX treat every core of this machine as a device of its own.

    Call it once, before anything else uses JAX. Clients are then trained on all cores
    at once, each on one, which beats one client whose products are spread over cores.
    It has no effect on accelerators. It adds a flag to the environment variable
    `XLA_FLAGS`, which programs that are started from this one inherit.

    Args:
        count: how many; all that this process may run on if not given.

    Returns:
        How many.

    Raises:
        RuntimeError: JAX has already started.
        ValueError: the count is not a positive integer.
    """
    if count is None:
        available = getattr(os, "sched_getaffinity", None)
        count = len(available(0)) if available else os.cpu_count() or 1
    count = check.positive_integer("pass how many cores to use", count=count)
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise RuntimeError(
            "jaxfed.use_cores must be called before JAX starts, got a running JAX "
            f"({jax.device_count()} devices); call it right after the imports."
        ) from error
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_ONE_THREAD}".strip()
    return count


@functools.lru_cache
def mesh_of(count: int | None = None) -> Mesh:
    """Returns a mesh of the first devices of the run, all of them if not given.

    Raises:
        ValueError: there are fewer.
    """
    devices = jax.devices()
    if count is not None and count > len(devices):
        raise ValueError(
            f"devices must be at most {len(devices)}, what JAX has, got {count}; on "
            "CPU call jaxfed.use_cores() before JAX starts."
        )
    return Mesh(np.array(devices[:count]), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what has one entry of axis 0 for each device."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def local_places(mesh: Mesh) -> list[int]:
    """Returns which places of the mesh are devices of this host."""
    mine = jax.process_index()
    return [i for i, d in enumerate(mesh.devices.flat) if d.process_index == mine]


def everywhere(mesh: Mesh, tree: PyTree) -> PyTree:
    """Puts a copy of every leaf on every device; on CPU all may share one memory."""

    def put(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array):
            if leaf.sharding == replicated(mesh):
                return leaf
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return _put_key(mesh, leaf)
            if not leaf.is_fully_addressable:
                leaf = leaf.addressable_data(0)
        host = _aligned(np.asarray(leaf))
        parts = [jax.device_put(host, mesh.devices.flat[i]) for i in local_places(mesh)]
        return _assembled(mesh, host.shape, replicated(mesh), parts)

    return jax.tree.map(put, tree)


def one_each(mesh: Mesh, array: np.ndarray) -> jax.Array:
    """Puts entry i of axis 0 on device i of the mesh."""
    devices = mesh.devices.flat
    parts = [jax.device_put(array[i : i + 1], devices[i]) for i in local_places(mesh)]
    return _assembled(mesh, array.shape, split(mesh), parts)


def zeros_each(mesh: Mesh, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Returns zeros whose entry i of axis 0 is on device i of the mesh."""
    if mesh.devices.size == 1:
        return jnp.zeros(shape, dtype, device=mesh.devices.flat[0])
    return jnp.zeros(shape, dtype, device=split(mesh))


def joined(mesh: Mesh, parts: Sequence[PyTree]) -> PyTree:
    """Joins one tree for each device of this host, leaves (1, ...), along axis 0."""
    count = mesh.devices.size

    def join(*leaves: jax.Array) -> jax.Array:
        shape = (count, *leaves[0].shape[1:])
        return _assembled(mesh, shape, split(mesh), list(leaves))

    return jax.tree.map(join, *parts)


def on_first(tree: PyTree) -> PyTree:
    """Returns this host's first copy of every leaf that all devices have."""
    return jax.tree.map(lambda a: a.addressable_data(0), tree)


def copies(mesh: Mesh, tree: PyTree) -> list[PyTree]:
    """Returns each local device's own part or copy of every leaf."""
    leaves, structure = jax.tree.flatten(tree)
    on_device = [{s.device: s.data for s in a.addressable_shards} for a in leaves]
    devices = [mesh.devices.flat[place] for place in local_places(mesh)]
    return [structure.unflatten([a[d] for a in on_device]) for d in devices]


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns host memory at an address that JAX on CPU uses as it is."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _assembled(
    mesh: Mesh, shape: tuple[int, ...], sharding: NamedSharding, parts: list[jax.Array]
) -> jax.Array:
    if mesh.devices.size == 1:
        return parts[0]
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _put_key(mesh: Mesh, key: jax.Array) -> jax.Array:
    data = everywhere(mesh, jax.random.key_data(key))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def _aligned(host: np.ndarray) -> np.ndarray:
    """Returns the array at an address that JAX on CPU need not copy for each device."""
    if host.ctypes.data % _ALIGNMENT == 0 and host.flags.c_contiguous:
        return host
    out = empty(host.shape, host.dtype)
    out[...] = host
    return out
