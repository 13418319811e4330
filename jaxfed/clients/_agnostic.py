"""Local training that counts by its client's domain: agnostic federated learning.

Mohri, Sivek and Suresh 2019, arXiv:1902.00146; the federated averaging form: Ro et al.
2021, arXiv:2104.02748. Gives no privacy by itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.clients._descent import Carry, Look, Method, descent
from jaxfed.typing import Batch, LocalWork, LossFunction, Params, PyTree, Shared


class _Own(NamedTuple):
    server: Params
    domain: jax.Array
    """() int32; -1 before the first batch."""
    total: jax.Array
    """Of losses of examples, at the server's parameters."""
    rows: jax.Array


def agnostic(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    num_domains: int,
    batch_size: int,
    domain: str = "domain",
    epochs: int | None = None,
    steps: int | None = None,
) -> LocalWork:
    """Returns local training whose change counts as much as its client's domain.

    A domain is a group of clients, such as a country or a kind of device. What is sent
    is a dictionary: `change` of the parameters times the domain's factor, which the
    server sends and which is at most 1; `loss` (num_domains,), the client's mean loss
    at the server's parameters in its domain's place; and `count` (num_domains,), a one
    there. With privacy all are clipped together, the domain with them, and
    `clipping.PerLayer(norms={"change": ..., "loss": ..., "count": 1.0})` gives each its
    own norm. A client outside `range(num_domains)` adds nothing.

    Args:
        loss_fn: as in `clients.sgd`.
        optimizer: any optax optimizer; its state starts afresh in every round.
        num_domains: how many domains there are; public.
        batch_size: examples per step.
        domain: the data's array of domains, integers from 0 to `num_domains` - 1, the
            same for all examples of a client.
        epochs: passes over the client's shuffled examples.
        steps: or this many batches.

    Raises:
        ValueError: a number is out of range.
        TypeError: `optimizer` is not an optax optimizer, or `loss_fn` no function.
    """
    check.positive_integer("pass how many domains there are", num_domains=num_domains)
    check.name('pass for example domain="domain"', domain=domain)

    def begin(shared: Shared, client_state: PyTree) -> _Own:
        del client_state
        zero = jnp.zeros((), jnp.float32)
        return _Own(shared.params, jnp.full((), -1, jnp.int32), zero, zero)

    def direct(
        gradients: PyTree, look: Look, carry: Carry, batch: Batch
    ) -> tuple[PyTree, _Own]:
        own, rows = carry.own, jnp.sum(batch.is_real).astype(jnp.float32)
        loss = look(own.server)[0].astype(jnp.float32)
        here = jnp.where(batch.is_real, batch.rows[domain].astype(jnp.int32), -1)
        seen = jnp.maximum(own.domain, jnp.max(here))
        return gradients, _Own(
            own.server, seen, own.total + rows * loss, own.rows + rows
        )

    def finish(shared: Shared, carry: Carry) -> tuple[PyTree, PyTree]:
        own = carry.own
        count = (jnp.arange(num_domains) == own.domain).astype(jnp.float32)
        loss = own.total / jnp.maximum(own.rows, 1.0)
        change = tree.subtract(carry.params, shared.params)
        change = tree.scale(change, jnp.sum(count * shared.extra))
        return {"change": change, "loss": count * loss, "count": count}, ()

    def sends(params: Params) -> PyTree:
        zeros = jnp.zeros(num_domains, jnp.float32)
        return {"change": params, "loss": zeros, "count": zeros}

    local = descent(
        loss_fn,
        optimizer,
        Method(begin=begin, direct=direct, finish=finish),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        name=f"agnostic(domain={domain!r}, num_domains={num_domains}, ",
        sends=sends,
        kind="agnostic",
    )

    def validate(params: Params, rows: dict[str, Any]) -> None:
        _check_domains(domain, num_domains, rows)
        local.validate(params, rows)

    return local._replace(validate=validate)


def _check_domains(domain: str, num_domains: int, rows: dict[str, Any]) -> None:
    remedy = f"give each example its client's, from 0 to {num_domains - 1}"
    if domain not in rows:
        raise ValueError(
            f"the data must have the array {domain!r} of domains, got "
            f"{', '.join(sorted(rows))}; {remedy}."
        )
    values = rows[domain]
    if values.ndim != 1 or not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(
            f"array {domain!r} must hold one integer per example, got {values.dtype} "
            f"of shape {values.shape}; {remedy}."
        )
    largest, smallest = int(values.max()), int(values.min())
    if smallest < 0 or largest >= num_domains:
        raise ValueError(
            f"array {domain!r} must be in [0, {num_domains}), got {smallest} to "
            f"{largest}; {remedy}."
        )
