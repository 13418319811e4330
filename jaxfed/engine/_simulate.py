"""Simulation: a federated algorithm over simulated clients, fast and reproducible.

A simulation is never private: its noise can be recomputed from the seed, and it shows
exact values. Its epsilon is what a real run of the same mechanism would spend.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import keys, tree
from jaxfed.data import FederatedData
from jaxfed.engine import _devices, _progress
from jaxfed.engine._choice import choose_strategy
from jaxfed.engine._history import History, RoundRecord, host_numbers
from jaxfed.engine._run import Run, host_arrays
from jaxfed.engine._strategy import Strategy
from jaxfed.evaluation import Evaluation
from jaxfed.privacy import Privacy
from jaxfed.typing import FederatedAlgorithm, Params, RoundReport

Evaluate = Callable[[Params], dict[str, float]]
Callback = Callable[[History], bool | None]


def simulate(
    algorithm: FederatedAlgorithm,
    data: FederatedData,
    *,
    params: Params,
    rounds: int,
    seed: int,
    evaluate: Evaluate | Sequence[Evaluate] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    strategy: str | Strategy = "auto",
) -> History:
    """Runs an algorithm on simulated clients.

    The same arguments give the same history, bit for bit, on the same machine and with
    the same strategy.

    Args:
        algorithm: what to run, for example `algorithms.fedavg(...)`.
        data: the clients; as many as the algorithm's sampler counts.
        params: the initial parameters, a pytree of floating-point arrays.
        rounds: how many rounds, >= 1.
        seed: an integer, 0 <= seed < 2**64.
        evaluate: `evaluation.central(...)`, `evaluation.federated(...)`, any function
            `params -> {name: number}`, or several of them.
        callbacks: functions of the history so far, called after each round; one that
            returns True ends the run.
        progress: whether to show a progress bar.
        strategy: how rounds are executed: `"auto"`, `"loop"`, `"stepped"` or an
            `engine.Strategy`. It changes speed, not what is learned: client updates
            agree to float tolerance, and sums of given updates exactly.

    Returns:
        The history, whose `private` is False.

    Raises:
        ValueError: an argument is out of range, or model, loss and data do not fit.
        RuntimeError: every client of a cohort failed.
    """
    check.instance(
        FederatedAlgorithm,
        "pass for example algorithms.fedavg(...)",
        algorithm=algorithm,
    )
    check.instance(
        FederatedData, "build one with FederatedData.from_clients", data=data
    )
    check.positive_integer("pass for example rounds=100", rounds=rounds)
    root = keys.simulated(seed)
    evaluations = evaluations_of(evaluate)
    check.instance((list, tuple), "pass [callback]", callbacks=callbacks)
    for callback in callbacks:
        check.function("write (history) -> bool", callback=callback)
    privacy = check.instance(
        Privacy,
        "pass privacy.central(...), or privacy.none(...) to run without",
        privacy=algorithm.aggregator,
    )
    params = checked_params(params)
    arrays = host_arrays(data)
    validate_run(algorithm, data, arrays, params, rounds)
    chosen = choose_strategy(algorithm, data, params=params, strategy=strategy)
    history = History(
        algorithm=repr(algorithm),
        privacy=privacy,
        params=params,
        strategy=chosen.explain(),
    )
    run = Run(algorithm, data, arrays, params, root, rounds, chosen)
    with _progress.bar(rounds, show=progress) as report:
        epsilons = privacy.epsilon_curve(rounds)
        for index in range(rounds):
            start = time.perf_counter()
            private = _private_facts(run.one_round(index), index)
            state = _devices.on_first(run.state)
            current = algorithm.broadcast(state.server).params
            is_last = index == rounds - 1
            record = RoundRecord(
                round=index + 1,
                epsilon=None if epsilons is None else float(epsilons[index]),
                evaluation=evaluated(evaluations, current, index + 1, is_last),
                released=host_numbers(privacy.public(state.aggregator)),
                private=private,
                seconds=time.perf_counter() - start,
                hypothetical=privacy.is_hypothetical,
            )
            history._record(record, state.server, current)
            report(record)
            wishes = [callback(history) for callback in callbacks]  # all of them run
            if any(wish is True for wish in wishes):
                last = evaluated(evaluations, current, index + 1, is_last=True)
                history.rounds[-1] = dataclasses.replace(record, evaluation=last)
                break
    return history


def validate_run(
    algorithm: FederatedAlgorithm,
    data: FederatedData,
    arrays: dict[str, np.ndarray],
    params: Params,
    rounds: int,
) -> None:
    """Checks, before anything runs, that algorithm, data and parameters fit.

    Raises:
        ValueError: they do not.
    """
    privacy = algorithm.aggregator
    if privacy.sampling.population != data.num_clients:
        raise ValueError(
            f"the sampler counts {privacy.sampling.population} clients but data has "
            f"{data.num_clients}; set population=data.num_clients."
        )
    algorithm.local.validate(params, _example_rows(arrays))
    privacy.validate(
        params=params,
        rounds=rounds,
        local=algorithm.local,
        client_sizes=data.client_sizes,
    )


def _private_facts(report: RoundReport, index: int) -> dict[str, float]:
    """Returns the private facts of a round, and refuses one that taught nothing."""
    is_finite = _is_finite(_devices.on_first(report.released))
    private, is_finite = jax.device_get((report.private, is_finite))
    num_clients, num_failed = int(private.num_clients), int(private.num_failed)
    if num_clients > 0 and num_failed == num_clients:
        raise RuntimeError(
            f"every client of round {index + 1} failed: all {num_clients} updates "
            "hold NaN, infinity or values too large to clip; lower the local "
            "learning rate, or look for extreme values in the data."
        )
    if not bool(is_finite):
        raise RuntimeError(
            f"the mean update of round {index + 1} is not finite although single "
            "updates are: their sum overflows; lower the local learning rate, or "
            "look for extreme values in the data."
        )
    counts = {"num_clients": num_clients, "num_failed": num_failed}
    return counts | {name: float(v) for name, v in private.metrics.items()}


_is_finite = jax.jit(tree.is_finite)


def _example_rows(arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Returns up to eight rows, spread over the data, for the checks at the door."""
    total = len(next(iter(arrays.values())))
    chosen = np.unique(np.linspace(0, total - 1, 8).astype(np.int64))
    return {name: jnp.asarray(array[chosen]) for name, array in arrays.items()}


def evaluations_of(evaluate: Any) -> list[Evaluate]:
    if evaluate is None:
        return []
    several = evaluate if isinstance(evaluate, list | tuple) else [evaluate]
    for one in several:
        check.function("pass evaluation.central(...)", evaluate=one)
    return list(several)


def evaluated(
    evaluations: list[Evaluate], params: Params, number: int, is_last: bool
) -> dict[str, float]:
    found: dict[str, float] = {}
    for evaluation in evaluations:
        every = evaluation.every if isinstance(evaluation, Evaluation) else 1
        if is_last or number % every == 0:
            values = evaluation(params)
            remedy = 'return for example {"accuracy": 0.9}'
            check.instance(dict, remedy, evaluate_result=values)
            for name, value in values.items():
                if name in found:
                    raise ValueError(
                        f"two evaluations record {name!r}; give one another name."
                    )
                if np.ndim(value) != 0:
                    raise ValueError(
                        f"evaluation {name!r} must be one number, got shape "
                        f"{np.shape(value)}; return its mean."
                    )
                found[name] = float(value)
    return found


def checked_params(params: Params) -> Params:
    if not jax.tree.leaves(params):
        raise ValueError("params has no arrays; initialise the model first.")

    def check_leaf(name: str, leaf: Any) -> None:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            kind = type(leaf).__name__ if dtype is None else dtype
            raise ValueError(
                f"parameter {name!r} must be a floating-point array, got {kind}; "
                "keep counters and other integers out of params."
            )
        if not np.isfinite(np.asarray(leaf, np.float64)).all():
            raise ValueError(
                f"parameter {name!r} holds NaN or infinity; initialise the model anew."
            )

    tree.map_with_names(check_leaf, params)
    return jax.tree.map(jnp.asarray, params)
