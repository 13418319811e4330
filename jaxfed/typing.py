"""The nouns: what each is, which shapes it has and who may see it.

"Private" marks values derived from client data on which no mechanism has put noise.
They stay inside a round unless a simulation asks to see them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxfed import _check as check

PyTree = Any
"""Nested containers of arrays, as in `jax.tree`."""
Params = PyTree
"""A model's trained parameters: a pytree of floating-point arrays."""
Metrics = dict[str, jax.Array]
"""Named scalars."""
LossFunction = Callable[[Params, dict[str, jax.Array], jax.Array], Any]
"""`(params, batch, key) -> (loss, metrics)`: the mean over the batch's rows."""


class Batch(NamedTuple):
    """Examples of one client for one local step. Private."""

    rows: dict[str, jax.Array]
    """Leaves (batch_size, ...); rows that are not real hold arbitrary values."""
    is_real: jax.Array
    """(batch_size,) bool; False marks padding."""
    num_examples: jax.Array
    """() int32: how many examples the client owns in all."""


class Shared(NamedTuple):
    """What the server sends to every client of a round."""

    params: Params
    """The server's current parameters."""
    extra: PyTree = ()
    """Anything else a method broadcasts, such as a server control variate."""


class ClientResult(NamedTuple):
    """What local work gives back. Private until an aggregator has encoded it."""

    update: PyTree
    """The change to the parameters, same structure as `Shared.params`; or what
    `LocalWork.sends` says."""
    weight: jax.Array
    """() float32: the number of examples; ignored wherever a guarantee holds."""
    client_state: PyTree
    """What this client keeps for its next round; never leaves it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching:
    """How a client's examples are cut into local steps.

    `epochs` passes over shuffled data in batches of `batch_size` (the last batch of a
    pass may be smaller), or exactly `steps` such batches, reshuffled at every pass.
    With `rate`, each of `steps` batches is a Poisson sample of the client's examples:
    each joins with that probability, and a uniformly random `batch_size` of them
    stay; a batch may be empty.
    """

    batch_size: int
    epochs: int | None = None
    steps: int | None = None
    rate: float | None = None


class LocalWork(NamedTuple):
    """What one client does in one round; every function is pure and jit-compatible."""

    init: Callable[[Shared, PyTree], PyTree]
    """`init(shared, client_state) -> carry`."""
    step: Callable[..., tuple[PyTree, Metrics]]
    """`step(carry, batch, *, key) -> (carry, metrics)`, once per local batch. The
    carry is what the next step needs; the metrics are for people, and private."""
    finish: Callable[[Shared, PyTree], ClientResult]
    """`finish(shared, carry) -> ClientResult`."""
    batching: Batching
    """How the engine feeds `step`."""
    init_client: Callable[[Params], PyTree] = lambda params: ()
    """`init_client(params) -> client_state` before a client's first round."""
    validate: Callable[[Params, dict[str, Any]], None] = lambda params, rows: None
    """`validate(params, rows)` checks, before anything runs, that model and data fit;
    `rows` are a few of the data's rows."""
    sends: Callable[[Params], PyTree] = lambda params: params
    """`sends(params)` is like `ClientResult.update`: the parameters, if it is their
    change; a method that sends more has a tree of its own."""
    kind: str = "change"
    """What `update` means: the change of the parameters, or what one method makes of
    it; that method's server asks for it by this word."""
    server_optimizer: Any = None
    """The optimizer whose state is the server's in every step, if there is one."""
    mechanism: Any = None
    """The privacy object whose noise is inside the steps, if there is one."""
    compression: Any = None
    """What shortens the message, if anything does: its length in bits is
    `compression.num_bits(sends(params))`; else it is 32 for each scalar of `sends`."""
    personal: Callable[[Params, PyTree], Params] | None = None
    """`personal(params, client_state)` is a client's own model, if it has one."""
    name: str = "local work"
    """How it prints."""

    def __repr__(self) -> str:
        return self.name


class Cohort(NamedTuple):
    """The clients of one round and their local steps, in chunks of `lanes` clients.

    What one device works through: chunks of clients that are stepped side by side,
    longest work first, so that those of a chunk finish together.
    """

    clients: jax.Array
    """(chunks, lanes) int32: numbers in the population; padding points past its end."""
    num_examples: jax.Array
    """(chunks, lanes) int32. Private."""
    first_step: jax.Array
    """(chunks, lanes) int32: the client's first line of `rows`."""
    num_steps: jax.Array
    """(chunks, lanes) int32: how many lines it owns; 0 for padding."""
    pass_steps: jax.Array
    """(chunks,) int32: after how many steps a pass over the examples ends."""
    tail: jax.Array
    """(chunks,) int32: which of the engine's batch widths holds the last batch of a
    pass; 0 is the full one."""
    rows: jax.Array
    """(lines, batch_size) int32: row i of the data as i, a padding slot as ~i."""
    num_chunks: jax.Array
    """() int32: how many chunks hold clients."""

    @property
    def is_real(self) -> jax.Array:
        """(chunks, lanes) bool; False marks padding."""
        return self.num_steps > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Participation:
    """A contract of participation: what no client ever exceeds. Public.

    A client that took part in round t takes part again in round t + `min_separation`
    at the earliest, and in at most `max_participations` rounds of a run.
    """

    min_separation: int
    max_participations: int

    def __post_init__(self) -> None:
        for name in ("min_separation", "max_participations"):
            value = check.positive_integer(
                "pass sampler.participation(rounds)", **{name: getattr(self, name)}
            )
            object.__setattr__(self, name, value)


class Aggregator(Protocol):
    """A sum over clients between an encoding and a release.

    Sums only: that is what makes streaming, sharding and secure aggregation the same
    thing. The one exception says so by its type (`keeps_reports`, a class attribute):
    its `release` gets what every client encoded, and it has no guarantee.
    """

    def init(self, params: Params) -> PyTree:
        """Returns the aggregator's own state before the first round."""
        ...

    def encode(self, state: PyTree, result: ClientResult, *, key: jax.Array) -> PyTree:
        """Runs on the client; what it returns is summed over the cohort."""
        ...

    def release(self, state: PyTree, total: PyTree, *, key: jax.Array) -> Any:
        """Runs on the server: `(new_state, Released)` from the sum."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClippedSum:
    """An integer sum that knows its bound: one client moves it by at most `levels`.

    Private. It has no mean and no division: only a mechanism turns it into something
    that has, and dividing its integers by hand makes them refused as noise's input.
    """

    total: PyTree
    """int32 leaves, in grid units."""
    step: jax.Array
    """() float32: what one grid unit is worth."""
    levels: int = dataclasses.field(metadata={"static": True})
    """L2 distance over all leaves together, in grid units (zero-out relation)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Released:
    """A value that an aggregator let go: the only kind that may be divided or kept."""

    value: PyTree
    num_clients: Any = None
    """() float32: over how many clients it is the mean: the expected number, which is
    public, wherever a guarantee holds; those that counted where there is none."""

    def mean_over(self, count: Any) -> "Released":
        """Divides by a public constant, such as the expected number of clients."""
        return Released(
            value=jax.tree.map(lambda a: a / jnp.asarray(count, a.dtype), self.value),
            num_clients=jnp.asarray(count, jnp.float32),
        )


class FederatedAlgorithm(NamedTuple):
    """What an engine needs to run a federated method; every function is pure."""

    init: Callable[[Params], PyTree]
    """`init(params) -> server_state`."""
    broadcast: Callable[[PyTree], Shared]
    """`broadcast(server_state) -> Shared`."""
    local: LocalWork
    aggregator: Any
    """An `Aggregator`; one that carries a guarantee is a `jaxfed.privacy` object."""
    apply: Callable[[PyTree, Released], PyTree]
    """`apply(server_state, released) -> server_state`."""
    name: str = "federated algorithm"
    """How it prints."""

    def __repr__(self) -> str:
        return f"{self.name}(local={self.local!r}, privacy={self.aggregator!r})"


class PrivateReport(NamedTuple):
    """Exact facts about one round: for simulations only, never released."""

    num_clients: jax.Array
    """() int32: real clients in the cohort."""
    num_failed: jax.Array
    """() int32: clients whose update was not finite, or of a norm that the aggregator
    cannot measure, and so counted as zero."""
    metrics: Metrics
    """Local metrics: means over each client's steps, then over the clients that did
    not fail; NaN when there is none."""


class RoundReport(NamedTuple):
    """What a round tells people, beside the state that the next round needs."""

    released: Released
    private: PrivateReport
