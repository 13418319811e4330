"""How a run over vaults begins, or goes on: all is checked before it is planned."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import _program
from jaxfed.deploy import _promise
from jaxfed.deploy._export import export
from jaxfed.deploy._pace import Pace
from jaxfed.deploy._store import Store, StoreError
from jaxfed.engine._plan import sha256_of
from jaxfed.engine._train import begun_before
from jaxfed.evaluation import RELEASED, Evaluation
from jaxfed.ledger import Ledger, PaidRun
from jaxfed.privacy import Privacy
from jaxfed.typing import ClientResult, FederatedAlgorithm, Params, PyTree, Released
from jaxfed.vault import _signature
from jaxfed.vault._errors import PlanError
from jaxfed.vault._plan import Plan


class Begun(NamedTuple):
    """A run that its ledger knows."""

    plan: Plan
    sealed: bytes
    """The plan as it is sent: signed."""
    paid: PaidRun


def begun(
    store: Store,
    algorithm: FederatedAlgorithm,
    params: Params,
    examples: Mapping[str, Any],
    *,
    clients: Sequence[str],
    rounds: int,
    ledger: Ledger,
    pace: Pace,
    signing_key: bytes,
    name: str,
) -> Begun:
    """Begins a run in its ledger, or goes on with it; see `Coordinator`."""
    privacy = _promise.checked(algorithm.aggregator)
    horizon = max(rounds, privacy.rounds or 1)
    rules = _promise.rules_of(
        privacy,
        algorithm.local.sends(params),
        rounds=horizon,
        terms=ledger.terms,
        least_cohort=pace.least_cohort,
    )
    exported = export(algorithm, examples, params, rules=rules)
    sealed = _sealed(store.plan(), exported, signing_key)
    plan = Plan(_signature.unsealed(sealed, [_signature.public_key(signing_key)])[0])
    mechanism = begun_before(ledger, privacy, rounds, name)
    if mechanism is None and store.plan() is not None:
        raise StoreError(
            f"the folder must be of this run, got that of a run which the ledger "
            f"{ledger.path.name} does not know; name an empty folder, or bring back "
            "the ledger."
        )
    mechanism = mechanism or ledger.plan(privacy, horizon, name=name)
    named = json.dumps(list(clients)).encode()
    paid = ledger.begin(
        mechanism,
        plan=plan.hash,
        inputs=hashlib.sha256(sha256_of(params).encode() + named).digest(),
        program=_server_of(algorithm, params),
        execution={"vaults": len(clients), "machine": _program.machine()},
    )
    paid.check_fits(rounds)
    if store.plan() is None:
        store.keep_plan(sealed)
    return Begun(plan, sealed, paid)


def checked_clients(algorithm: FederatedAlgorithm, clients: Sequence[str]) -> list[str]:
    """Returns the names of clients, in the order of their numbers."""
    check.instance(
        FederatedAlgorithm,
        "pass for example algorithms.fedavg(...)",
        algorithm=algorithm,
    )
    found = list(clients)
    for one in found:
        check.name("name each client in a word", client=one)
    if len(set(found)) != len(found):
        raise ValueError("clients must have names of their own, got one twice.")
    privacy = check.instance(
        Privacy, "pass privacy.central(...)", privacy=algorithm.aggregator
    )
    if privacy.sampling.population != len(found):
        raise ValueError(
            f"the sampler counts {privacy.sampling.population} clients but "
            f"{len(found)} are enrolled; set population={len(found)}."
        )
    return found


def checked_privacy(
    algorithm: FederatedAlgorithm,
    examples: Mapping[str, Any],
    params: Params,
    rounds: int,
) -> _promise.Sums:
    """Returns the privacy object, after checking that model and examples fit it."""
    privacy = _promise.checked(algorithm.aggregator)
    rows = {name: jnp.asarray(np.asarray(array)) for name, array in examples.items()}
    algorithm.local.validate(params, rows)
    sizes = np.ones(privacy.sampling.population, np.int64)
    privacy.validate(
        params=params, rounds=rounds, local=algorithm.local, client_sizes=sizes
    )
    if not _promise.multiplier_of(privacy) > 0:
        raise ValueError(
            "privacy must have noise, got a multiplier of 0; calibrate it with "
            "privacy.calibrated(...)."
        )
    return privacy


def check_evaluation(one: Any, rounds: int, ledger: Ledger) -> None:
    """Refuses evaluations that would release something without a mechanism."""
    if not isinstance(one, Evaluation):
        raise ValueError(
            f"evaluate must release public values alone, got {one!r}; {RELEASED}."
        )
    one.validate(rounds=rounds, ledger=ledger)


def result_like(sent: PyTree) -> ClientResult:
    """Returns the shapes of what one client gives."""
    update = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.float32), sent
    )
    weight: Any = jax.ShapeDtypeStruct((), jnp.float32)
    return ClientResult(update, weight, ())


def last_model(paid: PaidRun) -> str | None:
    """Returns the hash of the model that was paid for last, or None.

    Raises:
        StoreError: the ledger does not name it.
    """
    charges = paid.mechanism.charges
    if not charges:
        return None
    model = paid.model_named_by(charges[-1])
    if model is None:
        raise StoreError(
            "the ledger must name the model that it paid for last, but names none; it "
            "was charged by something else than this coordinator."
        )
    return model


def _sealed(kept: bytes | None, exported: bytes, signing_key: bytes) -> bytes:
    """Returns the plan that the run began with, if this is the same one.

    Raises:
        StoreError: the algorithm changed.
    """
    if kept is None:
        return _signature.sealed(signing_key, exported)
    public = _signature.public_key(signing_key)
    try:
        before = Plan(_signature.unsealed(kept, [public])[0]).document
    except PlanError as error:
        raise StoreError(
            "the folder's plan must be signed with this signing key, but is not "
            f"({error}); bring back the key that the run began with, or begin a run "
            "under another name in an empty folder."
        ) from None
    now = Plan(exported).document
    names = list(now)
    if before["producer"] != now["producer"]:
        # other versions may trace the same work otherwise, but promise the same
        names = ["shared", "kept", "update", "rows", "batching", "rules"]
        for one in (before, now):
            one["rules"] = {**one["rules"], "epsilon": None}  # of another accountant
    changed = [name for name in names if now[name] != before[name]]
    if "rules" in changed:  # say which: rounds, least_cohort, noise_multiplier, ...
        old, new = before["rules"], now["rules"]
        which = [name for name in new if new[name] != old.get(name)]
        changed[changed.index("rules")] = f"rules ({', '.join(which)})"
    if changed:
        raise StoreError(
            f"the run must go on with the plan it began with, but {', '.join(changed)} "
            "changed; bring back what it began with, or begin a run under another name "
            "in an empty folder."
        )
    return kept


def _server_of(algorithm: FederatedAlgorithm, params: Params) -> bytes:
    """Returns a digest of what the server computes of a release."""

    def after(params: Params) -> Any:
        sent = algorithm.local.sends(params)
        released = Released(
            value=jax.tree.map(lambda a: a.astype(jnp.float32), sent),
            num_clients=jnp.float32(1),
        )
        return algorithm.apply(algorithm.init(params), released)

    return _program.digest_of(after, jax.eval_shape(lambda: params))
