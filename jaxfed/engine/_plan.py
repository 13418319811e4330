"""What is run, on what: as hashes, to know the same run again in another process."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _program, tree
from jaxfed.data import FederatedData
from jaxfed.data._digest import digest_of
from jaxfed.typing import Batch, FederatedAlgorithm, Params, Released


def plan_of(algorithm: FederatedAlgorithm, params: Params, **facts: Any) -> str:
    """Returns a public hash of what is run: algorithm, privacy, and model shape."""
    shapes: dict[str, Any] = {}

    def note(name: str, leaf: jax.Array) -> None:
        shapes[name] = [str(leaf.dtype), *leaf.shape]

    tree.map_with_names(note, params)
    privacy = algorithm.aggregator.to_dict()
    values = {"algorithm": repr(algorithm), "privacy": privacy, "params": shapes}
    text = json.dumps(values | facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def program_of(
    algorithm: FederatedAlgorithm,
    params: Params,
    data: FederatedData,
    batch_widths: tuple[int, ...] | None = None,
    *,
    released: bool = True,
) -> bytes:
    """Returns a digest of what clients and the server compute in a round. Private.

    Losses, models, optimizers and their constants are in it, which no name tells; what
    is between them, the privacy object, is in the plan.
    """
    local = algorithm.local
    rows = {
        name: jax.ShapeDtypeStruct(
            (local.batching.batch_size, *array.shape[1:]),
            jax.dtypes.canonicalize_dtype(array.dtype),
        )
        for name, array in data.arrays.items()
    }

    def one_round(params: Params, rows: Any, key: jax.Array) -> Any:
        state, kept = algorithm.init(params), local.init_client(params)
        shared, size = algorithm.broadcast(state), local.batching.batch_size
        batch = Batch(rows, jnp.ones(size, bool), jnp.int32(size))
        carry, metrics = local.step(local.init(shared, kept), batch, key=key)
        result = local.finish(shared, carry)
        released = Released(
            value=jax.tree.map(lambda a: a.astype(jnp.float32), result.update),
            num_clients=jnp.float32(1),
        )
        return algorithm.apply(state, released), metrics, result.client_state

    shapes = jax.eval_shape(lambda: params)
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = _program.digest_of(one_round, shapes, rows, key, released=released)
    return hashlib.sha256(
        program + repr((local.batching, batch_widths)).encode()
    ).digest()


def inputs_of(data: FederatedData, params: Params) -> bytes:
    """Returns a digest of all that a run works on. Private."""
    return hashlib.sha256(digest_of(data) + sha256_of(params).encode()).digest()


def sha256_of(params: Params) -> str:
    """Returns the hash of parameters, leaf by leaf, in hexadecimal."""
    found = hashlib.sha256()

    def add(name: str, leaf: Any) -> None:
        array = np.asarray(leaf)
        found.update(f"{name}{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())

    tree.map_with_names(add, params)
    return found.hexdigest()
