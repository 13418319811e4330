"""Sweeps: seeds x settings of one algorithm, side by side in one compiled program."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed.data import FederatedData
from jaxfed.engine import _devices
from jaxfed.engine import _sweep_arguments as arguments
from jaxfed.engine._choice import available_bytes, choose_strategy
from jaxfed.engine._rounds import evaluated, evaluations_of
from jaxfed.engine._run import Run, host_arrays
from jaxfed.engine._simulate import (
    Evaluate,
    checked_params,
    validate_run,
)
from jaxfed.engine._strategy import Strategy
from jaxfed.engine._sweep_table import Sweep
from jaxfed.engine._swept import Build, Settings, swept
from jaxfed.evaluation import Evaluation, PersonalEvaluation
from jaxfed.typing import FederatedAlgorithm, Params

_MODELS_A_SETTING = 8  # parameters, updates, sums, optimizer states, evaluation
_MEMORY_SHARE = 0.25  # of what is free


def sweep(
    build: Build,
    data: FederatedData,
    *,
    params: Params,
    rounds: int,
    seeds: Sequence[int],
    settings: Mapping[str, Sequence[float]] | None = None,
    clip_norms: Sequence[float] | None = None,
    noise_multipliers: Sequence[float] | None = None,
    evaluate: Evaluate | Sequence[Evaluate] | None = None,
    strategy: str | Strategy = "auto",
) -> Sweep:
    """Runs all combinations of settings for every seed; a simulation.

    Settings of one seed share cohorts, batches, dropout and noise draws, so that they
    differ by what was set; seeds differ in all of these.

    Args:
        build: `(**settings) -> FederatedAlgorithm`, for example
            `lambda learning_rate: algorithms.fedavg(...)`. It is traced: it must hand
            its arguments on to optax or use them in arithmetic, not branch on them.
        data: the clients.
        params: the initial parameters of every run.
        rounds: how many rounds each run has.
        seeds: different integers, as in `simulate`.
        settings: name -> values, the arguments of `build`; none of them may be called
            `clip_norm`, `noise_multiplier` or `seed`.
        clip_norms: norms of `clipping.Fixed`, in place of the one in the algorithm,
            where whole updates are clipped: `privacy.central`, `privacy.local` and
            `privacy.hypothetical`.
        noise_multipliers: multipliers, in place of the one in the algorithm; each has
            an epsilon of its own.
        evaluate: as in `simulate`; every evaluation is of each setting's parameters.
        strategy: as in `simulate`; lanes that are not given are divided by the
            settings beside each other.

    Returns:
        A `Sweep`: a table of means and spreads over seeds, and the best setting.

    Raises:
        ValueError: an argument is out of range or missing.
        TypeError: `build` does not return an algorithm, or branches on an argument.
        RuntimeError: every run failed; where only some did, see `Sweep.failed`.
    """
    check.function("write (**settings) -> FederatedAlgorithm", build=build)
    check.positive_integer("pass for example rounds=100", rounds=rounds)
    named = arguments.values_of(settings or {})
    roots = arguments.roots(seeds)
    evaluations = evaluations_of(evaluate)
    for evaluation in evaluations:
        if isinstance(evaluation, PersonalEvaluation):
            raise ValueError(
                "a sweep evaluates the server's parameters alone, got "
                "evaluation.personal(...); run jaxfed.simulate for each setting."
            )
        if isinstance(evaluation, Evaluation):
            evaluation.validate(rounds=rounds)
    first = {name: values[0] for name, values in named.items()}
    algorithm = arguments.checked_algorithm(build, first)
    mechanism = algorithm.aggregator
    if mechanism.keeps_reports:
        raise ValueError(
            f"settings side by side add up over clients, which {mechanism!r} does not; "
            "run jaxfed.simulate for each setting."
        )
    norms = arguments.norms_of(mechanism, clip_norms)
    mechanisms = arguments.mechanisms_of(mechanism, clip_norms, noise_multipliers)
    params = checked_params(params)
    arrays = host_arrays(data)
    for one in mechanisms:
        validate_run(algorithm._replace(aggregator=one), data, arrays, params, rounds)
    grid = list(itertools.product(*named.values(), norms))
    together = swept(build, mechanisms, algorithm.local.batching)
    chosen = choose_strategy(algorithm, data, params=params, strategy=strategy)
    size = _chunk_size(params, chosen, len(grid), len(mechanisms))
    if not (isinstance(strategy, Strategy) and strategy.lanes):
        chosen = _with_lanes(chosen, size * len(mechanisms))
    result = Sweep(
        names=[*named, *([] if clip_norms is None else ["clip_norm"])],
        grid=[list(values[:-1] if clip_norms is None else values) for values in grid],
        mechanisms=mechanisms,
        shows_noise=noise_multipliers is not None,
        seeds=list(seeds),
        rounds=rounds,
        strategy=chosen.explain(),
    )
    for root, start in itertools.product(range(len(roots)), range(0, len(grid), size)):
        chunk = _padded(grid[start : start + size], size)
        initial = _initial(list(named), chunk, len(mechanisms), params)
        run = Run(together, data, arrays, initial, roots[root], rounds, chosen)
        for index in range(rounds):
            report = run.one_round(index)
            released = _devices.on_first(report.released.value)
            facts, is_finite = jax.device_get((report.private, _are_finite(released)))
            found = _evaluations(evaluations, together, run, index, rounds)
            result._record(
                root, start * len(mechanisms), index, facts, is_finite, found
            )
    if result.failed.all():
        raise RuntimeError(
            f"one of the {result.failed.size} runs must succeed, but all failed: in a "
            "round of each, every update held NaN, infinity or values too large to "
            "clip, or their sum overflowed; lower the learning rates, or look for "
            "extreme values in the data."
        )
    return result


@jax.jit
def _are_finite(stacked: Any) -> jax.Array:
    """Returns (settings,) bool: whether all numbers of a setting are finite."""
    leaves = jax.tree.leaves(stacked)
    flags = [jnp.isfinite(a).reshape(len(a), -1).all(axis=1) for a in leaves]
    return jnp.stack(flags).all(axis=0)


def _evaluations(
    evaluations: list[Evaluate],
    algorithm: FederatedAlgorithm,
    run: Run,
    index: int,
    rounds: int,
) -> list[dict[str, float]]:
    """Returns what was evaluated for each setting; nothing where none is due."""
    if not evaluations:
        return []
    state = _devices.on_first(run.state.server)
    stacked = _broadcast(algorithm, state)
    count = len(jax.tree.leaves(stacked)[0])
    return [
        evaluated(
            evaluations,
            jax.tree.map(lambda a, i=i: a[i], stacked),
            index + 1,
            index + 1 == rounds,
        )
        for i in range(count)
    ]


@functools.partial(jax.jit, static_argnums=0)
def _broadcast(algorithm: FederatedAlgorithm, state: Any) -> Params:
    return algorithm.broadcast(state).params


def _initial(
    names: list[str], chunk: list[tuple[float, ...]], repeats: int, params: Params
) -> Any:
    """Returns `(Settings, params)` with one entry a setting, mechanisms innermost."""
    columns = [
        jnp.repeat(jnp.asarray(np.array(column, np.float32)), repeats)
        for column in zip(*chunk, strict=True)
    ]
    values = dict(zip(names, columns[:-1], strict=True))
    count = repeats * len(chunk)
    stacked = jax.tree.map(lambda a: jnp.repeat(a[None], count, axis=0), params)
    return Settings(values, columns[-1]), stacked


def _chunk_size(
    params: Params, strategy: Strategy, settings: int, mechanisms: int
) -> int:
    """Returns how many settings fit in memory side by side, in equal chunks."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) * mechanisms
    devices = strategy.devices or 1
    most = int(_MEMORY_SHARE * available_bytes() / (_MODELS_A_SETTING * size * devices))
    chunks = -(-settings // max(1, most))
    return -(-settings // chunks)


def _with_lanes(strategy: Strategy, width: int) -> Strategy:
    """Returns fewer clients side by side where settings already fill the cache."""
    lanes = max(1, (strategy.lanes or 1) // width)
    reason = f"{strategy.reason}; divided by {width} settings side by side"
    return dataclasses.replace(strategy, lanes=lanes, reason=reason)


def _padded(chunk: list[Any], size: int) -> list[Any]:
    """Repeats the last setting, so that all chunks have one shape."""
    return chunk + chunk[-1:] * (size - len(chunk))
