"""Releases: a sum is paid for together with the model it makes, then let out."""

import dataclasses
import functools
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
from jaxfed.typing import FederatedAlgorithm, Params


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
        self._privacy = _promise.checked(algorithm.aggregator)
        self.store, self._goal = store, pace.goal

    def released(
        self, index: int, state: RoundState, total: Total
    ) -> tuple[RoundState, str]:
        """Returns the state after a round, and the hash of its model, durably.

        Raises:
            LedgerError, StoreError, BudgetExhausted: nothing was released.
        """
        encoded = self._encoded(state, total)
        digest = digest_of_sum(map(np.asarray, jax.tree.leaves(encoded)))
        sums = Sums(encoded, {}, jnp.int32(1), jnp.int32(0))
        close = _closing(self._algorithm, self._goal)
        with self._paid.spending(index, digest) as permit:
            found, _ = close(state, sums, np.int32(index), permit.key(digest))
            leaves = jax.tree.leaves(self._at_rest(found))
            model = self.store.keep_model(leaves)
            permit.pays_for(model)
        return found, model

    def _at_rest(self, state: RoundState) -> Any:
        aggregator = self._privacy.at_rest(state.aggregator)
        return {"server": state.server, "aggregator": aggregator}

    def restored(self) -> RoundState:
        """Returns the state after all rounds that were paid for."""
        first = RoundState(
            self._algorithm.init(self._params), self._privacy.init(self._params), ()
        )
        rounds = self._paid.mechanism.rounds
        model = _begin.last_model(self._paid)
        self.store.keep_only(model)
        if model is None:
            return first
        template = self._at_rest(first)
        leaves = [jnp.asarray(leaf) for leaf in self.store.model(model)]
        kept = jax.tree.structure(template).unflatten(leaves)
        aggregator = self._privacy.resumed(
            self._params,
            kept["aggregator"],
            rounds=rounds,
            noise_key=lambda index: noise_key(
                self._paid.noise_key(index), np.int32(index)
            ),
        )
        return RoundState(kept["server"], aggregator, ())

    def records(self, claim: Claim) -> list[RoundRecord]:
        """Returns the records of earlier rounds; one that was lost, without values."""
        rounds = self._paid.mechanism.rounds
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
            _begin.result_like(self._algorithm, self._params),
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
            return apply(server, dataclasses.replace(released, value=value))

        algorithm = algorithm._replace(apply=applied)

    def close(state: RoundState, sums: Sums, index: Any, key: jax.Array) -> Any:
        return _round.close(algorithm, state, (), sums, index, key=key)

    return jax.jit(close)
