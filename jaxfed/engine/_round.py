"""One round as a pure function: local work, encoding, sum, release, update.

The whole round is one program: chunks of clients in a loop, each for as many steps as
the longest of them needs. Memory does not grow with the cohort: only the sum and one
chunk of clients are held.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed import keys
from jaxfed.engine import _chunk
from jaxfed.engine._chunk import Common, Lanes, Progress, Reports, Sums
from jaxfed.typing import (
    Cohort,
    FederatedAlgorithm,
    Params,
    PrivateReport,
    PyTree,
    RoundReport,
)


class RoundState(NamedTuple):
    """Everything the next round needs; arrays only."""

    server: PyTree
    aggregator: PyTree
    clients: PyTree = ()
    """Leaves (num_clients, ...): what each client keeps for itself. Here in rounds that
    are one pure function; a run has them on the host, in `ClientStates`."""


def init_state(
    algorithm: FederatedAlgorithm, params: Params, num_clients: int
) -> RoundState:
    """Returns the state before the first round."""
    one = algorithm.local.init_client(params)
    clients = jax.tree.map(
        lambda a: jnp.broadcast_to(a, (num_clients, *jnp.shape(a))), one
    )
    aggregator = algorithm.aggregator.init(algorithm.local.sends(params))
    return RoundState(algorithm.init(params), aggregator, clients)


def run_round(
    algorithm: FederatedAlgorithm,
    state: RoundState,
    cohort: Cohort,
    arrays: dict[str, jax.Array],
    round_index: jax.Array,
    *,
    key: jax.Array,
    widths: tuple[int, ...] = (),
) -> tuple[RoundState, RoundReport]:
    """Runs one round on one device. Pure: it can be jitted, or scanned over rounds.

    Args:
        algorithm: what to run; static.
        state: from `init_state` or the round before.
        cohort: the plan of the round.
        arrays: the data's arrays, (num_examples, ...).
        round_index: () int32, from 0.
        key: the root key of the run.
        widths: the batch widths that the plan was made with; static.
    """
    common = in_common(algorithm, state, arrays, round_index, key=key)
    states = jax.tree.map(
        lambda a: a.at[cohort.clients].get(mode="clip"), state.clients
    )
    zero = _chunk.zero_sums(common, cohort, states)
    sums, states = add_up(common, cohort, states, states, zero, widths)
    clients = _put_back(state.clients, cohort.clients, states)
    state = state._replace(clients=clients)
    return close(algorithm, state, sums, round_index, key=key)


def in_common(
    algorithm: FederatedAlgorithm,
    state: RoundState,
    arrays: dict[str, jax.Array],
    round_index: jax.Array,
    *,
    key: jax.Array,
) -> Common:
    """Returns what all clients of a round share."""
    return Common(
        algorithm,
        algorithm.broadcast(state.server),
        state.aggregator,
        arrays,
        training_key(key, round_index),
        _key_for(key, keys.Purpose.ENCODING, round_index),
    )


def add_up(
    common: Common,
    cohort: Cohort,
    states: PyTree,
    room: PyTree,
    sums: Sums,
    widths: tuple[int, ...] = (),
) -> tuple[Sums, PyTree]:
    """Adds the contributions of all clients of a cohort, chunk by chunk, in a loop.

    Args:
        common: what the round has in common.
        cohort: the plan of the round, or of a part of it.
        states: what its clients keep, leaves (chunks, lanes, ...).
        room: of that shape, where what they keep from now on is written.
        sums: of the parts before.
        widths: the batch widths that the plan was made with; static.

    Returns:
        The sums, and what its clients keep from now on.
    """

    def add_chunk(index: jax.Array, so_far: tuple[Sums, PyTree]) -> Any:
        sums, room = so_far
        lanes = _chunk.lanes_of(cohort, index)
        kept = _chunk.kept_by(states, index)
        progress = _chunk.begin(common, lanes, cohort.rows, kept)
        progress = _train(common, cohort, index, lanes, progress, widths)
        sums, kept = _chunk.end(common, lanes, progress, sums, kept, index)
        return sums, _chunk.with_kept(room, index, kept)

    return lax.fori_loop(0, cohort.num_chunks, add_chunk, (sums, room))


def _put_back(clients: PyTree, numbers: jax.Array, kept: PyTree) -> PyTree:
    """Stores what clients keep; numbers past the end of the population are padding."""
    target = numbers.reshape(-1)

    def put(all_: jax.Array, new: jax.Array) -> jax.Array:
        rows = new.reshape((target.size, *all_.shape[1:]))
        return all_.at[target].set(rows, mode="drop")

    return jax.tree.map(put, clients, kept)


def close(
    algorithm: FederatedAlgorithm,
    state: RoundState,
    sums: Sums,
    round_index: jax.Array,
    *,
    key: jax.Array,
) -> tuple[RoundState, RoundReport]:
    """Releases the sum of a round and updates the server's model."""
    encoded = sums.encoded
    if isinstance(encoded, Reports):
        encoded = _in_order(encoded, algorithm.aggregator.sampling.max_clients)
    aggregator_state, released = algorithm.aggregator.release(
        state.aggregator,
        encoded,
        key=_key_for(key, keys.Purpose.NOISE, round_index),
    )
    succeeded = (sums.num_clients - sums.num_failed).astype(jnp.float32)
    report = PrivateReport(
        num_clients=sums.num_clients,
        num_failed=sums.num_failed,
        metrics=jax.tree.map(lambda total: total / succeeded, sums.metrics),
    )
    new_state = state._replace(
        server=algorithm.apply(state.server, released), aggregator=aggregator_state
    )
    return new_state, RoundReport(released=released, private=report)


def _in_order(reports: Reports, count: int) -> PyTree:
    """Returns reports by their clients' numbers, leaves (count, ...), then zeros.

    The same on every layout of the cohort.
    """
    clients = reports.clients.reshape(-1)
    spare = max(0, count - clients.size)
    order = jnp.argsort(clients)[:count]

    def put(leaf: jax.Array) -> jax.Array:
        rows = leaf.reshape(clients.size, *leaf.shape[reports.clients.ndim :])[order]
        return jnp.pad(rows, [(0, spare)] + [(0, 0)] * (rows.ndim - 1))

    return jax.tree.map(put, reports.values)


def _train(
    common: Common,
    cohort: Cohort,
    chunk: jax.Array,
    lanes: Lanes,
    progress: Progress,
    widths: tuple[int, ...],
) -> Progress:
    """Takes all local steps of a chunk.

    The last batch of a pass runs in a loop of its own, of one turn or none, for each
    narrower width: a branch would make XLA copy the carry.
    """
    total = lanes.longest

    def at(width: int | None) -> Any:
        rows = cohort.rows if width is None else cohort.rows[:, :width]
        return lambda index, so_far: _chunk.advance(common, lanes, rows, so_far, index)

    if len(widths) < 2:
        return lax.fori_loop(0, total, at(None), progress)
    pass_steps = jnp.maximum(cohort.pass_steps[chunk], 1)
    tail = cohort.tail[chunk]

    def one_pass(number: jax.Array, so_far: Progress) -> Progress:
        start = number * pass_steps
        stop = jnp.minimum(start + pass_steps, total)
        has_tail = (stop == start + pass_steps) & (tail > 0)
        whole = stop - has_tail.astype(jnp.int32)
        so_far = lax.fori_loop(start, whole, at(None), so_far)
        for place, width in enumerate(widths[1:], start=1):
            last = jnp.where(tail == place, stop, whole)
            so_far = lax.fori_loop(whole, last, at(width), so_far)
        return so_far

    passes = (total + pass_steps - 1) // pass_steps
    return lax.fori_loop(0, passes, one_pass, progress)


def training_key(key: jax.Array, round_index: jax.Array) -> jax.Array:
    """Returns the key of a round's local training."""
    return _key_for(key, keys.Purpose.TRAINING, round_index)


def _key_for(
    key: jax.Array, purpose: keys.Purpose, round_index: jax.Array
) -> jax.Array:
    return keys.for_round(keys.for_purpose(key, purpose), round_index)
