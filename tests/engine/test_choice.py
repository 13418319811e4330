"""The strategy is chosen by sure rules, by a probe elsewhere, and can be overridden."""

import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.engine import _choice, _probe
from tests.problems import logistic_loss, logistic_params, ragged_data

DATA = ragged_data((12, 8, 15, 9))


def algorithm(loss_fn=logistic_loss, batch_size=4):
    none = jf.privacy.none(sampling=jf.sampling.Full(population=4))
    local = jf.clients.sgd(loss_fn, optax.sgd(0.1), batch_size=batch_size, epochs=1)
    return jf.algorithms.fedavg(local, none)


def convolved_loss(params, batch, key):
    del key
    image = batch["x"].reshape(-1, 2, 2, 1)
    out = jax.lax.conv_general_dilated(
        image,
        params["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jnp.mean(jnp.square(out)), {}


CONVOLVED = {"kernel": jnp.ones((2, 2, 1, 3))}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(_probe, "_in_memory", {})
    return tmp_path / "cache"


def timed(monkeypatch, in_loop, stepped):
    """Replaces the probe's clock; returns the list of what is timed."""
    calls = []

    def loop(self, lanes):
        calls.append(("loop", lanes))
        return in_loop

    def step(self, lanes):
        calls.append(("stepped", lanes))
        return stepped

    monkeypatch.setattr(_probe.Step, "seconds_in_loop", loop)
    monkeypatch.setattr(_probe.Step, "seconds_stepped", step)
    return calls


def choose(params=None, loss_fn=logistic_loss, **options):
    params = logistic_params() if params is None else params
    return jf.engine.choose_strategy(algorithm(loss_fn), DATA, params=params, **options)


def test_small_models_without_convolutions_need_no_probe(monkeypatch, folder):
    calls = timed(monkeypatch, 1.0, 1.0)
    chosen = choose()
    assert (chosen.executor, chosen.lanes) == ("loop", 8)
    assert calls == []
    assert not folder.exists()
    assert "5 parameters are few; by rule" in chosen.explain()


@pytest.mark.parametrize(
    ("in_loop", "stepped", "expected"),
    [(0.4, 0.014, "stepped"), (0.014, 0.014, "loop"), (0.014, 0.0125, "loop")],
)
def test_a_convolution_is_probed_once(monkeypatch, folder, in_loop, stepped, expected):
    calls = timed(monkeypatch, in_loop, stepped)
    for _ in range(2):
        chosen = choose(CONVOLVED, convolved_loss)
        assert chosen.executor == expected
        assert len(calls) == 2
    _probe._in_memory.clear()  # as a new process
    assert choose(CONVOLVED, convolved_loss).executor == expected
    assert len(calls) == 2
    (kept,) = json.loads((folder / "strategies.json").read_text()).values()
    assert kept == {"loop 8": in_loop, "stepped 8": stepped}
    assert "by probe" in chosen.explain()
    assert "loop 8" in chosen.explain()


def test_other_models_and_devices_have_other_answers(monkeypatch):
    calls = timed(monkeypatch, 1.0, 1.0)
    choose(CONVOLVED, convolved_loss)
    choose({"kernel": jnp.ones((2, 2, 1, 5))}, convolved_loss)
    assert len(calls) == 4


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 3}', '{"a": {"b": "c"}}', "\0"])
def test_a_damaged_answer_is_measured_anew(monkeypatch, folder, content):
    folder.mkdir()
    (folder / "strategies.json").write_text(content)
    calls = timed(monkeypatch, 1.0, 1.0)
    choose(CONVOLVED, convolved_loss)
    assert len(calls) == 2
    assert len(json.loads((folder / "strategies.json").read_text())) == 1


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"loop 8": 1.0},
        {"loop 8": 1.0, "other 1": 1.0},
        {"loop 8": math.nan, "stepped 8": 1.0},
        {"loop 8": 0.0, "stepped 8": 1.0},
    ],
)
def test_an_answer_to_something_else_is_measured_anew(monkeypatch, folder, answer):
    calls = timed(monkeypatch, 1.0, 0.1)
    choose(CONVOLVED, convolved_loss)
    file = folder / "strategies.json"
    (key,) = json.loads(file.read_text())
    file.write_text(json.dumps({key: answer, "another": {"loop 8": 2.0}}))
    _probe._in_memory.clear()  # as a new process
    calls.clear()
    assert choose(CONVOLVED, convolved_loss).executor == "stepped"
    assert len(calls) == 2
    kept = json.loads(file.read_text())
    assert set(kept[key]) == {"loop 8", "stepped 8"}
    assert kept["another"] == {"loop 8": 2.0}  # what others wrote stays


def test_without_a_home_nothing_is_kept(monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("JAXFED_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "expanduser", homeless)
    timed(monkeypatch, 1.0, 1.0)
    assert choose(CONVOLVED, convolved_loss).executor == "loop"


def test_a_full_disk_leaves_nothing_behind(monkeypatch, folder):
    def full(*_, **__):
        raise OSError("No space left on device")

    timed(monkeypatch, 1.0, 1.0)
    monkeypatch.setattr(_probe.json, "dump", full)
    choose(CONVOLVED, convolved_loss)
    assert list(folder.iterdir()) == []


def test_an_answer_holds_for_the_flags_it_was_measured_with(monkeypatch):
    step = _probe.Step(algorithm(convolved_loss), CONVOLVED, dict(DATA.arrays), width=4)
    before = step.fingerprint()
    assert step.fingerprint() == before
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    assert step.fingerprint() != before


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch, folder):
    folder.write_text("a file")
    timed(monkeypatch, 1.0, 1.0)
    assert choose(CONVOLVED, convolved_loss).executor == "loop"


def test_what_is_given_is_kept(monkeypatch):
    calls = timed(monkeypatch, 1.0, 0.1)
    assert choose(strategy="stepped").executor == "stepped"
    kept = choose(CONVOLVED, convolved_loss, strategy=jf.Strategy(executor="loop"))
    assert (kept.executor, calls) == ("loop", [])
    lanes = choose(CONVOLVED, convolved_loss, strategy=jf.Strategy(lanes=3))
    assert (lanes.executor, lanes.lanes) == ("stepped", 3)
    given = dataclasses.replace(kept, batch_widths=(4, 1), resident_bytes=7)
    again = choose(strategy=given)
    assert (again.batch_widths, again.resident_bytes) == ((4, 1), 7)


def test_narrow_batches_only_where_they_save(monkeypatch):
    def widths(sizes, **batching):
        data = ragged_data(sizes)
        none = jf.privacy.none(sampling=jf.sampling.Full(population=len(sizes)))
        local = jf.clients.sgd(logistic_loss, optax.sgd(0.1), **batching)
        return jf.engine.choose_strategy(
            jf.algorithms.fedavg(local, none), data, params=logistic_params()
        ).batch_widths

    assert widths((22, 24, 41), batch_size=20, epochs=2) == (20, 10)
    assert widths((40, 60, 35), batch_size=20, epochs=2) == (20,)
    assert widths((400, 1001), batch_size=20, epochs=1) == (20,)  # half a step of 70
    assert widths((1, 3), batch_size=1, epochs=1) == (1,)


def test_the_probe_measures_real_programs():
    """A small convolution, timed both ways on this machine."""
    step = _probe.Step(algorithm(convolved_loss), CONVOLVED, dict(DATA.arrays), width=4)
    assert "conv_general_dilated" in step.primitives()
    for seconds in (step.seconds_in_loop(1), step.seconds_stepped(2)):
        assert 0 < seconds < 60
    again = _probe.Step(
        algorithm(convolved_loss), CONVOLVED, dict(DATA.arrays), width=4
    )
    assert step.fingerprint() == again.fingerprint()


def test_primitives_inside_loops_and_branches_are_found():
    def nested(x):
        def body(i, v):
            return jax.lax.cond(v[0] > i, jnp.sin, jnp.cos, v)

        return jax.lax.fori_loop(0, 3, body, x)

    found = _probe._primitives(jax.make_jaxpr(nested)(np.ones(2, np.float32)).jaxpr)
    assert {"sin", "cos", "while"} & found >= {"sin", "cos"}


def test_free_memory_is_a_number():
    assert _choice.available_bytes() > 2**20
