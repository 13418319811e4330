"""Noise never repeats for another sum, and always does for the same one."""

import random

import jax
import pytest
from dp_accounting import dp_event

from jaxfed.ledger import Ledger, _owner
from tests.faults import sessions
from tests.faults.test_kills import launched


class Replays:
    """Releases rounds again and again, and checks every permit.

    Attributes:
        wrong: what should not have been.
        again: how many releases were the same ones as before.
    """

    def __init__(self, folder):
        self._path = folder / "ledger"
        self._latest, self._last, self._seen = {}, {}, {}
        self.wrong, self.again = [], 0
        with Ledger.create(self._path, epsilon=5.0, delta=1e-5) as ledger:
            ledger.plan(dp_event.GaussianDpEvent(1000.0), 20_000, name="run")

    def session(self, chance, count):
        """Opens the ledger and makes some releases, as a process of its own would.

        Half of them end without closing it.
        """
        with Ledger.open(self._path) as ledger:
            (mechanism,) = ledger.mechanisms
            for _ in range(count):
                index = chance.randrange(min(200, mechanism.rounds + 1))
                version = chance.randrange(2)
                self.release(ledger, mechanism, index, sessions.digest(index, version))
            if chance.random() < 0.5:
                ledger._store.drop()  # as a process leaves it that is killed

    def release(self, ledger, mechanism, index, inputs):
        before = len(mechanism.charges)
        with ledger.spending(mechanism, index, inputs) as permit:
            key = jax.random.key_data(permit.key(inputs)).tobytes()
        spent = len(mechanism.charges) - before
        if self._latest.get(index) == inputs:
            self.again += 1
            is_right = permit.is_replay and spent == 0 and self._seen[key] == index
            is_right = is_right and self._last[index] == key
        else:
            is_right = not permit.is_replay and spent == 1 and key not in self._seen
        if not is_right:
            self.wrong.append((index, spent, permit.is_replay))
        self._latest[index], self._seen[key] = inputs, index
        self._last[index] = key


def replays(folder, count):
    made, chance = Replays(folder), random.Random(0)
    for _ in range(count // 100):
        made.session(chance, 100)
    return made


def test_noise_never_repeats(quick_path):
    """2,000 releases, about half of them the same ones again."""
    made = replays(quick_path, 2000)
    assert made.wrong == []
    assert 800 < made.again < 1200


@pytest.mark.slow
def test_noise_never_repeats_in_10_000_replays(quick_path):
    made = replays(quick_path, 10_000)
    assert made.wrong == []
    assert made.again > 4000


def test_a_key_without_its_sum_is_caught(quick_path, monkeypatch):
    """The power: a commitment that forgets the sum draws the same noise again."""
    original = _owner._commitment
    monkeypatch.setattr(
        _owner, "_commitment", lambda key, place, inputs: original(key, place, b"")
    )
    assert len(replays(quick_path, 500).wrong) > 50


@pytest.mark.slow
@pytest.mark.usefixtures("shim")
def test_killed_processes_draw_the_same_noise_again():
    found = launched("replays", False, 40)
    assert found["wrong"] == []
    assert found["releases"] > 40
