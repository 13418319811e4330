"""A small cohort with a large cohort's noise: the right one, and never a real claim."""

import csv
import dataclasses
import json
import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import jaxfed as jf
from jaxfed.engine import _progress
from jaxfed.typing import ClientResult
from tests.problems import NO_WORK, logistic_loss, logistic_params, ragged_data

NORM, MULTIPLIER, COHORT, FEW = 0.4, 0.616, 1000, 50
SMALL = jf.sampling.FixedSize(population=1000, size=FEW)
CLIPPINGS = {
    "fixed": jf.clipping.Fixed(norm=NORM),
    "adaptive": jf.clipping.Adaptive(quantile=0.5, initial=NORM),
    "adaptive_count": jf.clipping.Adaptive(
        quantile=0.5, initial=NORM, count_stddev=30.0
    ),
    "per_layer": jf.clipping.PerLayer(norms={"w": NORM, "b": 0.1}),
    "scaled": jf.clipping.Scaled(norm=2.0, floor=0.1),
}


def large(clip="fixed", multiplier=MULTIPLIER, **options):
    """The CIFAR-10 benchmark of pfl: cohorts of 1,000 in a million, but for one client.

    Its delta, 1e-6, would permit publishing one client in a population of a million.
    """
    population = 999_999
    return jf.privacy.central(
        sampling=jf.sampling.Poisson(population=population, rate=COHORT / population),
        clipping=CLIPPINGS[clip],
        noise=jf.noise.Gaussian(multiplier=multiplier),
        **options,
    )


def small(clip="fixed", sampling=SMALL, **options):
    return jf.privacy.hypothetical(large(clip, **options), sampling=sampling)


def silos(clip="fixed", multiplier=20.0, **options):
    """A supposed run without amplification, whose epsilons are computed at once."""
    return jf.privacy.central(
        sampling=jf.sampling.Full(population=COHORT),
        clipping=CLIPPINGS[clip],
        noise=jf.noise.Gaussian(multiplier=multiplier),
        **options,
    )


def few_silos(clip="fixed", **options):
    return jf.privacy.hypothetical(silos(clip, **options), sampling=SMALL)


# ---- the number


def test_the_benchmark_of_pfl_has_a_hypothetical_epsilon_of_two():
    """z = 0.616, q = 1e-3, T = 1,500, delta 1e-6: pfl calibrated it to epsilon 2.

    Cross-checked by dp-accounting's PLD of plain Poisson sampling, without the cap.
    """
    found = small(delta=1e-6, rounds=1500).epsilon()
    plain = dp_accounting.pld.PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_SPECIAL, 1e-3
    )
    gaussian = dp_accounting.GaussianDpEvent(MULTIPLIER)
    plain.compose(dp_accounting.PoissonSampledDpEvent(1e-3, gaussian), 1500)
    assert found == pytest.approx(2.0, abs=0.05)
    assert found == pytest.approx(plain.get_epsilon(1e-6), rel=0.01)


def test_what_is_simulated_has_no_such_epsilon():
    """One round of the small cohort alone, without amplification, by a closed form."""
    privacy = small(delta=1e-6, rounds=1500)
    assert privacy.simulated_multiplier == pytest.approx(0.0308)
    round_of_small = dp_accounting.get_epsilon_gaussian(0.0308, 1e-6)
    assert round_of_small > 300 * privacy.epsilon()


@pytest.mark.parametrize("clip", ["fixed", "adaptive"])
def test_every_number_is_that_of_the_run_that_is_supposed(clip):
    supposed, privacy = silos(clip, delta=1e-5), few_silos(clip, delta=1e-5)
    assert privacy.epsilon(rounds=20) == supposed.epsilon(rounds=20)
    np.testing.assert_array_equal(privacy.epsilon_curve(4), supposed.epsilon_curve(4))
    assert privacy.event(7) == supposed.event(7)
    assert privacy.sensitivity() == supposed.sensitivity()
    for unit, count in (("example", 1), ("client", 2)):
        ours, its = (
            p.epsilon_of(unit, count=count, rounds=20) for p in (privacy, supposed)
        )
        assert ours == its
    with pytest.raises(ValueError, match=r"1 / population = 1e-06, got 0\.0001"):
        small().epsilon(rounds=3, delta=1e-4)  # fine for the small population only


def test_a_calibrated_object_keeps_its_number_and_the_wrapper_calibrates():
    budget = {"epsilon": 2.0, "delta": 1e-5, "rounds": 100}
    supposed = silos().calibrated(**budget)
    privacy = jf.privacy.hypothetical(supposed, sampling=SMALL)
    assert privacy.epsilon() == supposed.epsilon() == pytest.approx(2.0, rel=0.01)
    assert privacy.delta == 1e-5
    assert privacy.rounds == 100
    assert few_silos().calibrated(**budget) == privacy


# ---- the noise


def releases(privacy, like, count, clip_state=None):
    """Releases empty cohorts: the noise on the mean; (count, leaf size) of each."""
    state = privacy.init(like) if clip_state is None else clip_state
    result = ClientResult(like, jnp.float32(1), ())
    one = privacy.encode(state, result, key=jf.keys.simulated(1))
    zero = jax.tree.map(jnp.zeros_like, one)

    def release(key):
        new_state, released = privacy.release(state, zero, key=key)
        return new_state, released.value

    keys = jax.random.split(jf.keys.simulated(2), count)
    return jax.jit(jax.vmap(release))(keys)


def pvalue(draws, stddev):
    """Returns the two-sided probability of so unusual a variance."""
    draws = np.ravel(np.asarray(draws, np.float64))
    square = np.sum((draws / stddev) ** 2)
    law = scipy.stats.chi2(draws.size)
    return 2 * min(law.cdf(square), law.sf(square))


def assert_measured(draws, stddev):
    """20,000 draws or more: false alarm 1e-6, and a scale wrong by 5 % is caught."""
    assert draws.size >= 20_000
    assert pvalue(draws, stddev) > 1e-6
    assert pvalue(draws, 1.05 * stddev) < 1e-6
    assert pvalue(draws, 0.95 * stddev) < 1e-6


SAMPLERS = [
    SMALL,
    jf.sampling.Poisson(population=1000, rate=0.05),
    jf.sampling.Full(population=8),
    jf.sampling.Cyclic(population=100, groups=4),
]


@pytest.mark.parametrize("sampling", SAMPLERS, ids=lambda s: type(s).__name__)
def test_the_mean_has_the_noise_of_the_large_run(sampling):
    """As the paper writes it: multiplier * norm / 1,000, whoever is simulated."""
    draws = releases(small(sampling=sampling), {"w": jnp.zeros(100)}, 200)[1]["w"]
    assert_measured(draws, MULTIPLIER * NORM / COHORT)


@pytest.mark.parametrize("clip", CLIPPINGS)
def test_every_clip_has_the_noise_of_the_large_run_in_every_part(clip):
    """Against the parts of the large run's own layout, which other tests measure."""
    like = {"b": jnp.zeros(100), "w": jnp.zeros(300)}
    supposed, privacy = large(clip), small(clip)
    layout = supposed._joint(like)
    new_state, draws = releases(privacy, like, 200)
    norms = layout.clipping.norms_of(supposed.init(like))
    unit = 0.1 if clip == "scaled" else 1.0  # the floor, in the first round
    for group, part, norm in zip(layout.groups, layout.parts, norms, strict=True):
        leaves = [jax.tree.leaves(draws)[index] for index in group.indices]
        stddev = part.noise.multiplier * float(norm) * unit / COHORT
        assert_measured(np.concatenate(leaves, axis=1), stddev)
    if layout.count is None:
        return
    new_state, _ = releases(privacy, {"b": jnp.zeros(1), "w": jnp.zeros(1)}, 20_000)
    shares = 0.5 - (np.log(np.asarray(new_state, np.float64)) - math.log(NORM)) / 0.2
    assert_measured(shares - 0.5, layout.count.noise.multiplier / 2 / COHORT)


def test_the_mean_is_that_of_the_small_cohort_clipped_as_in_the_large():
    privacy = small(multiplier=1e-2)
    key = jf.keys.simulated(4)
    results = [
        ClientResult({"w": jnp.array([size, 0.0])}, jnp.float32(9), ())
        for size in (0.1, 30.0)
    ]
    encoded = [privacy.encode((), result, key=key) for result in results]
    total = jax.tree.map(lambda *parts: sum(parts), *encoded)
    _, released = privacy.release((), total, key=key)
    expected = [(0.1 + NORM) / FEW, 0.0]
    np.testing.assert_allclose(released.value["w"], expected, atol=1e-4)


def test_a_grid_too_coarse_for_the_noise_is_refused():
    tiny = small(multiplier=1e-4)
    with pytest.raises(ValueError, match=r"wide for its grid, got 5\.24 steps for"):
        tiny.init({"w": jnp.zeros(3)})
    few = jf.sampling.FixedSize(population=2000, size=1000)
    coarse = small(sampling=few, multiplier=5e-5)
    with pytest.raises(ValueError, match="simulate a larger cohort, or suppose more"):
        coarse.init({"w": jnp.zeros(3)})


def test_the_run_that_is_supposed_must_be_possible():
    others: dict = {"local": NO_WORK, "client_sizes": np.ones(1000)}
    params = {"w": jnp.zeros(30_000)}
    small().validate(params=params, rounds=100, **others)
    with pytest.raises(ValueError, match=r"supposed must be possible, .*2\*\*-46"):
        small().validate(params=params, rounds=10**13, **others)


# ---- what is refused

FIXED, GAUSSIAN = jf.clipping.Fixed(norm=1.0), jf.noise.Gaussian(multiplier=1.0)
FULL = jf.sampling.Full(population=1000)
OTHERS = {
    "none": jf.privacy.none(sampling=FULL),
    "local": jf.privacy.local(sampling=FULL, clipping=FIXED, noise=GAUSSIAN),
    "example_level": jf.privacy.example_level(
        sampling=jf.sampling.Full(population=2),
        sizes=(30, 40),
        rate=0.1,
        steps=1,
        clipping=FIXED,
        noise=GAUSSIAN,
    ),
    "correlated": jf.privacy.central(
        sampling=FULL, clipping=FIXED, noise=jf.noise.Tree(multiplier=1.0), rounds=3
    ),
    "hypothetical": small(),
    "epsilon": 2.0,
}


@pytest.mark.parametrize("name", OTHERS)
def test_only_central_privacy_with_independent_noise_can_be_supposed(name):
    with pytest.raises(TypeError, match=r"privacy must be a Central, got \w+; pass"):
        jf.privacy.hypothetical(OTHERS[name], sampling=SMALL)


def test_skellam_noise_no_noise_and_larger_cohorts_are_refused():
    skellam = dataclasses.replace(large(), noise=jf.noise.Skellam(multiplier=1.0))
    with pytest.raises(TypeError, match="must be a Gaussian, got Skellam; Skellam"):
        jf.privacy.hypothetical(skellam, sampling=SMALL)
    with pytest.raises(ValueError, match=r"must be > 0, got 0\.0; without noise"):
        small(multiplier=0.0)
    more = jf.sampling.Full(population=1001)
    with pytest.raises(ValueError, match=r"as many .* = 1000, got 1001; pass"):
        small(sampling=more)
    with pytest.raises(TypeError, match="sampling must be a Sampler, got int"):
        small(sampling=50)
    with pytest.raises(TypeError, match="unexpected keyword argument 'delta'"):
        jf.privacy.Hypothetical(sampling=SMALL, privacy=large(), delta=1e-7)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_secure_key_is_refused(compiled):
    privacy = small()
    secure = jf.keys.secure(jf.keys.new_secret(), context=b"round 1")
    result = ClientResult({"w": jnp.ones(3)}, jnp.float32(1), ())
    total = privacy.encode((), result, key=jf.keys.simulated(0))
    uses = [
        lambda key: privacy.encode((), result, key=key),
        lambda key: privacy.encode_counted((), result, key=key),
        lambda key: privacy.release((), total, key=key),
    ]
    for use in uses:
        use = jax.jit(use) if compiled else use
        use(jf.keys.simulated(1))
        with pytest.raises(
            ValueError, match=r"from keys\.simulated .*got a secure key"
        ):
            use(secure)


def test_only_this_kind_says_that_it_is_hypothetical():
    assert small().is_hypothetical is True
    for name in ("none", "local", "example_level", "correlated"):
        assert OTHERS[name].is_hypothetical is False
    assert large().is_hypothetical is False


def test_neither_queries_nor_their_sums_take_it():
    data = jf.data.FederatedData.from_clients({0: {"x": np.zeros(1, np.float32)}})
    with pytest.raises(TypeError, match="must be a Central, got Hypothetical"):
        jf.queries.histogram(
            data, "x", edges=[0.0, 1.0], privacy=small(), key=jf.keys.simulated(0)
        )
    for spend in (small(), (small(), 3)):
        with pytest.raises(TypeError, match="spends must hold answers"):
            jf.queries.composed_epsilon([spend], delta=1e-7)


# ---- what is said


def test_the_statement_says_it_in_words_and_in_fields():
    privacy = small(delta=1e-7, rounds=30)
    statement = privacy.statement(units=[("client", 2)])
    words, fields = str(statement), json.loads(statement.to_json())
    assert words.startswith("HYPOTHETICAL: ")
    assert "Other units, hypothetical: 2 clients" in words
    assert large(delta=1e-7, rounds=30).statement().claim in statement.claim
    for name in ("sampling", "mechanism"):
        assert "supposed: " in fields[name]
        assert "simulated: " in fields[name]
    assert "0.616" in fields["mechanism"]
    assert "0.0308" in fields["mechanism"]
    assert fields["hypothetical"] is True
    assert fields["hypothetical_epsilon"] == statement.epsilon
    assert fields["hypothetical_epsilons"] == []
    assert fields["units"][0]["hypothetical_epsilon"] > statement.epsilon
    assert not {"epsilon", "epsilons"} & (fields.keys() | fields["units"][0].keys())
    assert json.loads(large().statement().to_json())["hypothetical"] is False
    assert small().statement().claim.startswith("HYPOTHETICAL: ")  # without a delta too
    assert repr(privacy).startswith("Hypothetical(")
    assert json.loads(privacy.to_json())["kind"] == "Hypothetical"


DATA = ragged_data()


def run(privacy, **options):
    algorithm = jf.algorithms.fedavg(
        jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1), privacy
    )
    settings: dict = {"rounds": 2, "seed": 0, "progress": False} | options
    return jf.simulate(algorithm, DATA, params=logistic_params(), **settings)


def simulated(clip="fixed", **options):
    population = jf.sampling.Poisson(population=DATA.num_clients, rate=0.6)
    return small(clip, sampling=population, **options)


@pytest.fixture(scope="module")
def history():
    return run(simulated("adaptive", delta=1e-7))


def test_a_history_says_it_wherever_it_is_read(history, tmp_path):
    expected = large("adaptive", delta=1e-7).epsilon(rounds=2)
    assert history.epsilon == pytest.approx(expected, rel=1e-3)
    assert history.hypothetical is True
    assert history.private is False
    assert "HYPOTHETICAL: only a real run with the larger" in history.statement
    assert "claim:\nHYPOTHETICAL: " in history.statement
    for shown in (repr(history), history._repr_html_()):
        assert "hypothetical epsilon " in shown
        assert "of a run with a larger cohort, not of this one" in shown
        assert "as it would be" not in shown
        assert "Hypothetical(" in shown
    history.to_json(tmp_path / "run.json")
    document = json.loads((tmp_path / "run.json").read_text())
    assert document["hypothetical"] is True
    assert document["hypothetical_epsilon"] == history.epsilon
    history.to_csv(tmp_path / "run.csv")
    with (tmp_path / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in (*rows, *document["rounds"], document):
        assert "epsilon" not in row
        assert float(row["hypothetical_epsilon"]) > 0
    assert "released.clip_norm" in rows[0]


def test_without_a_delta_it_is_said_too():
    assert "hypothetical epsilon unknown" in repr(run(simulated(), rounds=1))


def test_an_ordinary_history_says_nothing_of_it(tmp_path):
    ordinary = jf.privacy.central(
        sampling=jf.sampling.Full(population=DATA.num_clients),
        clipping=FIXED,
        noise=jf.noise.Gaussian(multiplier=9.0),
        delta=1e-3,
    )
    history = run(ordinary, rounds=1)
    history.to_json(tmp_path / "run.json")
    written = json.loads((tmp_path / "run.json").read_text())
    assert written.pop("hypothetical") is False
    assert "hypothetical" not in json.dumps(written).lower()
    assert "hypothetical" not in repr(history).lower()
    assert history.hypothetical is False


def test_pictures_say_it(history):
    from matplotlib import pyplot

    top, below = history.plot().axes
    assert "HYPOTHETICAL" in top.get_title()
    assert below.get_ylabel().startswith("hypothetical epsilon at delta 1e-07")
    (axes,) = few_silos(delta=1e-7).plot_tradeoff(rounds=3).axes
    assert "HYPOTHETICAL" in axes.get_title()
    assert axes.get_ylabel() == "hypothetical epsilon at delta 1e-07"
    pyplot.close("all")


def test_the_progress_bar_says_it(history, capsys):
    with _progress.bar(2, show=True) as report:
        for record in history.rounds:
            report(record)
    assert "hypothetical epsilon 0." in capsys.readouterr().out


def test_a_sweep_says_it(tmp_path):
    def build(learning_rate):
        local = jf.clients.sgd(
            logistic_loss, optax.sgd(learning_rate), batch_size=4, epochs=1
        )
        return jf.algorithms.fedavg(local, simulated(delta=1e-7))

    found = jf.sweep(
        build,
        DATA,
        settings={"learning_rate": [0.1, 0.2]},
        params=logistic_params(),
        rounds=1,
        seeds=[0],
    )
    assert found.hypothetical
    assert found.best().hypothetical
    assert "HYPOTHETICAL" in repr(found)
    heads = repr(found).splitlines()[1].split()
    assert "hypothetical_epsilon" in heads
    assert "epsilon" not in heads
    found.to_csv(tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        (first, _) = csv.DictReader(file)
    assert float(first["hypothetical_epsilon_of_one_run"]) > 0
    assert "epsilon_of_one_run" not in first


def test_the_whole_path_works_where_the_noise_is_small():
    """Learns as the same cohort without noise does, up to the large run's noise."""
    none = dataclasses.replace(
        large(multiplier=0.0),
        sampling=jf.sampling.Poisson(population=DATA.num_clients, rate=0.6),
    )
    privacy = simulated()
    assert privacy.simulated_multiplier < 0.01
    noised, plain = run(privacy).params, run(none).params
    difference = jax.tree.map(lambda a, b: np.asarray(a - b, np.float64), noised, plain)
    size = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(difference)])
    stddev = math.sqrt(2) * MULTIPLIER * NORM / COHORT  # of two rounds
    assert 0.2 * stddev < np.abs(size).max() < 8 * stddev
