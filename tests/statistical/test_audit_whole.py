"""Audits of what a user calls: one run of `simulate`, and `queries`.

In one run every client is a canary with a coordinate of its own, and a coin decides
whether it takes part (Steinke et al. 2023, arXiv:2305.08846; Mahloujifar et al. 2024,
arXiv:2410.22235). That needs no thousand runs, but proves less.
"""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax_privacy import auditing

import jaxfed as jf
from tests.queries.common import LOWER, UPPER, replaced
from tests.statistical import audits
from tests.statistical.attacks import DELTA, ROUNDS

CANARIES = 1_000
SMALL = 1e-5  # delta: the bound for any mechanism pays it once for every canary
COINS = np.random.default_rng(0).random(CANARIES) < 0.5
FULL = jf.sampling.Full(population=CANARIES)


def central(multiplier, sampling=FULL, norm=0.5):
    return jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )


def scores_of_a_run(privacy):
    """Trains on the canaries, and returns how far each moved its own coordinate.

    In units of the noise on the final parameters.
    """
    data = jf.data.FederatedData.from_arrays(
        {
            "slot": np.arange(CANARIES, dtype=np.int32),
            "size": np.where(COINS, np.float32(10), np.float32(0)),
        },
        client=np.arange(CANARIES),
    )

    def loss(params, batch, key):
        del key
        return -jnp.mean(params[batch["slot"]] * batch["size"]), {}

    local = jf.clients.sgd(loss, optax.sgd(1.0), batch_size=1, epochs=1)
    history = jf.simulate(
        jf.algorithms.fedavg(local, privacy),
        data,
        params=jnp.zeros(CANARIES),
        rounds=ROUNDS,
        seed=0,
        progress=False,
    )
    stddev = privacy.noise.multiplier * privacy.sensitivity() * np.sqrt(ROUNDS)
    scores = np.asarray(history.params, np.float64) * CANARIES / stddev
    return scores[COINS], scores[~COINS]


def one_run_bounds(scores, shift, confidence):
    """Returns two lower bounds: one for any mechanism, one for a Gaussian's trade-off.

    At a threshold that was fixed beforehand, one deviation above the middle.
    """
    auditor = auditing.CanaryScoreAuditor(*scores)
    threshold = auditing.Explicit(shift / 2 + 1)
    significance = 1 - confidence
    return (
        auditor.epsilon_one_run(significance, SMALL, threshold_strategy=threshold),
        auditor.epsilon_one_run_fdp(significance, SMALL, threshold_strategy=threshold),
    )


def test_one_run_of_simulate_proves_no_more_than_is_claimed():
    """Ten rounds that are one Gaussian of multiplier 1; little of it is proved."""
    privacy = central(np.sqrt(ROUNDS))
    claimed = privacy.epsilon(rounds=ROUNDS, delta=SMALL)
    strict, gaussian = one_run_bounds(scores_of_a_run(privacy), 1.0, 0.95)
    assert 0.15 * claimed <= strict <= claimed
    assert 0.25 * claimed <= gaussian <= claimed


@pytest.mark.slow
def test_one_run_with_a_tenth_of_the_noise_is_refuted():
    """With a confidence of 99.9 %, and of 1 - 1e-6 by the bound for Gaussians."""
    quiet, stated = central(0.2 * np.sqrt(ROUNDS)), central(2 * np.sqrt(ROUNDS))
    claimed = stated.epsilon(rounds=ROUNDS, delta=SMALL)
    scores = scores_of_a_run(quiet)
    assert one_run_bounds(scores, 5.0, 0.999)[0] > claimed
    assert one_run_bounds(scores, 5.0, 1 - 1e-6)[1] > claimed


def histogram_scores(multiplier):
    """Returns counts of bins with one client each, and without, over three answers.

    Bins are noised independently, so that each is a run of its own: some 2,000 of
    either kind. And what the answers together claim.
    """
    population, rng = 99, np.random.default_rng(0)
    numbers = np.arange(population)
    privacy = central(multiplier, jf.sampling.Full(population=population), norm=1.0)
    present, absent, answers = [], [], []
    for run in range(40):
        is_there = rng.random(population) < 0.5
        data = jf.data.FederatedData.from_arrays(
            {"kind": np.where(is_there, numbers, -1)}, client=numbers
        )
        key = jf.keys.for_client(jf.keys.simulated(0), run)
        answers = [
            jf.queries.histogram(
                data,
                "kind",
                categories=numbers.tolist(),
                privacy=privacy,
                key=jf.keys.for_leaf(key, question),
                non_negative=False,
            )
            for question in range(3)
        ]
        counts = np.sum([answer.value for answer in answers], axis=0)
        present.append(counts[is_there])
        absent.append(counts[~is_there])
    claimed = jf.queries.composed_epsilon(answers, delta=DELTA)
    return np.concatenate(present), np.concatenate(absent), claimed


def test_histograms_prove_no_more_than_is_claimed():
    """Three answers are one Gaussian of multiplier 1."""
    present, absent, claimed = histogram_scores(np.sqrt(3))
    bound = audits.lower_bound(present, absent, DELTA)
    assert 0.3 * claimed <= bound <= claimed


@pytest.mark.slow
def test_histograms_with_a_third_of_the_noise_are_refuted():
    """With a confidence of 1 - 1e-6."""
    present, absent, _ = histogram_scores(np.sqrt(3) / 3)
    claimed = histogram_scores(np.sqrt(3))[2]
    assert audits.lower_bound(present, absent, DELTA, confidence=1 - 1e-6) > claimed


@pytest.mark.slow
def test_means_prove_no_more_than_is_claimed():
    """600 means of 20 clients, with and without the only one at the upper bound."""
    population = 20
    x = np.full((population, 1), LOWER)
    x[0] = UPPER
    data = jf.data.FederatedData.from_arrays({"x": x}, client=np.arange(population))
    without = replaced(data, 0, np.nan)
    privacy = central(1.0, jf.sampling.Full(population=population), norm=1.0)

    def scores(given, side):
        branch = jf.keys.for_leaf(jf.keys.simulated(0), side)
        return np.array(
            [
                jf.queries.mean(
                    given,
                    "x",
                    lower=LOWER,
                    upper=UPPER,
                    privacy=privacy,
                    key=jf.keys.for_client(branch, run),
                    weighting="clients",
                ).value.item()
                for run in range(600)
            ]
        )

    claimed = privacy.epsilon(rounds=1, delta=DELTA)
    bound = audits.lower_bound(scores(data, 0), scores(without, 1), DELTA)
    assert 0.3 * claimed <= bound <= claimed
