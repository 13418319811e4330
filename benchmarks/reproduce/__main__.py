"""Published results, run again, and the table of `docs/reproduced.md`.

    python -m benchmarks.reproduce fed_heart --seeds 5
    python -m benchmarks.reproduce --short
    python -m benchmarks.reproduce fashion_mnist --data FOLDER
    python -m benchmarks.reproduce --table

Without a name all are run but those that read files of another package:
`fashion_mnist` has the four of the Debian package dataset-fashion-mnist, from where it
installs them or from `--data`. `--short` runs little of each, checks levels and orders,
and writes nothing.
"""

import argparse
import json
import pathlib
import sys
import time

from benchmarks.reproduce import (
    _experiment,
    adaptive_sparse,
    fashion_mnist,
    fed_heart,
    fedbuff_time,
    fedprox_stragglers,
    fedprox_synthetic,
    personal_skew,
    robust_attacks,
    scaffold_quadratics,
)

MODULES = (
    fed_heart,
    fedprox_synthetic,
    fedprox_stragglers,
    scaffold_quadratics,
    adaptive_sparse,
    personal_skew,
    robust_attacks,
    fedbuff_time,
    fashion_mnist,
)
EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in MODULES}


def main(arguments=None):
    """Runs experiments, or prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduce")
    parser.add_argument("names", nargs="*", help=", ".join(EXPERIMENTS))
    parser.add_argument("--short", action="store_true", help="little of each")
    parser.add_argument("--seeds", type=int, help="how many runs of each")
    parser.add_argument("--data", type=pathlib.Path, help="a folder, where one is read")
    parser.add_argument("--out", type=pathlib.Path, default=_experiment.RESULTS)
    parser.add_argument("--table", action="store_true", help="print the page's table")
    given = parser.parse_args(arguments)
    if given.table:
        print(_experiment.markdown(_experiment.saved(given.out)))
        return
    if unknown := sorted(set(given.names) - set(EXPERIMENTS)):
        parser.error(f"no experiment {unknown[0]!r}; pass one of {list(EXPERIMENTS)}")
    for name, experiment in EXPERIMENTS.items():
        is_meant = not given.names and not experiment.needs_data
        if name in given.names or is_meant:
            run(experiment, given)


def run(experiment, given):
    """Runs one experiment; writes a full run."""
    count = experiment.short_seeds if given.short else experiment.seeds
    if given.short and count == 0:
        print(f"{experiment.name}: has no short form")
        return
    start = time.perf_counter()
    seeds = range(given.seeds or count)
    rows = experiment.run(seeds, given.short, given.data)
    seconds = time.perf_counter() - start
    for row in rows:
        print(f"{experiment.name}: {row.setting}, {row.method}: ", end="")
        print(f"{row.mean:.3f} +- {row.stddev:.3f}, published {row.published}")
    print(f"{experiment.name}: {seconds:.0f} s", flush=True)
    if not given.short:
        file = given.out / f"reproduce_{experiment.name}.json"
        document = _experiment.document(experiment, rows, seconds)
        file.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    experiment.check(rows, given.short)


if __name__ == "__main__":
    sys.exit(main())
