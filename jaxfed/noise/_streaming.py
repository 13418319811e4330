"""From a strategy to the noise that a run adds, a round at a time."""

from jaxfed import _check as check
from jaxfed.noise._strategies import (
    BandedStrategy,
    BLTStrategy,
    Strategy,
    TreeStrategy,
)
from jaxfed.noise._stream import IntegerSampler, Stream
from jaxfed.noise._stream_toeplitz import BandedStream, BLTStream
from jaxfed.noise._stream_tree import TreeStream


def streaming(strategy: Strategy, sampler: IntegerSampler) -> Stream:
    """Returns correlated integer noise for a strategy.

    Args:
        strategy: what `noise.BLT(...).strategy(rounds, participation)` returned; so
            for `noise.Tree` and `noise.Banded`.
        sampler: independent integer noise: `draw(shape, *, key)` gives int32 of
            magnitude at most `largest`.

    Raises:
        ValueError: the noise could leave 32 bits.
    """
    check.instance(
        Strategy,
        "pass noise.BLT(...).strategy(rounds, participation)",
        strategy=strategy,
    )
    if isinstance(strategy, BandedStrategy):
        return BandedStream(strategy=strategy, sampler=sampler)
    if isinstance(strategy, BLTStrategy):
        return BLTStream(strategy=strategy, sampler=sampler)
    if isinstance(strategy, TreeStrategy):
        return TreeStream(strategy=strategy, sampler=sampler)
    raise TypeError(
        "strategy must be a tree, banded or BLT strategy, got "
        f"{type(strategy).__name__}; others have no proved arithmetic."
    )
