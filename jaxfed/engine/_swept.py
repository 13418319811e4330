"""Many settings of one algorithm as one algorithm: the settings side by side.

Settings share the cohort, the batches and the keys (common random numbers), so that an
engine that knows nothing of them runs all in one program, and the rows of a batch are
read once for all. Values of settings are part of the state, not of the program: chunks
of other values need no compilation within one sweep. Another sweep compiles again: what
`build` closes over may have changed, and a program kept for it would be stale.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfed import sampling, tree
from jaxfed.privacy import Privacy
from jaxfed.typing import (
    Batch,
    Batching,
    ClientResult,
    FederatedAlgorithm,
    LocalWork,
    Metrics,
    PyTree,
    Released,
    Shared,
)

Build = Callable[..., FederatedAlgorithm]


class Settings(NamedTuple):
    """Values that differ between settings; leaves (settings,) float32."""

    arguments: dict[str, jax.Array]
    """What `build` is called with."""
    clip_norm: jax.Array
    """Each update is divided by this before it is clipped to the mechanism's norm, and
    what is released multiplied by it."""


class Swept(NamedTuple):
    """What the server sends or keeps beside the models of all settings."""

    settings: Settings
    inner: PyTree


def swept(
    build: Build, mechanisms: tuple[Privacy, ...], batching: Batching
) -> FederatedAlgorithm:
    """Returns an algorithm whose parameters are `(Settings, params)`, stacked.

    Args:
        build: `(**arguments) -> FederatedAlgorithm`; arguments may be traced.
        mechanisms: setting i uses mechanism `i % len(mechanisms)`.
        batching: how the local work of every setting wants its examples.
    """

    def init(params: PyTree) -> Swept:
        settings, stacked = params
        inner = jax.vmap(lambda a, p: build(**a).init(p))(settings.arguments, stacked)
        return Swept(settings, inner)

    def broadcast(state: Swept) -> Shared:
        arguments = state.settings.arguments
        sent = jax.vmap(lambda a, s: build(**a).broadcast(s))(arguments, state.inner)
        return Shared(params=sent.params, extra=Swept(state.settings, sent.extra))

    def apply(state: Swept, released: Released) -> Swept:
        def one(arguments: Any, inner: PyTree, released: Released) -> PyTree:
            return build(**arguments).apply(inner, released)

        inner = jax.vmap(one)(state.settings.arguments, state.inner, released)
        return Swept(state.settings, inner)

    return FederatedAlgorithm(
        init=init,
        broadcast=broadcast,
        local=_local(build, batching),
        aggregator=_Aggregator(mechanisms),
        apply=apply,
        name="sweep",
    )


def _local(build: Build, batching: Batching) -> LocalWork:
    def init(shared: Shared, client_state: PyTree) -> Swept:
        def one(arguments: Any, params: PyTree, extra: PyTree, kept: PyTree) -> PyTree:
            return build(**arguments).local.init(Shared(params, extra), kept)

        settings, extra = shared.extra
        carry = jax.vmap(one)(settings.arguments, shared.params, extra, client_state)
        return Swept(settings, carry)

    def step(carry: Swept, batch: Batch, *, key: jax.Array) -> tuple[Swept, Metrics]:
        def one(arguments: Any, inner: PyTree) -> tuple[PyTree, Metrics]:
            return build(**arguments).local.step(inner, batch, key=key)

        inner, metrics = jax.vmap(one)(carry.settings.arguments, carry.inner)
        return Swept(carry.settings, inner), metrics

    def finish(shared: Shared, carry: Swept) -> ClientResult:
        def one(arguments: Any, params: PyTree, extra: PyTree, inner: PyTree) -> Any:
            return build(**arguments).local.finish(Shared(params, extra), inner)

        settings, extra = shared.extra
        return jax.vmap(one)(settings.arguments, shared.params, extra, carry.inner)

    def init_client(params: PyTree) -> PyTree:
        settings, stacked = params
        return jax.vmap(lambda a, p: build(**a).local.init_client(p))(
            settings.arguments, stacked
        )

    def sends(params: PyTree) -> PyTree:
        settings, stacked = params
        one = jax.vmap(lambda a, p: build(**a).local.sends(p))
        return settings, one(settings.arguments, stacked)

    return LocalWork(
        init, step, finish, batching, init_client, sends=sends, name="sweep"
    )


@dataclasses.dataclass(frozen=True)
class _Aggregator:
    """The mechanisms of all settings, each on its own share of them."""

    mechanisms: tuple[Privacy, ...]

    @property
    def sampling(self) -> sampling.Sampler:
        """The sampler of all of them."""
        return self.mechanisms[0].sampling

    @property
    def rounds(self) -> int | None:
        """How many rounds they are calibrated for."""
        return getattr(self.mechanisms[0], "rounds", None)

    def init(self, params: PyTree) -> Swept:
        settings, stacked = params
        parts = self._each(lambda m, p: m.init(p), stacked)
        return Swept(settings, tuple(parts))

    def encode_counted(
        self, state: Swept, result: ClientResult, *, key: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        def one(mechanism: Privacy, result: ClientResult, norm: Any, own: Any) -> Any:
            scaled = result._replace(update=tree.scale(result.update, 1 / norm))
            return mechanism.encode_counted(own, scaled, key=key)

        parts = self._each(one, result, state.settings.clip_norm, own=state.inner)
        encoded, counts = zip(*parts, strict=True)
        return encoded, jnp.stack(counts, axis=1).reshape(-1)

    def release(
        self, state: Swept, total: PyTree, *, key: jax.Array
    ) -> tuple[Swept, Released]:
        def one(mechanism: Privacy, norm: Any, own: Any) -> Any:
            inner, summed = own
            new, released = mechanism.release(inner, summed, key=key)
            value = tree.scale(released.value, norm)
            return new, dataclasses.replace(released, value=value)

        own = list(zip(state.inner, total, strict=True))
        parts = self._each(one, state.settings.clip_norm, own=own)
        inner, released = zip(*parts, strict=True)
        found = jax.tree.map(_interleaved, *released)
        return Swept(state.settings, tuple(inner)), found

    def _each(self, function: Any, *stacked: PyTree, own: Any = None) -> list[Any]:
        """Maps over each mechanism's settings; `own` is one tree a mechanism."""
        count, found = len(self.mechanisms), []
        for i, mechanism in enumerate(self.mechanisms):
            share = [jax.tree.map(lambda a, i=i: a[i::count], one) for one in stacked]
            extra = [] if own is None else [own[i]]
            found.append(
                jax.vmap(lambda *a, m=mechanism: function(m, *a))(*share, *extra)
            )
        return found


def _interleaved(*parts: jax.Array) -> jax.Array:
    """Undoes `a[i::count]`."""
    stacked = jnp.stack(parts, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])
