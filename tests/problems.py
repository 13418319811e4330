"""Small ragged problems that many tests share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf
from jaxfed.engine._block import unpack
from jaxfed.typing import Batching, ClientResult, LocalWork

FEATURES = 4


def ragged_data(sizes=(7, 1, 3, 12, 5, 2), seed=0, scale=1.0):
    """Returns clients of these sizes with different distributions."""
    rng = np.random.default_rng(seed)
    clients = {}
    for i, size in enumerate(sizes):
        x = scale * rng.normal(0.3 * i - 0.5, 1.0, (size, FEATURES))
        y = (x.sum(axis=1) + rng.normal(size=size) > 0).astype(np.int32)
        clients[f"client-{i}"] = {"x": x.astype(np.float32), "y": y}
    return jf.data.FederatedData.from_clients(clients)


def with_domains(data, num_domains=2):
    """Returns data whose clients are of the domains 0, 1, ..., in turn."""
    domains = np.arange(data.num_clients, dtype=np.int32) % num_domains
    arrays = data.arrays | {"domain": np.repeat(domains, data.client_sizes)}
    return dataclasses.replace(data, arrays=arrays)


def logistic_loss(params, batch, key):
    """Mean logistic loss with a bias."""
    del key
    scores = batch["x"] @ params["w"] + params["b"]
    labels = batch["y"].astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(scores, labels).mean(), {}


def noisy_loss(params, batch, key):
    """A loss that depends on its key, as dropout does."""
    keep = jax.random.bernoulli(key, 0.7, batch["x"].shape)
    masked = dict(batch, x=jnp.where(keep, batch["x"], 0.0))
    loss, _ = logistic_loss(params, masked, key)
    return loss, {"kept": jnp.mean(keep.astype(jnp.float32))}


def logistic_params(seed=1):
    """Returns weights that are not zero."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=FEATURES).astype(np.float32)
    return {"w": jnp.asarray(w), "b": jnp.asarray(np.float32(0.1))}


def cohort_of(planner, clients, *, key):
    """Returns the plan of one device, where one block holds the cohort."""
    (block,) = planner.plan(np.array(clients, int), key=key)
    return jax.tree.map(jnp.asarray, unpack(block.layout, block.packed[0]))


def flat(params):
    """Returns weights then bias, as float64, in the order of the slow twin."""
    return np.append(np.asarray(params["w"], np.float64), np.float64(params["b"]))


NO_WORK = LocalWork(
    init=lambda shared, client_state: (),
    step=lambda carry, batch, *, key: (carry, {}),
    finish=lambda shared, carry: ClientResult(shared.params, jnp.float32(1), ()),
    batching=Batching(batch_size=1, steps=1),
)
"""Local work for what asks only what clients send and keep."""
