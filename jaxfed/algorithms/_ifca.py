"""Several models, each averaged over the clients that picked it: IFCA, HypCluster.

Ghosh et al. 2020 (IFCA), arXiv:2006.04088, algorithm 1, model averaging; Mansour et al.
2020 (HypCluster), arXiv:2002.10619, algorithm 2. Gives no privacy by itself.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed.algorithms import _server
from jaxfed.algorithms._server import Server
from jaxfed.typing import FederatedAlgorithm, LocalWork, Released, Shared


def ifca(
    local: LocalWork,
    privacy: Any,
    *,
    server_optimizer: optax.GradientTransformation | None = None,
    least_share: float = 0.05,
) -> FederatedAlgorithm:
    """Returns federated averaging of several models side by side.

    Formal guarantee: with a privacy object, its guarantee covers what a client sends,
    which is its change in the place of the model that it picked, and which that is,
    clipped together.

    Args:
        local: `clients.clustered(...)`.
        privacy: how results are summed and released. With a clip, give `chose`, whose
            norm is 1, a norm of its own, so that it is not cut:
            `clipping.PerLayer(norms={"change": ..., "chose": 1.0})`.
        server_optimizer: of all models; as in `fedavg`.
        least_share: the change of a model that a smaller share of the cohort has picked
            is divided by this, in (0, 1]: with noise, shares near zero are no divisors.

    Raises:
        ValueError: `least_share` is out of range.
        TypeError: an argument is of another kind, or `privacy` makes no sum.
    """
    _server.check_parts(local, privacy, "clustered")
    _server.check_sum(privacy, "ifca")
    optimizer = _server.checked_optimizer(server_optimizer)
    least = check.probability("pass for example 0.05", least_share=least_share)

    def apply(server: Server, released: Released) -> Server:
        shares = jnp.maximum(released.value["chose"], least)

        def mean(leaf: jax.Array) -> jax.Array:
            shape = (leaf.shape[0], *[1] * (leaf.ndim - 1))
            return leaf / shares.reshape(shape).astype(leaf.dtype)

        change = jax.tree.map(mean, released.value["change"])
        return _server.moved(optimizer, server, change)

    return FederatedAlgorithm(
        init=lambda params: _server.begun(optimizer, params),
        broadcast=lambda server: Shared(server.params),
        local=local,
        aggregator=privacy,
        apply=apply,
        name="ifca",
    )
