"""A run that a ledger pays for: its keys, and its place in the ledger."""

import contextlib
import hashlib
from collections.abc import Generator
from typing import TYPE_CHECKING

import jax

from jaxfed.ledger._errors import LedgerError
from jaxfed.ledger._mechanism import Charge, Mechanism
from jaxfed.ledger._permit import Permit
from jaxfed.ledger._rows import canonical

if TYPE_CHECKING:
    from jaxfed.ledger._ledger import Ledger


class PaidRun:
    """One run of a planned mechanism; made by `Ledger.begin`.

    Attributes:
        mechanism: what it uses.
    """

    def __init__(self, ledger: "Ledger", mechanism: Mechanism):
        self._ledger, self.mechanism = ledger, mechanism

    @property
    def is_moved(self) -> bool:
        """Whether it is executed otherwise than its last charge was."""
        return self.mechanism.moved is not None

    @property
    def identity(self) -> str:
        """A public hash that no other run has: of its ledger, place, plan and data."""
        run = self.mechanism.run or {}
        values = {name: run[name] for name in ("mechanism", "plan", "inputs")}
        text = canonical(values | {"ledger": self._ledger.identity})
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def check_fits(self, rounds: int) -> None:
        """Refuses so many rounds in all, those that were paid included.

        Raises:
            BudgetExhausted: they do not fit; nothing was spent.
        """
        left = rounds - self.mechanism.rounds
        if left > 0:
            uses = self.mechanism.cost.uses(rounds) - self.mechanism.cost.uses(
                self.mechanism.rounds
            )
            self._ledger._book.budget.check(self.mechanism, uses)

    def sealed(self, model: str) -> str:
        """Returns an HMAC of a model's hash: what only the ledger's owner can write."""
        text = f"model {self.identity} {model}"
        return self._ledger._owner.sealed(text.encode("ascii"))

    def index_of(self, about: str) -> int:
        """Returns the round that was about something, or the next one.

        What is about nothing in particular is round 0.
        """
        return self.mechanism.index_of(about)

    def attempt(self, round_index: int) -> int:
        """Returns which attempt at a round comes next: the last one that was paid."""
        latest = self.mechanism.latest(round_index)
        return 0 if latest is None else latest.attempt

    def key(self, attempt: int) -> jax.Array:
        """Returns the root key of cohorts, local work and encoding."""
        ledger = self._ledger
        return ledger._owner.run_key(ledger.identity, self.mechanism, attempt)

    def noise_key(self, round_index: int) -> jax.Array:
        """Returns the key that a paid round was noised with.

        Raises:
            LedgerError: the ledger does not know that round.
        """
        ledger, charge = self._ledger, self.mechanism.latest(round_index)
        if charge is None:
            raise LedgerError(
                f"{ledger.path} must know round {round_index + 1} of "
                f"{self.mechanism.name!r}, which a checkpoint has; the ledger is an "
                "older copy: restore the latest one."
            )
        return ledger._owner.noise_key(ledger.identity, self.mechanism, charge)

    def repeats(self, round_index: int, inputs: bytes) -> bool:
        """Returns whether a release of this sum is the one that was paid, or new.

        False where the round was paid for with another sum: then its cohort must be
        drawn anew, lest two releases share a cohort that is charged as drawn twice.
        """
        latest = self.mechanism.latest(round_index)
        if latest is None:
            return True
        commitment = self._ledger._owner.commitment(
            self.mechanism, round_index, latest.attempt, inputs
        )
        return latest.commitment == commitment

    @contextlib.contextmanager
    def spending(
        self, round_index: int, inputs: bytes, *, about: str = ""
    ) -> Generator[Permit]:
        """Spends a round, or permits its repetition; see `Ledger.spending`."""
        with self._ledger.spending(
            self.mechanism, round_index, inputs, about=about
        ) as permit:
            yield permit

    def model_named_by(self, charge: Charge) -> str | None:
        """Returns the hash of the model that a charge paid for, if it is known."""
        return self._ledger._book.models.get(charge.number)

    def model_of(self, permit: Permit) -> str | None:
        """Returns the hash of the model that a permit paid for, if it is known."""
        return self._ledger._book.models.get(permit.number)
