"""FedNova: changes per step are averaged, so that nobody counts for taking more steps.

Wang et al. 2020, arXiv:2007.07481, equation 9: the mean of normalised changes, times
the mean number of steps. Gives no privacy by itself.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax

from jaxfed import tree
from jaxfed.algorithms import _server
from jaxfed.algorithms._fedavg import fedavg
from jaxfed.typing import FederatedAlgorithm, LocalWork, PyTree, Released


def fednova(
    local: LocalWork,
    privacy: Any,
    *,
    server_optimizer: optax.GradientTransformation | None = None,
) -> FederatedAlgorithm:
    """Returns FedNova.

    Args:
        local: `clients.nova(...)`.
        privacy: as in `fedavg`; the paper weighs clients by their examples. With a
            guarantee both means are over the expected number of clients, so that a
            round's change goes with the square of how many came.
        server_optimizer: moves the parameters, as in `fedavg`.

    Raises:
        TypeError: an argument is of another kind.
    """
    _server.check_parts(local, privacy, "nova")
    plain = local._replace(kind="change")  # which it is, once it is put together
    averaging = fedavg(plain, privacy, server_optimizer=server_optimizer)

    def apply(state: PyTree, released: Released) -> PyTree:
        steps = jnp.maximum(released.value["steps"], 0)  # noise may make it less
        change = tree.scale(released.value["change"], steps)
        return averaging.apply(state, dataclasses.replace(released, value=change))

    return averaging._replace(local=local, apply=apply, name="fednova")
