"""A permit: the proof that one release was paid for, and the only source of its noise.

The key of the noise is HKDF(HKDF(secret; ledger, mechanism, round, attempt);
commitment); a permit holds the inner one alone. The commitment is an HMAC of the sum
and of the plan it belongs to. The same sum, released again after a crash, gets the
same bits and is no second release; another sum gets another key, and has to be paid
for.
"""

import dataclasses
import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxfed import _check as check
from jaxfed import keys
from jaxfed.ledger._errors import LedgerError
from jaxfed.ledger._mechanism import Charge

if TYPE_CHECKING:
    import jax

PENDING, DURABLE, VOID = "pending", "durable", "void"
MAKER = object()  # what only a ledger passes


def key_of(secret: bytes, commitment: str) -> "jax.Array":
    """Returns the key of a charge's noise, from the secret of that charge alone."""
    return keys.secure(secret, context=commitment.encode("ascii"))


class Permit:
    """Permission to release one thing once; made by a ledger alone.

    Attributes:
        number: of the ledger's entry.
        is_replay: whether this very release was paid for, and made, before.
        state: `"pending"` until the spend is on disk; then `"durable"`, or `"void"`
            if it could not be written. Nothing leaves the process before it is durable.
    """

    def __init__(
        self,
        charge: Charge,
        *,
        secret: bytes,
        commit: Callable[[bytes], str],
        is_replay: bool,
        maker: object,
    ):
        if maker is not MAKER:
            raise TypeError(
                "a Permit must come from a ledger, got a call of its class; use "
                "ledger.charge(...)."
            )
        self.number, self.is_replay = charge.number, is_replay
        self.state = DURABLE if is_replay else PENDING
        self.model: str | None = None
        self._charge = charge
        self._secret, self._commit = secret, commit  # of this charge alone

    def key(self, inputs: bytes) -> "jax.Array":
        """Returns the key of this release's noise: always the same one.

        Args:
            inputs: a digest of everything that is noised; what the charge was made
                for, if it named that.

        Raises:
            LedgerError: the permit was made for another sum.
        """
        check.instance(bytes, "pass a SHA-256 digest of the sum", inputs=inputs)
        if self.state == VOID:
            raise LedgerError(
                f"the permit of entry {self.number} must be paid for, but the ledger "
                "could not be written; nothing may be released."
            )
        commitment = self._commit(inputs)
        if not self._charge.commitment:  # the first use decides
            self._charge = dataclasses.replace(self._charge, commitment=commitment)
        if not hmac.compare_digest(commitment, self._charge.commitment):
            raise LedgerError(
                f"the permit of entry {self.number} must be used for the sum it was "
                "made for, got another one; charge the ledger again for it."
            )
        return key_of(self._secret, commitment)

    def pays_for(self, model: str) -> None:
        """Names the model version that this release makes, by its SHA-256."""
        self.model = model

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Permit must not be copied or stored: it is for one release; charge the "
            "ledger for another one."
        )

    def __repr__(self) -> str:
        return f"Permit(entry {self.number}, {self.state})"
