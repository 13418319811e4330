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
from jaxfed import keys, sampling, tree
from jaxfed.data import FederatedData
from jaxfed.engine import _progress, _round
from jaxfed.engine._history import History, RoundRecord, host_numbers
from jaxfed.engine._planner import Planner
from jaxfed.evaluation import Evaluation
from jaxfed.privacy import Privacy
from jaxfed.typing import FederatedAlgorithm, Params

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
) -> History:
    """Runs an algorithm on simulated clients.

    The same arguments give the same history, bit for bit, on the same machine.

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
    evaluations = _evaluations(evaluate)
    check.instance((list, tuple), "pass [callback]", callbacks=callbacks)
    for callback in callbacks:
        check.function("write (history) -> bool", callback=callback)
    privacy = check.instance(
        Privacy,
        "pass privacy.central(...), or privacy.none(...) to run without",
        privacy=algorithm.aggregator,
    )
    if privacy.sampling.population != data.num_clients:
        raise ValueError(
            f"the sampler counts {privacy.sampling.population} clients but data has "
            f"{data.num_clients}; set population=data.num_clients."
        )
    params = _checked_params(params)
    arrays = _device_arrays(data)
    algorithm.local.validate(params, _example_rows(arrays))
    privacy.validate(
        params=params,
        rounds=rounds,
        local=algorithm.local,
        client_sizes=data.client_sizes,
    )
    history = History(
        algorithm=repr(algorithm),
        privacy=privacy,
        params=params,
    )
    run = _Run(algorithm, data, arrays, params, root, rounds)
    with _progress.bar(rounds, show=progress) as report:
        epsilons = privacy.epsilon_curve(rounds)
        for index in range(rounds):
            start = time.perf_counter()
            private = run.one_round(index)
            current = algorithm.broadcast(run.state.server).params
            is_last = index == rounds - 1
            record = RoundRecord(
                round=index + 1,
                epsilon=None if epsilons is None else float(epsilons[index]),
                evaluation=_evaluated(evaluations, current, index + 1, is_last),
                released=host_numbers(privacy.public(run.state.aggregator)),
                private=private,
                seconds=time.perf_counter() - start,
            )
            history._record(record, run.state.server, current)
            report(record)
            wishes = [callback(history) for callback in callbacks]  # all of them run
            if any(wish is True for wish in wishes):
                last = _evaluated(evaluations, current, index + 1, is_last=True)
                history.rounds[-1] = dataclasses.replace(record, evaluation=last)
                break
    return history


class _Run:
    """The moving parts of one simulation."""

    def __init__(
        self,
        algorithm: FederatedAlgorithm,
        data: FederatedData,
        arrays: dict[str, jax.Array],
        params: Params,
        root: jax.Array,
        rounds: int,
    ):
        privacy = algorithm.aggregator
        self._sampling = privacy.sampling
        horizon = max(rounds, getattr(privacy, "rounds", None) or 1)
        self._contract = self._sampling.participation(horizon)
        self._attendance = None
        if self._contract.max_participations < horizon:  # something to keep
            self._attendance = sampling.no_attendance(data.num_clients)
        max_clients = self._sampling.max_clients
        self._planner = Planner(
            data,
            algorithm.local.batching,
            max_clients=max_clients,
            lanes=_round.choose_lanes(params, max_clients),
        )
        self._arrays, self._root = arrays, root
        self._step = _round.compiled_round(algorithm)
        self.state = _round.init_state(algorithm, params, data.num_clients)

    def one_round(self, index: int) -> dict[str, float]:
        """Draws a cohort, runs it, and returns the private facts of the round."""
        sampling_key, shuffling_key = _host_keys(self._root, np.int32(index))
        clients = self._sampling.draw(index, key=sampling_key)
        if self._attendance is not None:  # refused before anything is released
            self._attendance = sampling.attend(
                self._attendance,
                clients,
                round_index=index,
                participation=self._contract,
            )
        cohort = self._planner.plan(clients, keys.host_words(shuffling_key, 1)[0])
        self.state, report = self._step(
            self.state, cohort, self._arrays, np.int32(index), key=self._root
        )
        private = report.private
        num_clients, num_failed = int(private.num_clients), int(private.num_failed)
        if num_clients > 0 and num_failed == num_clients:
            raise RuntimeError(
                f"every client of round {index + 1} failed: all {num_clients} updates "
                "hold NaN, infinity or values too large to clip; lower the local "
                "learning rate, or look for extreme values in the data."
            )
        if not bool(_is_finite(report.released)):
            raise RuntimeError(
                f"the mean update of round {index + 1} is not finite although single "
                "updates are: their sum overflows; lower the local learning rate, or "
                "look for extreme values in the data."
            )
        counts = {"num_clients": num_clients, "num_failed": num_failed}
        return counts | host_numbers(private.metrics)


_is_finite = jax.jit(tree.is_finite)


@jax.jit
def _host_keys(root: jax.Array, index: jax.Array) -> list[jax.Array]:
    """Returns the keys for what is drawn on the host: the run's cohorts, a shuffle."""
    shuffling = keys.for_purpose(root, keys.Purpose.SHUFFLING)
    return [
        keys.for_purpose(root, keys.Purpose.SAMPLING),
        keys.for_round(shuffling, index),
    ]


def _example_rows(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns up to eight rows, spread over the data, for the checks at the door."""
    total = len(next(iter(arrays.values())))
    chosen = np.unique(np.linspace(0, total - 1, 8).astype(np.int64))
    return {name: array[chosen] for name, array in arrays.items()}


def _evaluations(evaluate: Any) -> list[Evaluate]:
    if evaluate is None:
        return []
    several = evaluate if isinstance(evaluate, list | tuple) else [evaluate]
    for one in several:
        check.function("pass evaluation.central(...)", evaluate=one)
    return list(several)


def _evaluated(
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


def _checked_params(params: Params) -> Params:
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


def _device_arrays(data: FederatedData) -> dict[str, jax.Array]:
    """Puts the arrays on the device, in the widths that JAX has enabled."""
    arrays = {}
    for name, array in data.arrays.items():
        dtype = jax.dtypes.canonicalize_dtype(array.dtype)
        if dtype.kind in "iu" and array.size:
            limits = np.iinfo(dtype)
            if array.min() < limits.min or array.max() > limits.max:
                raise ValueError(
                    f"array {name!r} holds integers outside {dtype}; renumber them or "
                    "enable 64-bit JAX."
                )
        with np.errstate(over="ignore"):
            narrow = np.asarray(array, dtype)
        is_narrower = narrow.dtype != array.dtype and dtype.kind == "f"
        if is_narrower and not np.isfinite(narrow).all():
            raise ValueError(
                f"array {name!r} holds values beyond {dtype}; scale them, or enable "
                "64-bit JAX."
            )
        arrays[name] = jnp.asarray(narrow)
    return arrays
