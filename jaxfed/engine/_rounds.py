"""Round after round: records, evaluations, callbacks, checkpoints, until the end."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxfed import _check as check
from jaxfed.engine import _devices, _preemption, _progress
from jaxfed.engine._history import History, RoundRecord, host_numbers
from jaxfed.engine._resume import Resumable
from jaxfed.engine._round import RoundState
from jaxfed.evaluation import Evaluation, PersonalEvaluation
from jaxfed.typing import FederatedAlgorithm, Params, PyTree

Evaluate = Callable[[Params], dict[str, float]]
Callback = Callable[[History], bool | None]
States = Callable[[np.ndarray], PyTree]
"""`(numbers) -> what these clients keep`, leaves (count, ...)."""


class Watch(NamedTuple):
    """Who looks at a run."""

    evaluations: list[Evaluate]
    callbacks: Sequence[Callback]
    progress: bool


class Stateful(Protocol):
    """What runs rounds."""

    @property
    def state(self) -> RoundState:
        """What the next round needs."""
        ...


class Step(NamedTuple):
    """One round of some kind."""

    run: Callable[[int], dict[str, float]]
    """Runs round `index`, and returns its private facts; none in a release."""
    epsilon: Callable[[int], float | None]
    """What is spent after round `index`."""


def watch_of(
    evaluate: Any,
    callbacks: Sequence[Callback],
    progress: bool,
    *,
    remedy: str = "pass evaluation.central(...)",
) -> Watch:
    """Returns who looks at a run, checked; `remedy` says what else to evaluate with."""
    check.instance((list, tuple), "pass [callback]", callbacks=callbacks)
    for callback in callbacks:
        check.function("write (history) -> bool", callback=callback)
    return Watch(evaluations_of(evaluate, remedy), callbacks, progress)


def run_rounds(
    step: Step,
    algorithm: FederatedAlgorithm,
    run: Stateful,
    history: History,
    watch: Watch,
    *,
    rounds: int,
    resumable: Resumable | None,
) -> None:
    """Runs the rounds that are left, and records each.

    None is left if a callback had ended the run that was saved; without callbacks the
    run goes on.

    Raises:
        SystemExit: the process was told to stop (SIGTERM) and everything is saved.
    """
    first = len(history.rounds)
    if resumable is not None and resumable.is_ended and watch.callbacks:
        rounds = first
    stopping = _preemption.watched() if resumable else contextlib.nullcontext(_never)
    with stopping as is_stopped, _progress.bar(rounds, show=watch.progress) as report:
        for record in history.rounds:
            report(record)
        for index in range(first, rounds):
            record = _recorded(step, algorithm, run, history, watch, index, rounds)
            report(record)
            is_ended = _ended(run, history, watch)
            must_stop = is_stopped()
            if resumable is not None:
                is_last = is_ended or index == rounds - 1
                now = is_last or must_stop
                resumable.save(history, now=now, is_ended=is_ended)
            if must_stop or is_stopped():  # also while it was being saved
                sys.exit(_preemption.EXIT_CODE)
            if is_ended:
                break


def _never() -> bool:
    return False


def _recorded(
    step: Step,
    algorithm: FederatedAlgorithm,
    run: Stateful,
    history: History,
    watch: Watch,
    index: int,
    rounds: int,
) -> RoundRecord:
    """Runs one round and adds its record to the history."""
    start = time.perf_counter()
    private = step.run(index)
    state = _devices.on_first(run.state)
    current = algorithm.broadcast(state.server).params
    privacy = algorithm.aggregator
    is_last = index == rounds - 1
    record = RoundRecord(
        round=index + 1,
        epsilon=step.epsilon(index),
        evaluation=evaluated(
            watch.evaluations, current, index + 1, is_last, _states(run)
        ),
        released=host_numbers(privacy.public(state.aggregator)),
        private=private,
        seconds=None if history.private else time.perf_counter() - start,
        hypothetical=privacy.is_hypothetical,
    )
    history._record(record, state.server, current)
    return record


def _ended(run: Stateful, history: History, watch: Watch) -> bool:
    """Asks all callbacks whether to end; completes the last record if so."""
    wishes = [callback(history) for callback in watch.callbacks]  # all of them run
    for wish in wishes:
        if not (wish is None or isinstance(wish, bool | np.bool_)):
            raise TypeError(
                f"a callback must return True to end the run, or False or None to go "
                f"on, got {wish!r}; compare it, as in accuracy > 0.9."
            )
    if not any(wishes):
        return False
    record = history.rounds[-1]
    number = record.round
    last = evaluated(watch.evaluations, history.params, number, True, _states(run))
    history.rounds[-1] = dataclasses.replace(record, evaluation=last)
    return True


def _states(run: Stateful) -> States | None:
    """Returns who knows what clients keep: not a server whose clients are elsewhere."""
    return getattr(run, "client_states", None)


def evaluations_of(
    evaluate: Any, remedy: str = "pass evaluation.central(...)"
) -> list[Evaluate]:
    """Returns one or several evaluations as a list."""
    if evaluate is None:
        return []
    several = evaluate if isinstance(evaluate, list | tuple) else [evaluate]
    for one in several:
        check.function(remedy, evaluate=one)
    return list(several)


def evaluated(
    evaluations: list[Evaluate],
    params: Params,
    number: int,
    is_last: bool,
    states: States | None = None,
) -> dict[str, float]:
    """Returns what the evaluations that are due in a round find.

    Args:
        evaluations: all of them.
        params: the server's.
        number: of the round, from 1.
        is_last: whether all are due.
        states: what clients keep, for evaluations of their own models.
    """
    found: dict[str, float] = {}
    for evaluation in evaluations:
        every = evaluation.every if isinstance(evaluation, Evaluation) else 1
        if is_last or number % every == 0:
            if isinstance(evaluation, PersonalEvaluation) and states is not None:
                values = evaluation.of_clients(params, states)
            else:
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
