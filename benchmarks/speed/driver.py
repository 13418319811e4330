"""Runs rounds of all frameworks in turn, on the same cohorts."""

import os
import pathlib
import sys
from typing import Any

from speed import comparison, environments, workloads
from speed.frameworks import Framework
from speed.processes import Process, WorkerError

ROUND_LIMIT = 900.0
"""Seconds that one round, or the start of a worker, may take."""
_SAMPLE_SECONDS = 0.25
_REPEATS_IN_A_SAMPLE = 10


def command(
    framework: Framework, workload: workloads.Workload, folder: pathlib.Path
) -> list[str]:
    """Returns the command of a worker, making its environment if need be."""
    python = sys.executable
    if framework.environment is not None:
        python = str(environments.python_of(framework.environment, folder))
    start = [python, "-m", framework.module, "--workload", workload.name]
    return [*start, *framework.arguments]


def variables() -> dict[str, str]:
    """Returns what all workers get: one thread for each PyTorch process, no GPU."""
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}


class Contestant:
    """One framework's worker and what was measured of it."""

    def __init__(self, framework: Framework, process: Process):
        self.framework, self._process = framework, process
        self.samples: list[dict[str, Any]] = []
        self.first: dict[str, Any] = {}
        self.error: str | None = None
        self._times = 1

    def start(self, check: "Check") -> None:
        """Runs the first round, which compiles, and one more to know its length."""
        answer = self._round(0, 1, check)
        self.first = {"first round seconds": answer["seconds"]}
        seconds = self._round(1, 1, check)["seconds"]
        wanted = round(_SAMPLE_SECONDS / max(seconds, 1e-6))
        self._times = min(max(wanted, 1), _REPEATS_IN_A_SAMPLE)

    def sample(self, number: int, check: "Check") -> None:
        """Measures the round, as often as makes a quarter of a second."""
        answer = self._round(number, self._times, check)
        for name in ("seconds", "cpu seconds"):
            answer[name] /= self._times
        answer["examples"] //= self._times
        answer |= {"round": number, "load": round(os.getloadavg()[0], 2)}
        self.samples.append(answer)

    def finish(self) -> None:
        """Notes the memory and ends the worker."""
        self.first |= self._process.memory()
        self._process.close()

    def _round(self, number: int, times: int, check: "Check") -> dict[str, Any]:
        request = f"round {number} {times}"
        answer = self._process.ask(request, timeout=ROUND_LIMIT * min(times, 2))
        problem = check(self.framework, number, answer["examples"], times)
        if problem:
            raise WorkerError(problem)
        return answer


class Check:
    """Compares counts of examples with what a round must have."""

    def __init__(self, workload: workloads.Workload):
        self._workload, self._data = workload, workloads.make_data(workload)

    def __call__(
        self, framework: Framework, number: int, examples: int, times: int
    ) -> str | None:
        """Returns what is wrong, or None."""
        return comparison.count_problem(
            framework,
            self._workload,
            self._data,
            number=number,
            examples=examples,
            times=times,
        )


def measure(
    workload: workloads.Workload,
    frameworks: list[Framework],
    *,
    repeats: int,
    folder: pathlib.Path,
    logs: pathlib.Path,
) -> list[dict[str, Any]]:
    """Returns a row for each framework, those that could not run included.

    Args:
        workload: what to run.
        frameworks: who runs it.
        repeats: samples of each.
        folder: of the environments.
        logs: where the workers' standard error goes.
    """
    rows, contestants, check = [], [], Check(workload)
    for framework in frameworks:
        if workload.name in framework.skips:
            reason = f"not run: {framework.skips[workload.name]}"
            rows.append(row(workload, framework, error=reason))
            continue
        try:
            one = start(workload, framework, check, folder=folder, logs=logs)
        except (WorkerError, environments.InstallError) as error:
            rows.append(row(workload, framework, error=str(error)))
            print(f"  {framework.name}: {error}", flush=True)
            continue
        contestants.append(one)
    order = list(contestants)
    for number in range(2, repeats + 2):
        for one in order:
            if one.error is None:
                try:
                    one.sample(number, check)
                except WorkerError as error:
                    one.error = str(error)
        order = order[1:] + order[:1]  # nobody always comes after the same one
    for one in contestants:
        one.finish()
        rows.append(row(workload, one.framework, contestant=one, error=one.error))
    return rows


def start(workload, framework, check, *, folder, logs) -> Contestant:
    """Returns a framework that has run its first two rounds."""
    words = command(framework, workload, folder)
    log = logs / f"{workload.name}-{framework.name}.log"
    process = Process(words, log=log, variables=variables())
    one = Contestant(framework, process)
    try:
        process.answer(ROUND_LIMIT)
        one.start(check)
    except WorkerError:
        process.close()
        raise
    return one


def row(workload, framework, *, contestant=None, error=None) -> dict[str, Any]:
    """Returns what goes into the JSON."""
    found = {
        "workload": workload.name,
        "framework": framework.name,
        "does": framework.does,
        "error": error,
    }
    if contestant is not None:
        found |= contestant.first | {"samples": contestant.samples}
    return found


def validate(
    workload: workloads.Workload,
    framework: Framework,
    *,
    reference: pathlib.Path,
    folder: pathlib.Path,
    logs: pathlib.Path,
) -> dict[str, Any]:
    """Returns whether a framework's round 0 is the reference's."""
    found = {"workload": workload.name, "framework": framework.name}
    if workload.name in framework.skips:
        return found | {"error": f"not run: {framework.skips[workload.name]}"}
    log = logs / f"{workload.name}-{framework.name}-exact.log"
    file = logs / f"{workload.name}-{framework.name}.npz"
    try:
        words = [*command(framework, workload, folder), "--exact"]
        process = Process(words, log=log, variables=variables())
    except environments.InstallError as error:
        return found | {"error": str(error)}
    try:
        process.answer(ROUND_LIMIT)
        answer = process.ask(f"sum 0 {file}", timeout=ROUND_LIMIT)
        problem = Check(workload)(framework, 0, answer["examples"], 1)
        compared = comparison.compare(framework, reference, file)
    except WorkerError as error:
        return found | {"error": str(error)}
    finally:
        process.close()
    return found | {"error": problem, "examples": answer["examples"]} | compared
