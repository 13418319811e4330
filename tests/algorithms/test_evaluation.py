"""An evaluation measures what NumPy does, is never clipped, and runs on vaults."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed.deploy import Coordinator, export
from jaxfed.vault import _policy, _training
from jaxfed.vault._plan import Plan
from tests.deploy.running import (
    CLIENTS,
    EXAMPLES,
    NAMES,
    PACE,
    PUBLIC,
    SIGNING,
    Vaults,
    arrays_of,
    data,
    ledger,
)

BOUNDS = {"accuracy": (0, 1), "margin": (-2.0, 4.0)}
MODEL = {"w": jnp.array([0.5, 0.1, -0.2, 0.0, 0.3])}
FULL = jf.sampling.Full(population=CLIENTS)


def measure(params, rows):
    logits = rows["x"] @ params["w"]
    is_right = (logits > 0) == (rows["y"] > 0)
    return {"accuracy": is_right.astype(jnp.float32), "margin": logits}


def in_numpy(clients):
    """The mean over clients of their means, in float64."""
    means = []
    for arrays in clients:
        logits = arrays["x"].astype(np.float64) @ np.asarray(MODEL["w"], np.float64)
        right = ((logits > 0) == (arrays["y"] > 0)).mean()
        means.append([right, np.clip(logits, -2, 4).mean()])
    return dict(zip(BOUNDS, np.mean(means, axis=0), strict=True))


def private(multiplier, clip=jf.clipping.Fixed, norm=0.7, relation=None, **options):
    make = jf.privacy.local if relation == "local" else jf.privacy.central
    return make(
        sampling=FULL,
        clipping=clip(norm=norm),
        noise=options.pop("noise", jf.noise.Gaussian)(multiplier=multiplier),
        delta=1e-3,
        **options,
    )


@functools.cache  # one object compiles once
def algorithm_of(privacy, metric=measure):
    return jf.algorithms.evaluation(metric, MODEL, bounds=BOUNDS, privacy=privacy)


def evaluated(privacy, clients=None, rounds=1, metric=measure, seed=0):
    clients = clients or [arrays_of(number) for number in range(CLIENTS)]
    found = jf.data.FederatedData.from_clients(dict(enumerate(clients)))
    algorithm, start = algorithm_of(privacy, metric), jf.algorithms.measures(BOUNDS)
    history = jf.simulate(
        algorithm, found, params=start, rounds=rounds, seed=seed, progress=False
    )
    return {name: float(value) for name, value in history.params.items()}


ALL = [arrays_of(number) for number in range(CLIENTS)]
PLAIN = {
    "none": jf.privacy.none(sampling=FULL, weighting="clients"),
    "central": private(1e-3),
    "a large norm": private(1e-3, norm=100.0),
    "a local one": private(1e-2, relation="local"),
    "a local L1 one": private(
        1e-2, jf.clipping.FixedL1, relation="local", noise=jf.noise.Laplace
    ),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_it_is_numpys_mean_of_clients(kind):
    found, wanted = evaluated(PLAIN[kind], ALL), in_numpy(ALL)
    limit = {"none": 1e-6, "central": 5e-3, "a large norm": 5e-3}.get(kind, 6e-2)
    assert found["answered"] == pytest.approx(1.0, abs=limit)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(
            value, abs=limit * (4 if limit > 0.05 else 1)
        )


@pytest.mark.parametrize("end", [0, 1])
def test_values_at_their_bounds_are_not_clipped(end):
    def extreme(params, rows):
        del params
        shape = rows["y"].shape
        return {n: jnp.full(shape, 1e9 * (2 * end - 1)) for n in BOUNDS}

    found = evaluated(private(1e-3), ALL, metric=extreme)
    assert found["answered"] == pytest.approx(1.0, abs=5e-3)
    for name, limits in BOUNDS.items():
        assert found[name] == pytest.approx(limits[end], abs=2e-2)


def test_a_client_without_a_number_is_absent():
    bad = {**ALL[3], "x": ALL[3]["x"].copy()}
    bad["x"][1] = 1e9

    def without(params, rows):
        found = measure(params, rows)
        is_bad = rows["x"][:, 0] > 1e6
        return {**found, "margin": jnp.where(is_bad, jnp.inf, found["margin"])}

    clients = [*ALL[:3], bad, *ALL[4:]]
    found = evaluated(private(1e-3), clients, metric=without)
    wanted = in_numpy([*ALL[:3], *ALL[4:]])
    assert found["answered"] == pytest.approx((CLIENTS - 1) / CLIENTS, abs=5e-3)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-2)


def test_more_rounds_are_less_noisy():
    """Noise of one standard deviation a client: 40 rounds have a sixth of the error."""
    once, often = [], []
    wanted = in_numpy(ALL)["accuracy"]
    for seed in range(12):
        once.append(evaluated(private(1.0), ALL, seed=seed)["accuracy"] - wanted)
        many = evaluated(private(1.0), ALL, rounds=40, seed=seed)
        often.append(many["accuracy"] - wanted)
    assert np.std(often) < 0.5 * np.std(once)


def test_it_costs_what_its_mechanism_costs():
    privacy = private(3.0)
    algorithm = jf.algorithms.evaluation(measure, MODEL, bounds=BOUNDS, privacy=privacy)
    history = jf.simulate(
        algorithm,
        data(),
        params=jf.algorithms.measures(BOUNDS),
        rounds=2,
        seed=0,
        progress=False,
    )
    assert history.epsilon == pytest.approx(privacy.epsilon(rounds=2, delta=1e-3))


def test_a_vault_measures_the_same(tmp_path):
    algorithm = jf.algorithms.evaluation(
        measure, MODEL, bounds=BOUNDS, privacy=private(1.0), batch_size=4
    )
    start = jf.algorithms.measures(BOUNDS)
    plan = Plan(export(algorithm, EXAMPLES, start))
    shared = algorithm.broadcast(algorithm.init(start))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(shared)]
    for number in range(CLIENTS):
        trained = _training.train(
            plan, arrays_of(number), leaves, [], key=np.zeros(2, np.uint32), order=1
        )
        wanted = in_numpy([arrays_of(number)])
        scale = algorithm.local.finish(
            shared, algorithm.local.init(shared, ())._replace(num_examples=1.0)
        ).update["answered"]
        names = [one.name for one in plan.update]
        for name, value in zip(names, trained.update, strict=True):
            if "answered" in name:
                assert float(value) == pytest.approx(float(scale))
                continue
            (metric,) = [m for m in BOUNDS if m in name]
            low, high = BOUNDS[metric]
            units = (wanted[metric] - (low + high) / 2) / ((high - low) / 2)
            assert float(value) == pytest.approx(float(scale) * units, abs=1e-5)


def test_vaults_are_evaluated_and_a_ledger_pays(tmp_path):
    path = ledger(tmp_path, epsilon=1e6)
    algorithm = jf.algorithms.evaluation(
        measure, MODEL, bounds=BOUNDS, privacy=private(1.0)
    )
    run = Coordinator(
        algorithm,
        params=jf.algorithms.measures(BOUNDS),
        clients=NAMES,
        rounds=10,
        ledger=path,
        folder=tmp_path / "run",
        signing_key=SIGNING,
        pace=PACE,
        examples=EXAMPLES,
        name="evaluation",
    )
    limits = {"signers": [PUBLIC], "most_epsilon": 1e9, "least_noise": 0.0}
    with run:
        vaults = Vaults(tmp_path, run.desk, policy=_policy.checked(limits))
        history = run.run()
        vaults.join()
    for name, value in in_numpy(ALL).items():
        assert float(history.params[name]) == pytest.approx(
            value, abs=0.2 if name == "accuracy" else 0.9
        )
    with jf.Ledger.open(path, read_only=True) as opened:
        (mechanism,) = opened.mechanisms
        assert (mechanism.name, mechanism.releases) == ("evaluation", 10)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bounds": {}}, "must name metrics"),
        ({"bounds": {"answered": (0, 1)}}, "must name metrics"),
        ({"bounds": {"accuracy": (1, 0)}}, r"must be \(lowest, highest\)"),
        (
            {
                "privacy": jf.privacy.central(
                    sampling=FULL,
                    clipping=jf.clipping.Adaptive(quantile=0.5, initial=1.0),
                    noise=jf.noise.Gaussian(multiplier=1.0),
                )
            },
            "must have a fixed clip",
        ),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_wrong_arguments_are_refused(change, match):
    given = {"bounds": BOUNDS, "privacy": PLAIN["central"], **change}
    with pytest.raises(ValueError, match=match):
        jf.algorithms.evaluation(measure, MODEL, **given)


def test_wrong_metrics_and_parameters_are_refused():
    with pytest.raises(ValueError, match="do not average"):
        evaluated(
            PLAIN["none"], metric=lambda p, r: {n: jnp.float32(0.0) for n in BOUNDS}
        )
    with pytest.raises(ValueError, match="name the same in both"):
        evaluated(PLAIN["none"], metric=lambda p, r: {"accuracy": r["y"]})
    algorithm = jf.algorithms.evaluation(
        measure, MODEL, bounds=BOUNDS, privacy=PLAIN["none"]
    )
    with pytest.raises(ValueError, match=r"pass algorithms\.measures"):
        jf.simulate(algorithm, data(), params=MODEL, rounds=1, seed=0, progress=False)
