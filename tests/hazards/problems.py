"""Local work whose update is what the client's data say, and rounds that run it."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxfed as jf
from jaxfed.engine import _round
from jaxfed.engine._planner import Planner
from jaxfed.typing import Batching, ClientResult, LocalWork
from tests.problems import cohort_of

ROOT = jf.keys.simulated(4)
PARAMS = {"w": jnp.zeros(4), "b": jnp.zeros(())}
CLIENTS = 6


def says(params):
    """Each client has one example, which is its update to the first five scalars."""

    def init(shared, client_state):
        del client_state
        return shared.params

    def step(carry, batch, *, key):
        del key
        value = batch.rows["update"][0]
        flat = {"w": carry["w"].at[:4].set(value[:4]), "b": value[4]}
        return flat, {"loss": jnp.sum(value)}

    def finish(shared, carry):
        del shared
        return ClientResult(carry, jnp.float32(1), ())

    return LocalWork(init, step, finish, Batching(batch_size=1, steps=1))


class Bench:
    """A mechanism in a compiled round, for any cohort of six clients and any updates.

    Updates are placed past the checks at the door, which refuse NaN in data.
    """

    def __init__(self, privacy, params=None):
        params = PARAMS if params is None else params
        self.algorithm = jf.algorithms.fedavg(says(params), privacy)
        zeros = np.zeros((CLIENTS, 5), np.float32)
        data = jf.data.FederatedData.from_arrays(
            {"update": zeros}, client=np.arange(CLIENTS)
        )
        self.planner = Planner(
            data, self.algorithm.local.batching, max_clients=CLIENTS, lanes=2
        )
        self.start = _round.init_state(self.algorithm, params, CLIENTS)
        self.compiled = jax.jit(
            lambda state, cohort, arrays, index: _round.run_round(
                self.algorithm, state, cohort, arrays, index, key=ROOT
            )
        )

    def run(self, updates, cohort, *, round_index=0, state=None):
        """Returns the state after a round, and its report."""
        plan = cohort_of(self.planner, cohort, key=jf.keys.simulated(5))
        arrays = {"update": jnp.asarray(updates, jnp.float32)}
        start = self.start if state is None else state
        return self.compiled(start, plan, arrays, jnp.int32(round_index))


def same(left, right):
    """Whether two trees hold the same bits."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
