"""One released round: summed, paid for, noised, and only then let out."""

import logging
from typing import Any

import jax
import numpy as np

from jaxfed import tree
from jaxfed.engine import _devices
from jaxfed.engine._checkpoint import Saver
from jaxfed.engine._plan import sha256_of
from jaxfed.engine._resume import Resumable
from jaxfed.engine._run import Run
from jaxfed.engine._simulate import noise_key
from jaxfed.ledger import Ledger, LedgerError, PaidRun
from jaxfed.typing import FederatedAlgorithm, Params

_LOG = logging.getLogger("jaxfed")


class Release:
    """The rounds of one paid run."""

    def __init__(
        self,
        algorithm: FederatedAlgorithm,
        run: Run,
        paid: PaidRun,
        ledger: Ledger,
    ):
        self._algorithm, self._run = algorithm, run
        self._paid, self._ledger = paid, ledger

    def one_round(self, index: int) -> dict[str, float]:
        """Runs a round, pays for its sum, and releases it; tells nothing private."""
        run, paid = self._run, self._paid
        attempt = paid.attempt(index)
        summed = run.add_up(index, paid.key(attempt) if attempt else None)
        digest = summed.digest()
        if not paid.repeats(index, digest) and paid.mechanism.cost.may_repeat:
            _LOG.warning(
                "round %d of %r was released before with another sum: its strategy, "
                "machine or versions changed, or compute otherwise; it is drawn and "
                "paid for anew",
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

    def resumable(self, params: Params, saver: Saver) -> Resumable:
        """Returns what saves this run."""
        return Resumable(
            self._run,
            self._algorithm,
            params,
            saver,
            plan=self._paid.identity,
            facts=self._facts,
            check=self._check_restored,
        )

    def noise_key(self, index: int) -> jax.Array:
        """Returns the key that a paid round was noised with."""
        return noise_key(self._paid.noise_key(index), np.int32(index))

    def _check_restored(self, facts: dict[str, Any]) -> None:
        """Refuses another model than was saved: who has no secret cannot seal one.

        Raises:
            LedgerError: it is one.
        """
        if facts.get("model") != self._paid.sealed(self._model()):
            raise LedgerError(
                f"the checkpoint of round {facts['round']} must hold the model that "
                "was saved, got another one: it was changed since. Restore the right "
                "one, or remove it, and the rounds are repeated for nothing."
            )

    def _facts(self) -> dict[str, Any]:
        ledger = self._ledger
        return {
            "model": self._paid.sealed(self._model()),
            "ledger": {
                "identity": ledger.identity,
                "count": ledger.num_entries,
                "head": ledger.head,
            },
        }

    def _model(self) -> str:
        """Returns the SHA-256 of the new parameters: their names, dtypes and bytes."""
        return sha256_of(self._params())

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
