"""What of a run is at rest between two processes, and how the second one goes on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxfed.engine import _devices
from jaxfed.engine._checkpoint import Checkpoint, Saver
from jaxfed.engine._history import History, RoundRecord
from jaxfed.engine._round import RoundState
from jaxfed.engine._run import Run
from jaxfed.typing import FederatedAlgorithm, Params, PyTree

NoiseKey = Callable[[int], jax.Array]


class Resumable:
    """A run that can be saved, and go on where a saved one was.

    Args:
        run: the run, before its first round.
        algorithm: what it runs.
        params: the initial parameters.
        checkpoint: where and how often.
        plan: the hash of what is run.
        facts: returns further public facts to save, such as the ledger's head.

    Raises:
        ValueError: clients keep state, and nobody said that it may be saved.
    """

    def __init__(
        self,
        run: Run,
        algorithm: FederatedAlgorithm,
        params: Params,
        checkpoint: Checkpoint,
        *,
        plan: str,
        facts: Callable[[], dict[str, Any]] = dict,
    ):
        self._run, self._algorithm, self._params = run, algorithm, params
        self._facts = facts
        if jax.tree.leaves(run.state.clients) and not checkpoint.client_state:
            raise ValueError(
                "checkpoint needs client_state=True for this algorithm, got False: "
                "clients keep state of their own, which is as private as their data; "
                "pass jaxfed.Checkpoint(directory=..., client_state=True) to save it."
            )
        self._saver = Saver(checkpoint, plan)
        self._last = 0

    def restore(
        self,
        history: History,
        noise_key: NoiseKey,
        accept: Callable[[dict[str, Any]], None] = lambda facts: None,
    ) -> int:
        """Goes on from the newest checkpoint; returns how many rounds are finished.

        Args:
            history: gets the records of those rounds.
            noise_key: the key that each of them was noised with.
            accept: raises if the saved facts are not those of this run.
        """
        saved = self._saver.latest(self._at_rest())
        if saved is None:
            return 0
        accept(saved.facts)
        kept, rounds = saved.state, saved.round
        aggregator = self._algorithm.aggregator.resumed(
            self._params,
            kept["aggregator"],
            rounds=rounds,
            noise_key=noise_key,
        )
        self._run.resume(
            rounds, RoundState(kept["server"], aggregator, kept["clients"])
        )
        state = _devices.on_first(self._run.state)
        history.state = state.server
        history.params = self._algorithm.broadcast(state.server).params
        history.rounds = [RoundRecord(**record) for record in saved.facts["records"]]
        self._last = rounds
        return rounds

    def save(self, history: History, *, now: bool) -> None:
        """Saves if it is due, or `now` and then waits until it is written."""
        rounds = len(history.rounds)
        if rounds > self._last and (now or self._saver.is_due(rounds)):
            records = [dataclasses.asdict(record) for record in history.rounds]
            facts = {"records": records, **self._facts()}
            self._saver.save(rounds, self._at_rest(), facts)
            self._last = rounds
        if now:
            self._saver.wait()

    def close(self) -> None:
        """Ends what goes on in the background."""
        self._saver.close()

    def _at_rest(self) -> dict[str, PyTree]:
        state = _devices.on_first(self._run.state)
        return {
            "server": state.server,
            "aggregator": self._algorithm.aggregator.at_rest(state.aggregator),
            "clients": state.clients,
        }
