"""Training for real: every release is paid for first, and nothing else comes out.

The same rounds as in a simulation, cut in two at the sum. Up to there everything is
private; the sum is charged to a ledger, gets noise from a key that only this sum can
have, and what follows from the noised sum is public.
"""

import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed import accounting, tree
from jaxfed.data import FederatedData
from jaxfed.data._digest import digest_of
from jaxfed.engine import _checkpoint, _devices
from jaxfed.engine._checkpoint import Checkpoint
from jaxfed.engine._choice import choose_strategy
from jaxfed.engine._history import History, LedgerFacts
from jaxfed.engine._resume import Resumable
from jaxfed.engine._rounds import Callback, Step, Watch, run_rounds, watch_of
from jaxfed.engine._run import Run, host_arrays
from jaxfed.engine._simulate import (
    checked_call,
    checked_params,
    noise_key,
    plan_of,
    validate_run,
)
from jaxfed.engine._strategy import Strategy
from jaxfed.evaluation import Evaluation
from jaxfed.ledger import Ledger, LedgerError, Mechanism, PaidRun
from jaxfed.privacy import Privacy
from jaxfed.typing import FederatedAlgorithm, Params

_LOG = logging.getLogger("jaxfed")
_STRATEGY = (
    "executor",
    "lanes",
    "batch_widths",
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
            inputs=_inputs(data, params),
            strategy={field: getattr(chosen, field) for field in _STRATEGY},
        )
        history = History(
            algorithm=repr(algorithm),
            privacy=reported,
            params=params,
            strategy=chosen.explain(),
            private=True,
        )
        run = Run(algorithm, data, arrays, params, paid.key(0), rounds, chosen)
        exits.callback(_note, history, ledger)
        release = _Release(algorithm, run, paid, ledger, reported, rounds)
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


class _Release:
    """The rounds of one paid run."""

    def __init__(
        self,
        algorithm: FederatedAlgorithm,
        run: Run,
        paid: PaidRun,
        ledger: Ledger,
        privacy: Privacy,
        rounds: int,
    ):
        self._algorithm, self._run = algorithm, run
        self._paid, self._ledger = paid, ledger
        self._curve = privacy.epsilon_curve(rounds)

    def one_round(self, index: int) -> dict[str, float]:
        """Runs a round, pays for its sum, and releases it; tells nothing private."""
        run, paid = self._run, self._paid
        attempt = paid.attempt(index)
        summed = run.add_up(index, paid.key(attempt) if attempt else None)
        digest = summed.digest()
        if not paid.repeats(index, digest) and paid.mechanism.cost.may_repeat:
            _LOG.warning(
                "round %d of %r was released before with another sum: this machine or "
                "its versions compute otherwise; it is drawn and paid for anew",
                index + 1,
                paid.mechanism.name,
            )
            summed = run.add_up(index, paid.key(attempt + 1))
            digest = summed.digest()
        with paid.spending(index, digest) as permit:
            run.release(index, summed, permit)
            model = self._model()
            permit.pays_for(model)
        if permit.is_replay and paid.model_of(permit) not in (None, model):
            _LOG.warning(
                "round %d of %r makes another model of the same release than before: "
                "its server optimizer, or this machine's arithmetic, is another one",
                index + 1,
                paid.mechanism.name,
            )
        run.finish(index, summed)
        self._check_finite(index)
        return {}

    def epsilon(self, index: int) -> float | None:
        """Returns what the run has spent after a round."""
        mechanism, terms = self._paid.mechanism, self._ledger.terms
        repeats = len(mechanism.charges) - mechanism.rounds
        if self._curve is not None and not repeats:
            return float(self._curve[index])
        return accounting.epsilon(
            mechanism.cost.event,
            mechanism.cost.uses(index + 1) + repeats,
            delta=terms.delta,
            relation=terms.relation,
            distance=mechanism.cost.distance,
        )

    def resumable(self, params: Params, saving: Checkpoint) -> Resumable:
        """Returns what saves this run."""
        plan = self._paid.mechanism.run
        assert plan is not None  # it has begun
        return Resumable(
            self._run,
            self._algorithm,
            params,
            saving,
            plan=plan["plan"],
            facts=self._facts,
        )

    def noise_key(self, index: int) -> jax.Array:
        """Returns the key that a paid round was noised with."""
        return noise_key(self._paid.noise_key(index), np.int32(index))

    def accept(self, facts: dict[str, Any]) -> None:
        """Refuses a checkpoint of another ledger, or of a later state of this one.

        Raises:
            LedgerError: it is.
        """
        self._ledger.check_extends(**facts["ledger"], by="the checkpoint")

    def _facts(self) -> dict[str, Any]:
        ledger = self._ledger
        return {
            "ledger": {
                "identity": ledger.identity,
                "count": len(ledger.history()),
                "head": ledger.head,
            }
        }

    def _model(self) -> str:
        """Returns the SHA-256 of the new parameters: their names, dtypes and bytes."""
        return _sha256(self._params())

    def _check_finite(self, index: int) -> None:
        if not bool(_is_finite(self._params())):
            raise RuntimeError(
                f"the model after round {index + 1} is not finite: the server's "
                "optimizer overflowed on what was released; use a smaller learning "
                "rate, under another name= in the ledger."
            )

    def _params(self) -> Params:
        state = _devices.on_first(self._run.state)
        return self._algorithm.broadcast(state.server).params


_is_finite = jax.jit(tree.is_finite)


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
    if begun["batch_widths"] is not None:
        begun = begun | {"batch_widths": tuple(begun["batch_widths"])}
    return Strategy(**begun, reason="as this run began")


def _inputs(data: FederatedData, params: Params) -> bytes:
    """Returns a digest of all that the run works on. Private."""
    return hashlib.sha256(digest_of(data) + _sha256(params).encode()).digest()


def _sha256(params: Params) -> str:
    """Returns the hash of parameters, leaf by leaf, in hexadecimal."""
    found = hashlib.sha256()

    def add(name: str, leaf: Any) -> None:
        array = np.asarray(leaf)
        found.update(f"{name}{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())

    tree.map_with_names(add, params)
    return found.hexdigest()


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
