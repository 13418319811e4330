"""DrJAX: all clients of a cohort side by side in one compiled program, masked.

DrJAX gives the map over clients and the sum; the local loop, the masks and the clip
are written here, as its users have to. Every client takes as many steps as the longest
client of the whole population, so that no round compiles anew.
"""

import drjax
import jax
import jax.numpy as jnp
import numpy as np

from peers import jax_models
from peers.worker import Worker


def make_round(worker):
    """Returns the jitted `(params, x, y, rows, keys) -> (clipped sum, examples)`."""
    workload = worker.workload

    def train(params, x, y, real, key):
        def step(carry, now):
            own, seen = carry
            x, y, real, step_key = now

            def loss(own):
                dropout_key = None if worker.exact else step_key
                each = jax_models.losses(workload, own, x, y, key=dropout_key)
                return jnp.sum(each * real) / jnp.maximum(jnp.sum(real), 1)

            rate = workload.learning_rate
            gradients = jax.grad(loss)(own)
            own = jax.tree.map(lambda p, g: p - rate * g, own, gradients)
            return (own, seen + jnp.sum(real)), None

        steps = jax.random.split(key, len(real))
        zero = jnp.zeros((), jnp.int32)
        (own, seen), _ = jax.lax.scan(step, (params, zero), (x, y, real, steps))
        update = jax.tree.map(jnp.subtract, own, params)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(a)) for a in jax.tree.leaves(update)))
        factor = jnp.minimum(1.0, workload.clip / norm)
        return jax.tree.map(lambda a: factor * a, update), seen

    @drjax.program(placements={"clients": workload.cohort})
    def program(params, x, y, rows, keys):
        # what is broadcast is laid out once for each client: parameters, not the data
        chosen = jnp.maximum(rows, 0)
        clients = drjax.broadcast(params), x[chosen], y[chosen], rows >= 0, keys
        updates, seen = drjax.map_fn(lambda client: train(*client), (clients,))
        return drjax.reduce_sum((updates, seen))

    return jax.jit(program)


def plan(worker, number):
    """Returns (cohort, steps, batch_size) rows of the data, -1 for padding."""
    batch_size = worker.workload.batch_size
    longest = -(-int(worker.data.sizes.max()) // batch_size)
    clients = worker.cohort(number)
    rows = np.full((len(clients), longest * batch_size), -1, np.int32)
    generator = np.random.default_rng(number)
    for index, client in enumerate(clients):
        size = worker.data.sizes[client]
        order = np.arange(size) if worker.exact else generator.permutation(size)
        rows[index, :size] = worker.data.offsets[client] + order
    return rows.reshape(len(clients), longest, batch_size)


def main():
    """Serves rounds."""
    worker = Worker()
    program = make_round(worker)
    x, y = jnp.asarray(worker.data.x), jnp.asarray(worker.data.y)
    params = jax.tree.map(jnp.asarray, worker.params)
    state = {"params": params}

    def clipped_sum(number):
        keys = jax.random.split(jax.random.key(number), worker.workload.cohort)
        return program(state["params"], x, y, plan(worker, number), keys)

    def run_round(number):
        total, examples = clipped_sum(number)
        state["params"] = jax.tree.map(
            lambda p, t: p + t / worker.workload.cohort, state["params"], total
        )
        jax.block_until_ready(state["params"])
        return int(examples)

    def total(number):
        found, examples = clipped_sum(number)
        return int(examples), found

    worker.serve(run_round, total, kind="clipped sum")


if __name__ == "__main__":
    main()
