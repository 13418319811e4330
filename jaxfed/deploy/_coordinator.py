"""The coordinator: the rounds of `train`, with clients that are somewhere else.

Who comes, what they do, what is charged, noised and released is the same; local work
and clip are done by vaults, and the server checks what they send. A round that too few
answered is tried again with the same clients, and costs nothing; where vaults add the
noise, whoever is asked answers privately, and every round that was asked for is paid.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed.deploy import _begin, _promise, _words
from jaxfed.deploy._cohorts import Cohorts
from jaxfed.deploy._desk import Desk, Total
from jaxfed.deploy._pace import Pace, RoundAbandoned
from jaxfed.deploy._releases import Releases
from jaxfed.deploy._store import Attempt, Store
from jaxfed.engine._claim import Claim
from jaxfed.engine._history import History
from jaxfed.engine._rounds import Callback, Step, run_rounds, watch_of
from jaxfed.engine._simulate import checked_params
from jaxfed.engine._train import facts_of
from jaxfed.evaluation import RELEASED, Evaluation
from jaxfed.ledger import Ledger
from jaxfed.typing import FederatedAlgorithm, Params
from jaxfed.vault import _task
from jaxfed.vault._task import Task

_LOG = logging.getLogger("jaxfed")


class Coordinator:
    """One run over real clients.

    Formal guarantee: that of `train`. What clients send is added up in memory and never
    written; what is released was paid for, durably, together with the model it makes.
    A coordinator that was killed goes on at the round it was in.

    Args:
        algorithm: what to run, with `privacy.central(...)`, or `privacy.local(...)` and
            Gaussian or Laplace noise.
        params: the initial parameters; public.
        examples: arrays with a few made-up examples: names, dtypes and shapes are
            looked at alone.
        clients: the names of all enrolled clients, as many as the sampler counts.
        rounds: how many.
        ledger: what pays; see `Ledger.create`.
        folder: of this run alone: its plan, attempts, and released models.
        signing_key: 32 secret bytes; vaults trust its public key.
        pace: deadline, least cohort, goal.
        name: of the run in its ledger.
        evaluate: `evaluation.public(...)`, or several.
        callbacks: functions of the history so far; one that returns True ends the run.
        progress: whether to show a progress bar.

    Attributes:
        desk: what a transport serves.
        state: what the next round needs.

    Raises:
        ValueError: an argument is out of range, or vaults cannot run this algorithm.
        BudgetExhausted: the ledger does not pay for so many rounds.
        LedgerError, StoreError: ledger and folder are not of this run, or unusable.
    """

    def __init__(
        self,
        algorithm: FederatedAlgorithm,
        *,
        params: Params,
        examples: Mapping[str, Any],
        clients: Sequence[str],
        rounds: int,
        ledger: Ledger | str | Path,
        folder: str | Path,
        signing_key: bytes,
        pace: Pace | None = None,
        name: str = "training",
        evaluate: Evaluation | Sequence[Evaluation] | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = False,
    ):
        check.positive_integer("pass for example rounds=100", rounds=rounds)
        self._pace = pace or Pace()
        self._clients = _begin.checked_clients(algorithm, clients)
        watch = watch_of(evaluate, callbacks, progress, remedy=RELEASED)
        params = checked_params(params)
        self._algorithm, self._rounds, self._params = algorithm, rounds, params
        self._privacy = _begin.checked_privacy(algorithm, examples, params, rounds)
        with contextlib.ExitStack() as exits:
            if not isinstance(ledger, Ledger):
                ledger = exits.enter_context(Ledger.open(ledger))
            self._ledger = ledger
            self._pace.validate(self._privacy, relation=ledger.terms.relation)
            for one in watch.evaluations:
                _begin.check_evaluation(one, rounds, ledger)
            store = Store(Path(folder))
            begun = _begin.begun(
                store,
                algorithm,
                params,
                examples,
                clients=self._clients,
                rounds=rounds,
                ledger=ledger,
                pace=self._pace,
                signing_key=signing_key,
                name=name,
            )
            self._plan, self._paid = begun.plan, begun.paid
            self.desk = Desk(self._clients, begun.plan, begun.sealed)
            self._releases = Releases(algorithm, params, begun.paid, store, self._pace)
            self.state = self._releases.restored()
            self._watch = watch._replace(callbacks=[self._keep, *watch.callbacks])
            self._root = self._paid.key(0)
            horizon = max(rounds, self._privacy.rounds or 1)
            self._cohorts = Cohorts(self._privacy.sampling, horizon, self._root)
            self._summary = self._summed_up()
            self._exits = exits.pop_all()

    def run(self) -> History:
        """Runs all rounds that are left; returns the history of all.

        Raises:
            RoundAbandoned: too few clients came, as often as a round is tried; run
                again when more can be reached.
        """
        terms, paid = self._ledger.terms, self._paid
        reported = dataclasses.replace(self._privacy, delta=terms.delta)
        claim = Claim(paid.mechanism, terms, reported, self._rounds)
        history = History(
            algorithm=repr(self._algorithm),
            privacy=reported,
            params=self._params,
            strategy=f"{len(self._clients)} vaults",
            private=True,
            claim=claim.statement,
            ledger=facts_of(self._ledger, paid.mechanism),
        )
        history.rounds = self._releases.records(claim)
        history.state = self.state.server
        history.params = self._algorithm.broadcast(self.state.server).params
        step = Step(self._one_round, lambda index: claim.epsilon(index + 1))
        try:
            run_rounds(
                step,
                self._algorithm,
                self,
                history,
                self._watch,
                rounds=self._rounds,
                resumable=None,
            )
        finally:
            history._end()
            claim.end()
        self.desk.end()
        return history

    def status(self) -> dict[str, Any]:
        """Returns what an operator looks at; who is missing is private."""
        missing, asked, left = self.desk.waiting_for()
        states = {
            (a.round, a.attempt): a.state for a in self._releases.store.attempts()
        }
        attempts = [
            {"round": index + 1, "attempt": attempt + 1, "state": state}
            for (index, attempt), state in reversed(list(states.items())[-10:])
        ]
        found: dict[str, Any] = {**self._summary, "attempts": attempts, "open": None}
        if asked:
            found["open"] = {
                "round": self._summary["released"] + 1,
                "asked": asked,
                "reported": asked - len(missing),
                "missing": missing,
                "seconds_left": round(left),
            }
        return found

    def farewell(self, seconds: float) -> None:
        """Waits until every client was told that the run is over, or so long."""
        self.desk.end()
        self.desk.wait_for_farewell(seconds)

    def close(self) -> None:
        """Tells clients that there is nothing more, and closes a ledger opened here."""
        self.desk.end()
        self._exits.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _one_round(self, index: int) -> dict[str, float]:
        total = self._gathered(index)
        self._released(index, total)
        return {}

    def _gathered(self, index: int) -> Total:
        """Asks the cohort of a round until enough have reported."""
        cohort = self._cohorts.of(index)
        self._releases.opened(index, self.state)
        paid = "not charged"
        if self._releases.is_local:
            paid = "charged once, when it was opened"
        first = self._next_attempt(index)
        for attempt in range(first, first + self._pace.most_attempts):
            tasks, model = self._tasks(index, attempt, cohort)
            self._releases.store.note(Attempt(index, attempt, "opened"))
            _LOG.info("round %d, attempt %d: open", index + 1, attempt + 1)
            self.desk.open(
                tasks,
                model,
                seconds=self._pace.deadline_seconds,
                goal=self._pace.goal or len(tasks),
            )
            total = self.desk.gather()
            _LOG.info("round %d, attempt %d: closed", index + 1, attempt + 1)
            if total.num_reports >= self._pace.least_cohort:
                return total
            self._releases.store.note(Attempt(index, attempt, "abandoned"))
            _LOG.warning(
                "round %d, attempt %d: abandoned, too few clients reported; nothing "
                "was released, and the round is %s",
                index + 1,
                attempt + 1,
                paid,
            )
        raise RoundAbandoned(
            f"round {index + 1} must get {self._pace.least_cohort} reports within "
            f"{self._pace.deadline_seconds:g} s, but did not in "
            f"{self._pace.most_attempts} attempts; it is {paid}. See that vaults run, "
            "allow more time, and run again: it goes on there."
        )

    def _released(self, index: int, total: Total) -> None:
        """Pays for a sum together with the model it makes, then lets it out."""
        self.state, model = self._releases.released(index, self.state, total)
        store, attempt = self._releases.store, self._next_attempt(index) - 1
        store.note(Attempt(index, attempt, "released"))
        store.keep_only(model)
        if not all(np.isfinite(a).all() for a in jax.tree.leaves(self.state.server)):
            raise RuntimeError(
                f"the model after round {index + 1} is not finite: the server's "
                "optimizer overflowed on what was released; use a smaller learning "
                "rate, under another name= in the ledger."
            )

    def _tasks(
        self, index: int, attempt: int, cohort: np.ndarray
    ) -> tuple[dict[str, Task], bytes]:
        shared = self._algorithm.broadcast(self.state.server)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(shared)]
        norms = _promise.norms_of(self._privacy, self.state.aggregator)
        model = _task.encode_model(leaves, norms, self._plan)
        words = _words.of_round(self._root, index)
        common: dict[str, Any] = {
            "run": self._paid.identity,
            "round": index,
            "attempt": attempt,
            "plan": self.desk.plan_hash,
            "model": _task.digest(model),
            "seconds": self._pace.deadline_seconds,
        }
        tasks = {
            self._clients[number]: Task(
                **common, client=int(number), **words.of_client(int(number))
            )
            for number in cohort
        }
        return tasks, model

    def _next_attempt(self, index: int) -> int:
        known = [
            one.attempt for one in self._releases.store.attempts() if one.round == index
        ]
        return max(known, default=-1) + 1

    def _summed_up(self) -> dict[str, Any]:
        """Returns the public facts that change from round to round, and the others."""
        terms, pace, spent = self._ledger.terms, self._pace, self._ledger.epsilon()
        released = self._releases.done
        is_over = released >= self._rounds
        return {
            "state": "All rounds are released" if is_over else "Rounds are running",
            "run": self._paid.mechanism.name,
            "algorithm": repr(self._algorithm),
            "rounds": self._rounds,
            "released": released,
            "epsilon": f"{spent:.3g}",
            "budget": f"{terms.epsilon:g}",
            "delta": f"{terms.delta:g}",
            "spent_percent": round(100 * spent / terms.epsilon, 1),
            "clients": len(self._clients),
            "cohort": f"{self._privacy.sampling.expected_clients:g}",
            "least_cohort": pace.least_cohort,
            "goal": pace.goal,
            "deadline_seconds": pace.deadline_seconds,
            "head": self._ledger.head,
        }

    def _keep(self, history: History) -> None:
        self._summary = self._summed_up()
        self._releases.store.keep_records(
            [dataclasses.asdict(one) for one in history.rounds]
        )
