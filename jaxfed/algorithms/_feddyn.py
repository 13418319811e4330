"""FedDyn: regularisers that move, so that local optima agree with the global one.

Acar et al. 2021, arXiv:2111.04263, algorithm 1. Gives no privacy by itself.
"""

from typing import Any, NamedTuple

from jaxfed import tree
from jaxfed.algorithms import _server
from jaxfed.typing import (
    FederatedAlgorithm,
    LocalWork,
    Params,
    PyTree,
    Released,
    Shared,
)


class FedDynState(NamedTuple):
    """What the server keeps."""

    params: Params
    drift: PyTree
    """`-h / alpha` of the paper: all changes so far, over the number of clients."""


def feddyn(local: LocalWork, privacy: Any) -> FederatedAlgorithm:
    """Returns FedDyn.

    The server's `h` is kept divided by minus alpha, which the client alone knows.

    Args:
        local: `clients.dyn(...)`.
        privacy: as in `fedavg`, but clients weigh alike:
            `privacy.none(..., weighting="clients")`. With noise, all that was added in
            earlier rounds stays in the drift.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: clients do not weigh alike.
    """
    _server.check_parts(local, privacy, "dyn")
    _server.check_alike(privacy)

    def init(params: Params) -> FedDynState:
        return FedDynState(params, tree.zeros_float32(params))

    def broadcast(state: FedDynState) -> Shared:
        return Shared(params=state.params)

    def apply(state: FedDynState, released: Released) -> FedDynState:
        share = _server.share(released, privacy.sampling)
        change = tree.cast_like(released.value, state.drift)
        drift = tree.add(state.drift, tree.scale(change, share))
        moved = tree.cast_like(tree.add(change, drift), state.params)
        return FedDynState(tree.add(state.params, moved), drift)

    return FederatedAlgorithm(
        init=init,
        broadcast=broadcast,
        local=local,
        aggregator=privacy,
        apply=apply,
        name="feddyn",
    )
