"""The simulation engine beside its peers: the same rounds, in turn.

What you should see: a table with one line for each workload and peer, with how many
times longer the peer takes for the same round, by the clock and by processor time,
and whether the figure set for it is reached.

Every peer gets a virtual environment of its own, outside the repository, and runs as a
worker process. For each repeat, each framework runs one round of the same cohort, one
after the other. Each must have processed the examples that the cohort has; `--validate`
also compares what the clients' updates add up to with a slow reference.

    python benchmarks/engine.py --out benchmarks/results/engine.json
    python benchmarks/engine.py --validate --workloads mlp-100 small-1000
    python benchmarks/engine.py --table benchmarks/results/engine.json
"""

import argparse
import json
import os
import pathlib
import platform
import tempfile

from speed import driver, environments, table
from speed.comparison import write_reference
from speed.frameworks import FRAMEWORKS
from speed.workloads import WORKLOADS

QUICK_WORKLOADS = ("small-1000", "mlp-100")
QUICK_FRAMEWORKS = ("ours", "fedjax", "pfl", "pytorch-2")
ROOT = pathlib.Path(__file__).parent.parent
FRAGMENT, README = ROOT / "docs" / "speed_table.md", ROOT / "README.md"


def machine() -> dict:
    """Describes the machine and the load at the start."""
    name = platform.processor() or platform.machine()
    about = pathlib.Path("/proc/cpuinfo")
    if about.exists():
        lines = about.read_text("utf-8").splitlines()
        models = [a for a in lines if a.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "load at the start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def packages(frameworks: list, folder: pathlib.Path) -> dict:
    """Returns environment -> versions of the packages that matter."""
    wanted = ("torch", "jax", "fedjax", "pfl", "flwr", "ray", "drjax", "blazefl")
    found = {}
    for name in {one.environment for one in frameworks if one.environment}:
        python = folder.expanduser() / name / "bin" / "python"
        if python.exists():
            versions = environments.versions(python)
            found[name] = {n: v for n, v in versions.items() if n in wanted}
    return found


def previous(file: pathlib.Path | None, about: dict) -> dict:
    """Returns the results that a file has from the same machine, to be added to."""
    empty: dict = {"machine": about, "packages": {}, "rows": [], "validation": []}
    if file is None or not file.exists():
        return empty
    found = json.loads(file.read_text("utf-8"))
    same = all(found["machine"][k] == about[k] for k in ("processor", "cores"))
    if not same:
        raise SystemExit(f"{file} is from another machine; write to another file.")
    return empty | found | {"machine": about}


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS)
    parser.add_argument("--peers", nargs="+", choices=FRAMEWORKS)
    parser.add_argument("--repeats", type=int, help="samples of each (9)")
    parser.add_argument("--quick", action="store_true", help="a small part, 2 repeats")
    parser.add_argument("--validate", action="store_true", help="compare sums instead")
    parser.add_argument("--out", type=pathlib.Path, help="add the rows to this JSON")
    parser.add_argument(
        "--environments",
        type=pathlib.Path,
        default=pathlib.Path("~/.cache/jaxfed-benchmarks"),
        help="where the peers are installed (%(default)s)",
    )
    parser.add_argument(
        "--table",
        type=pathlib.Path,
        metavar="JSON",
        help=f"only write the tables of {README.name} and {FRAGMENT.name} from it",
    )
    return parser.parse_args()


def main() -> None:
    """Measures or validates, prints, and writes what was asked for."""
    options = parse()
    if options.table:
        result = json.loads(options.table.read_text("utf-8"))
        FRAGMENT.write_text(table.markdown(result["rows"]) + "\n", "utf-8")
        page = table.between(README.read_text("utf-8"), result["rows"])
        README.write_text(page, "utf-8")
        return
    names = options.workloads or (QUICK_WORKLOADS if options.quick else WORKLOADS)
    peers = options.peers or (QUICK_FRAMEWORKS if options.quick else FRAMEWORKS)
    frameworks = [FRAMEWORKS[name] for name in peers]
    repeats = options.repeats or (2 if options.quick else 9)
    result = previous(options.out, machine())
    with tempfile.TemporaryDirectory() as temporary:
        logs = pathlib.Path(temporary)
        for name in names:
            print(f"{name}: load {os.getloadavg()[0]:.1f}", flush=True)
            common = {"folder": options.environments, "logs": logs}
            if options.validate:
                reference = write_reference(WORKLOADS[name], logs)
                for one in frameworks:
                    found = driver.validate(
                        WORKLOADS[name], one, reference=reference, **common
                    )
                    result["validation"] = table.merged(result["validation"], [found])
                    print(table.validation_line(found), flush=True)
            else:
                rows = driver.measure(
                    WORKLOADS[name], frameworks, repeats=repeats, **common
                )
                result["rows"] = table.merged(result["rows"], rows)
                print(table.text(rows), flush=True)
            result["packages"] |= packages(frameworks, options.environments)
            if options.out:  # after each workload: the long ones come last
                options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
