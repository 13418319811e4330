"""A small run over vaults in threads; the problem of `tests.engine.paid`."""

import threading

import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.deploy import Coordinator, Pace, transports
from jaxfed.ledger import Ledger
from jaxfed.vault import _policy, _signature, _task
from jaxfed.vault._visit import Vault
from tests.engine.paid import FIXED, LOCAL, PARAMS

CLIENTS, DIMENSION = 8, 5
SIGNING = bytes(range(32))
PUBLIC = _signature.public_key(SIGNING).hex()
EXAMPLES = {"x": np.zeros((2, DIMENSION), np.float32), "y": np.zeros(2, np.float32)}
NAMES = [f"clinic-{number}" for number in range(CLIENTS)]
FULL = jf.sampling.Full(population=CLIENTS)
CYCLIC = jf.sampling.Cyclic(population=CLIENTS, groups=2)
POLICY = _policy.checked({"signers": [PUBLIC], "most_epsilon": 1000.0})
PACE = Pace(deadline_seconds=30.0, least_cohort=2)


def arrays_of(number):
    draw = np.random.default_rng(100 + number)
    size = 3 + 2 * number
    x = draw.normal(size=(size, DIMENSION)).astype(np.float32)
    return {"x": x, "y": (x[:, 0] + x[:, 1] > 0).astype(np.float32)}


def data():
    found = {name: arrays_of(number) for number, name in enumerate(NAMES)}
    return jf.data.FederatedData.from_clients(found)


def central(sampling=FULL, clipping=FIXED, noise=None, **options):
    return jf.privacy.central(
        sampling=sampling,
        clipping=clipping,
        noise=noise or jf.noise.Gaussian(multiplier=1.0),
        delta=1e-3,
        **options,
    )


def averaging(privacy, local=LOCAL):
    return jf.algorithms.fedavg(
        local, privacy, server_optimizer=optax.sgd(0.5, momentum=0.9)
    )


def ledger(folder, epsilon=200.0, **terms):
    path = folder / "budget.db"
    Ledger.create(path, epsilon=epsilon, delta=1e-3, **terms).close()
    return path


def coordinator(folder, path, algorithm, rounds=3, **options):
    return Coordinator(
        algorithm,
        clients=NAMES,
        rounds=rounds,
        ledger=path,
        folder=folder / "run",
        signing_key=SIGNING,
        **({"pace": PACE, "examples": EXAMPLES, "params": PARAMS} | options),
    )


class Vaults:
    """All clients, each in a thread of its own, until the run is over."""

    def __init__(self, folder, desk, names=NAMES, policy=POLICY):
        self.errors, self.outcomes = [], []
        self._threads = [
            threading.Thread(target=self._live, args=(folder, desk, name, policy))
            for name in names
        ]
        for thread in self._threads:
            thread.start()

    def _live(self, folder, desk, name, policy):
        number = NAMES.index(name)
        vault = Vault(
            lambda rows: arrays_of(number), policy, folder / f"vault-{number}"
        )
        way = transports.Memory(desk, name)
        try:
            while True:
                outcome = vault.visit(way, seconds=1.0)
                self.outcomes.append((name, outcome))
                if outcome.state == "ended":
                    break
        except Exception as error:
            self.errors.append(error)
        finally:
            vault.close()

    def join(self):
        for thread in self._threads:
            thread.join(60)
        if self.errors:
            raise self.errors[0]


@pytest.fixture
def opened(tmp_path):
    """A coordinator whose first round is open."""
    with coordinator(tmp_path, ledger(tmp_path), averaging(central())) as running:
        cohort = running._cohorts.of(0)
        tasks, model = running._tasks(0, 0, cohort)
        running.desk.open(tasks, model, seconds=30.0, goal=len(tasks))
        yield running


def report_of(running, values, client=NAMES[0], **changes):
    task = _task.decode_task(running.desk.task(client))
    words = task._replace(**changes)
    return _task.encode_report(
        words, running._plan.update, [np.asarray(values, np.int32)], None
    )


def levels_of(running):
    return running._plan.rules.groups[0].levels
