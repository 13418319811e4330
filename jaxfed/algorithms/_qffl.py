"""q-FFL: clients on whom the model is bad count for more.

Li et al. 2020, arXiv:1905.10497, algorithm 2 (q-FedAvg). Gives no privacy by itself.
"""

from typing import Any

import jax.numpy as jnp

from jaxfed import tree
from jaxfed.algorithms import _server
from jaxfed.typing import FederatedAlgorithm, LocalWork, Params, Released, Shared

_LEAST = 1e-6  # of a noised mean weight, which may be any number
_NEXT_TO_NOTHING = 1e-30  # of one without noise


def qffl(local: LocalWork, privacy: Any) -> FederatedAlgorithm:
    """Returns q-FFL.

    Args:
        local: `clients.fair(...)`.
        privacy: as in `fedavg`; the paper weighs clients alike:
            `privacy.none(..., weighting="clients")`. With noise, a round whose mean
            weight comes out below a millionth moves nothing: let `unit` of
            `clients.fair` bring weights near 1.

    Raises:
        TypeError: an argument is of another kind.
    """
    _server.check_parts(local, privacy, "fair")
    least = _LEAST if _server.is_noised(privacy) else _NEXT_TO_NOTHING

    def apply(params: Params, released: Released) -> Params:
        weight = released.value["weight"].astype(jnp.float32)
        factor = jnp.where(weight > least, 1 / jnp.maximum(weight, least), 0.0)
        change = tree.cast_like(released.value["change"], params)
        return tree.add(params, tree.scale(change, factor))

    return FederatedAlgorithm(
        init=lambda params: params,
        broadcast=lambda params: Shared(params=params),
        local=local,
        aggregator=privacy,
        apply=apply,
        name="qffl",
    )
