"""Mime and MimeLite: clients mimic the steps that the server's optimizer would take.

Karimireddy et al. 2021, arXiv:2008.03606, algorithm 1. Gives no privacy by itself.
"""

from typing import Any, NamedTuple

from jaxfed import tree
from jaxfed.algorithms import _server
from jaxfed.clients._mime import MimeShared
from jaxfed.typing import (
    FederatedAlgorithm,
    LocalWork,
    Params,
    PyTree,
    Released,
    Shared,
)


class MimeState(NamedTuple):
    """What the server keeps."""

    params: Params
    optimizer_state: PyTree
    control: PyTree
    """The mean gradient of the last round; () for MimeLite."""


def mime(local: LocalWork, privacy: Any) -> FederatedAlgorithm:
    """Returns Mime, or MimeLite if that is what `local` does.

    Args:
        local: `clients.mime(...)`; the state of its optimizer is the server's.
        privacy: as in `fedavg`; the paper weighs clients alike:
            `privacy.none(..., weighting="clients")`.

    Raises:
        TypeError: an argument is of another kind.
    """
    _server.check_parts(local, privacy, "mimelite", "mime")
    optimizer = local.server_optimizer
    is_lite = local.kind == "mimelite"

    def init(params: Params) -> MimeState:
        control = () if is_lite else tree.zeros_like(params)
        return MimeState(params, optimizer.init(params), control)

    def broadcast(state: MimeState) -> Shared:
        extra = MimeShared(state.optimizer_state, state.control)
        return Shared(params=state.params, extra=extra)

    def apply(state: MimeState, released: Released) -> MimeState:
        change = tree.cast_like(released.value["change"], state.params)
        mean = tree.cast_like(released.value["gradient"], state.params)
        _, optimizer_state = optimizer.update(mean, state.optimizer_state, state.params)
        params = tree.add(state.params, change)
        new = MimeState(params, optimizer_state, () if is_lite else mean)
        somebody = _server.share(released, privacy.sampling) > 0
        return tree.where(somebody, new, state)  # nobody's gradient is none

    return FederatedAlgorithm(
        init=init,
        broadcast=broadcast,
        local=local,
        aggregator=privacy,
        apply=apply,
        name="mimelite" if is_lite else "mime",
    )
