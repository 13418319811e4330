"""Federated averaging, with any server optimizer.

McMahan et al. 2017, arXiv:1602.05629, algorithm 1; the server optimizer is FedOpt:
Reddi et al. 2021, arXiv:2003.00295, algorithm 1. With `jaxfed.privacy.central` it is
DP-FedAvg: McMahan et al. 2018, arXiv:1710.06963, algorithm 1. Gives no privacy by
itself.
"""

from typing import Any, NamedTuple

import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.typing import (
    FederatedAlgorithm,
    LocalWork,
    Params,
    PyTree,
    Released,
    Shared,
)


class FedAvgState(NamedTuple):
    """What the server keeps from round to round."""

    params: Params
    optimizer_state: PyTree


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
    check.instance(LocalWork, "pass for example clients.sgd(...)", local=local)
    for method in ("init", "encode", "release"):
        if not callable(getattr(privacy, method, None)):
            raise TypeError(
                f"privacy must be a privacy object, got {privacy!r}; pass "
                "privacy.central(...), or privacy.none(...) to run without."
            )
    if server_optimizer is None:
        server_optimizer = optax.sgd(1.0)
    if not (hasattr(server_optimizer, "init") and hasattr(server_optimizer, "update")):
        raise TypeError(
            f"server_optimizer must be an optax optimizer, got {server_optimizer!r}; "
            "pass for example optax.adam(0.01)."
        )
    optimizer = server_optimizer

    def init(params: Params) -> FedAvgState:
        return FedAvgState(params, optimizer.init(params))

    def broadcast(state: FedAvgState) -> Shared:
        return Shared(params=state.params)

    def apply(state: FedAvgState, released: Released) -> FedAvgState:
        mean_update = tree.cast_like(released.value, state.params)
        changes, optimizer_state = optimizer.update(
            tree.scale(mean_update, -1.0), state.optimizer_state, state.params
        )
        params: Any = optax.apply_updates(state.params, changes)
        return FedAvgState(params, optimizer_state)

    return FederatedAlgorithm(
        init=init,
        broadcast=broadcast,
        local=local,
        aggregator=privacy,
        apply=apply,
        name="fedavg",
    )
