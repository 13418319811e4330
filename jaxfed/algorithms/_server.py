"""What every server here does with what clients sent: checks, and one optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.typing import LocalWork, Params, PyTree, Released

_MADE_BY = {
    "change": "clients.sgd(...)",
    "gradient": "clients.gradient(...)",
    "mimelite": "clients.mime(...)",
    "mime": "clients.mime(..., lite=False)",
}


CHANGES = ("change", "prox")  # kinds whose results are a change of the parameters


class Server(NamedTuple):
    """Parameters, and the state of the optimizer that moves them."""

    params: Params
    optimizer_state: PyTree


def check_parts(local: Any, privacy: Any, *kinds: str) -> None:
    """Checks that local work sends what a server understands, and privacy is some.

    Raises:
        TypeError: an argument is of another kind.
    """
    makers = [_MADE_BY.get(kind, f"clients.{kind}(...)") for kind in kinds]
    remedy = f"pass for example {makers[0]}"
    check.instance(LocalWork, remedy, local=local)
    if local.kind not in kinds:
        raise TypeError(
            f"local must be made by {' or '.join(makers)}, whose results this "
            f"algorithm understands, got {local!r}; {remedy}."
        )
    for method in ("init", "encode", "release"):
        if not callable(getattr(privacy, method, None)):
            raise TypeError(
                f"privacy must be a privacy object, got {privacy!r}; pass "
                "privacy.central(...), or privacy.none(...) to run without."
            )


def check_sum(privacy: Any, name: str) -> None:
    """Checks that a release is a sum, where the server divides one by another.

    Raises:
        TypeError: it is none.
    """
    if getattr(privacy, "keeps_reports", False):
        raise TypeError(
            f"{name} must have sums of what clients send, got {privacy!r}: a client "
            "reports for its own group alone, and a robust rule takes the others' "
            "zeros for the truth; pass privacy.none(...), or use fedavg."
        )


def is_noised(privacy: Any) -> bool:
    """Returns whether what is released has noise, a supposed run's included."""
    supposed = getattr(privacy, "privacy", privacy)
    return getattr(supposed, "noise", None) is not None


def check_alike(privacy: Any) -> None:
    """Checks that clients weigh alike, where the server keeps a sum over all of them.

    Raises:
        ValueError: they do not.
    """
    weighting = getattr(privacy, "weighting", "clients")
    if weighting != "clients":
        raise ValueError(
            f"privacy must weigh clients alike, got weighting={weighting!r}: the "
            'server keeps the mean of what clients keep; pass weighting="clients".'
        )


def checked_optimizer(given: Any) -> optax.GradientTransformation:
    """Returns the server's optimizer; without one, changes are added as they are.

    Raises:
        TypeError: it is no optax optimizer.
    """
    if given is None:
        return optax.sgd(1.0)
    if not (hasattr(given, "init") and hasattr(given, "update")):
        raise TypeError(
            f"server_optimizer must be an optax optimizer, got {given!r}; "
            "pass for example optax.adam(0.01)."
        )
    return given


def share(released: Released, sampling: Any) -> jax.Array:
    """Returns what a mean over clients is of a sum over the whole population."""
    count = released.num_clients
    count = sampling.expected_clients if count is None else count
    return jnp.asarray(count, jnp.float32) / sampling.population


def begun(optimizer: optax.GradientTransformation, params: Params) -> Server:
    """Returns the server before the first round."""
    return Server(params, optimizer.init(params))


def moved(
    optimizer: optax.GradientTransformation, server: Server, change: PyTree
) -> Server:
    """Returns the server after a step along a mean change of the parameters."""
    change = tree.cast_like(change, server.params)
    steps, optimizer_state = optimizer.update(
        tree.scale(change, -1.0), server.optimizer_state, server.params
    )
    params: Any = optax.apply_updates(server.params, steps)
    return Server(params, optimizer_state)
