"""FedSGD: the server takes one step along the mean gradient of a cohort's clients.

McMahan et al. 2017, arXiv:1602.05629, section 2: federated averaging with one step on
all of a client's examples. Gives no privacy by itself.
"""

from typing import Any

import optax

from jaxfed.algorithms import _server
from jaxfed.algorithms._fedavg import fedavg
from jaxfed.typing import FederatedAlgorithm, LocalWork


def fedsgd(
    local: LocalWork,
    privacy: Any,
    *,
    server_optimizer: optax.GradientTransformation,
) -> FederatedAlgorithm:
    """Returns FedSGD.

    Args:
        local: `clients.gradient(...)`.
        privacy: as in `fedavg`; the clip is of each client's mean gradient.
        server_optimizer: fed with the mean gradient, for example `optax.sgd(0.1)`.

    Raises:
        TypeError: an argument is of another kind.
    """
    _server.check_parts(local, privacy, "gradient")
    if server_optimizer is None:
        raise TypeError(
            "server_optimizer must be an optax optimizer, got None; gradients need a "
            "rate: pass for example optax.sgd(0.1)."
        )
    plain = local._replace(kind="change")  # minus a gradient is one, of rate 1
    found = fedavg(plain, privacy, server_optimizer=server_optimizer)
    return found._replace(local=local, name="fedsgd")
