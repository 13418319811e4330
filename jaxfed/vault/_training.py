"""Local work on the examples of one client, as a plan says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxfed.vault import _arrays
from jaxfed.vault._numpy import np
from jaxfed.vault._plan import Batching, Plan
from jaxfed.vault._program import Array

_STEP = np.uint32(3 << 30)  # the branch of a key for a step; see `jaxfed.keys`
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


class Trained(NamedTuple):
    """What local work gives back. Private."""

    update: list[Array]
    weight: float
    kept: list[Array]
    metrics: dict[str, float]
    """Means over the steps."""


def train(
    plan: Plan,
    examples: Mapping[str, Array],
    shared: Sequence[Array],
    kept: Sequence[Array],
    *,
    key: Array,
    order: int,
    client: int = 0,
) -> Trained:
    """Runs a plan's local work.

    Args:
        plan: checked.
        examples: arrays (num_examples, ...), of the plan's rows.
        shared: what the server sent, of the plan's types.
        kept: what this client kept.
        key: (2,) uint32, the client's in this round: threefry.
        order: 64 random bits that shuffle the examples.
        client: a number that is mixed into `order`, so that a simulation's order can
            be had.
    """
    rows = [np.ascontiguousarray(examples[one.name]) for one in plan.rows]
    count = np.int32(len(rows[0]))
    carry = plan.begin(*shared, *kept)
    totals = np.zeros(len(plan.metrics))
    steps = 0
    for chosen, is_real in batches(len(rows[0]), plan.batching, order, client):
        step_key = _arrays.random_fold_in(key, np.asarray(_STEP | np.uint32(steps)))
        batch = [array[chosen] for array in rows]
        found = plan.step(*carry, *batch, is_real, np.asarray(count), step_key)
        carry = found[: len(plan.carry)]
        totals += [float(one) for one in found[len(plan.carry) :]]
        steps += 1
    found = plan.finish(*shared, *carry)
    size = len(plan.update)
    return Trained(
        update=found[:size],
        weight=float(found[size]),
        kept=found[size + 1 :],
        metrics=dict(zip(plan.metrics, totals / max(1, steps))),
    )


def batches(
    size: int, batching: Batching, order: int, client: int = 0
) -> Iterator[tuple[Array, Array]]:
    """Yields which examples each step has, (batch_size,), and which slots are real.

    Passes over the examples in random order, cut into batches; those of a simulation
    with the same bits.
    """
    width = batching.batch_size
    a_pass = -(-size // width)
    steps = a_pass * batching.epochs if batching.epochs else batching.steps or 0
    steps = steps if size else 0
    shuffled = np.arange(0)
    for step in range(steps):
        number, place = divmod(step, a_pass)
        if place == 0:
            shuffled = _shuffled(size, order, client, number)
        real = shuffled[place * width : (place + 1) * width]
        chosen = np.full(width, real[0])
        chosen[: len(real)] = real
        yield chosen, np.arange(width) < len(real)


def _shuffled(size: int, order: int, client: int, number: int) -> Array:
    word = _finalised((order + client + _GOLDEN) & _WORD)
    word = _finalised((word + number + _GOLDEN) & _WORD)
    places = np.arange(size, dtype=np.uint64)
    with np.errstate(over="ignore"):
        state = np.uint64(word) + places * np.uint64(_GOLDEN)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return np.argsort(state ^ (state >> np.uint64(31)), kind="stable")


def _finalised(state: int) -> int:
    """The output function of SplitMix64 (Steele et al. 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = ((state ^ (state >> shift)) * factor) & _WORD
    return state ^ (state >> 31)
