"""jaxfed: one worker for the tuned layers, one for stock ones (`--layers stock`)."""

import jax
import numpy as np

import jaxfed
from peers import ours, ours_models
from peers.worker import Worker


def main():
    """Serves rounds, on every core."""
    jaxfed.use_cores()
    worker = Worker(layers="tuned")
    workload = worker.workload
    options = {
        "data": worker.data,
        "params": worker.params,
        "cohort": worker.cohort,
        "layers": worker.options.layers,
        "exact": worker.exact,
    }
    run = ours.make_round(workload, options)

    def total(number):
        """Takes the sum off the parameters of the first round."""
        examples, params = run(number)
        after = ours_models.from_flax(
            jax.device_get(params), layers=worker.options.layers
        )
        change = {
            name: workload.cohort * (np.asarray(after[name]) - before)
            for name, before in worker.params.items()
        }
        return examples, change

    worker.serve(lambda number: run(number)[0], total, kind="clipped sum")


if __name__ == "__main__":
    main()
