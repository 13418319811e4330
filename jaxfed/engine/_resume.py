"""What of a run is at rest between two processes, and how the second one goes on."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator
from typing import Any

import jax

from jaxfed.engine import _devices
from jaxfed.engine._checkpoint import Checkpoint, Saver
from jaxfed.engine._history import History, RoundRecord
from jaxfed.engine._round import RoundState
from jaxfed.engine._run import Run
from jaxfed.typing import FederatedAlgorithm, Params, PyTree

NoiseKey = Callable[[int], jax.Array]


@contextlib.contextmanager
def saver_of(
    checkpoint: Checkpoint | None, algorithm: FederatedAlgorithm, params: Params
) -> Generator[Saver | None]:
    """Opens what saves a run of an algorithm, before anything is spent.

    Raises:
        ValueError: clients keep state, and nobody said that it may be saved.
        RuntimeError: the directory cannot be used.
    """
    if checkpoint is None:
        yield None
        return
    if jax.tree.leaves(_kept(algorithm, params)) and not checkpoint.client_state:
        raise ValueError(
            "checkpoint needs client_state=True for this algorithm, got False: "
            "clients keep state of their own, which is as private as their data; "
            "pass jaxfed.Checkpoint(directory=..., client_state=True) to save it."
        )
    with contextlib.closing(Saver(checkpoint)) as saver:
        yield saver


class Resumable:
    """A run that can be saved, and go on where a saved one was.

    Args:
        run: the run, before its first round.
        algorithm: what it runs.
        params: the initial parameters.
        saver: from `saver_of`.
        plan: the hash of what is run, and on what.
        facts: returns further public facts to save, such as the ledger's head.
        check: refuses a state that does not fit the facts saved with it.

    Attributes:
        is_ended: whether a callback had ended the run that was saved.
    """

    def __init__(
        self,
        run: Run,
        algorithm: FederatedAlgorithm,
        params: Params,
        saver: Saver,
        *,
        plan: str,
        facts: Callable[[], dict[str, Any]] = dict,
        check: Callable[[dict[str, Any]], None] = lambda facts: None,
    ):
        self._run, self._algorithm, self._params = run, algorithm, params
        self._saver, self._plan = saver, plan
        self._facts, self._check = facts, check
        self._last, self.is_ended = 0, False
        self._keeps = bool(jax.tree.leaves(_kept(algorithm, params)))

    def restore(
        self,
        history: History,
        noise_key: NoiseKey,
        *,
        rounds: int,
        epsilon: Callable[[int], float | None],
    ) -> None:
        """Goes on from the newest checkpoint.

        Args:
            history: gets the records of its rounds.
            noise_key: the key that each of them was noised with.
            rounds: how many are asked for in all.
            epsilon: what is spent after each, from 0, as it is known now.

        Raises:
            ValueError: the checkpoint is of another run, or has more rounds.
        """
        saved = self._saver.latest(self._at_rest(), plan=self._plan)
        if saved is None:
            return
        if saved.round > rounds:
            raise ValueError(
                f"rounds must be >= the {saved.round} that the checkpoint holds, got "
                f"{rounds}; ask for as many, or name another directory."
            )
        kept = saved.state
        aggregator = self._algorithm.aggregator.resumed(
            self._algorithm.local.sends(self._params),
            kept["aggregator"],
            rounds=saved.round,
            noise_key=noise_key,
        )
        self._run.resume(saved.round, RoundState(kept["server"], aggregator))
        if self._keeps:
            self._saver.load_clients(saved.round, self._run.states)
        self._check(saved.facts)
        state = _devices.on_first(self._run.state)
        history.state = state.server
        history.params = self._algorithm.broadcast(state.server).params
        history.rounds = [
            RoundRecord(**record | {"epsilon": epsilon(record["round"] - 1)})
            for record in saved.facts["records"]
        ]
        self._last, self.is_ended = saved.round, saved.facts["is_ended"]

    def save(self, history: History, *, now: bool, is_ended: bool = False) -> None:
        """Saves if it is due, or `now` and then waits until it is written."""
        rounds = len(history.rounds)
        if rounds > self._last and (now or self._saver.is_due(rounds)):
            records = [dataclasses.asdict(record) for record in history.rounds]
            facts = {"records": records, "is_ended": is_ended, **self._facts()}
            states = self._run.states if self._keeps else None
            self._saver.save(
                rounds, self._at_rest(), facts, plan=self._plan, clients=states
            )
            self._last = rounds
        if now:
            self._saver.wait()

    def _at_rest(self) -> dict[str, PyTree]:
        state = _devices.on_first(self._run.state)
        return {
            "server": state.server,
            "aggregator": self._algorithm.aggregator.at_rest(state.aggregator),
        }


def _kept(algorithm: FederatedAlgorithm, params: Params) -> PyTree:
    """Returns the shapes of what one client keeps."""
    return jax.eval_shape(algorithm.local.init_client, params)
