"""What happens to one chunk of clients: begin, local steps, end, and into the sum.

Every engine is made of these four functions: one runs them inside a loop of a compiled
program, the other compiles each and calls it from Python.

A chunk has `lanes` clients that are stepped side by side; a lane that is done, or
padding, keeps its carry. A chunk of one lane is not mapped over, and its arrays have no
axis of lanes: with one, compilers copy parameters that they could update in place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfed import keys, tree
from jaxfed.typing import (
    Batch,
    Cohort,
    FederatedAlgorithm,
    Metrics,
    PyTree,
    Shared,
)


class Common(NamedTuple):
    """What every client of a round has in common."""

    algorithm: FederatedAlgorithm
    shared: Shared
    aggregator_state: PyTree
    arrays: dict[str, jax.Array]
    """Leaves (num_examples, ...)."""
    training_key: jax.Array
    encoding_key: jax.Array


class Lanes(NamedTuple):
    """One chunk of the cohort; every field (lanes,), or () of a client alone."""

    clients: jax.Array
    num_examples: jax.Array
    first_step: jax.Array
    num_steps: jax.Array

    @property
    def is_alone(self) -> bool:
        """Whether this is one client, with no axis of lanes."""
        return self.clients.ndim == 0

    @property
    def longest(self) -> jax.Array:
        """How many steps the chunk takes, () int32."""
        return self.num_steps if self.is_alone else jnp.max(self.num_steps)


class Progress(NamedTuple):
    """How far a chunk has come; leaves (lanes, ...), or (...) of a client alone."""

    carry: PyTree
    metrics: Metrics
    """Sums over the steps so far."""


class Sums(NamedTuple):
    """What is kept of all chunks so far."""

    encoded: PyTree
    """The sum; or `Reports`, where an aggregator needs every one."""
    metrics: Metrics
    num_clients: jax.Array
    num_failed: jax.Array


class Reports(NamedTuple):
    """What every client of a cohort encoded, for an aggregator that is no sum."""

    clients: jax.Array
    """(chunks, lanes) int32: whose; numbers past the population are padding."""
    values: PyTree
    """Leaves (chunks, lanes, ...); zeros for padding."""


def lanes_of(cohort: Cohort, index: jax.Array) -> Lanes:
    """Returns one chunk of a cohort."""
    is_alone = cohort.clients.shape[-1] == 1
    return Lanes(*(f[index, 0] if is_alone else f[index] for f in cohort[:4]))


def kept_by(states: PyTree, index: jax.Array) -> PyTree:
    """Returns what the clients of one chunk have kept, (lanes, ...), or (...).

    Args:
        states: of the whole cohort, leaves (chunks, lanes, ...).
        index: () int32, the number of the chunk.
    """
    return jax.tree.map(lambda a: a[_place(a, index)], states)


def with_kept(states: PyTree, index: jax.Array, kept: PyTree) -> PyTree:
    """Returns the states of a cohort after one chunk of it has ended."""
    return jax.tree.map(lambda a, b: a.at[_place(a, index)].set(b), states, kept)


def _place(leaf: jax.Array, index: jax.Array) -> Any:
    return (index, 0) if leaf.shape[1] == 1 else index


def begin(common: Common, lanes: Lanes, rows: jax.Array, kept: PyTree) -> Progress:
    """Starts a chunk of clients from what the server sent and what they kept."""
    local = common.algorithm.local

    def one(kept: PyTree) -> PyTree:
        return local.init(common.shared, kept)

    carry = _each(lanes, one, kept)

    def first(carry: PyTree) -> Metrics:
        return _step(common, lanes, rows, carry, jnp.zeros((), jnp.int32))[1]

    return Progress(carry, tree.zeros_like(jax.eval_shape(first, carry)))


def advance(
    common: Common, lanes: Lanes, rows: jax.Array, so_far: Progress, index: jax.Array
) -> Progress:
    """Takes one local step in every lane that still has one.

    Args:
        common: what the round has in common.
        lanes: the chunk.
        rows: (lines, width) int32, as in a cohort, cut to the width of the step.
        so_far: as `begin` or the step before left it.
        index: () int32, the number of the step, below the largest of `num_steps`.
    """
    carry, metrics = _step(common, lanes, rows, so_far.carry, index)
    summed = jax.tree.map(jnp.add, so_far.metrics, metrics)
    if lanes.is_alone:  # nobody waits for a longer neighbour
        return Progress(carry, summed)
    return tree.where_rows(index < lanes.num_steps, Progress(carry, summed), so_far)


def end(
    common: Common,
    lanes: Lanes,
    so_far: Progress,
    sums: Sums,
    kept: PyTree,
    index: jax.Array,
) -> tuple[Sums, PyTree]:
    """Encodes what a chunk learned and adds it to the sums.

    Padding adds nothing. A client whose update does not count adds a zero, and neither
    metrics nor a new state; one whose state is not finite keeps what it had.

    Args:
        common: what the round has in common.
        lanes: the chunk.
        so_far: after the last step.
        sums: of the chunks before.
        kept: what its clients had kept, as `kept_by` gives it.
        index: () int32, the number of the chunk.

    Returns:
        The sums, and what each lane's client keeps from now on.
    """
    encoded, counts, (new, is_sound) = _results(common, lanes, so_far.carry)
    is_real = lanes.num_steps > 0
    succeeded = _alike(is_real, counts) & counts
    steps = jnp.maximum(lanes.num_steps, 1).astype(jnp.float32)
    means = jax.tree.map(lambda a: a / _alike(steps, a), so_far.metrics)
    failed = _alike(is_real, counts) & ~counts
    if isinstance(sums.encoded, Reports):
        report = tree.where_rows(is_real, encoded, tree.zeros_like(encoded))
        noted = with_kept(sums.encoded, index, Reports(lanes.clients, report))
        sums, total = sums._replace(encoded=()), ()
    else:
        noted, total = None, _total(lanes, encoded, is_real)
    ours = Sums(
        encoded=total,
        metrics=_total(lanes, means, succeeded),
        num_clients=_total(lanes, is_real.astype(jnp.int32), is_real),
        num_failed=_total(lanes, failed.astype(jnp.int32), is_real),
    )
    sums = tree.add(sums, ours)
    if noted is not None:
        sums = sums._replace(encoded=noted)
    return sums, tree.where_rows(succeeded & is_sound, new, kept)


def zero_sums(common: Common, cohort: Cohort, states: PyTree) -> Sums:
    """Returns zeros in the shapes of the sums, found by tracing one chunk."""
    first = jnp.zeros((), jnp.int32)
    lanes = lanes_of(cohort, first)

    def trace() -> tuple[PyTree, Metrics, jax.Array]:
        so_far = begin(common, lanes, cohort.rows, kept_by(states, first))
        encoded, counts, _ = _results(common, lanes, so_far.carry)
        return encoded, so_far.metrics, counts

    def zero(spec: Any, *axes: int) -> jax.Array:
        shape = spec.shape if lanes.is_alone else spec.shape[1:]
        return jnp.zeros((*axes, *shape), spec.dtype)

    found = jax.eval_shape(trace)
    encoded, metrics, counts = jax.tree.map(zero, found)
    if getattr(common.algorithm.aggregator, "keeps_reports", False):
        places = cohort.clients.shape
        values = jax.tree.map(lambda spec: zero(spec, *places), found[0])
        encoded = Reports(cohort.clients, values)
    return Sums(
        encoded=encoded,
        metrics=metrics,
        num_clients=jnp.zeros((), jnp.int32),
        num_failed=counts.astype(jnp.int32),
    )


def _step(
    common: Common, lanes: Lanes, rows: jax.Array, carry: PyTree, index: jax.Array
) -> tuple[PyTree, Metrics]:
    line = lanes.first_step + jnp.minimum(index, jnp.maximum(lanes.num_steps - 1, 0))
    chosen = rows.at[line].get(mode="clip")
    is_real = chosen >= 0
    row = jnp.where(is_real, chosen, ~chosen)
    examples = {n: a.at[row].get(mode="clip") for n, a in common.arrays.items()}

    def one(carry: PyTree, batch: Batch, client: jax.Array) -> Any:
        key = keys.for_leaf(keys.for_client(common.training_key, client), index)
        return common.algorithm.local.step(carry, batch, key=key)

    batch = Batch(examples, is_real, lanes.num_examples)
    return _each(lanes, one, carry, batch, lanes.clients)


def _results(
    common: Common, lanes: Lanes, carry: PyTree
) -> tuple[PyTree, jax.Array, PyTree]:
    """Returns each lane's encoded update, whether it counts, and what it keeps.

    With whether that is finite: of a state that is not, a client would never recover.
    """
    aggregator, state = common.algorithm.aggregator, common.aggregator_state

    def one(carry: PyTree, client: jax.Array) -> tuple[PyTree, jax.Array, Any]:
        result = common.algorithm.local.finish(common.shared, carry)
        key = keys.for_client(common.encoding_key, client)
        if hasattr(aggregator, "encode_counted"):  # it says itself what it drops
            encoded, counts = aggregator.encode_counted(state, result, key=key)
        else:
            encoded = aggregator.encode(state, result, key=key)
            counts = tree.is_finite(result.update)
        own = result.client_state
        return encoded, counts, (own, _are_finite(own, counts))

    return _each(lanes, one, carry, lanes.clients)


def _are_finite(state: PyTree, counts: jax.Array) -> jax.Array:
    """Returns whether what is kept is finite: once, or for every setting of a sweep."""
    found = jnp.ones_like(counts, jnp.bool_)
    for leaf in jax.tree.leaves(state):
        axes = tuple(range(counts.ndim, leaf.ndim))
        found &= jnp.all(jnp.isfinite(leaf), axis=axes)
    return found


def _each(lanes: Lanes, function: Callable[..., Any], *arguments: PyTree) -> Any:
    """Applies a function to every lane."""
    if lanes.is_alone:
        return function(*arguments)
    return jax.vmap(function, axis_size=lanes.clients.size)(*arguments)


def _total(lanes: Lanes, values: PyTree, counted: jax.Array) -> PyTree:
    """Sums the lanes that count, in the dtype of each leaf."""
    kept = tree.where_rows(counted, values, tree.zeros_like(values))
    if lanes.is_alone:
        return kept
    return jax.tree.map(lambda a: jnp.sum(a, axis=0, dtype=a.dtype), kept)


def _alike(values: jax.Array, like: jax.Array) -> jax.Array:
    """Gives (lanes,) values the rank of (lanes, ...) ones; () ones likewise."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))
