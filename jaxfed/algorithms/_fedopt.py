"""Federated averaging whose server has momentum, or an adaptive optimizer.

FedAdagrad, FedYogi and FedAdam: Reddi et al. 2021, arXiv:2003.00295, algorithm 2, with
its `tau` and without bias correction. FedAvgM: Hsu et al. 2019, arXiv:1909.06335. Every
rate may be an optax schedule over rounds. Gives no privacy by itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.algorithms._fedavg import fedavg
from jaxfed.typing import FederatedAlgorithm, LocalWork, PyTree

Rate = float | optax.Schedule


class _Moments(NamedTuple):
    first: PyTree
    second: PyTree


def fedavgm(
    local: LocalWork, privacy: Any, *, learning_rate: Rate = 1.0, momentum: float = 0.9
) -> FederatedAlgorithm:
    """Returns federated averaging with momentum on the server.

    Args:
        local: as in `fedavg`.
        privacy: as in `fedavg`.
        learning_rate: of the server.
        momentum: in [0, 1).

    Raises:
        ValueError: a number is out of range.
        TypeError: an argument is of another kind.
    """
    _check_share(momentum=momentum)
    _check_rate(learning_rate)
    optimizer = optax.sgd(learning_rate, momentum=momentum)
    return fedavg(local, privacy, server_optimizer=optimizer)._replace(name="fedavgm")


def fedadagrad(
    local: LocalWork,
    privacy: Any,
    *,
    learning_rate: Rate,
    b1: float = 0.0,
    tau: float = 1e-3,
) -> FederatedAlgorithm:
    """Returns FedAdagrad: squares of all rounds add up.

    Args:
        local: as in `fedavg`.
        privacy: as in `fedavg`.
        learning_rate: of the server.
        b1: how much of the first moment stays, in [0, 1).
        tau: added to the root of the second moment, which begins at `tau**2`.

    Raises:
        ValueError: a number is out of range.
        TypeError: an argument is of another kind.
    """
    optimizer = _adaptive(lambda v, square: v + square, learning_rate, b1, tau)
    found = fedavg(local, privacy, server_optimizer=optimizer)
    return found._replace(name="fedadagrad")


def fedyogi(
    local: LocalWork,
    privacy: Any,
    *,
    learning_rate: Rate,
    b1: float = 0.9,
    b2: float = 0.99,
    tau: float = 1e-3,
) -> FederatedAlgorithm:
    """Returns FedYogi: the second moment moves by a share of the newest square.

    Args:
        local: as in `fedavg`.
        privacy: as in `fedavg`.
        learning_rate: of the server.
        b1: how much of the first moment stays, in [0, 1).
        b2: how much of the second, in [0, 1).
        tau: added to the root of the second moment, which begins at `tau**2`.

    Raises:
        ValueError: a number is out of range.
        TypeError: an argument is of another kind.
    """
    _check_share(b2=b2)

    def yogi(v: jax.Array, square: jax.Array) -> jax.Array:
        share = jnp.asarray(1 - b2, v.dtype)
        return v - share * square * jnp.sign(v - square)

    optimizer = _adaptive(yogi, learning_rate, b1, tau)
    return fedavg(local, privacy, server_optimizer=optimizer)._replace(name="fedyogi")


def fedadam(
    local: LocalWork,
    privacy: Any,
    *,
    learning_rate: Rate,
    b1: float = 0.9,
    b2: float = 0.99,
    tau: float = 1e-3,
) -> FederatedAlgorithm:
    """Returns FedAdam: both moments are moving averages.

    With noise, `clipping.Scaled` measures each coordinate in units of what was released
    before, so that a private FedAdam does not divide noise by small second moments.

    Args:
        local: as in `fedavg`.
        privacy: as in `fedavg`.
        learning_rate: of the server.
        b1: how much of the first moment stays, in [0, 1).
        b2: how much of the second, in [0, 1).
        tau: added to the root of the second moment, which begins at `tau**2`.

    Raises:
        ValueError: a number is out of range.
        TypeError: an argument is of another kind.
    """
    _check_share(b2=b2)

    def adam(v: jax.Array, square: jax.Array) -> jax.Array:
        keep = jnp.asarray(b2, v.dtype)
        return keep * v + (1 - keep) * square

    optimizer = _adaptive(adam, learning_rate, b1, tau)
    return fedavg(local, privacy, server_optimizer=optimizer)._replace(name="fedadam")


def _adaptive(
    second_moment: Callable[[jax.Array, jax.Array], jax.Array],
    learning_rate: Rate,
    b1: float,
    tau: float,
) -> optax.GradientTransformation:
    """Returns lines 10 to 14 of algorithm 2 as an optax optimizer."""
    _check_share(b1=b1)
    _check_rate(learning_rate)
    check.setting(check.positive, "pass for example tau=1e-3", tau=tau)

    def init(params: PyTree) -> _Moments:
        first = tree.zeros_float32(params)
        return _Moments(first, jax.tree.map(lambda a: a + jnp.float32(tau) ** 2, first))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, _Moments]:
        del params

        def averaged(m: jax.Array, g: jax.Array) -> jax.Array:
            keep = jnp.asarray(b1, m.dtype)
            return keep * m + (1 - keep) * g

        def scaled(m: jax.Array, v: jax.Array) -> jax.Array:
            return m / (jnp.sqrt(v) + jnp.asarray(tau, v.dtype))

        wide = tree.astype(updates, jnp.float32)
        first = jax.tree.map(averaged, state.first, wide)
        second = jax.tree.map(lambda v, g: second_moment(v, g * g), state.second, wide)
        steps = tree.cast_like(jax.tree.map(scaled, first, second), updates)
        return steps, _Moments(first, second)

    adaptive = optax.GradientTransformation(init, update)
    return optax.chain(adaptive, optax.scale_by_learning_rate(learning_rate))


def _check_rate(learning_rate: Any) -> None:
    if not callable(learning_rate):  # a schedule is
        remedy = "pass for example 0.1, or an optax schedule"
        check.setting(check.positive, remedy, learning_rate=learning_rate)


def _check_share(**named: Any) -> None:
    ((name, value),) = named.items()
    share = check.setting(check.non_negative, "pass for example 0.9", **named)
    if not check.is_traced(share) and share >= 1:
        raise ValueError(
            f"{name} must be in [0, 1), got {value}; pass for example 0.9."
        )
