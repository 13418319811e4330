"""Histories: what is recorded, read back, printed and drawn."""

import csv
import importlib
import json
import math
import re
import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.data import FederatedData
from jaxfed.engine import History, RoundRecord, _history, _progress

DELTA = 1e-5


def record(number, *, epsilon=None, evaluation=None, **private):
    private = {"num_clients": 3, "num_failed": 0} | private
    return RoundRecord(
        round=number,
        epsilon=epsilon,
        evaluation=evaluation or {},
        private=private,
        seconds=0.25 * number,
    )


def history_of(*records, delta=None, algorithm="fedavg(sgd <a&b>)"):
    privacy = types.SimpleNamespace(
        delta=delta,
        is_hypothetical=False,
        statement=lambda *, rounds, units: f"Nothing after {rounds}.",
    )
    history = History(algorithm=algorithm, privacy=privacy, params={})
    for one in records:
        history._record(one, state=("state", one.round), params={"round": one.round})
    return history


def typical():
    return history_of(
        record(1, epsilon=0.5, loss=2.0),
        record(2, epsilon=0.75, loss=1.5, evaluation={"acc": 0.5}),
        record(3, epsilon=0.9, loss=1.25),
        record(4, epsilon=1.0, loss=1.0, evaluation={"acc": 0.75}),
        delta=DELTA,
    )


def odd():
    return history_of(
        record(1, epsilon=math.inf, loss=math.nan, evaluation={"acc": math.nan}),
        record(2, epsilon=math.inf, loss=math.inf, evaluation={"bias": -math.inf}),
    )


def mean_update(*, values=((1.0,), (3.0,)), **options):
    """Runs clients whose gradient is their mean, so that results are known."""
    clients = {i: {"x": np.float32(own)} for i, own in enumerate(values)}
    data = FederatedData.from_clients(clients)
    population = jf.sampling.Full(population=data.num_clients)

    def loss(params, batch, key):
        del key
        return jnp.mean((batch["x"] ** 2) * params["w"]), {}

    privacy = options.pop("privacy", jf.privacy.none(sampling=population))
    algorithm = jf.algorithms.fedavg(
        jf.clients.sgd(loss, optax.sgd(0.5), batch_size=4, epochs=1), privacy
    )
    options = {"rounds": 3, "seed": 0, "progress": False} | options
    return jf.simulate(algorithm, data, params={"w": jnp.float32(1)}, **options)


# ---- what is recorded


def test_rounds_are_recorded_in_order():
    history = mean_update()
    assert [r.round for r in history.rounds] == [1, 2, 3]
    assert history.seconds == sum(r.seconds for r in history.rounds)
    assert min(r.seconds for r in history.rounds) > 0
    # mean of x**2 over both clients is 5; half of it is taken off w every round
    assert float(history.params["w"]) == pytest.approx(1 - 3 * 2.5)
    np.testing.assert_array_equal(history.state.params["w"], history.params["w"])
    for number, one in enumerate(history.rounds):
        loss = 5 * (1 - 2.5 * number)
        assert one.private == {
            "num_clients": 2,
            "num_failed": 0,
            "num_bytes_down": 2 * 4,
            "num_bytes_up": 2 * 4,
            "loss": pytest.approx(loss),
        }


def test_the_epsilon_of_a_run_is_that_of_its_privacy():
    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=2),
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=5.0),
        delta=DELTA,
    )
    history = mean_update(privacy=privacy)
    expected = [privacy.epsilon(rounds=n, delta=DELTA) for n in (1, 2, 3)]
    assert [r.epsilon for r in history.rounds] == pytest.approx(expected, rel=1e-3)
    assert history.epsilon == history.rounds[-1].epsilon
    assert history.delta == DELTA
    assert str(privacy.statement(rounds=len(history.rounds))) in history.statement
    assert repr(privacy) in history.algorithm


def test_without_noise_epsilon_is_infinite_and_without_delta_unknown():
    assert mean_update().epsilon == math.inf
    assert history_of(record(1)).epsilon is None
    assert history_of().epsilon is None


@pytest.mark.parametrize("make", [typical, mean_update])
def test_a_simulation_is_never_private(make):
    history = make()
    assert history.private is False
    with pytest.raises(AttributeError):
        history.private = True
    assert history.private is False


def test_several_evaluations_share_a_round():
    def first(params):
        return {"w": float(params["w"])}

    def second(params):
        return {"square": params["w"] ** 2}  # a JAX scalar is a number too

    history = mean_update(evaluate=[first, second])
    for one in history.rounds:
        assert list(one.evaluation) == ["w", "square"]
        assert type(one.evaluation["square"]) is float
        assert one.evaluation["square"] == pytest.approx(one.evaluation["w"] ** 2)


# ---- callbacks and failures


def test_a_callback_ends_the_run():
    seen = []

    def enough(history):
        seen.append(len(history.rounds))
        return len(history.rounds) == 2

    history = mean_update(rounds=5, callbacks=[enough])
    assert seen == [1, 2]
    assert [r.round for r in history.rounds] == [1, 2]
    assert float(history.params["w"]) == pytest.approx(1 - 2 * 2.5)


def test_every_callback_runs_even_when_another_ends_the_run():
    calls = []
    callbacks = [
        lambda history: calls.append("first") or True,
        lambda history: calls.append("second"),
    ]
    assert len(mean_update(callbacks=callbacks).rounds) == 1
    assert calls == ["first", "second"]


def test_a_callback_that_says_nothing_ends_nothing():
    for says in (None, False, np.False_):
        assert len(mean_update(callbacks=[lambda history, says=says: says]).rounds) == 3
    for says in (True, np.True_):
        assert len(mean_update(callbacks=[lambda history, says=says: says]).rounds) == 1
    for says in (1.5, 1, "yes", np.ones(2, bool)):
        with pytest.raises(TypeError, match="must return True to end the run"):
            mean_update(callbacks=[lambda history, says=says: says])


@pytest.mark.parametrize("write", ["to_csv", "to_json", "report"])
def test_a_folder_that_is_not_there_is_named(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder that exists, got .*none/run"):
        getattr(mean_update(), write)(tmp_path / "none" / "run")


def test_a_run_in_which_every_client_fails_is_an_error():
    with pytest.raises(
        RuntimeError,
        match=r"every client of round 1 failed: all 2 updates hold NaN, infinity or "
        "values too large to clip; lower the local learning rate",
    ):
        mean_update(values=((1e30,), (-1e30, 1e30)))


def test_a_failed_client_is_counted_and_left_out():
    history = mean_update(values=((1.0,), (1e30,), (3.0,)))
    for one in history.rounds:
        assert one.private["num_clients"] == 3
        assert one.private["num_failed"] == 1
        assert math.isfinite(one.private["loss"])
    assert float(history.params["w"]) == pytest.approx(1 - 3 * 2.5)


# ---- curves


def test_curves_say_in_which_rounds():
    history = typical()
    rounds, values = history.curve("acc")
    assert rounds.tolist() == [2, 4]
    assert values.tolist() == [0.5, 0.75]
    rounds, values = history.curve("loss")
    assert rounds.tolist() == [1, 2, 3, 4]
    assert values.tolist() == [2.0, 1.5, 1.25, 1.0]


def test_an_evaluated_name_wins_over_a_local_metric():
    history = history_of(
        record(1, loss=9.0),
        record(2, loss=8.0, evaluation={"loss": 0.5}),
    )
    rounds, values = history.curve("loss")
    assert rounds.tolist() == [2]
    assert values.tolist() == [0.5]


def test_an_unknown_curve_names_the_known():
    with pytest.raises(ValueError, match="known are acc, loss, num_clients, num_fai"):
        typical().curve("auc")
    with pytest.raises(ValueError, match="known are none"):
        history_of().curve("auc")


# ---- files


def test_csv_has_every_value(tmp_path):
    typical().to_csv(tmp_path / "run.csv")
    with (tmp_path / "run.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for one, row in zip(typical().rounds, rows, strict=True):
        found = {name: float(value) for name, value in row.items() if value != ""}
        assert found == one.row()
    assert rows[0]["evaluation.acc"] == ""
    assert float(rows[1]["evaluation.acc"]) == 0.5


def test_csv_keeps_infinity_and_nan(tmp_path):
    odd().to_csv(str(tmp_path / "run.csv"))
    with (tmp_path / "run.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert math.isnan(float(first["private.loss"]))
    assert float(second["private.loss"]) == math.inf
    assert float(second["evaluation.bias"]) == -math.inf
    assert float(first["epsilon"]) == math.inf


def strict_json(path):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_json_has_everything_but_the_parameters(tmp_path):
    typical().to_json(tmp_path / "run.json")
    read = strict_json(tmp_path / "run.json")
    assert read == {
        "private": False,
        "hypothetical": False,
        "algorithm": "fedavg(sgd <a&b>)",
        "statement": typical().statement,
        "epsilon": 1.0,
        "delta": DELTA,
        "ledger": None,
        "rounds": [one.row() for one in typical().rounds],
    }


def test_json_is_valid_with_infinity_and_nan(tmp_path):
    odd().to_json(tmp_path / "run.json")
    read = strict_json(tmp_path / "run.json")
    assert read["epsilon"] == "inf"
    assert read["delta"] is None
    first, second = read["rounds"]
    assert first["private.loss"] is None
    assert first["evaluation.acc"] is None
    assert second["private.loss"] == "inf"
    assert second["evaluation.bias"] == "-inf"


def test_a_simulated_run_can_be_written(tmp_path):
    history = mean_update(evaluate=lambda params: {"w": params["w"]})
    history.to_json(tmp_path / "run.json")
    history.to_csv(tmp_path / "run.csv")
    read = strict_json(tmp_path / "run.json")
    assert [row["evaluation.w"] for row in read["rounds"]] == pytest.approx(
        [-1.5, -4.0, -6.5]
    )


# ---- print


def test_it_prints_what_matters():
    text = repr(typical())
    assert text.startswith("History of 4 rounds in 2.5 s (simulation: not private)")
    assert "fedavg(sgd <a&b>)" in text
    assert "epsilon 1 at delta 1e-05, as it would be" in text
    assert re.search(r"acc +0\.5000 -> +0\.7500 +▁█", text)
    assert re.search(r"loss +2\.0000 -> +1\.0000 +█▅▃▁", text)
    assert "num_clients" not in text


def test_it_prints_when_nothing_is_finite():
    text = repr(odd())
    assert "no privacy guarantee: epsilon is infinite" in text
    assert "not private" in text
    assert re.search(r"acc +nan\n", text)
    assert "epsilon unknown: name a delta" in repr(history_of(record(1)))
    assert "History of 0 rounds" in repr(history_of())


def test_a_notebook_shows_the_same_text():
    shown = typical()._repr_html_()
    assert shown.startswith("<pre>")
    assert shown.endswith("</pre>")
    assert "<a&b>" not in shown
    assert "fedavg(sgd &lt;a&amp;b&gt;)" in shown
    assert "not private" in shown
    assert "epsilon 1 at delta" in shown


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([0.0, 7.0], "▁█"),
        (range(8), "▁▂▃▄▅▆▇█"),
        ([3.0, 3.0], "▁▁"),
        ([0.0, math.nan, 1.0], "▁ █"),
        ([0.0, math.inf, 1.0], "▁ █"),
        ([math.nan], ""),
        (np.repeat(np.arange(40), 3), None),
    ],
)
def test_bars_rise_with_the_values(values, bars):
    drawn = _history._bars(np.array(list(values), float))
    if bars is None:
        assert len(drawn) == 40
        assert list(drawn) == sorted(drawn)
        assert (drawn[0], drawn[-1]) == ("▁", "█")
    else:
        assert drawn == bars


def test_numbers_come_to_the_host():
    found = _history.host_numbers({"a": jnp.float32(0.5), "b": 2})
    assert found == {"a": 0.5, "b": 2.0}
    assert all(type(value) is float for value in found.values())


# ---- pictures


@pytest.fixture
def pyplot():
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_a_picture_holds_the_curves(pyplot):
    history = typical()
    figure = history.plot()
    top, below = figure.axes
    assert {line.get_label() for line in top.lines} == {"acc", "loss"}
    for line in top.lines:
        rounds, values = history.curve(line.get_label())
        np.testing.assert_array_equal(line.get_xdata(), rounds)
        np.testing.assert_array_equal(line.get_ydata(), values)
    assert "not private" in top.get_title()
    assert below.lines[0].get_ydata() == pytest.approx([0.5, 0.75, 0.9, 1.0])
    assert "epsilon at delta 1e-05" in below.get_ylabel()
    assert below.get_xlabel() == "round"


def test_a_picture_of_some_names(pyplot):
    (line,) = typical().plot("loss").axes[0].lines
    assert line.get_label() == "loss"


def test_an_infinite_epsilon_is_not_drawn(pyplot):
    (only,) = mean_update().plot().axes
    assert only.get_xlabel() == "round"


def test_an_unknown_name_opens_no_figure(pyplot):
    with pytest.raises(ValueError, match="no round recorded 'auc'"):
        typical().plot("auc")
    assert pyplot.get_fignums() == []


def calibrated():
    return jf.privacy.central(
        sampling=jf.sampling.Full(population=100),
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=4.0),
    )


def test_a_picture_of_the_trade_off(pyplot):
    figure = calibrated().plot_tradeoff(rounds=5, delta=DELTA)
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == [
        f"multiplier {m}" for m in ("2", "3", "4", "6", "8")
    ]
    own = lines[2]
    np.testing.assert_array_equal(own.get_xdata(), [1, 2, 3, 4, 5])
    expected = [calibrated().epsilon(rounds=n, delta=DELTA) for n in range(1, 6)]
    assert own.get_ydata() == pytest.approx(expected, rel=1e-3)
    last = [line.get_ydata()[-1] for line in lines]
    assert last == sorted(last, reverse=True)  # more noise, less epsilon


@pytest.mark.parametrize(
    "draw",
    [
        lambda: typical().plot(),
        lambda: calibrated().plot_tradeoff(rounds=5, delta=DELTA),
    ],
    ids=["history", "privacy"],
)
def test_without_matplotlib_the_extra_is_named(draw, monkeypatch):
    real = importlib.import_module

    def absent(name, *args):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"plot.*\(\) needs matplotlib, .*pip install 'jaxfed\[plot\]'",
    ):
        draw()


# ---- progress


def test_progress_shows_rounds_epsilon_and_the_evaluation(capsys):
    with _progress.bar(4, show=True) as report:
        for one in typical().rounds:
            report(one)
    shown = capsys.readouterr().out
    assert "rounds" in shown
    assert "4/4" in shown
    assert "epsilon 1" in shown
    assert "acc 0.7500" in shown


def test_progress_of_a_run(capsys):
    mean_update(progress=True, evaluate=lambda params: {"w": params["w"]})
    shown = capsys.readouterr().out
    assert "3/3" in shown
    assert "epsilon inf" in shown
    assert "w -6.5000" in shown


def test_progress_can_be_silent(capsys):
    mean_update(progress=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""
