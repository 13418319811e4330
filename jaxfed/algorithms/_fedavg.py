"""Federated averaging, with any server optimizer.

McMahan et al. 2017, arXiv:1602.05629, algorithm 1; the server optimizer is FedOpt:
Reddi et al. 2021, arXiv:2003.00295, algorithm 1. With `jaxfed.privacy.central` it is
DP-FedAvg: McMahan et al. 2018, arXiv:1710.06963, algorithm 1. Gives no privacy by
itself.
"""

from typing import Any

import optax

from jaxfed.algorithms import _server
from jaxfed.algorithms._server import Server
from jaxfed.typing import FederatedAlgorithm, LocalWork, Params, Released, Shared


def fedavg(
    local: LocalWork,
    privacy: Any,
    *,
    server_optimizer: optax.GradientTransformation | None = None,
) -> FederatedAlgorithm:
    """Returns federated averaging.

    Args:
        local: what a client does, for example `clients.sgd(...)`.
        privacy: how results are summed and released: `privacy.central(...)`, or
            `privacy.none(...)` for the plain weighted mean.
        server_optimizer: an optax optimizer fed with minus the mean update; the
            default, `optax.sgd(1.0)`, adds the mean update to the parameters.

    Raises:
        TypeError: an argument is of another kind.
    """
    _server.check_parts(local, privacy, *_server.CHANGES)
    optimizer = _server.checked_optimizer(server_optimizer)

    def init(params: Params) -> Server:
        return _server.begun(optimizer, params)

    def broadcast(state: Server) -> Shared:
        return Shared(params=state.params)

    def apply(state: Server, released: Released) -> Server:
        return _server.moved(optimizer, state, released.value)

    return FederatedAlgorithm(
        init=init,
        broadcast=broadcast,
        local=local,
        aggregator=privacy,
        apply=apply,
        name="fedavg",
    )
