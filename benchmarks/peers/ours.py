"""A jaxfed round on demand: the one file that touches the engine's internals.

Users call `jaxfed.engine.simulate`, which draws its own cohorts; here the round that
it compiles is run on a given cohort. Each round clips, sums integers and adds discrete
Gaussian noise, and plans its cohort; the plan is part of the time.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf
from jaxfed.engine._planner import Planner
from jaxfed.engine._round import choose_lanes, compiled_round, init_state
from peers import ours_models


def make_round(workload, options):
    """Returns `run(number) -> (examples, server parameters)`, blocking.

    Args:
        workload: a `speed.workloads.Workload`.
        options: a dict with `data`, `params` (of all frameworks), `cohort` (a function
            of a round's number), `layers` (`tuned` or `stock`) and `exact`.
    """
    model, params = ours_models.make_model(
        workload, options["params"], layers=options["layers"], exact=options["exact"]
    )
    data = _federated(options["data"])
    algorithm = _algorithm(workload, model, exact=options["exact"])
    planner = Planner(
        data,
        algorithm.local.batching,
        max_clients=workload.cohort,
        lanes=choose_lanes(params, workload.cohort),
    )
    arrays = jax.device_put(data.arrays)
    step = compiled_round(algorithm)
    state = init_state(algorithm, params, data.num_clients)
    key, rounds = jf.keys.simulated(0), itertools.count()

    def run(number):
        nonlocal state
        clients = options["cohort"](number)
        if options["exact"]:
            plan = _in_order(planner, options["data"], clients)
        else:
            plan = planner.plan(clients, np.uint64(number))
        state, report = step(state, plan, arrays, np.int32(next(rounds)), key=key)
        if int(report.private.num_failed):
            raise RuntimeError(f"{report.private.num_failed} clients failed")
        jax.block_until_ready(state)
        examples = int(np.sum(np.asarray(plan.rows) >= 0))
        return examples, algorithm.broadcast(state.server).params

    return run


def _federated(data):
    """Returns the benchmark's clients as jaxfed's data."""
    client = np.repeat(np.arange(len(data.sizes)), data.sizes)
    return jf.data.FederatedData.from_arrays({"x": data.x, "y": data.y}, client=client)


def _algorithm(workload, model, *, exact):
    """Returns federated averaging with central privacy; without noise if exact."""

    def loss_fn(params, batch, key):
        outputs = model(params, batch["x"], key)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"])
        return losses.mean(), {}

    local = jf.clients.sgd(
        loss_fn,
        optax.sgd(workload.learning_rate),
        batch_size=workload.batch_size,
        epochs=1,
    )
    # whom a round has comes from the benchmark; only the mean's divisor is taken
    sampling = jf.sampling.FixedSize(
        population=workload.population, size=workload.cohort
    )
    privacy = jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=workload.clip),
        noise=jf.noise.Gaussian(multiplier=1e-6 if exact else 1.0),
    )
    return jf.algorithms.fedavg(local, privacy)


def _in_order(planner, data, clients):
    """Returns a plan whose batches keep the order of the data."""
    plan = planner.plan(clients, np.uint64(0))
    rows = np.array(plan.rows)
    first, steps = np.asarray(plan.first_step), np.asarray(plan.num_steps)
    numbers = np.asarray(plan.clients)
    for client, line, count in zip(
        numbers.ravel(), first.ravel(), steps.ravel(), strict=True
    ):
        if count:
            own = rows[line : line + count]
            own[own >= 0] = data.offsets[client] + np.arange(data.sizes[client])
    return plan._replace(rows=jnp.asarray(rows))
