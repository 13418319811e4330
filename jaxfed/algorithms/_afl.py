"""AFL: the model that is best for the worst mixture of domains.

Mohri, Sivek and Suresh 2019, arXiv:1902.00146: minimise over models the maximum over
mixtures of domains of the mean loss. In rounds of federated averaging: Ro et al. 2021,
arXiv:2104.02748 (AgnosticFedAvg). Gives no privacy by itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.algorithms import _server
from jaxfed.algorithms._server import Server
from jaxfed.typing import FederatedAlgorithm, LocalWork, Params, Released, Shared

_NEXT_TO_NOTHING = 1e-3  # a share that is no divisor even without noise


class AFLState(NamedTuple):
    """What the server keeps; a vector has an entry per domain."""

    server: Server
    log_weights: jax.Array
    """Logarithms of the mixture's weights, up to a constant."""
    losses: jax.Array
    """Mean loss of each domain when somebody of it came last."""
    shares: jax.Array
    """Of each domain in the cohorts so far, on average; begins even."""
    rounds: jax.Array
    """() float32, with the even one."""


def afl(
    local: LocalWork,
    privacy: Any,
    *,
    domain_learning_rate: float,
    server_optimizer: optax.GradientTransformation | None = None,
    least_share: float | None = None,
) -> FederatedAlgorithm:
    """Returns agnostic federated learning.

    Each round the weight of a domain grows by the exponential of its mean loss, times
    `domain_learning_rate`; the model moves by the mean change of each domain, in the
    mixture of the weights before. A domain of which nobody came keeps its last loss.

    With privacy the guarantee is that of `privacy`, and covers all that a client sends:
    its change, its loss, and which domain it is of. How many domains there are is
    public; so are their weights, which come from what was released.

    Args:
        local: `clients.agnostic(...)`.
        privacy: as in `fedavg`; without noise, `weighting` decides whether a domain's
            mean is over its examples, as in the paper, or over its clients. With noise,
            domains need many clients in a round: a mean loss is a noised sum over a
            noised count.
        domain_learning_rate: of the weights, >= 0, over the units of the loss; 0 keeps
            all domains alike.
        server_optimizer: moves the parameters, as in `fedavg`.
        least_share: with noise, a domain of a smaller share of the cohorts so far may
            be noise alone: its weight grows as the mixture does, and its changes count
            for no more than those of any other. Pass less than the rarest domain
            has, and more than the noise on a share; 0.05, or half an even share if that
            is less, if not given.

    Raises:
        ValueError: a number is out of range.
        TypeError: an argument is of another kind, or `privacy` makes no sum.
    """
    _server.check_parts(local, privacy, "agnostic")
    _server.check_sum(privacy, "afl")
    remedy = "pass for example domain_learning_rate=0.1"
    rate = check.setting(
        check.non_negative, remedy, domain_learning_rate=domain_learning_rate
    )
    optimizer = _server.checked_optimizer(server_optimizer)
    num_domains = local.sends(())["count"].shape[0]
    if least_share is None:
        least_share = min(0.05, 0.5 / num_domains)
    floor = check.probability("pass for example 0.05", least_share=least_share)
    least = 0.5  # of what is expected; below, it may be noise
    if not _server.is_noised(privacy):
        least, floor = 0.0, 0.0

    def init(params: Params) -> AFLState:
        zeros = jnp.zeros(num_domains, jnp.float32)
        return AFLState(
            server=_server.begun(optimizer, params),
            log_weights=zeros,
            losses=zeros,
            shares=zeros + 1 / num_domains,
            rounds=jnp.ones((), jnp.float32),
        )

    def broadcast(state: AFLState) -> Shared:
        return Shared(params=state.server.params, extra=_factors(state, floor))

    def apply(state: AFLState, released: Released) -> AFLState:
        value = tree.astype(released.value, jnp.float32)
        count, factors = value["count"], _factors(state, floor)
        rounds = state.rounds + 1
        shares = state.shares + (count - state.shares) / rounds
        is_there = _are_there(shares, floor)
        is_known = is_there & (count > least * shares)
        losses = value["loss"] / jnp.where(is_known, count, 1.0)
        losses = jnp.where(is_known, losses, state.losses)
        mixture = jax.nn.softmax(jnp.where(is_there, state.log_weights, -jnp.inf))
        losses = jnp.where(is_there, losses, jnp.sum(mixture * losses))
        log_weights = state.log_weights + rate * losses
        counted = jnp.sum(factors * count)
        expected = jnp.sum(factors * jnp.maximum(shares, 0.0))
        counted = jnp.maximum(counted, least * expected)
        scale = jnp.where(counted > 0, 1 / jnp.where(counted > 0, counted, 1.0), 0.0)
        change = tree.scale(value["change"], scale)
        return AFLState(
            server=_server.moved(optimizer, state.server, change),
            log_weights=log_weights - jnp.max(log_weights),
            losses=losses,
            shares=shares,
            rounds=rounds,
        )

    return FederatedAlgorithm(
        init=init,
        broadcast=broadcast,
        local=local,
        aggregator=privacy,
        apply=apply,
        name="afl",
    )


def _factors(state: AFLState, floor: float) -> jax.Array:
    """Returns what a change counts for by its domain: weight over share, at most 1."""
    shares = jnp.maximum(state.shares, max(floor, _NEXT_TO_NOTHING))
    logs = state.log_weights - jnp.log(shares)
    is_there = _are_there(state.shares, floor)
    largest = jnp.max(jnp.where(is_there, logs, -jnp.inf))
    return jnp.exp(jnp.minimum(logs - largest, 0.0))


def _are_there(shares: jax.Array, floor: float) -> jax.Array:
    """Returns which domains are more than noise; all, if none is."""
    found = shares >= floor
    return found | ~jnp.any(found)
