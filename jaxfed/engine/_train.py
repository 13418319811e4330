"""Training for real: every release is paid for first, and nothing else comes out.

The same rounds as in a simulation, cut in two at the sum. Up to there everything is
private; the sum is charged to a ledger, gets noise from a key that only this sum can
have, and what follows from the noised sum is public.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxfed import _check as check
from jaxfed.data import FederatedData
from jaxfed.engine import _checkpoint
from jaxfed.engine._checkpoint import Checkpoint
from jaxfed.engine._choice import choose_strategy
from jaxfed.engine._history import History, LedgerFacts
from jaxfed.engine._release import Release, inputs_of
from jaxfed.engine._rounds import Callback, Step, Watch, run_rounds, watch_of
from jaxfed.engine._run import Run, host_arrays
from jaxfed.engine._simulate import (
    checked_call,
    checked_params,
    plan_of,
    validate_run,
)
from jaxfed.engine._strategy import Strategy
from jaxfed.evaluation import Evaluation
from jaxfed.ledger import Ledger, LedgerError, Mechanism
from jaxfed.privacy import Privacy
from jaxfed.typing import FederatedAlgorithm, Params

_STRATEGY = (
    "executor",
    "lanes",
    "devices",
    "block_clients",
    "resident_bytes",
)


def train(
    algorithm: FederatedAlgorithm,
    data: FederatedData,
    *,
    params: Params,
    rounds: int,
    ledger: Ledger | str | Path,
    checkpoint: str | Path | Checkpoint | None = None,
    name: str = "training",
    evaluate: Evaluation | Sequence[Evaluation] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    strategy: str | Strategy = "auto",
) -> History:
    """Runs an algorithm for real: secure noise, paid for by a ledger.

    Formal guarantee: what the history, callbacks, evaluations and checkpoints get to
    see (but for a `Checkpoint` with `client_state=True`) is covered by the ledger's
    (epsilon, delta). The noise comes from the ledger's secret; the same call after a
    crash, or SIGTERM, releases the same bits again and spends nothing twice.

    A round in which every client fails releases noise alone and is not reported, for
    that is a fact about the clients: find such faults in a simulation.

    Args:
        algorithm: what to run; its privacy object has to have noise.
        data: the clients; as many as the algorithm's sampler counts.
        params: the initial parameters, a pytree of floating-point arrays; public.
        rounds: how many rounds, >= 1.
        ledger: a ledger, or the path of one; see `Ledger.create`.
        checkpoint: a directory of this run's own, or a `Checkpoint`. Without one a
            second call computes all rounds again, to the same bits.
        name: of the run in its ledger; another name is another run, which spends anew.
        evaluate: what releases public values alone: `evaluation.public(...)`, or
            `queries.evaluation(..., ledger=ledger)`, or several of them.
        callbacks: functions of the history so far, called after each round; one that
            returns True ends the run.
        progress: whether to show a progress bar.
        strategy: as in `simulate`. A run that goes on keeps the one it began with.

    Returns:
        The history, whose `private` is True.

    Raises:
        BudgetExhausted: the ledger does not pay for so many rounds.
        LedgerError: the ledger is missing, changed, behind its checkpoint, in use or
            cannot be written; nothing was released that it does not count.
        ValueError: an argument is out of range, or model, loss and data do not fit.
    """
    privacy = checked_call(algorithm, data, rounds)
    _check_privacy(privacy)
    watch = watch_of(evaluate, callbacks, progress)
    _check_evaluations(watch)
    saving = _checkpoint.checked(checkpoint)
    check.instance(str, "name the run in a few words", name=name)
    check.instance((Ledger, str, Path), "pass its path", ledger=ledger)
    _check_one_host()
    params = checked_params(params)
    arrays = host_arrays(data)
    validate_run(algorithm, data, arrays, params, rounds)
    with contextlib.ExitStack() as exits:
        if not isinstance(ledger, Ledger):
            ledger = exits.enter_context(Ledger.open(ledger))
        reported = dataclasses.replace(privacy, delta=ledger.terms.delta)
        mechanism = _mechanism(ledger, privacy, rounds, name)
        chosen = _strategy(algorithm, data, params, strategy, mechanism)
        paid = ledger.begin(
            mechanism,
            plan=plan_of(algorithm, params),
            inputs=inputs_of(data, params),
            strategy={field: getattr(chosen, field) for field in _STRATEGY}
            | {"devices": chosen.devices or jax.device_count()},
        )
        history = History(
            algorithm=repr(algorithm),
            privacy=reported,
            params=params,
            # batch widths follow from how many examples clients have
            strategy=dataclasses.replace(chosen, batch_widths=None).explain(),
            private=True,
        )
        run = Run(algorithm, data, arrays, params, paid.key(0), rounds, chosen)
        exits.callback(_note, history, ledger)
        release = Release(algorithm, run, paid, ledger, reported, rounds)
        resumable = None
        if saving is not None:
            resumable = release.resumable(params, saving)
            exits.callback(resumable.close)
            resumable.restore(history, release.noise_key, release.accept)
        step = Step(run=release.one_round, epsilon=release.epsilon)
        run_rounds(
            step, algorithm, run, history, watch, rounds=rounds, resumable=resumable
        )
    return history


def _check_privacy(privacy: Privacy) -> None:
    if privacy.is_hypothetical:
        raise ValueError(
            f"privacy must be of this run, got {privacy!r}; a small cohort with the "
            "noise of a large one is for simulations."
        )
    if type(privacy.event(1)).__name__ == "NonPrivateDpEvent":
        raise ValueError(
            f"privacy must have noise, got {privacy!r}; use privacy.central(...), or "
            "run jaxfed.simulate, whose results are never released."
        )


def _check_evaluations(watch: Watch) -> None:
    for one in watch.evaluations:
        if not (isinstance(one, Evaluation) and one.is_released):
            raise ValueError(
                f"evaluate must release public values alone, got {one!r}, which shows "
                "exact ones; pass evaluation.public(...) for examples that are public, "
                "or queries.evaluation(..., ledger=ledger) for clients'."
            )


def _check_one_host() -> None:
    if jax.process_count() > 1:
        raise ValueError(
            f"train must run on one host, got {jax.process_count()}; the ledger and "
            "its secret have one writer. Use all devices of one host."
        )


def _mechanism(ledger: Ledger, privacy: Privacy, rounds: int, name: str) -> Mechanism:
    """Returns the run's mechanism in the ledger, planned now or before."""
    found = next((m for m in ledger.mechanisms if m.name == name), None)
    if found is None:
        planned = max(rounds, getattr(privacy, "rounds", None) or 1)
        return ledger.plan(privacy, planned, name=name)
    if rounds > found.cost.rounds:
        raise ValueError(
            f"rounds must be <= the {found.cost.rounds} that {name!r} was planned for, "
            f"got {rounds}; plan another run under another name."
        )
    wanted = privacy.cost(found.cost.rounds, relation=ledger.terms.relation)
    if wanted != found.cost:
        raise LedgerError(
            f"mechanism {name!r} must cost what was planned, but this privacy object "
            "costs something else; pass the one it was planned with, or another name."
        )
    return found


def _strategy(
    algorithm: FederatedAlgorithm,
    data: FederatedData,
    params: Params,
    strategy: str | Strategy,
    mechanism: Mechanism,
) -> Strategy:
    """Returns the strategy, which a run keeps: it decides on the last bits of sums."""
    begun = None if mechanism.run is None else mechanism.run["strategy"]
    if begun is None or strategy != "auto":
        return choose_strategy(algorithm, data, params=params, strategy=strategy)
    kept = Strategy(**begun, reason="as this run began")
    return choose_strategy(algorithm, data, params=params, strategy=kept)


def _note(history: History, ledger: Ledger) -> None:
    """Writes into the history what paid for it."""
    terms = ledger.terms
    history.ledger = LedgerFacts(
        name=ledger.path.name,
        head=ledger.head,
        entries=len(ledger.history()),
        epsilon=ledger.epsilon(),
        budget=terms.epsilon,
        delta=terms.delta,
        unit=terms.unit,
        relation=terms.relation,
    )
