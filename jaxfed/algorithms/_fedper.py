"""Averaging of what clients have in common: FedPer and FedRep.

FedPer: Arivazhagan et al. 2019, arXiv:1912.00818, algorithm 2. FedRep: Collins et al.
2021, arXiv:2102.07078, algorithm 1. Gives no privacy by itself.
"""

from typing import Any, NamedTuple

import optax

from jaxfed import parts
from jaxfed.algorithms import _server
from jaxfed.algorithms._server import Server
from jaxfed.parts._split import rest_of
from jaxfed.typing import FederatedAlgorithm, LocalWork, Params, Released, Shared


class _Parts(NamedTuple):
    common: Server
    private: Params
    """As it was at first: what clients begin with."""


def fedper(
    local: LocalWork,
    privacy: Any,
    *,
    server_optimizer: optax.GradientTransformation | None = None,
) -> FederatedAlgorithm:
    """Returns federated averaging of the common part of a model.

    Formal guarantee: with a privacy object, its guarantee covers all that leaves a
    client, which is the common part. The private part is in no release; a client's own
    model is the client's.

    Args:
        local: `clients.personal_layers(...)`; it decides between FedPer and FedRep.
        privacy: how the common part is summed and released.
        server_optimizer: of the common part; as in `fedavg`.

    Raises:
        TypeError: an argument is of another kind.
    """
    _server.check_parts(local, privacy, "personal_layers")
    optimizer = _server.checked_optimizer(server_optimizer)

    def init(params: Params) -> _Parts:
        common = local.sends(params)
        return _Parts(_server.begun(optimizer, common), rest_of(params, common))

    def broadcast(server: _Parts) -> Shared:
        return Shared(parts.merge(server.private, server.common.params))

    def apply(server: _Parts, released: Released) -> _Parts:
        common = _server.moved(optimizer, server.common, released.value)
        return server._replace(common=common)

    return FederatedAlgorithm(init, broadcast, local, privacy, apply, "fedper")
