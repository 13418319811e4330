"""Simulation: a federated algorithm over simulated clients, fast and reproducible.

A simulation is never private: its noise can be recomputed from the seed, and it shows
exact values. Its epsilon is what a real run of the same mechanism would spend.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import keys, tree
from jaxfed.data import FederatedData
from jaxfed.engine import _checkpoint, _devices
from jaxfed.engine._checkpoint import Checkpoint
from jaxfed.engine._choice import choose_strategy
from jaxfed.engine._history import History
from jaxfed.engine._plan import inputs_of, plan_of, program_of
from jaxfed.engine._resume import Resumable, saver_of
from jaxfed.engine._rounds import Callback, Evaluate, Step, Watch, run_rounds, watch_of
from jaxfed.engine._run import Run, host_arrays
from jaxfed.engine._strategy import Strategy
from jaxfed.engine._traffic import Traffic, traffic_of
from jaxfed.evaluation import Evaluation, PersonalEvaluation
from jaxfed.privacy import Privacy
from jaxfed.typing import FederatedAlgorithm, Params, PyTree, RoundReport


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
    checkpoint: str | Path | Checkpoint | None = None,
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
        checkpoint: a directory of this run's own, or a `Checkpoint`: the same call
            after a crash, or SIGTERM, goes on where it was, to the same bits.

    Returns:
        The history, whose `private` is False.

    Raises:
        ValueError: an argument is out of range, or model, loss and data do not fit.
        RuntimeError: every client of a cohort failed.
    """
    privacy = checked_call(algorithm, data, rounds)
    root = keys.simulated(seed)
    watch = watch_of(evaluate, callbacks, progress)
    saving = _checkpoint.checked(checkpoint)
    params = checked_params(params)
    arrays = host_arrays(data)
    validate_run(algorithm, data, arrays, params, rounds)
    check_evaluations(watch, algorithm, data, rounds)
    with contextlib.ExitStack() as exits:
        saver = exits.enter_context(saver_of(saving, algorithm, params))
        chosen = choose_strategy(algorithm, data, params=params, strategy=strategy)
        run = Run(algorithm, data, arrays, params, root, rounds, chosen)
        history = History(
            algorithm=repr(algorithm),
            privacy=privacy,
            params=params,
            rounds=rounds,
            strategy=chosen.explain(),
            client_states=run.client_states,
        )
        traffic = traffic_of(algorithm, params)
        step = Step(
            run=lambda index: private_facts(run.one_round(index), index, traffic),
            epsilon=epsilon_of(privacy, rounds),
        )
        resumable = None
        if saver is not None:
            plan = plan_of(
                algorithm,
                params,
                seed=seed,
                inputs=inputs_of(data, params).hex(),
                program=program_of(algorithm, params, data, released=False).hex(),
            )
            resumable = Resumable(run, algorithm, params, saver, plan=plan)
            resumable.restore(
                history,
                lambda index: noise_key(root, np.int32(index)),
                rounds=rounds,
                epsilon=step.epsilon,
            )
        run_rounds(
            step, algorithm, run, history, watch, rounds=rounds, resumable=resumable
        )
    return history


def checked_call(algorithm: Any, data: Any, rounds: Any) -> Privacy:
    """Checks the first arguments of `simulate` and `train`; returns the privacy."""
    check.instance(
        FederatedAlgorithm,
        "pass for example algorithms.fedavg(...)",
        algorithm=algorithm,
    )
    check.instance(
        FederatedData, "build one with FederatedData.from_clients", data=data
    )
    check.positive_integer("pass for example rounds=100", rounds=rounds)
    return check.instance(
        Privacy,
        "pass privacy.central(...), or privacy.none(...) to run without",
        privacy=algorithm.aggregator,
    )


def check_evaluations(
    watch: Watch, algorithm: FederatedAlgorithm, data: FederatedData, rounds: int
) -> None:
    """Checks, before anything runs, that evaluations fit a simulation.

    Raises:
        ValueError: one does not.
    """
    for evaluation in watch.evaluations:
        if isinstance(evaluation, Evaluation):
            evaluation.validate(rounds=rounds)
        if isinstance(evaluation, PersonalEvaluation):
            evaluation.check(algorithm.local, data.client_ids)


def epsilon_of(privacy: Privacy, rounds: int) -> Callable[[int], float | None]:
    """Returns what a real run would have spent after round `index`, if it is known."""
    epsilons = privacy.epsilon_curve(rounds)
    return lambda index: None if epsilons is None else float(epsilons[index])


@jax.jit
def noise_key(root: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the key that round `index` was noised with."""
    return keys.for_round(keys.for_purpose(root, keys.Purpose.NOISE), index)


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
    _check_sends(algorithm, params)
    privacy.validate(
        params=params,
        rounds=rounds,
        local=algorithm.local,
        client_sizes=data.client_sizes,
    )


def _check_sends(algorithm: FederatedAlgorithm, params: Params) -> None:
    """Checks that local work sends what it says it does.

    Raises:
        ValueError: it sends something else.
    """
    local = algorithm.local

    def finished(params: Params) -> PyTree:
        shared = algorithm.broadcast(algorithm.init(params))
        return local.finish(shared, local.init(shared, local.init_client(params)))

    result = jax.eval_shape(finished, params)
    kept, first = result.client_state, jax.eval_shape(local.init_client, params)
    if _types(kept) != _types(first):
        raise ValueError(
            f"{local!r} must keep what init_client begins with, {_types(first)}, got "
            f"{_types(kept)} from finish; give both the same shapes and dtypes."
        )
    found, wanted = result.update, jax.eval_shape(local.sends, params)
    if jax.tree.map(jnp.shape, found) != jax.tree.map(jnp.shape, wanted):
        raise ValueError(
            f"{local!r} must send what `sends` says, {_shapes(wanted)}, got "
            f"{_shapes(found)}; pass LocalWork(..., sends=lambda params: ...)."
        )


def _types(values: PyTree) -> str:
    return str(jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", values))


def _shapes(values: PyTree) -> str:
    return str(jax.tree.map(jnp.shape, values))[:300]


def private_facts(
    report: RoundReport, index: int, traffic: Traffic
) -> dict[str, float]:
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
    counts |= traffic.of(num_clients, num_clients)
    return counts | {name: float(v) for name, v in private.metrics.items()}


_is_finite = jax.jit(tree.is_finite)


def _example_rows(arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Returns up to eight rows, spread over the data, for the checks at the door."""
    total = len(next(iter(arrays.values())))
    chosen = np.unique(np.linspace(0, total - 1, 8).astype(np.int64))
    return {name: jnp.asarray(array[chosen]) for name, array in arrays.items()}


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
