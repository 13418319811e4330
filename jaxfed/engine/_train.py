"""Training for real: every release is paid for first, and nothing else comes out.

The same rounds as in a simulation, cut in two at the sum. Up to there everything is
private; the sum is charged to a ledger, gets noise from a key that only this sum can
have, and what follows from the noised sum is public.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from jaxfed import _check as check
from jaxfed import _program
from jaxfed.accounting import BudgetExhausted
from jaxfed.data import FederatedData
from jaxfed.engine import _checkpoint
from jaxfed.engine._checkpoint import Checkpoint, Saver
from jaxfed.engine._choice import choose_strategy, given_strategy
from jaxfed.engine._claim import Claim
from jaxfed.engine._history import History, LedgerFacts
from jaxfed.engine._plan import inputs_of, plan_of, program_of
from jaxfed.engine._release import Release
from jaxfed.engine._resume import Resumable, saver_of
from jaxfed.engine._rounds import Callback, Step, Watch, run_rounds, watch_of
from jaxfed.engine._run import Run, host_arrays
from jaxfed.engine._simulate import (
    checked_call,
    checked_params,
    validate_run,
)
from jaxfed.engine._strategy import Strategy
from jaxfed.evaluation import RELEASED, Evaluation
from jaxfed.ledger import Ledger, LedgerError, Mechanism, PaidRun
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
    watch = watch_of(evaluate, callbacks, progress, remedy=RELEASED)
    saving = _checkpoint.checked(checkpoint)
    check.name("name the run in a few words", name=name)
    check.instance((Ledger, str, Path), "pass its path", ledger=ledger)
    _check_one_host()
    params = checked_params(params)
    arrays = host_arrays(data)
    validate_run(algorithm, data, arrays, params, rounds)
    with contextlib.ExitStack() as exits:
        saver = exits.enter_context(saver_of(saving, algorithm, params))
        if not isinstance(ledger, Ledger):
            ledger = exits.enter_context(Ledger.open(ledger))
        ledger.check_writable()
        _check_evaluations(watch, rounds, ledger)
        _check_ledger(ledger, saver)
        begun = begun_before(ledger, privacy, rounds, name)
        if saver is not None and begun is None and any(saver.facts.values()):
            raise saver.other_run()  # a run that has not begun has no checkpoint
        chosen = _strategy(algorithm, data, params, strategy, begun)
        # all that can be refused without a budget was checked before it is planned
        paid = _begin(
            begun or _planned(ledger, privacy, rounds, name),
            ledger,
            algorithm,
            data,
            params,
            chosen,
        )
        paid.check_fits(rounds)
        reported = dataclasses.replace(privacy, delta=ledger.terms.delta)
        claim = Claim(paid.mechanism, ledger.terms, reported, rounds)
        history = History(
            algorithm=repr(algorithm),
            privacy=reported,
            params=params,
            # batch widths follow from how many examples clients have
            strategy=dataclasses.replace(chosen, batch_widths=None).explain(),
            private=True,
            claim=claim.statement,
            ledger=facts_of(ledger, paid.mechanism),
        )
        exits.callback(history._end)
        exits.callback(claim.end)
        run = Run(algorithm, data, arrays, params, paid.key(0), rounds, chosen)
        release = Release(algorithm, run, paid, ledger)
        resumable = None if saver is None else release.resumable(params, saver)
        step = Step(
            run=release.one_round, epsilon=lambda index: claim.epsilon(index + 1)
        )
        if resumable is not None:
            resumable.restore(
                history, release.noise_key, rounds=rounds, epsilon=step.epsilon
            )
        try:
            run_rounds(
                step, algorithm, run, history, watch, rounds=rounds, resumable=resumable
            )
        except BudgetExhausted as error:
            raise _exhausted(error, history, resumable, paid) from error
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


def _check_evaluations(watch: Watch, rounds: int, ledger: Ledger) -> None:
    for one in watch.evaluations:
        if not isinstance(one, Evaluation):
            raise ValueError(
                f"evaluate must release public values alone, got {one!r}, of which "
                f"nobody knows what it shows; {RELEASED}."
            )
        one.validate(rounds=rounds, ledger=ledger)


def _check_ledger(ledger: Ledger, saver: Saver | None) -> None:
    """Refuses checkpoints of another ledger, or of a later state of this one.

    A simulation's, which names none, is refused by its plan.
    """
    for facts in {} if saver is None else saver.facts.values():
        if facts is not None and "ledger" in facts:
            ledger.check_extends(**facts["ledger"], by="the checkpoint")


def _check_one_host() -> None:
    if jax.process_count() > 1:
        raise ValueError(
            f"train must run on one host, got {jax.process_count()}; the ledger and "
            "its secret have one writer. Use all devices of one host."
        )


def begun_before(
    ledger: Ledger, privacy: Privacy, rounds: int, name: str
) -> Mechanism | None:
    """Returns the mechanism that was planned for the run before, if it was."""
    found = next((m for m in ledger.mechanisms if m.name == name), None)
    if found is None:
        return None
    if rounds > found.cost.rounds:
        raise ValueError(
            f"rounds must be <= the {found.cost.rounds} that {name!r} was planned for, "
            f"got {rounds}; ask for as many, or plan another run under another name "
            "(in a ledger that is not adaptive, before its first release)."
        )
    wanted = privacy.cost(found.cost.rounds, relation=ledger.terms.relation)
    if wanted != found.cost:
        raise LedgerError(
            f"mechanism {name!r} must cost what was planned, but this privacy object "
            "costs something else; pass the one it was planned with, or another name."
        )
    return found


def _planned(ledger: Ledger, privacy: Privacy, rounds: int, name: str) -> Mechanism:
    """Plans the mechanism of a run."""
    planned = max(rounds, getattr(privacy, "rounds", None) or 1)
    return ledger.plan(privacy, planned, name=name)


def _begin(
    mechanism: Mechanism,
    ledger: Ledger,
    algorithm: FederatedAlgorithm,
    data: FederatedData,
    params: Params,
    chosen: Strategy,
) -> PaidRun:
    """Begins the run in its ledger, or goes on with it."""
    strategy = {field: getattr(chosen, field) for field in _STRATEGY}
    strategy["devices"] = chosen.devices or jax.device_count()
    return ledger.begin(
        mechanism,
        plan=plan_of(algorithm, params),
        inputs=inputs_of(data, params),
        program=program_of(algorithm, params, data, chosen.batch_widths),
        execution={"strategy": strategy, "machine": _program.machine()},
    )


def _strategy(
    algorithm: FederatedAlgorithm,
    data: FederatedData,
    params: Params,
    strategy: str | Strategy,
    mechanism: Mechanism | None,
) -> Strategy:
    """Returns the strategy, which a run keeps: it decides on the last bits of sums.

    One that was given and differs from it is taken instead; what is not given is kept.
    """
    run = None if mechanism is None else mechanism.run
    begun = None if run is None else run["execution"].get("strategy")
    if begun is not None:  # a run over vaults has none, and is refused by its plan
        given = dataclasses.asdict(given_strategy(strategy))
        if strategy == "auto" or all(given[n] in (None, begun[n]) for n in _STRATEGY):
            local = {name: given[name] for name in ("batch_widths", "state_directory")}
            strategy = Strategy(**begun, **local, reason="as this run began")
    return choose_strategy(algorithm, data, params=params, strategy=strategy)


def _exhausted(
    error: BudgetExhausted,
    history: History,
    resumable: Resumable | None,
    paid: PaidRun,
) -> BudgetExhausted:
    """Returns what ends a run on the way; its rounds are not lost."""
    finished = len(history.rounds)
    if not finished and paid.is_moved:
        return BudgetExhausted(
            f"{error} Its rounds were released by another machine, strategy or "
            "version: go on there, or from a checkpoint, where they cost nothing."
        )
    if not finished:
        return error
    if resumable is not None:
        resumable.save(history, now=True)
    return BudgetExhausted(
        f"{error} The first {finished} rounds were released before: the same call with "
        f"rounds={finished} returns them, and spends nothing."
    )


def facts_of(ledger: Ledger, mechanism: Mechanism) -> Callable[[], LedgerFacts]:
    """Returns what tells who pays for a run by now; it sums each state up once."""

    @functools.lru_cache(maxsize=1)
    def facts(head: str) -> LedgerFacts:
        terms = ledger.terms
        return LedgerFacts(
            name=ledger.path.name,
            head=head,
            entries=ledger.num_entries,
            epsilon=ledger.epsilon(),
            budget=terms.epsilon,
            delta=terms.delta,
            unit=terms.unit,
            relation=terms.relation,
            repeats=mechanism.releases - mechanism.rounds,
        )

    return lambda: facts(ledger.head)
