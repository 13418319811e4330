"""Every run of a sweep is the run that `simulate` would make of its setting."""

import csv
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.engine import _sweep, _sweep_table, _swept
from jaxfed.typing import PrivateReport
from tests.problems import flat, logistic_params, noisy_loss, ragged_data

SIZES = (7, 1, 3, 12, 5, 2, 9)
DATA = ragged_data(SIZES)
FULL = jf.sampling.Full(population=len(SIZES))
ROUNDS = 3


def privacy(norm=0.5, multiplier=1.0):
    return jf.privacy.central(
        sampling=jf.sampling.Poisson(population=len(SIZES), rate=0.7),
        clipping=jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Gaussian(multiplier=multiplier),
        delta=1e-3,
    )


def build(learning_rate=0.1, server_rate=1.0, mechanism=None):
    local = jf.clients.sgd(noisy_loss, optax.sgd(learning_rate), batch_size=4, epochs=2)
    return jf.algorithms.fedavg(
        local, mechanism or privacy(), server_optimizer=optax.sgd(server_rate)
    )


def size_of(params):
    return {"length": float(np.linalg.norm(flat(params)))}


def sweep(**options):
    defaults = {"params": logistic_params(), "rounds": ROUNDS, "seeds": [0]}
    return jf.sweep(build, DATA, **(defaults | options))


@pytest.fixture(scope="module")
def found():
    return sweep(
        settings={"learning_rate": [0.05, 0.3], "server_rate": [0.5]},
        clip_norms=[0.2, 0.7],
        noise_multipliers=[0.0, 1.5],
        seeds=[0, 4],
        evaluate=size_of,
    )


@pytest.mark.slow
def test_each_run_equals_a_simulation(found):
    assert len(found.settings) == 8
    assert found.curves["loss"].shape == (8, 2, ROUNDS)
    for i in (0, 3, 6):
        values = found.settings[i]
        mechanism = privacy(values["clip_norm"], values["noise_multiplier"])
        algorithm = build(values["learning_rate"], values["server_rate"], mechanism)
        for j, seed in enumerate(found.seeds):
            history = jf.simulate(
                algorithm,
                DATA,
                params=logistic_params(),
                rounds=ROUNDS,
                seed=seed,
                evaluate=size_of,
                progress=False,
            )
            for name in ("loss", "length"):
                np.testing.assert_allclose(
                    found.curves[name][i, j], history.curve(name)[1], rtol=2e-5
                )


def test_settings_and_seeds_make_a_difference(found):
    lengths = found.curves["length"][:, :, -1]
    assert len(np.unique(lengths)) == lengths.size


def test_table_and_best(found, tmp_path):
    rows = found.table("loss")
    for i, row in enumerate(rows):
        own = found.curves["loss"][i, :, -1]
        assert row.values == found.settings[i]
        np.testing.assert_array_equal(row.by_seed, own)
        assert row.mean == pytest.approx(own.mean())
        assert row.spread == pytest.approx(abs(own[0] - own[1]) / math.sqrt(2))
        assert row.worst == own.max()
        alone = privacy(multiplier=row.values["noise_multiplier"])
        assert row.epsilon == alone.epsilon(rounds=ROUNDS)
    assert found.best("loss").mean == min(row.mean for row in rows)
    longest = found.best("length", largest=True)
    assert longest.mean == max(row.mean for row in found.table("length"))
    assert longest.worst == longest.by_seed.min()
    with pytest.raises(ValueError, match="largest must be given for 'length'"):
        found.best("length")
    assert found.best("loss", largest=True).mean == max(row.mean for row in rows)
    with pytest.raises(ValueError, match="no run recorded 'accuracy'"):
        found.best("accuracy")
    found.to_csv(tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 16
    assert float(lines[-1]["length"]) == found.curves["length"][-1, -1, -1]
    text = repr(found)
    assert "8 settings x 2 seeds x 3 rounds (simulation: not private)" in text
    assert "noise_multiplier" in text
    assert "does not cover the choice" in text


def test_chunks_change_nothing(monkeypatch):
    options = {"settings": {"learning_rate": [0.05, 0.1, 0.3]}}
    together = sweep(**options)
    traces = []
    original = _swept.swept
    monkeypatch.setattr(_sweep, "available_bytes", lambda: 2 * 4 * 5 * 4 * 8)
    monkeypatch.setattr(
        _sweep, "swept", lambda *a: traces.append(original(*a)) or traces[-1]
    )
    apart = sweep(**options)
    assert len(traces) == 1
    np.testing.assert_allclose(apart.curves["loss"], together.curves["loss"], rtol=1e-5)


def test_a_setting_that_diverges_spoils_no_other():
    found = sweep(
        settings={"learning_rate": [0.1, 1e30]},
        rounds=2,
        seeds=[0, 1],
    )
    alone = sweep(settings={"learning_rate": [0.1]}, rounds=2, seeds=[0, 1])
    np.testing.assert_allclose(
        found.curves["loss"][0], alone.curves["loss"][0], rtol=1e-5
    )
    assert (found.curves["num_failed"][1] > 0).any()
    assert found.best("loss").values == {"learning_rate": 0.1}


def full(norm=0.5):
    return jf.privacy.central(
        sampling=FULL,
        clipping=jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Gaussian(multiplier=1.0),
    )


def test_a_run_without_a_good_client_is_never_best(tmp_path):
    options = {"params": logistic_params(), "rounds": 2, "seeds": [0, 1]}
    options["evaluate"] = lambda params: {"accuracy": size_of(params)["length"]}
    found = jf.sweep(
        lambda learning_rate: build(learning_rate, mechanism=full()),
        DATA,
        settings={"learning_rate": [3e38, 0.1]},
        **options,
    )
    np.testing.assert_array_equal(found.failed, [[True, True], [False, False]])
    for name in ("accuracy", "loss", "num_failed"):
        assert np.isnan(found.table(name)[0].by_seed).all()
    assert np.isnan(found.curves["accuracy"][0]).all()
    assert (found.curves["num_failed"][0] == len(SIZES)).all()
    assert found.best("accuracy").values == {"learning_rate": pytest.approx(0.1)}
    assert "2 of 4 runs failed" in repr(found)
    assert "nan" in repr(found).splitlines()[3]  # after the good setting
    with pytest.raises(RuntimeError, match="2 runs must succeed, but all failed"):
        jf.sweep(
            lambda learning_rate: build(learning_rate, mechanism=full()),
            DATA,
            settings={"learning_rate": [3e38]},
            **options,
        )


def test_an_evaluation_and_a_local_metric_of_one_name_are_kept_apart():
    found = sweep(
        rounds=2, evaluate=lambda params: {"loss": 9.0, "num_failed": 8.0} | {"f1": 0.5}
    )
    assert (found.curves["loss"] == 9).all()
    assert (found.curves["num_failed"] == 8).all()
    assert (found.curves["private.loss"] < 9).all()
    assert (found.curves["private.num_failed"] == 0).all()
    assert found.best("private.loss").mean < 9


def recorded(rounds):
    """A table of one setting and two seeds, before any round."""
    return _sweep_table.Sweep(
        names=["rate"],
        grid=[[0.1]],
        mechanisms=(privacy(),),
        shows_noise=False,
        seeds=[0, 1],
        rounds=rounds,
        strategy="",
    )


def test_a_round_without_clients_keeps_the_last_record():
    table = recorded(rounds=3)
    for seed, (clients, losses) in enumerate(
        [([2, 2, 0], [3, 2]), ([2, 0, 2], [5, 4])]
    ):
        left = iter(losses)
        for index, count in enumerate(clients):
            loss = next(left) if count else math.nan
            report = PrivateReport(
                np.int32(count), np.zeros(1, np.int32), {"loss": np.array([loss])}
            )
            table._record(seed, 0, index, report, np.array([True]), [])
    np.testing.assert_array_equal(table.table("loss")[0].by_seed, [2, 4])
    assert table.best("loss").mean == 3


def test_a_number_that_ends_as_nan_is_not_hidden_by_an_earlier_one():
    table = recorded(rounds=2)
    for seed, index in ((0, 0), (0, 1), (1, 0), (1, 1)):
        report = PrivateReport(np.int32(2), np.zeros(1, np.int32), {})
        auc = math.nan if (seed, index) == (1, 1) else 0.7
        table._record(seed, 0, index, report, np.array([True]), [{"auc": auc}])
    np.testing.assert_array_equal(table.table("auc")[0].by_seed, [0.7, math.nan])
    with pytest.raises(ValueError, match="must be finite for a setting to be best"):
        table.best("auc")


def test_a_sum_that_overflows_fails_its_run():
    table = recorded(rounds=1)
    report = PrivateReport(np.int32(2), np.zeros(1, np.int32), {})
    table._record(1, 0, 0, report, np.array([False]), [{"auc": 0.7}])
    np.testing.assert_array_equal(table.failed, [[False, True]])


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("val_loss", False),
        ("mse", False),
        ("RMSE", False),
        ("mae_mean", False),
        ("nll", False),
        ("perplexity", False),
        ("brier_score", False),
        ("error", False),
        ("accuracy_gap", False),
        ("accuracy_worst_decile", True),
        ("auc", True),
        ("bits", None),
    ],
)
def test_which_names_tell_what_is_better(name, more):
    assert _sweep_table._wants_more(name) is more
    assert _sweep_table._wants_more(name, largest=True) is True


def test_adaptive_clipping_keeps_a_norm_for_each_setting():
    mechanism = jf.privacy.central(
        sampling=FULL,
        clipping=jf.clipping.Adaptive(quantile=0.5, initial=0.1),
        noise=jf.noise.Gaussian(multiplier=0.0),
    )

    def of(learning_rate):
        return build(learning_rate, mechanism=mechanism)

    found = jf.sweep(
        of,
        DATA,
        params=logistic_params(),
        rounds=4,
        seeds=[0],
        settings={"learning_rate": [0.01, 0.5]},
        evaluate=size_of,
    )
    for i, rate in enumerate((0.01, 0.5)):
        history = jf.simulate(
            of(rate),
            DATA,
            params=logistic_params(),
            rounds=4,
            seed=0,
            evaluate=size_of,
            progress=False,
        )
        np.testing.assert_allclose(
            found.curves["length"][i, 0], history.curve("length")[1], rtol=2e-5
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seeds": []}, ValueError, "seeds must be a list of at least one"),
        ({"settings": {"learning_rate": []}}, ValueError, "learning_rate must be"),
        ({"settings": {"learning_rate": 0.1}}, ValueError, "learning_rate must be"),
        (
            {"settings": {"learn_rate": [0.1]}},
            ValueError,
            r"the arguments of build\(.*got \['learn_rate'\].*mean 'learning_rate'",
        ),
        ({"settings": {"seed": [1.0]}}, ValueError, "must not name 'seed'.*seeds="),
        (
            {"settings": {"clip_norm": [0.1]}, "clip_norms": [0.2]},
            ValueError,
            "must not name 'clip_norm'.*clip_norms=",
        ),
        (
            {"settings": {"noise_multiplier": [0.1]}},
            ValueError,
            "must not name 'noise_multiplier'.*noise_multipliers=",
        ),
        ({"seeds": [1, 2, 1]}, ValueError, r"seeds must differ, got \[1, 2, 1\]"),
        ({"clip_norms": [0.0]}, ValueError, "clip_norm must be"),
        ({"clip_norms": ["a"]}, ValueError, "clip_norm must be a finite number.*'a'"),
        ({"noise_multipliers": [-1.0]}, ValueError, "multiplier must be"),
        (
            {"noise_multipliers": ["a"]},
            ValueError,
            "noise_multiplier must be a finite number.*'a'",
        ),
        ({"rounds": 0}, ValueError, "rounds must be"),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        sweep(**options)


def test_a_build_that_branches_is_refused():
    def branching(learning_rate):
        return build(learning_rate if learning_rate > 0 else 0.1)

    with pytest.raises(TypeError, match="must work with traced values"):
        jf.sweep(
            branching,
            DATA,
            params=logistic_params(),
            rounds=1,
            seeds=[0],
            settings={"learning_rate": [0.1]},
        )


def test_norms_need_a_fixed_clip():
    none = jf.privacy.none(sampling=jf.sampling.Full(population=len(SIZES)))
    for name in ("clip_norms", "noise_multipliers"):
        with pytest.raises(ValueError, match=f"{name} needs"):
            jf.sweep(
                lambda: build(mechanism=none),
                DATA,
                params=logistic_params(),
                rounds=1,
                seeds=[0],
                **{name: [1.0]},
            )


def test_norms_need_clipped_updates():
    """Per-example clips happen inside the local work, where no norm can be swept."""
    mechanism = jf.privacy.example_level(
        sampling=FULL,
        sizes=DATA.client_sizes,
        rate=0.5,
        steps=1,
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=jf.noise.Gaussian(multiplier=1.0),
    )

    def of():
        local = mechanism.sgd(noisy_loss, optax.sgd(0.1))
        return jf.algorithms.fedavg(local, mechanism)

    options = {"params": logistic_params(), "rounds": 1, "seeds": [0]}
    with pytest.raises(ValueError, match=r"which clip the update.*got ExampleLevel"):
        jf.sweep(of, DATA, clip_norms=[0.1, 1.0], **options)


OTHERS = {
    "local": lambda norm: jf.privacy.local(
        sampling=FULL,
        clipping=jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Gaussian(multiplier=0.5),
    ),
    "correlated": lambda norm: jf.privacy.central(
        sampling=FULL,
        clipping=jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Tree(multiplier=0.5),
        rounds=2,
    ),
    "hypothetical": lambda norm: jf.privacy.hypothetical(
        jf.privacy.central(
            sampling=jf.sampling.Full(population=50),
            clipping=jf.clipping.Fixed(norm=norm),
            noise=jf.noise.Gaussian(multiplier=2.0),
        ),
        sampling=FULL,
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_norms_of_other_mechanisms(kind):
    options = {"params": logistic_params(), "rounds": 2, "evaluate": size_of}
    found = jf.sweep(
        lambda: build(mechanism=OTHERS[kind](0.5)),
        DATA,
        seeds=[0],
        clip_norms=np.array([0.125, 1.0]),
        **options,
    )
    alone = [
        jf.simulate(
            build(mechanism=OTHERS[kind](norm)), DATA, seed=0, progress=False, **options
        ).curve("length")[1]
        for norm in (0.125, 1.0)
    ]
    np.testing.assert_allclose(found.curves["length"][:, 0], alone, rtol=2e-5)


def test_lanes_that_are_given_are_kept():
    options = {"settings": {"learning_rate": [0.1, 0.3]}, "rounds": 1}
    kept = sweep(strategy=jf.Strategy(executor="loop", lanes=4), **options)
    assert "4 clients side by side" in kept.strategy
    assert kept.strategy.endswith(": as given")
    assert "divided by 2 settings" in sweep(strategy="loop", **options).strategy


def test_chunks_and_seeds_compile_nothing_new(monkeypatch):
    compiled = []

    def count(event, duration, **details):
        del duration, details
        compiled.append("backend_compile" in event)

    def compiles(**options):
        compiled.clear()
        sweep(rounds=1, **options)
        return sum(compiled)

    monkeypatch.setattr(_sweep, "available_bytes", lambda: 2 * 4 * 5 * 4 * 8)
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        compiles(clip_norms=[0.1, 0.2])  # what is compiled once in a process
        few = compiles(clip_norms=[0.1, 0.2])
        assert few > 0
        assert compiles(clip_norms=[0.3, 0.4, 0.5, 0.6], seeds=[1, 2]) == few
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def test_interleaving():
    values = jnp.arange(12).reshape(6, 2)
    parts = [values[i::3] for i in range(3)]
    np.testing.assert_array_equal(jax.jit(_swept._interleaved)(*parts), values)
