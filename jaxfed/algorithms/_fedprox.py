"""FedProx: clients stay near the server's parameters.

Li et al. 2020, arXiv:1812.06127, algorithm 2. The server is that of federated
averaging; what differs is the client, `clients.prox`. Gives no privacy by itself.
"""

from typing import Any

import optax

from jaxfed.algorithms import _server
from jaxfed.algorithms._fedavg import fedavg
from jaxfed.typing import FederatedAlgorithm, LocalWork


def fedprox(
    local: LocalWork,
    privacy: Any,
    *,
    server_optimizer: optax.GradientTransformation | None = None,
) -> FederatedAlgorithm:
    """Returns FedProx.

    Args:
        local: `clients.prox(...)`.
        privacy: as in `fedavg`; the guarantee is the same.
        server_optimizer: as in `fedavg`.

    Raises:
        TypeError: an argument is of another kind.
    """
    _server.check_parts(local, privacy, "prox")
    found = fedavg(local, privacy, server_optimizer=server_optimizer)
    return found._replace(name="fedprox")
