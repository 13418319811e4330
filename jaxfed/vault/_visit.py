"""One visit of a vault to its server: task, plan, checks, local work, report.

Nothing of the data, and nothing computed from it, is in any message but the report, and
the report is what the plan's clip and grid leave of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from jaxfed.vault import (
    _lattice,
    _lock,
    _noise,
    _policy,
    _rules,
    _signature,
    _task,
    _training,
)
from jaxfed.vault._answer_time import AnswerTime
from jaxfed.vault._errors import Refused, Stale, WireError
from jaxfed.vault._kept import Kept
from jaxfed.vault._numpy import np
from jaxfed.vault._participation import Participation
from jaxfed.vault._plan import Named, Plan
from jaxfed.vault._policy import Policy
from jaxfed.vault._program import Array
from jaxfed.vault._task import Task
from jaxfed.vault._training import Trained

LOG = logging.getLogger("jaxfed.vault")
_MOST_SEALED = 1 << 24
_NOT_COUNTED = ("stale", "ended")
Read = Callable[[tuple[Named, ...]], Mapping[str, Array]]


class Transport(Protocol):
    """How a vault reaches its server."""

    def task(self, seconds: float) -> bytes | None:
        """Waits for a task; None if there is none for now.

        Raises:
            Ended: there will be none.
        """

    def blob(self, digest: str, most: int) -> bytes:
        """Fetches a plan or a model of at most so many bytes.

        Raises:
            Stale: it is not there any more.
        """

    def report(self, data: bytes) -> str:
        """Sends a report; returns what became of it."""


class Ended(Exception):
    """The server's run is over."""


class Outcome(NamedTuple):
    """What came of a visit; public."""

    state: str
    """What the server said of the report, or "waiting" or "ended"."""
    round: int | None = None


class Vault:
    """One client: its data, its policy, and what it remembers.

    Args:
        read: returns the client's examples, for the arrays that a plan names.
        policy: its owner's.
        folder: where it keeps its record; made if it is not there.

    Raises:
        Refused: the record is damaged, or the folder cannot be used.
        Busy: another process has it.
    """

    def __init__(self, read: Read, policy: Policy, folder: Path):
        self._read, self._policy = read, policy
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(
                f"{folder} must be a folder to write in: {error.strerror}; name "
                "another one with --record."
            ) from None
        self._lock = _lock.held(folder)
        self._record, self._kept = Participation(folder / "record.db"), Kept(folder)
        self._answer_time = AnswerTime(folder)
        self._plans: dict[str, Plan] = {}

    def close(self) -> None:
        """Closes the record, and lets another process have it."""
        self._record.close()
        self._lock.close()

    def visit(self, transport: Transport, *, seconds: float = 20.0) -> Outcome:
        """Takes one task, if there is one, and answers it.

        Args:
            transport: to the server.
            seconds: how long to wait for a task.

        Raises:
            Refused, PlanError, WireError: this vault does not take part; nothing was
                sent.
        """
        try:
            data = transport.task(seconds)
        except Ended:
            return Outcome("ended")
        if data is None:
            return Outcome("waiting")
        task = _task.decode_task(data)
        try:
            plan = self._plan(task, transport)
            shared, groups = self._model(task, plan, transport)
        except Stale:
            return Outcome("stale", task.round)
        assert plan.rules is not None
        limits = _policy.limits_of(self._policy, plan.rules)
        # before data are looked at: whether they fit a plan is an answer, too
        seed = self._record.join(task.remembered(), limits)
        began = time.monotonic()
        examples = self._read(tuple(plan.rows))
        self._check(plan, len(next(iter(examples.values()))))
        LOG.info("round %d, attempt %d: taking part", task.round + 1, task.attempt + 1)
        report = self._work(task, plan, examples, shared, groups, seed)
        if plan.rules.is_local:
            self._answer_time.wait(began)
        state = transport.report(report)
        if state in _NOT_COUNTED and not plan.rules.is_local:
            self._kept.drop(task)  # what the server does not have, either
        LOG.info("round %d: %s, %d bytes", task.round + 1, state, len(report))
        return Outcome(state, task.round)

    def _plan(self, task: Task, transport: Transport) -> Plan:
        """Fetches a plan once, and checks it: signature, programs, and itself."""
        if task.plan not in self._plans:
            data = transport.blob(task.plan, _MOST_SEALED)
            _require(_task.digest(data) == task.plan, "a plan has another hash")
            text, _ = _signature.unsealed(data, self._policy.trusted())
            plan = Plan(text)
            self._check(plan, 1)  # nothing of it is run that may not be
            plan.check_itself()
            self._plans = {task.plan: plan}
            LOG.info("plan %s: signed, checked", plan.hash[:12])
        return self._plans[task.plan]

    def _model(
        self, task: Task, plan: Plan, transport: Transport
    ) -> tuple[list[Array], list[_lattice.Group]]:
        assert plan.rules is not None  # as it was checked
        most = _task.size_of_model(plan)
        data = transport.blob(task.model, most)
        _require(_task.digest(data) == task.model, "a model has another hash")
        shared, norms = _task.decode_model(data, plan)
        return shared, _rules.with_norms(plan.rules, norms)

    def _check(self, plan: Plan, size: int) -> None:
        found = _policy.refusals(self._policy, plan, size)
        if found:
            reasons = "; ".join(found)
            raise Refused(f"the policy refuses this plan: {reasons}. Nothing was sent.")

    def _work(
        self,
        task: Task,
        plan: Plan,
        examples: Mapping[str, Array],
        shared: list[Array],
        groups: list[_lattice.Group],
        seed: bytes,
    ) -> bytes:
        assert plan.rules is not None
        if plan.rules.is_local:
            values = self._kept.report(task, plan)
            if values is not None:  # one report a round, whatever changed meanwhile
                return _task.encode_report(task, plan.update, values, None)
        kept = self._kept.before(task, plan)
        if plan.rules.is_local:
            trained = _answering(plan, examples, shared, kept, task)
            self._kept.after(task, plan, trained.kept)
            values = _noise.report(trained.update, plan.rules, seed)
            self._kept.keep_report(task, plan, values)
            return _task.encode_report(task, plan.update, values, None)
        trained = _trained(plan, examples, shared, kept, task)
        key = np.array(task.encoding, np.uint32)
        encoded = _lattice.encode(trained.update, groups, key)
        is_usable = encoded.is_finite and _is_finite(trained.kept)
        self._kept.after(task, plan, trained.kept if is_usable else kept)
        levels = plan.rules.count_levels
        count = (levels if encoded.fits else -levels) if encoded.is_finite else 0
        return _task.encode_report(
            task, plan.update, encoded.update, count if levels else None
        )


def _trained(
    plan: Plan,
    examples: Mapping[str, Array],
    shared: list[Array],
    kept: list[Array],
    task: Task,
) -> Trained:
    return _training.train(
        plan,
        examples,
        shared,
        kept,
        key=np.array(task.training, np.uint32),
        order=task.order[0] << 32 | task.order[1],
        client=task.client,
    )


def _answering(
    plan: Plan,
    examples: Mapping[str, Array],
    shared: list[Array],
    kept: list[Array],
    task: Task,
) -> Trained:
    """Returns what local work gave, or a zero: with noise, nobody can tell which.

    Whether a plan fails on some data is a fact about them, and silence would tell it.
    """
    try:
        found = _trained(plan, examples, shared, kept, task)
        if _is_finite([*found.update, *found.kept]):
            return found
        reason = "what it gave is not finite"
    except Exception as error:
        reason = type(error).__name__
    LOG.error("local work failed (%s): the report is noise alone", reason)
    zeros = [np.zeros(one.type.shape, one.type.dtype) for one in plan.update]
    return Trained(zeros, 0.0, kept, {})


def _is_finite(arrays: list[Array]) -> bool:
    return all(bool(np.isfinite(a).all()) for a in arrays)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise WireError(what)
