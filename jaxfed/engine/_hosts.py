"""Several hosts: what all of them must have in common before a round starts.

Every host runs the same program on the same data and plans the same rounds; only what
is local, such as a probe's timings or free memory, may differ, and is decided by one.
"""

import hashlib
import json
from typing import Any

import jax
import numpy as np

_MOST_BYTES = 8192  # of what is sent; every host must know the length beforehand


def decided_by_first(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the first host's values on every host; JSON values only."""
    if jax.process_count() == 1:
        return values
    text = json.dumps(values).encode()
    if len(text) > _MOST_BYTES:
        raise AssertionError(len(text))
    return json.loads(_of_first(text.ljust(_MOST_BYTES)).decode())


def check_alike(**facts: Any) -> None:
    """Refuses to start where hosts differ: they would wait for each other forever.

    Raises:
        ValueError: this host's facts are not the first host's, or another's are not.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    digests = {name: _digest(value) for name, value in facts.items()}
    mine = np.frombuffer(b"".join(digests.values()), np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    differs = (everyone != everyone[:1]).reshape(len(everyone), len(facts), -1)
    names = [n for n, bad in zip(facts, differs.any(axis=(0, 2)), strict=True) if bad]
    if names:
        hosts = np.flatnonzero(differs.any(axis=(1, 2))).tolist()
        raise ValueError(
            "every host must run the same program on the same data, but hosts "
            f"{hosts} differ from host 0 in: {', '.join(names)}; pass the same "
            "arguments to simulate on all of them."
        )


def check_devices(devices: int) -> None:
    """Refuses a strategy that leaves a host, or part of it, without work."""
    if jax.process_count() > 1 and devices != jax.device_count():
        raise ValueError(
            f"devices must be {jax.device_count()} on {jax.process_count()} hosts, all "
            f"that they have together, got {devices}; start fewer hosts, or use fewer "
            "devices on each."
        )


def _of_first(data: bytes) -> bytes:
    from jax.experimental import multihost_utils

    sent = multihost_utils.broadcast_one_to_all(np.frombuffer(data, np.uint8))
    return np.asarray(sent).tobytes()


def _digest(value: Any) -> bytes:
    """Hashes bytes, arrays, pytrees of arrays, or whatever has the same repr."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, jax.Array | np.ndarray):
            array = np.asarray(leaf)
            found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            found.update(repr(leaf).encode())
    return found.digest()
