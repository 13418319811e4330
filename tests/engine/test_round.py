"""Every step of every client draws from its own key."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxfed as jf
from jaxfed import keys
from jaxfed.engine import _round
from jaxfed.engine._planner import Planner
from jaxfed.typing import Batching, ClientResult, LocalWork
from tests.problems import cohort_of, ragged_data

STEPS = 3


def recorder():
    """Local work whose update is the list of numbers that its steps drew."""

    def init(shared, client_state):
        del client_state
        return jnp.zeros((), jnp.int32), jnp.zeros_like(shared.params)

    def step(carry, batch, *, key):
        del batch
        index, drawn = carry
        return (index + 1, drawn.at[index].set(jax.random.uniform(key))), {}

    def finish(shared, carry):
        del shared
        return ClientResult(carry[1], jnp.float32(1), ())

    return LocalWork(init, step, finish, Batching(batch_size=2, steps=STEPS))


def test_keys_follow_purpose_round_client_and_step():
    data = ragged_data((3, 5, 2))
    work = recorder()
    sampling = jf.sampling.Full(population=3)
    none = jf.privacy.none(sampling=sampling, weighting="clients")
    algorithm = jf.algorithms.fedavg(work, none)
    planner = Planner(data, work.batching, max_clients=3, lanes=2)
    start = _round.init_state(algorithm, jnp.zeros(STEPS), 3)
    arrays = {n: jnp.asarray(a) for n, a in data.arrays.items()}
    root = keys.simulated(9)
    run = jax.jit(lambda *arguments: _round.run_round(algorithm, *arguments, key=root))

    def drawn(client, index):
        cohort = cohort_of(planner, [client], key=keys.simulated(1))
        _, report = run(start, cohort, arrays, np.int32(index))
        return np.asarray(report.released.value)

    def expected(client, index):
        branch = keys.for_purpose(keys.simulated(9), keys.Purpose.TRAINING)
        own = keys.for_client(keys.for_round(branch, index), client)
        return [jax.random.uniform(keys.for_leaf(own, t)) for t in range(STEPS)]

    seen = []
    for client in range(3):
        for index in (0, 4):
            numbers = drawn(client, index)
            np.testing.assert_array_equal(numbers, expected(client, index))
            seen.extend(numbers.tolist())
    assert len(set(seen)) == 3 * 2 * STEPS
