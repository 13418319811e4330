"""A jaxfed round on demand: the one file that touches the engine's internals.

Users call `jaxfed.engine.simulate`, which draws its own cohorts; here the round that
it compiles is run on a given cohort. Each round clips, sums integers and adds discrete
Gaussian noise, and plans its cohort; the plan is part of the time.
"""

import jax
import numpy as np
import optax

import jaxfed as jf
from jaxfed.engine import _devices
from jaxfed.engine._block import unpack
from jaxfed.engine._run import Run, host_arrays
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
    strategy = jf.engine.choose_strategy(algorithm, data, params=params)
    run = _Given(algorithm, data, params, strategy, exact=options["exact"])

    def one_round(number):
        run.clients = options["cohort"](number)
        report = run.one_round(number)
        if int(report.private.num_failed):
            raise RuntimeError(f"{report.private.num_failed} clients failed")
        state = _devices.on_first(jax.block_until_ready(run.state))
        return run.examples, algorithm.broadcast(state.server).params

    return one_round


class _Given(Run):
    """A run whose cohorts are given, one at a time."""

    def __init__(self, algorithm, data, params, strategy, *, exact):
        arrays, key = host_arrays(data), jf.keys.simulated(0)
        super().__init__(algorithm, data, arrays, params, key, 1, strategy)
        self._data, self._exact, self.clients, self.examples = data, exact, None, 0

    def _planned(self, index):
        blocks = list(self._planner.plan(self.clients, key=jf.keys.simulated(index)))
        if self._exact:
            for block in blocks:
                for packed in block.packed:
                    _put_in_order(self._data, unpack(block.layout, packed))
        self.examples = sum(
            int(cohort.num_examples[cohort.is_real].sum())
            for block in blocks
            for cohort in (unpack(block.layout, packed) for packed in block.packed)
        )
        number_there = _devices.everywhere(self._mesh, np.int32(index))
        return number_there, self._feeder.feed(blocks)


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
    # noise of a thousandth of the clip in the mean, so that no model of many rounds
    # and few clients drowns in it; its amount takes no time
    multiplier = 1e-6 if exact else workload.cohort / 1000
    privacy = jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=workload.clip),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )
    return jf.algorithms.fedavg(local, privacy)


def _put_in_order(data, cohort):
    """Rewrites a plan in place: batches keep the order of the data."""
    places = zip(
        cohort.clients.ravel(),
        cohort.first_step.ravel(),
        cohort.num_steps.ravel(),
        strict=True,
    )
    for client, line, count in places:
        if count:
            own = cohort.rows[line : line + count]
            own[own >= 0] = np.arange(data.offsets[client], data.offsets[client + 1])
