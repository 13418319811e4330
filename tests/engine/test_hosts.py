"""Two processes on loopback, each as a host of its own, train what one process does."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import textwrap
import time

import pytest

from tests.engine import test_strategies as strategies

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 300  # two processes that compile small rounds need about forty
RUNS = {
    "loop": {"executor": "loop", "lanes": 2},
    "stepped": {"executor": "stepped", "lanes": 1, "batch_widths": (4, 2)},
    "streamed": {
        "executor": "loop",
        "lanes": 2,
        "block_clients": 4,
        "resident_bytes": 9,
    },
    "stepped, streamed": {
        "executor": "stepped",
        "lanes": 1,
        "block_clients": 4,
        "resident_bytes": 9,
    },
}
HOST = """
    import json, sys
    import jax
    import jaxfed as jf

    jf.use_cores({cores})
    jax.distributed.initialize("localhost:{port}", {hosts}, {index})
    sys.path.insert(0, {root!r})
    import conftest
    from tests.engine import test_hosts as t

    assert jax.process_count() == {hosts}
    assert jax.device_count() == {hosts} * {cores}
    print(json.dumps(t.{function}()))
"""


def resident():
    """Runs on every host."""
    return trained("loop", "stepped")


def streamed():
    """Runs on every host."""
    return trained("streamed", "stepped, streamed")


def trained(*names):
    """Returns what strategies have learned, and what given updates have."""
    import jaxfed as jf

    found = {name: strategies.run(jf.Strategy(**RUNS[name])) for name in names}
    given = strategies.given_updates({"executor": "loop", "lanes": 3})
    return {"trained": found, "given": [leaf.tolist() for leaf in given]}


def other_seeds():
    """Runs on every host: the hosts do not agree on the seed."""
    import jax

    return refused(seed=jax.process_index())


def fewer_devices():
    """Runs on every host: a strategy that leaves a host without a device."""
    import jaxfed as jf

    return refused(seed=0, strategy=jf.Strategy(devices=1))


def refused(**options):
    import jaxfed as jf

    with pytest.raises(ValueError, match="host") as caught:
        jf.simulate(
            strategies.algorithm(),
            strategies.ragged_data(strategies.SIZES),
            params=strategies.logistic_params(),
            rounds=1,
            progress=False,
            **options,
        )
    return str(caught.value)


def bars():
    """Runs on every host: whether a progress bar is shown."""
    from jaxfed.engine import _progress

    with _progress.bar(3, show=True) as report:
        return report.__name__ == "report"


def on_hosts(function, *, hosts=2, cores=1):
    """Returns what a function of this file returned on each of several hosts."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    with tempfile.TemporaryDirectory() as folder:
        environment["JAXFED_CACHE_DIR"] = folder
        outputs = [pathlib.Path(folder, f"host{i}") for i in range(hosts)]
        running = []
        try:
            for index, output in enumerate(outputs):
                program = textwrap.dedent(HOST).format(
                    cores=cores,
                    port=port,
                    hosts=hosts,
                    index=index,
                    root=str(ROOT),
                    function=function,
                )
                with output.open("w") as file:
                    command = [sys.executable, "-c", program]
                    running.append(
                        subprocess.Popen(
                            command, stdout=file, stderr=file, env=environment
                        )
                    )
            codes = finished(running)
        finally:
            for process in running:
                process.kill()
                process.wait()
        texts = [output.read_text() for output in outputs]
    if codes != [0] * hosts:
        shown = "\n".join(f"--- host {i}\n{t[-3000:]}" for i, t in enumerate(texts))
        pytest.fail(f"hosts ended with {codes} (None: still running)\n{shown}")
    return [json.loads(text.splitlines()[-1]) for text in texts]


def finished(running):
    """Waits until all have ended, one has failed, or time is up; returns the codes."""
    deadline = time.monotonic() + SECONDS
    while True:
        codes = [process.poll() for process in running]
        if None not in codes or any(codes) or time.monotonic() > deadline:
            return codes
        time.sleep(0.1)


@pytest.fixture(scope="module")
def alone():
    import jaxfed as jf

    trained = strategies.run(jf.Strategy(executor="loop", lanes=2))
    given = strategies.given_updates({"executor": "loop", "lanes": 1})
    return {"trained": trained, "given": [leaf.tolist() for leaf in given]}


@pytest.mark.slow
@pytest.mark.parametrize(("function", "cores"), [("resident", 1), ("streamed", 2)])
def test_two_hosts_train_what_one_does(alone, function, cores):
    found = on_hosts(function, cores=cores)
    assert found[0] == found[1]  # every host ends with the same bits
    assert len(found[0]["trained"]) == 2
    for values in found[0]["trained"].values():
        strategies.assert_same(values, alone["trained"])
    assert found[0]["given"] == alone["given"]


@pytest.mark.slow
def test_hosts_that_differ_are_refused():
    first, second = on_hosts("other_seeds")
    assert first == second
    assert "every host must run the same program" in first


@pytest.mark.slow
def test_every_host_takes_part():
    for message in on_hosts("fewer_devices"):
        assert "devices must be 2" in message


@pytest.mark.slow
def test_one_host_shows_a_progress_bar():
    assert on_hosts("bars") == [True, False]
