"""What a round costs in the odometer, beside a new dp-accounting accountant per round.

Run `python benchmarks/odometer.py [rounds]`; prints one line of JSON with medians in
milliseconds over the first and the last 100 rounds.
"""

import json
import statistics
import sys
import time

import dp_accounting
import jax

import jaxfed as jf

DELTA, INTERVAL, NAIVE_ROUNDS = 1e-6, 1e-3, 5


def events():
    """Returns the events that are measured, by name."""
    gaussian = dp_accounting.GaussianDpEvent(1.0)
    return {
        "poisson": dp_accounting.PoissonSampledDpEvent(0.01, gaussian),
        "truncated": jf.sampling.Poisson(population=10_000, rate=0.01).event(1.0),
        "gaussian": dp_accounting.GaussianDpEvent(50.0),
    }


def milliseconds(work):
    """Returns how long a call takes."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def odometer(event, rounds):
    """Returns the times of adding and of reading each round, and epsilon."""
    meter, adds, reads = jf.accounting.Odometer(delta=DELTA), [], []
    for _ in range(rounds):
        adds.append(milliseconds(lambda: meter.add(event)))
        reads.append(milliseconds(meter.epsilon))
    return adds, reads, meter.epsilon()


def naive(event):
    """A fresh accountant for every round, as for example Flower 1.42 replays it."""

    def fresh(count):
        relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
        accountant = dp_accounting.pld.PLDAccountant(relation, INTERVAL)
        for _ in range(count):
            accountant.compose(event)
        return accountant.get_epsilon(DELTA)

    return [milliseconds(lambda n=n: fresh(n)) for n in range(1, NAIVE_ROUNDS + 1)]


def main():
    """Measures every event and prints the result."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    result = {"rounds": rounds, "jax": jax.__version__, "events": {}}
    for name, event in events().items():
        adds, reads, epsilon = odometer(event, rounds)
        both = [a + r for a, r in zip(adds, reads, strict=True)]
        result["events"][name] = {
            "first_ms": adds[0],
            "early_ms": statistics.median(both[1:101]),
            "late_ms": statistics.median(both[-100:]),
            "worst_ms": max(both[1:]),
            "epsilon": epsilon,
            "naive_ms_by_round": naive(event),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
