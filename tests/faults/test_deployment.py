"""Servers and vaults as processes, killed at any moment: charges equal versions."""

import datetime
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxfed.deploy._pki import Authority
from jaxfed.deploy._store import Store
from jaxfed.ledger import Ledger
from jaxfed.vault import _signature
from jaxfed.vault._build import build

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"clinic-{number}" for number in range(4)]
ROUNDS = 60
RUN = """
import jax.numpy as jnp, numpy as np, optax
import jaxfed as jf

def loss(params, batch, key):
    logits = batch["x"] @ params["w"]
    return optax.sigmoid_binary_cross_entropy(logits, batch["y"]).mean(), {}

def build():
    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=4),
        clipping=jf.clipping.Adaptive(quantile=0.5, initial=0.1),
        noise=jf.noise.Gaussian(multiplier=4.0),
    )
    local = jf.clients.sgd(loss, optax.sgd(0.1), epochs=1, batch_size=2)
    server = optax.sgd(0.5, momentum=0.9)
    algorithm = jf.algorithms.fedavg(local, privacy, server_optimizer=server)
    examples = {"x": np.zeros((1, 5), np.float32), "y": np.zeros(1, np.float32)}
    return algorithm, {"w": jnp.zeros(5)}, examples
"""
OWN = """
import time
import numpy as np

def rows():
    time.sleep(0.1)
    draw = np.random.default_rng(NUMBER)
    x = draw.normal(size=(6, 5)).astype(np.float32)
    return {"x": x, "y": (x[:, 0] > 0).astype(np.float32)}
"""


SKEWED = """
import runpy, sys, time
true, wrong = time.time, float(sys.argv.pop(1))
time.time = lambda: true() + wrong
runpy.run_path("vault.pyz", run_name="__main__")
"""


class Deployment:
    """A folder with everything, and the processes in it."""

    def __init__(self, folder, rounds=ROUNDS, **pace):
        self.folder, self._processes = folder, []
        authority = Authority(folder / "pki")
        authority.server(["127.0.0.1"])
        for name in NAMES:
            authority.enroll(name)
        secret = _signature.new_key()
        (folder / "signing.key").write_text(secret.hex())
        policy = {"signers": [_signature.public_key(secret).hex()]}
        policy["most_epsilon"] = 1000.0
        (folder / "policy.json").write_text(json.dumps(policy))
        (folder / "run.py").write_text(RUN)
        for number in range(len(NAMES)):
            text = OWN.replace("NUMBER", str(number))
            (folder / f"own-{number}.py").write_text(text)
        build(folder / "vault.pyz")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        pace = {"deadline_seconds": 20, "least_cohort": 2, **pace}
        settings = "\n".join(f"{name} = {value}" for name, value in pace.items())
        (folder / "config.toml").write_text(
            f"""
[run]
build = "run.py:build"
rounds = {rounds}
ledger = "budget.db"
folder = "run"
clients = "pki/clients.txt"
signing_key = "signing.key"
output = "model.npz"
report = "report.html"
[pace]
{settings}
[http]
port = {self.port}
certificate = "pki/server.pem"
key = "pki/server.key"
authority = "pki/authority.pem"
revoked = "pki/revoked.txt"
"""
        )
        path = folder / "budget.db"
        Ledger.create(path, epsilon=1000.0, delta=1e-3).close()

    def serve(self):
        command = [sys.executable, "-m", "jaxfed.deploy", "serve", "config.toml"]
        return self._started([*command, "--farewell", "20"], "server")

    def join(self, number, *options, clock=0):
        """Starts a vault, whose clock may be wrong by so many seconds."""
        name = NAMES[number]
        files = {
            "data": f"own-{number}.py:rows",
            "policy": "policy.json",
            "cert": f"pki/{name}.pem",
            "key": f"pki/{name}.key",
            "authority": "pki/authority.pem",
            "record": f"record-{number}",
        }
        program = ["vault.pyz"]
        if clock:
            (self.folder / "skewed.py").write_text(SKEWED)
            program = ["skewed.py", str(clock)]
        command = [sys.executable, *program, "join", f"https://127.0.0.1:{self.port}"]
        for option, value in files.items():
            command += [f"--{option}", value]
        return self._started([*command, *options], name)

    def charges(self):
        with Ledger.open(self.folder / "budget.db", read_only=True) as ledger:
            ledger.verify()
            found = [m.charges for m in ledger.mechanisms]
            models = dict(ledger._book.models)
        return (found[0] if found else []), models

    def close(self):
        for process in self._processes:
            process.kill()
            process.wait()

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def _started(self, command, name):
        with open(self.folder / f"{name}.log", "a") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)
        return process


@pytest.fixture
def deployed(tmp_path):
    made = []

    def make(**options):
        made.append(Deployment(tmp_path, **options))
        return made[0]

    yield make
    for one in made:
        one.close()


def test_a_server_killed_twenty_times_charges_what_it_releases(deployed):
    deployment, draw = deployed(), random.Random(0)
    vaults = [deployment.join(number) for number in range(4)]
    inside = 0
    for _ in range(20):
        server = deployment.serve()
        time.sleep(draw.uniform(1.5, 5.0))
        assert server.poll() is None  # there are more rounds than it can do
        server.send_signal(signal.SIGKILL)
        server.wait()
        charges, models = deployment.charges()
        kept = {p.name for p in (deployment.folder / "run").glob("model-*.npz")}
        if charges:  # the newest charge has its model, whatever happened
            assert f"model-{models[charges[-1].number]}.npz" in kept
        assert [c.round for c in charges] == list(range(len(charges)))
        assert all(c.attempt == 0 and c.uses == 1 for c in charges)
        if draw.random() < 0.5:  # a vault dies too, and comes back
            number = draw.randrange(4)
            vaults[number].send_signal(signal.SIGKILL)
            vaults[number].wait()
            vaults[number] = deployment.join(number)
        attempts = Store(deployment.folder / "run").attempts()
        inside += bool(attempts) and attempts[-1].state == "opened"
    assert inside >= 5, inside  # of the kills hit a round that was open
    server = deployment.serve()
    assert server.wait(180) == 0, deployment.log("server")[-3000:]
    for number, vault in enumerate(vaults):
        assert vault.wait(60) == 0, deployment.log(NAMES[number])[-2000:]
    charges, models = deployment.charges()
    assert len(charges) == ROUNDS
    assert len(models) == ROUNDS
    with np.load(deployment.folder / "model.npz", allow_pickle=False) as model:
        assert np.isfinite(model["w"]).all()
    assert (deployment.folder / "report.html").exists()
    attempts = Store(deployment.folder / "run").attempts()
    assert sum(a.state == "released" for a in attempts) >= ROUNDS - 20
    page = subprocess.run(
        [sys.executable, "-m", "jaxfed.deploy", "status", "config.toml"],
        cwd=deployment.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{ROUNDS} of {ROUNDS} rounds released" in page.stdout


def seconds_of(line):
    """Returns when a line was logged."""
    day = datetime.datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f")
    return day.timestamp()


def test_stragglers_and_dead_vaults_end_a_round_by_its_deadline(deployed):
    deployment = deployed(rounds=3, deadline_seconds=3, least_cohort=3)
    vaults = [deployment.join(number) for number in range(4)]
    vaults[3].send_signal(signal.SIGSTOP)  # it holds its connection, and is silent
    server = deployment.serve()
    assert server.wait(90) == 0, deployment.log("server")[-3000:]
    charges, _ = deployment.charges()
    assert len(charges) == 3
    opened, closed = (
        [
            seconds_of(line)
            for line in deployment.log("server").splitlines()
            if end in line
        ]
        for end in ("attempt 1: open", "attempt 1: closed")
    )
    taken = [b - a for a, b in zip(opened, closed, strict=True)]
    assert len(taken) == 3
    assert 2.9 < max(taken) < 4.0  # the deadline, and a second
    vaults[3].send_signal(signal.SIGCONT)


def test_a_server_that_is_told_to_stop_closes_its_ledger(deployed):
    deployment = deployed(rounds=40)
    vaults = [deployment.join(number) for number in range(4)]
    server = deployment.serve()
    until = time.monotonic() + 60
    while "round 2" not in deployment.log("server"):
        assert time.monotonic() < until, deployment.log("server")[-2000:]
        time.sleep(0.1)
    server.terminate()
    assert server.wait(30) == 128 + signal.SIGTERM
    with Ledger.open(deployment.folder / "budget.db", read_only=True) as ledger:
        assert ledger.verify().is_sealed
    for vault in vaults:
        vault.kill()


def test_too_few_vaults_release_nothing_until_they_come(deployed):
    deployment = deployed(rounds=2, deadline_seconds=1, least_cohort=3, most_attempts=2)
    vaults = [deployment.join(number) for number in range(2)]
    server = deployment.serve()
    assert server.wait(90) == 1
    assert "the round is not charged" in deployment.log("server")
    assert deployment.charges()[0] == ()
    # deadlines are lengths of time: a wrong clock changes nothing
    month = 30 * 86400
    vaults += [deployment.join(2, clock=month), deployment.join(3, clock=-month)]
    text = (deployment.folder / "config.toml").read_text()
    longer = text.replace("deadline_seconds = 1", "deadline_seconds = 30")
    (deployment.folder / "config.toml").write_text(longer)
    assert deployment.serve().wait(90) == 0, deployment.log("server")[-3000:]
    assert len(deployment.charges()[0]) == 2
    for vault in vaults:
        assert vault.wait(60) == 0
