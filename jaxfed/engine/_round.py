"""One round as one compiled function: local work, encoding, sum, release, update.

Clients are stepped `lanes` at a time, side by side, for as many steps as the longest
of them needs; a finished or padding lane keeps its carry. Memory does not grow with
the cohort: only the sum and one chunk of clients are held.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed import keys, tree
from jaxfed.typing import (
    Batch,
    ClientResult,
    Cohort,
    FederatedAlgorithm,
    Metrics,
    Params,
    PrivateReport,
    PyTree,
    RoundReport,
    Shared,
)

_SMALL_MODEL = 50_000  # scalars; below it several models fit a core's cache together
_SMALL_MODEL_LANES = 8
_ACCELERATOR_LANES = 32


class RoundState(NamedTuple):
    """Everything the next round needs; arrays only."""

    server: PyTree
    aggregator: PyTree
    clients: PyTree
    """Leaves (num_clients, ...): what each client keeps for itself."""


class _Round(NamedTuple):
    """What every client of a round has in common."""

    algorithm: FederatedAlgorithm
    shared: Shared
    aggregator_state: PyTree
    arrays: dict[str, jax.Array]
    rows: jax.Array
    training_key: jax.Array
    encoding_key: jax.Array


class _Lanes(NamedTuple):
    """One chunk of the cohort; every field (lanes,)."""

    clients: jax.Array
    is_real: jax.Array
    num_examples: jax.Array
    first_step: jax.Array
    num_steps: jax.Array


class _Answers(NamedTuple):
    """What one chunk answers; leaves (lanes, ...)."""

    encoded: PyTree
    client_state: PyTree
    counts: jax.Array
    metrics: Metrics


class _Sums(NamedTuple):
    """What is kept of all chunks so far."""

    encoded: PyTree
    metrics: Metrics
    num_failed: jax.Array
    clients: PyTree


def choose_lanes(params: Params, max_clients: int) -> int:
    """Returns how many clients to step side by side for a model of this size."""
    if jax.default_backend() != "cpu":
        lanes = _ACCELERATOR_LANES
    else:
        lanes = _SMALL_MODEL_LANES if tree.size(params) < _SMALL_MODEL else 1
    return min(lanes, max_clients)


def init_state(
    algorithm: FederatedAlgorithm, params: Params, num_clients: int
) -> RoundState:
    """Returns the state before the first round."""
    one = algorithm.local.init_client(params)
    clients = jax.tree.map(
        lambda a: jnp.broadcast_to(a, (num_clients, *jnp.shape(a))), one
    )
    return RoundState(
        algorithm.init(params), algorithm.aggregator.init(params), clients
    )


@functools.lru_cache(maxsize=32)
def compiled_round(algorithm: FederatedAlgorithm) -> Any:
    """Returns the jitted round of an algorithm, once per algorithm."""
    return jax.jit(functools.partial(run_round, algorithm))


def run_round(
    algorithm: FederatedAlgorithm,
    state: RoundState,
    cohort: Cohort,
    arrays: dict[str, jax.Array],
    round_index: jax.Array,
    *,
    key: jax.Array,
) -> tuple[RoundState, RoundReport]:
    """Runs one round. Pure: it can be jitted, or scanned over rounds.

    Args:
        algorithm: what to run; static.
        state: from `init_state` or the round before.
        cohort: the plan of the round.
        arrays: the data's arrays, (num_examples, ...).
        round_index: () int32, from 0.
        key: the root key of the run.
    """

    def key_for(purpose: keys.Purpose) -> jax.Array:
        return keys.for_round(keys.for_purpose(key, purpose), round_index)

    this_round = _Round(
        algorithm,
        algorithm.broadcast(state.server),
        state.aggregator,
        arrays,
        cohort.rows,
        key_for(keys.Purpose.TRAINING),
        key_for(keys.Purpose.ENCODING),
    )

    def add_chunk(index: jax.Array, sums: _Sums) -> _Sums:
        lanes = _Lanes(*(field[index] for field in cohort[:5]))
        return _add(sums, lanes, _answer(this_round, lanes, sums.clients))

    num_chunks = jnp.sum(jnp.any(cohort.is_real, axis=1))
    zero = _zero_sums(this_round, cohort, state.clients)
    sums = lax.fori_loop(0, num_chunks, add_chunk, zero)
    aggregator_state, released = algorithm.aggregator.release(
        state.aggregator, sums.encoded, key=key_for(keys.Purpose.NOISE)
    )
    num_clients = jnp.sum(cohort.is_real, dtype=jnp.int32)
    succeeded = (num_clients - sums.num_failed).astype(jnp.float32)
    report = PrivateReport(
        num_clients=num_clients,
        num_failed=sums.num_failed,
        metrics=jax.tree.map(lambda total: total / succeeded, sums.metrics),
    )
    new_state = RoundState(
        algorithm.apply(state.server, released), aggregator_state, sums.clients
    )
    return new_state, RoundReport(released=released, private=report)


def _answer(this_round: _Round, lanes: _Lanes, clients: PyTree) -> _Answers:
    """Trains one chunk of clients side by side and encodes their results."""
    local = this_round.algorithm.local
    kept = jax.tree.map(lambda a: a.at[lanes.clients].get(mode="clip"), clients)
    width = lanes.clients.shape[0]
    init = jax.vmap(local.init, (None, 0), axis_size=width)
    carry = init(this_round.shared, kept)
    carry, metrics = _train(this_round, lanes, carry)
    result = jax.vmap(local.finish, (None, 0))(this_round.shared, carry)

    def encode(one: ClientResult, client: jax.Array) -> tuple[PyTree, jax.Array]:
        aggregator = this_round.algorithm.aggregator
        state = this_round.aggregator_state
        key = keys.for_client(this_round.encoding_key, client)
        if hasattr(aggregator, "encode_counted"):  # it says itself what it drops
            return aggregator.encode_counted(state, one, key=key)
        return aggregator.encode(state, one, key=key), tree.is_finite(one.update)

    encoded, counts = jax.vmap(encode)(result, lanes.clients)
    return _Answers(
        encoded=encoded,
        client_state=result.client_state,
        counts=counts,
        metrics=metrics,
    )


def _train(this_round: _Round, lanes: _Lanes, carry: PyTree) -> tuple[PyTree, Metrics]:
    """Runs every lane's local steps; returns carries and each client's mean metrics."""
    step = jax.vmap(this_round.algorithm.local.step)

    def batch_of(index: jax.Array) -> tuple[Batch, jax.Array]:
        line = lanes.first_step + jnp.minimum(index, lanes.num_steps - 1)
        chosen = this_round.rows.at[line].get(mode="clip")
        is_real = chosen >= 0
        row = jnp.where(is_real, chosen, ~chosen)
        rows = {n: a.at[row].get(mode="clip") for n, a in this_round.arrays.items()}

        def step_key(client: jax.Array) -> jax.Array:
            return keys.for_leaf(
                keys.for_client(this_round.training_key, client), index
            )

        batch = Batch(rows, is_real, lanes.num_examples)
        return batch, jax.vmap(step_key)(lanes.clients)

    def advance(index: jax.Array, so_far: tuple[PyTree, Metrics]) -> Any:
        batch, step_keys = batch_of(index)
        new_carry, metrics = step(so_far[0], batch, key=step_keys)
        is_active = index < lanes.num_steps
        summed = jax.tree.map(jnp.add, so_far[1], metrics)
        return tree.where_rows(is_active, (new_carry, summed), so_far)

    def shapes(so_far: PyTree) -> Any:
        batch, step_keys = batch_of(jnp.zeros((), jnp.int32))
        return step(so_far, batch, key=step_keys)

    zero = tree.zeros_like(jax.eval_shape(shapes, carry)[1])
    carry, total = lax.fori_loop(0, jnp.max(lanes.num_steps), advance, (carry, zero))
    steps = jnp.maximum(lanes.num_steps, 1).astype(jnp.float32)
    return carry, jax.tree.map(lambda a: a / steps, total)


def _add(sums: _Sums, lanes: _Lanes, answers: _Answers) -> _Sums:
    """Adds one chunk; padding adds nothing, a failed client no state and no metric."""
    succeeded = lanes.is_real & answers.counts
    past_the_end = jnp.iinfo(jnp.int32).max
    target = jnp.where(succeeded, lanes.clients, past_the_end)

    def total(values: PyTree, counted: jax.Array) -> PyTree:
        kept = tree.where_rows(counted, values, tree.zeros_like(values))
        return jax.tree.map(lambda a: jnp.sum(a, axis=0, dtype=a.dtype), kept)

    return _Sums(
        encoded=tree.add(sums.encoded, total(answers.encoded, lanes.is_real)),
        metrics=tree.add(sums.metrics, total(answers.metrics, succeeded)),
        num_failed=sums.num_failed
        + jnp.sum(lanes.is_real & ~answers.counts, dtype=jnp.int32),
        clients=jax.tree.map(
            lambda all_, new: all_.at[target].set(new, mode="drop"),
            sums.clients,
            answers.client_state,
        ),
    )


def _zero_sums(this_round: _Round, cohort: Cohort, clients: PyTree) -> _Sums:
    """Returns zeros in the shapes of one chunk's answers, found by tracing it."""
    lanes = _Lanes(*(field[0] for field in cohort[:5]))
    answers = jax.eval_shape(lambda: _answer(this_round, lanes, clients))

    def zero(spec: Any) -> jax.Array:
        return jnp.zeros(spec.shape[1:], spec.dtype)

    return _Sums(
        encoded=jax.tree.map(zero, answers.encoded),
        metrics=jax.tree.map(zero, answers.metrics),
        num_failed=jnp.zeros((), jnp.int32),
        clients=clients,
    )
