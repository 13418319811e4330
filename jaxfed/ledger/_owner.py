"""What only the holder of a ledger's secret can do: write rows, commit, permit."""

import datetime
import functools
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import jax

from jaxfed import _check as check
from jaxfed import _hkdf, keys
from jaxfed.ledger import _permit, _rows
from jaxfed.ledger._mechanism import Charge, Mechanism
from jaxfed.ledger._permit import Permit
from jaxfed.ledger._rows import Row

_SALT = b"jaxfed ledger, version 1"  # a change would change every derived key


class Owner:
    """The secret of one ledger, and what follows from it.

    Attributes:
        mac_key: of the rows.
    """

    def __init__(self, secret: bytes):
        self._secret = secret
        self.mac_key = self._derived(b"rows")
        self._commitment_key = self._derived(b"commitments")

    def row(self, number: int, previous: str, kind: str, facts: dict[str, Any]) -> Row:
        """Returns the next row."""
        now = datetime.datetime.now(datetime.UTC)
        time = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        return _rows.made(
            number, previous, time=time, kind=kind, facts=facts, key=self.mac_key
        )

    def commitment(
        self, mechanism: Mechanism, round_index: int, attempt: int, inputs: bytes
    ) -> str:
        """Returns what binds a charge to its sum; without the secret it says nothing.

        It binds mechanism, round and attempt, so that equal sums of two charges do not
        show as equal, and all that the mechanism's run is made of. What another program
        or machine summed is another sum, whatever it is: nobody learns whether two
        programs give the same one.
        """
        return self._committing(mechanism, round_index, attempt)(inputs)

    def sealed(self, inputs: bytes) -> str:
        """Returns an HMAC of inputs that stay the same for a whole run."""
        message = b"run" + inputs
        return hmac.new(self._commitment_key, message, hashlib.sha256).hexdigest()

    def permit(
        self, ledger: str, mechanism: Mechanism, charge: Charge, *, is_replay: bool
    ) -> Permit:
        """Returns the permit of a charge."""
        return Permit(
            charge,
            secret=self._secret_of(ledger, mechanism, charge),
            commit=self._committing(mechanism, charge.round, charge.attempt),
            is_replay=is_replay,
            maker=_permit.MAKER,
        )

    def noise_key(self, ledger: str, mechanism: Mechanism, charge: Charge) -> jax.Array:
        """Returns the key that a charge's noise was drawn from."""
        secret = self._secret_of(ledger, mechanism, charge)
        return _permit.key_of(secret, charge.commitment)

    def run_key(self, ledger: str, mechanism: Mechanism, attempt: int) -> jax.Array:
        """Returns the root key of a run: of its cohorts, local work and encoding."""
        context = {
            "use": "run",
            "ledger": ledger,
            "mechanism": mechanism.number,
            "attempt": attempt,
            "run": _identity(mechanism),
        }
        return keys.secure(
            self._secret, context=_rows.canonical(context).encode("ascii")
        )

    def _secret_of(self, ledger: str, mechanism: Mechanism, charge: Charge) -> bytes:
        """Returns the secret of one charge, which tells nothing about others."""
        context = {
            "use": "noise",
            "ledger": ledger,
            "mechanism": mechanism.number,
            "round": charge.round,
            "attempt": charge.attempt,
        }
        return self._derived(_rows.canonical(context).encode("ascii"))

    def _committing(
        self, mechanism: Mechanism, round_index: int, attempt: int
    ) -> Callable[[bytes], str]:
        place = {
            "mechanism": mechanism.number,
            "round": round_index,
            "attempt": attempt,
        }
        # what it costs too: a backup that was restored may give its place to another
        bound = {"run": mechanism.current, "cost": mechanism.facts(), **place}
        run = _rows.canonical(bound).encode("ascii")
        return functools.partial(
            _commitment, self._commitment_key, hashlib.sha256(run).digest()
        )

    def _derived(self, context: bytes) -> bytes:
        return _hkdf.derive(self._secret, salt=_SALT, context=context, length=32)


def _commitment(key: bytes, place: bytes, inputs: bytes) -> str:
    check.instance(bytes, "pass a SHA-256 digest of the sum", inputs=inputs)
    return hmac.new(key, place + inputs, hashlib.sha256).hexdigest()


def _identity(mechanism: Mechanism) -> dict[str, Any]:
    """Returns what tells a run from others, whatever executes it."""
    run = mechanism.run or {}
    return {name: run[name] for name in ("plan", "inputs") if name in run}
