"""Local work whose hostile clients change what they send."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed import keys, tree
from jaxfed.attacks._marked import ATTACKER
from jaxfed.typing import (
    Batch,
    ClientResult,
    LocalWork,
    Metrics,
    Params,
    PyTree,
    Shared,
)

# of the keys below a step's, the last: no local work has as many leaves or parts
_OWN = 2**30 - 1


class _Carry(NamedTuple):
    inner: PyTree
    is_attacker: jax.Array
    words: jax.Array
    """(2,) uint32: the randomness of `finish`, which gets no key of its own. Words
    have one shape, whatever kind of key the engine runs on."""


def attacked(
    local: LocalWork,
    change: Callable[[PyTree, jax.Array], PyTree],
    *,
    name: str,
    settings: str,
) -> LocalWork:
    """Returns local work after which hostile clients send `change(update, key)`.

    All else is that of `local`: honest clients send the same bits, and steps, metrics
    and what clients keep are the same.

    Args:
        local: any that is not wrapped yet.
        change: of all that a client sends.
        name: of the attack.
        settings: of the attack, for people.

    Raises:
        TypeError: `local` is no local work.
        ValueError: it is compressed.
    """
    check.instance(LocalWork, "pass for example clients.sgd(...)", local=local)
    if local.compression is not None:
        raise ValueError(
            f"local must not be compressed, got {local!r}: what a hostile client sends "
            f"is compressed as well; pass compressed({name}(...), ...)."
        )

    def init(shared: Shared, client_state: PyTree) -> _Carry:
        inner = local.init(shared, client_state)
        return _Carry(inner, jnp.array(False), jnp.zeros(2, jnp.uint32))

    def step(carry: _Carry, batch: Batch, *, key: jax.Array) -> tuple[_Carry, Metrics]:
        rows, mark = _parted(batch.rows)
        is_attacker = carry.is_attacker | jnp.any(mark & batch.is_real)
        own = keys.for_leaf(key, _OWN)
        words = jax.random.bits(own, (2,), jnp.uint32)
        inner, metrics = local.step(carry.inner, batch._replace(rows=rows), key=key)
        return _Carry(inner, is_attacker, words), metrics

    def finish(shared: Shared, carry: _Carry) -> ClientResult:
        result = local.finish(shared, carry.inner)
        key = jax.random.wrap_key_data(carry.words, impl="threefry2x32")
        hostile = change(result.update, key)
        update = tree.where(carry.is_attacker, hostile, result.update)
        return result._replace(update=update)

    def validate(params: Params, rows: dict[str, Any]) -> None:
        local.validate(params, _parted(rows)[0])

    return local._replace(
        init=init,
        step=step,
        finish=finish,
        validate=validate,
        name=f"{name}({local.name}, {settings})",
    )


def _parted(rows: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Returns what the loss may see of a batch, and who is hostile."""
    if ATTACKER not in rows:
        raise ValueError(
            f"data must have an array {ATTACKER!r} that says who is hostile, got "
            f"{sorted(rows)}; pass attacks.marked(data, attackers=[...]), and wrap "
            "local work in one attack alone."
        )
    return {n: a for n, a in rows.items() if n != ATTACKER}, rows[ATTACKER]
