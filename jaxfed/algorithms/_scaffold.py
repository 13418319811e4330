"""SCAFFOLD: control variates on server and clients correct for different data.

Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1; with privacy, DP-SCAFFOLD:
Noble et al. 2022, arXiv:2111.09278, at the level of clients: what a client sends of its
model and of its control variate is one vector, clipped and noised together. Gives no
privacy by itself.
"""

from typing import Any, NamedTuple

import optax

from jaxfed import tree
from jaxfed.algorithms import _server
from jaxfed.algorithms._server import Server
from jaxfed.typing import (
    FederatedAlgorithm,
    LocalWork,
    Params,
    PyTree,
    Released,
    Shared,
)


class ScaffoldState(NamedTuple):
    """What the server keeps."""

    server: Server
    control: PyTree
    """The mean of all clients' control variates, as far as it is known."""


def scaffold(
    local: LocalWork,
    privacy: Any,
    *,
    server_optimizer: optax.GradientTransformation | None = None,
) -> FederatedAlgorithm:
    """Returns SCAFFOLD.

    Args:
        local: `clients.scaffold(...)`.
        privacy: as in `fedavg`, but clients weigh alike:
            `privacy.none(..., weighting="clients")`. With a clip, give `local` its
            `control_norm`; noise adds up in the server's variate.
        server_optimizer: moves the parameters, as in `fedavg`; the paper's is
            `optax.sgd(rate)`.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: clients do not weigh alike.
    """
    _server.check_parts(local, privacy, "scaffold")
    _server.check_alike(privacy)
    optimizer = _server.checked_optimizer(server_optimizer)

    def init(params: Params) -> ScaffoldState:
        control = tree.zeros_float32(params)
        return ScaffoldState(_server.begun(optimizer, params), control)

    def broadcast(state: ScaffoldState) -> Shared:
        return Shared(params=state.server.params, extra=state.control)

    def apply(state: ScaffoldState, released: Released) -> ScaffoldState:
        share = _server.share(released, privacy.sampling)
        moved = tree.cast_like(released.value["control"], state.control)
        control = tree.add(state.control, tree.scale(moved, share))
        server = _server.moved(optimizer, state.server, released.value["change"])
        return ScaffoldState(server, control)

    return FederatedAlgorithm(
        init=init,
        broadcast=broadcast,
        local=local,
        aggregator=privacy,
        apply=apply,
        name="scaffold",
    )
