"""Releases: a sum is paid for together with the model it makes, then let out.

Where vaults add the noise, each report is a release by itself, to the server first.
Such a round is paid for before anybody is asked, whatever becomes of it.
"""

import functools
import hashlib
import hmac
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed.deploy import _begin, _promise
from jaxfed.deploy._desk import Total
from jaxfed.deploy._pace import Pace
from jaxfed.deploy._store import Store
from jaxfed.engine import _round
from jaxfed.engine._chunk import Sums
from jaxfed.engine._claim import Claim
from jaxfed.engine._history import RoundRecord
from jaxfed.engine._round import RoundState
from jaxfed.engine._run import digest_of_sum
from jaxfed.engine._simulate import noise_key
from jaxfed.ledger import PaidRun
from jaxfed.privacy._local import Local
from jaxfed.typing import FederatedAlgorithm, Params, Released


class Releases:
    """The releases of one run over vaults, and what is at rest between them.

    Args:
        algorithm: what is run.
        params: the initial parameters.
        paid: the run, in its ledger.
        store: of the run.
        pace: for its goal.
    """

    def __init__(
        self,
        algorithm: FederatedAlgorithm,
        params: Params,
        paid: PaidRun,
        store: Store,
        pace: Pace,
    ):
        self._algorithm, self._params, self._paid = algorithm, params, paid
        self._sent = algorithm.local.sends(params)
        self._privacy = _promise.checked(algorithm.aggregator)
        self.store, self._goal = store, pace.goal
        self.is_local = isinstance(self._privacy, Local)

    @property
    def done(self) -> int:
        """How many rounds have their model."""
        rounds = self._paid.mechanism.rounds
        return rounds if not self.is_local or self._after() else max(0, rounds - 1)

    def opened(self, index: int, state: RoundState) -> None:
        """Pays for a round of reports that are private by themselves, durably.

        The same round again, after a crash or an abandoned attempt, is paid already:
        vaults answer it with the same reports.

        Raises:
            LedgerError, StoreError, BudgetExhausted: nobody may be asked.
        """
        if not self.is_local:
            return
        model = self.store.keep_model(jax.tree.leaves(self._at_rest(state)))
        asked = hashlib.sha256(b"reports " + model.encode("ascii")).digest()
        with self._paid.spending(index, asked) as permit:
            permit.pays_for(model)

    def released(
        self, index: int, state: RoundState, total: Total
    ) -> tuple[RoundState, str]:
        """Returns the state after a round, and the hash of its model, durably.

        Raises:
            LedgerError, StoreError, BudgetExhausted: nothing was released.
        """
        encoded = self._encoded(state, total)
        if self.is_local:
            return self._added_up(index, state, encoded)
        digest = digest_of_sum(map(np.asarray, jax.tree.leaves(encoded)))
        sums = Sums(encoded, {}, jnp.int32(1), jnp.int32(0))
        close = _closing(self._algorithm, self._goal)
        with self._paid.spending(index, digest) as permit:
            found, _ = close(state, sums, np.int32(index), permit.key(digest))
            leaves = jax.tree.leaves(self._at_rest(found))
            model = self.store.keep_model(leaves)
            permit.pays_for(model)
        return found, model

    def _added_up(
        self, index: int, state: RoundState, encoded: Any
    ) -> tuple[RoundState, str]:
        """Returns the same for reports that are paid for."""
        sums = Sums(encoded, {}, jnp.int32(1), jnp.int32(0))
        close = _closing(self._algorithm, self._goal)
        found, _ = close(state, sums, np.int32(index), self._paid.noise_key(index))
        model = self.store.keep_model(jax.tree.leaves(self._at_rest(found)))
        self.store.keep_after(index, model, self._paid.sealed(f"{index} {model}"))
        return found, model

    def _after(self) -> str | None:
        """Returns the hash of the model after the last paid round, if there is one."""
        found, last = self.store.after(), self._paid.mechanism.rounds - 1
        if found is None or found.round != last:
            return None
        seal = self._paid.sealed(f"{last} {found.model}")
        return found.model if hmac.compare_digest(seal, found.seal) else None

    def _at_rest(self, state: RoundState) -> Any:
        aggregator = self._privacy.at_rest(state.aggregator)
        return {"server": state.server, "aggregator": aggregator}

    def restored(self) -> RoundState:
        """Returns the state after all rounds that were paid for.

        Of reports that are paid for before they come, after all that came.
        """
        first = RoundState(
            self._algorithm.init(self._params), self._privacy.init(self._sent), ()
        )
        rounds, model = self.done, _begin.last_model(self._paid)
        if self.is_local:
            model = self._after() or model
        template = self._at_rest(first)
        if model is None:
            self.store.keep_only(None)
            return first
        leaves = [jnp.asarray(leaf) for leaf in self.store.model(model)]
        self.store.keep_only(model)  # once it is known to be whole
        kept = jax.tree.structure(template).unflatten(leaves)
        aggregator = self._privacy.resumed(
            self._sent,
            kept["aggregator"],
            rounds=rounds,
            noise_key=lambda index: noise_key(
                self._paid.noise_key(index), np.int32(index)
            ),
        )
        return RoundState(kept["server"], aggregator, ())

    def records(self, claim: Claim) -> list[RoundRecord]:
        """Returns the records of earlier rounds; one that was lost, without values."""
        rounds = self.done
        found = [RoundRecord(**one) for one in self.store.records()[:rounds]]
        for index in range(len(found), rounds):
            epsilon = claim.epsilon(index + 1)
            found.append(
                RoundRecord(
                    round=index + 1,
                    epsilon=epsilon,
                    evaluation={},
                    private={},
                    seconds=None,
                )
            )
        return found

    def _encoded(self, state: RoundState, total: Total) -> Any:
        """Returns a sum as the privacy object's own `encode` shapes it."""
        shapes = jax.eval_shape(
            self._privacy.encode,
            state.aggregator,
            _begin.result_like(self._sent),
            key=self._paid.key(0),
        )
        leaves = list(total.values)
        structure = jax.tree.structure(shapes)
        if structure.num_leaves == len(leaves) + 1:
            leaves.append(np.asarray(total.count, np.int32))
        return structure.unflatten(leaves)


@functools.lru_cache(maxsize=8)
def _closing(algorithm: FederatedAlgorithm, goal: int | None) -> Any:
    """Returns the compiled release of a sum."""
    if goal is not None:
        factor = algorithm.aggregator.sampling.expected_clients / goal
        apply = algorithm.apply

        def applied(server: Any, released: Any) -> Any:
            value = jax.tree.map(lambda a: a * jnp.float32(factor), released.value)
            return apply(server, Released(value=value, num_clients=jnp.float32(goal)))

        algorithm = algorithm._replace(apply=applied)

    def close(state: RoundState, sums: Sums, index: Any, key: jax.Array) -> Any:
        return _round.close(algorithm, state, sums, index, key=key)

    return jax.jit(close)
