"""Where the randomness of a query comes from: a key, or a ledger that pays for it."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed import _program
from jaxfed.data import FederatedData
from jaxfed.data._digest import digest_of as data_digest_of
from jaxfed.ledger import (
    BudgetExhausted,
    Ledger,
    LedgerError,
    Mechanism,
    PaidRun,
)
from jaxfed.privacy import Central


class Paid(NamedTuple):
    """A ledger pays; a release gets its key from a permit."""

    ledger: Ledger
    name: str
    """The query in a few words."""
    looks: int
    """How many releases are planned."""
    about: str = ""
    """What this look is about, so that the same one again costs nothing."""


Source = jax.Array | Paid


def source_of(
    key: jax.Array | None, ledger: Ledger | None, *, name: str, looks: int = 1
) -> Source:
    """Returns where a query's randomness comes from.

    Args:
        key: a root key, or None.
        ledger: a ledger, or None.
        name: the query in a few words, for the ledger.
        looks: how many releases are planned.

    Raises:
        TypeError: none or both are given, or one is of another kind.
    """
    if (key is None) == (ledger is None):
        given = "both" if key is not None else "none"
        raise TypeError(
            f"a query needs either key or ledger, got {given}; pass ledger=... to "
            "release its answer, or key=jaxfed.keys.simulated(seed) to simulate."
        )
    if ledger is None:
        return check.key(key=key)
    check.instance(Ledger, "open it with jaxfed.Ledger.open(path)", ledger=ledger)
    return Paid(ledger, name, looks)


def begun(paid: Paid, question: str, data: FederatedData, privacy: Central) -> PaidRun:
    """Returns the query's place in its ledger, planned and begun now or before.

    The same question about the same data is the same mechanism; new data is another
    one, which is paid anew. One that was planned ahead under the query's plain name
    serves the first such query.
    """
    ledger, digest = paid.ledger, data_digest_of(data)
    plan = hashlib.sha256(f"{question}|{privacy.to_json()}".encode()).hexdigest()
    name = f"{paid.name} [{ledger.tag(bytes.fromhex(plan) + digest)}]"
    known = {mechanism.name: mechanism for mechanism in ledger.mechanisms}
    ahead = known.get(paid.name)
    if ahead is not None and ledger.may_begin(ahead, plan=plan, inputs=digest):
        _check_ahead(ahead, paid, privacy)
        found = ahead
    else:
        found = known.get(name) or _planned_now(paid, privacy, name)
        _check_looks(found, paid)
    return ledger.begin(
        found,
        plan=plan,
        inputs=digest,
        program=b"",  # the library's own, whose version is among the machine's
        execution={"machine": _program.machine()},
    )


def _check_ahead(ahead: Mechanism, paid: Paid, privacy: Central) -> None:
    planned = ahead.cost.rounds
    wanted = privacy.cost(planned, relation=paid.ledger.terms.relation)
    if wanted != ahead.cost:
        raise LedgerError(
            f"mechanism {paid.name!r} must cost what was planned, but this privacy "
            "object costs something else; pass the one it was planned with."
        )
    _check_looks(ahead, paid)


def _check_looks(mechanism: Mechanism, paid: Paid) -> None:
    planned = mechanism.cost.rounds
    if paid.looks > planned:
        raise LedgerError(
            f"looks must be <= the {planned} that {paid.name!r} was planned for, got "
            f"{paid.looks}; look less often."
        )


def _planned_now(paid: Paid, privacy: Central, name: str) -> Mechanism:
    try:
        return paid.ledger.plan(privacy, paid.looks, name=name)
    except BudgetExhausted as error:
        raise BudgetExhausted(
            f"{error} A query is planned ahead under its plain name: "
            f"ledger.plan(privacy, {paid.looks}, name={paid.name!r})."
        ) from error


def released(
    paid: Paid,
    question: str,
    data: FederatedData,
    privacy: Central,
    *,
    total: Callable[[jax.Array, int], Any],
    digest_of: Callable[[Any], bytes],
    release: Callable[[Any, jax.Array], np.ndarray],
) -> np.ndarray:
    """Sums, pays, and releases, in this order.

    Args:
        paid: who pays.
        question: everything that tells this query from others.
        data: the clients.
        privacy: the mechanism.
        total: the exact sum over the cohort that a root key draws in a round.
        digest_of: hashes that sum.
        release: noises that sum with a key.
    """
    run = begun(paid, question, data, privacy)
    index = run.index_of(paid.about)
    attempt = run.attempt(index)
    found = total(run.key(attempt), index)
    if not run.repeats(index, digest_of(found)):  # another cohort for another sum
        found = total(run.key(attempt + 1), index)
    inputs = digest_of(found)
    with run.spending(index, inputs, about=paid.about) as permit:
        value = np.asarray(release(found, permit.key(inputs)))
    return value
