"""FedExP: the server steps further where clients' updates point different ways.

Jhunjhunwala et al. 2023, arXiv:2301.09604, algorithm 1: with the mean squared norm of
updates over that of their mean, the server's rate is
`max(1, mean_i ||d_i||**2 / (2 * (||mean_i d_i||**2 + epsilon)))`. Gives no privacy by
itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.algorithms import _server
from jaxfed.typing import (
    ClientResult,
    FederatedAlgorithm,
    LocalWork,
    Params,
    PyTree,
    Released,
    Shared,
)


class FedExPState(NamedTuple):
    """What the server keeps."""

    params: Params
    rate: jax.Array
    """Of the last round, () float32; released."""


def fedexp(
    local: LocalWork, privacy: Any, *, epsilon: float = 1e-3, unit: float = 1.0
) -> FederatedAlgorithm:
    """Returns FedExP over any local work that sends a change of the parameters.

    Each client also sends its squared norm, in units of `unit**2`; with privacy both
    are clipped together, and the noise of the mean makes it longer, and so the rate
    smaller: towards 1, which is federated averaging. The paper ends with the mean of
    the last two rounds' parameters, which is left to the caller.

    Args:
        local: for example `clients.sgd(...)`.
        privacy: as in `fedavg`.
        epsilon: > 0; the paper's is 1e-3, and smaller for small models.
        unit: a norm that updates have, > 0; with privacy, about the clip.

    Raises:
        ValueError: a number is out of range.
        TypeError: an argument is of another kind.
    """
    _server.check_parts(local, privacy, *_server.CHANGES)
    check.setting(check.positive, "pass for example epsilon=1e-3", epsilon=epsilon)
    check.setting(check.positive, "pass about the norm of an update", unit=unit)

    def finish(shared: Shared, carry: PyTree) -> ClientResult:
        result = local.finish(shared, carry)
        squared = tree.sum_of_squares(result.update) / (unit * unit)
        sent = {"change": result.update, "squared_norm": squared}
        return result._replace(update=sent)

    def init(params: Params) -> FedExPState:
        return FedExPState(params, jnp.ones((), jnp.float32))

    def broadcast(state: FedExPState) -> Shared:
        return Shared(params=state.params)

    def apply(state: FedExPState, released: Released) -> FedExPState:
        change = released.value["change"]
        spread = released.value["squared_norm"].astype(jnp.float32) * (unit * unit)
        length = tree.sum_of_squares(change)
        rate = jnp.maximum(1.0, spread / (2 * (length + epsilon)))
        steps = tree.cast_like(tree.scale(change, rate), state.params)
        return FedExPState(tree.add(state.params, steps), rate)

    def sends(params: Params) -> PyTree:
        return {"change": params, "squared_norm": jnp.zeros((), jnp.float32)}

    return FederatedAlgorithm(
        init=init,
        broadcast=broadcast,
        local=local._replace(finish=finish, sends=sends, kind="fedexp"),
        aggregator=privacy,
        apply=apply,
        name="fedexp",
    )
