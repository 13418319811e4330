"""The choice of a strategy: rules where they are sure, a probe where they are not."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.data import FederatedData
from jaxfed.engine import _hosts
from jaxfed.engine._probe import Step, remembered
from jaxfed.engine._shuffle import Work
from jaxfed.engine._strategy import EXECUTORS, Strategy
from jaxfed.typing import Batching, FederatedAlgorithm, Params

_SMALL, _LARGE = (
    12_000,
    60_000,
)  # scalars: several models share a cache, or one fills it
_SMALL_LANES = 8
_ACCELERATOR_LANES = [32, 8, 128]  # the usual one first
_CLEARLY = 1.2  # a probe overrules the rule only by this factor: timings are noisy
_WORTH = 0.03  # of all slots; a narrower batch that saves less is not compiled
_RESIDENT_SHARE = 0.5  # of the memory that is free


def choose_strategy(
    algorithm: FederatedAlgorithm,
    data: FederatedData,
    *,
    params: Params,
    strategy: "str | Strategy" = "auto",
) -> Strategy:
    """Returns the strategy that `simulate` would use, all fields filled in.

    Print it, read `explain()`, change a field with `dataclasses.replace` and pass it as
    `strategy=`.

    Args:
        algorithm: what will be run.
        data: the clients.
        params: the model's parameters.
        strategy: `"auto"`, an executor's name, or a `Strategy` with fields to keep.

    Raises:
        ValueError: an unknown strategy, or more devices than JAX has.
    """
    given = given_strategy(strategy)
    batching = algorithm.local.batching
    work = Work(data, batching)
    executor, lanes, reason = _executor(algorithm, params, data, work, given)
    is_auto = given.executor is None or given.lanes is None
    local = _hosts.decided_by_first(  # timings and free memory differ between hosts
        {
            "executor": executor,
            "lanes": lanes,
            "resident_bytes": given.resident_bytes or _resident_bytes(),
            "reason": reason if is_auto else given.reason,
        }
    )
    return dataclasses.replace(
        given,
        batch_widths=_widths(work, batching, given),
        devices=given.devices or jax.device_count(),
        **local,
    )


def given_strategy(strategy: Any) -> Strategy:
    """Returns what was asked for, as a strategy with some fields left open."""
    if isinstance(strategy, Strategy):
        return strategy
    check.instance(
        str, 'pass "auto", "loop", "stepped" or a Strategy', strategy=strategy
    )
    check.one_of(("auto", *EXECUTORS), strategy=strategy)
    return Strategy(executor=None if strategy == "auto" else strategy)


def _executor(
    algorithm: FederatedAlgorithm,
    params: Params,
    data: FederatedData,
    work: Work,
    given: Strategy,
) -> tuple[str, int, str]:
    """Returns the executor, the lanes, and why."""
    if given.executor is not None and given.lanes is not None:
        return given.executor, given.lanes, given.reason
    step = Step(algorithm, params, dict(data.arrays), work.width)
    size = tree.size(params)
    if jax.default_backend() != "cpu":
        executors, lanes, why = ["loop"], [32, 8, 128], "an accelerator"
    else:
        has_convolution = "conv_general_dilated" in step.primitives()
        executors = ["loop", "stepped"] if has_convolution else ["loop"]
        if size < _SMALL:
            lanes, why = [_SMALL_LANES], f"{size:,} parameters are few"
        elif size < _LARGE:
            lanes, why = [1, _SMALL_LANES], f"{size:,} parameters"
        else:
            lanes, why = [1], f"{size:,} parameters fill a core's cache"
    executors = [given.executor] if given.executor else executors
    lanes = [given.lanes] if given.lanes else lanes
    candidates = list(itertools.product(executors, lanes))
    if len(candidates) == 1:
        return *candidates[0], f"{why}; by rule"
    return _fastest(step, candidates)


def _fastest(step: Step, candidates: list[tuple[str, int]]) -> tuple[str, int, str]:
    """Returns the candidate that a probe finds clearly faster than the first one."""

    def measure() -> dict[str, float]:
        found = {}
        for executor, lanes in candidates:
            timed = step.seconds_in_loop if executor == "loop" else step.seconds_stepped
            found[f"{executor} {lanes}"] = timed(lanes)
        return found

    names = {f"{executor} {lanes}": (executor, lanes) for executor, lanes in candidates}
    key = step.fingerprint() + " " + " ".join(sorted(names))
    seconds = remembered(key, names, measure)
    best = min(seconds, key=lambda name: seconds[name])
    usual = next(iter(names))
    if seconds[best] * _CLEARLY > seconds[usual]:
        best = usual
    shown = ", ".join(f"{n}: {1e6 * s:,.0f} us" for n, s in sorted(seconds.items()))
    return *names[best], f"a step of one client by probe ({shown})"


def _widths(work: Work, batching: Batching, given: Strategy) -> tuple[int, ...]:
    """Returns the full batch width, and half of it where that saves enough slots."""
    if given.batch_widths is not None:
        if given.batch_widths[0] != work.width:
            raise ValueError(
                "batch_widths must start with the widest batch of this data, not "
                f"{given.batch_widths[0]}; how wide it is is private: leave "
                "batch_widths out."
            )
        return given.batch_widths
    half = work.width // 2
    if batching.rate is not None or half == 0:
        return (work.width,)
    passes = -(-work.steps // work.passes)
    slots = float((work.steps * work.width).sum())
    saved = float((passes * (work.remainders <= half)).sum()) * (work.width - half)
    return (work.width, half) if saved > _WORTH * slots else (work.width,)


def _resident_bytes() -> int:
    return max(1, int(_RESIDENT_SHARE * available_bytes()))


def available_bytes() -> int:
    """Returns how much memory is free on a device."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    return _host_memory()


def _host_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    return int(np.iinfo(np.int64).max)
