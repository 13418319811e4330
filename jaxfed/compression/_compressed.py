"""Local work whose message is compressed, with or without error feedback.

Error feedback: Seide et al. 2014 (1-bit stochastic gradient descent, Interspeech) and
Karimireddy et al. 2019, arXiv:1901.09847, algorithm 2: what a message lost is added to
the next one. Gives no privacy by itself.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed import keys, tree
from jaxfed.typing import (
    Batch,
    ClientResult,
    LocalWork,
    Metrics,
    Params,
    PyTree,
    Shared,
)

# of the numbers below a step's key, one that no row has and no attack
_APART = 2**30 - 2


class Compressor(Protocol):
    """What shortens a message; a frozen dataclass, so that it prints and compares."""

    @property
    def is_unbiased(self) -> bool:
        """Whether the mean over draws is the update."""
        ...

    @property
    def expands(self) -> bool:
        """Whether what is decoded may have a larger L2 norm than the update."""
        ...

    def compress(self, update: PyTree, *, key: jax.Array) -> PyTree:
        """Returns what the server decodes: float32 leaves like `update`. Pure.

        Args:
            update: finite; a pytree of floating-point arrays.
            key: a threefry key, whose 64 bits are the message's seed if it has one.
        """
        ...

    def num_bits(self, like: PyTree) -> int:
        """Returns the length of one client's message, for arrays of these shapes."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compression:
    """What `LocalWork.compression` holds: how a message is shortened."""

    compressor: Compressor
    error_feedback: bool

    def num_bits(self, sent: PyTree) -> int:
        """Returns the length of one client's message."""
        return self.compressor.num_bits(sent)


class Kept(NamedTuple):
    """What a client keeps between rounds, with error feedback. Private."""

    own: PyTree
    """What the local work keeps."""
    error: PyTree
    """What its messages have lost so far, float32."""


class _Carry(NamedTuple):
    own: PyTree
    seed: jax.Array
    """(2,) uint32: drawn in the last step."""
    error: PyTree


def compressed(
    local: LocalWork, compressor: Compressor, *, error_feedback: bool = False
) -> LocalWork:
    """Returns local work that compresses what it sends.

    Nothing else about it changes: not its batches, and not what it draws. Where a clip
    follows, as with `privacy.central`, it bounds what was decoded, so that it holds
    after any compressor.

    With error feedback a client keeps what a message lost, and adds it to its next
    update. What it sends then depends on its data in all rounds so far. A guarantee for
    whole clients is about everything a client contributes, so that it stays as it is
    with `sampling.Poisson`, and where sampling does not amplify.

    Args:
        local: any, but with noise of its own in its steps.
        compressor: for example `TopK(fraction=0.05)`.
        error_feedback: whether clients keep what was lost; for a compressor that does
            not expand.

    Raises:
        TypeError: `local` is no local work, or `compressor` no compressor.
        ValueError: they do not go together.
    """
    remedy = "pass for example clients.sgd(...)"
    check.instance(LocalWork, remedy, local=local)
    check.instance(bool, "pass True or False", error_feedback=error_feedback)
    _check_parts(local, compressor, error_feedback)

    def init_client(params: Params) -> PyTree:
        own = local.init_client(params)
        if not error_feedback:
            return own
        return Kept(own, tree.zeros_float32(jax.eval_shape(local.sends, params)))

    def init(shared: Shared, client_state: PyTree) -> _Carry:
        own, error = client_state if error_feedback else (client_state, ())
        return _Carry(local.init(shared, own), jnp.zeros(2, jnp.uint32), error)

    def step(carry: _Carry, batch: Batch, *, key: jax.Array) -> tuple[_Carry, Metrics]:
        seed = jax.random.bits(keys.for_leaf(key, _APART), (2,), jnp.uint32)
        own, metrics = local.step(carry.own, batch, key=key)
        return _Carry(own, seed, carry.error), metrics

    def finish(shared: Shared, carry: _Carry) -> ClientResult:
        result = local.finish(shared, carry.own)
        wanted = tree.astype(result.update, jnp.float32)
        if error_feedback:
            wanted = tree.add(wanted, carry.error)
        key = jax.random.wrap_key_data(carry.seed, impl="threefry2x32")
        sent = compressor.compress(wanted, key=key)
        # what is not finite is sent on, for the aggregator to count
        sent = tree.where(tree.is_finite(wanted), sent, wanted)
        kept = result.client_state
        if error_feedback:
            kept = Kept(kept, tree.subtract(wanted, sent))
        return ClientResult(sent, result.weight, kept)

    personal = own_model = local.personal
    if own_model is not None and error_feedback:
        personal = lambda params, kept: own_model(params, kept.own)  # noqa: E731
    feedback = ", error_feedback=True" if error_feedback else ""
    return local._replace(
        init=init,
        step=step,
        finish=finish,
        init_client=init_client,
        personal=personal,
        compression=Compression(compressor=compressor, error_feedback=error_feedback),
        name=f"compressed({local!r}, {compressor!r}{feedback})",
    )


def _check_parts(local: LocalWork, compressor: Any, error_feedback: bool) -> None:
    wanted = ("compress", "num_bits", "is_unbiased", "expands")
    if isinstance(compressor, type) or not all(hasattr(compressor, n) for n in wanted):
        raise TypeError(
            f"compressor must be a compressor, got {compressor!r}; pass for example "
            "compression.TopK(fraction=0.05)."
        )
    if local.mechanism is not None:
        raise ValueError(
            f"local must have no noise in its steps, got {local!r}: a message holds a "
            "seed that is drawn from the key of that noise; send it as it is, or use "
            "privacy.central(...), whose noise is the server's."
        )
    if local.compression is not None:
        raise ValueError(
            f"local must not be compressed already, got {local!r}; pass the local work "
            "inside, with one compressor, such as Rotated(inner=...)."
        )
    if error_feedback and compressor.expands:
        raise ValueError(
            "error_feedback must be False with a compressor that expands, got "
            f"{compressor!r}: errors that are kept would grow; pass TopK(fraction=...) "
            "or RandomK(fraction=..., unbiased=False)."
        )
