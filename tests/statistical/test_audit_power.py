"""Faults that an audit refutes: what is proved is above the claim.

Every claim here is refuted with a confidence of 1 - 1e-6, which is the false alarm of
each line; the mechanisms without the fault are not refuted at 95 % (`test_audit.py`).
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from jax_privacy import auditing

import jaxfed as jf
from tests.statistical import attacks, audits
from tests.statistical.attacks import DELTA, ROUNDS, Attendance, audited
from tests.statistical.recipes import MULTIPLIER, RECIPES, central

SURE = 1 - 1e-6
CLEARLY = 1.2  # times the claim
FULL_RECIPE = RECIPES["full"]


def claimed_with(recipe, **changes):
    """Returns the epsilon of a mechanism that differs from the one that runs."""
    privacy = dataclasses.replace(recipe.privacy, **changes)
    return privacy.epsilon(rounds=recipe.rounds, delta=DELTA)


def quieter(recipe, factor):
    """Returns the epsilon of a mechanism of which this one has a share of the noise."""
    noise = recipe.privacy.noise
    louder = dataclasses.replace(noise, multiplier=noise.multiplier / factor)
    return claimed_with(recipe, noise=louder)


def test_three_quarters_of_the_noise_are_refuted_and_nine_tenths_if_gaussian():
    """By counts, which assume nothing; and by `epsilon_from_gdp`, for a Gaussian."""
    scores = FULL_RECIPE.scores(FULL_RECIPE)
    strict = audits.lower_bound(*scores, DELTA, confidence=SURE)
    assert strict > quieter(FULL_RECIPE, 0.75)
    assert strict > CLEARLY * quieter(FULL_RECIPE, 0.5)
    gaussian = auditing.CanaryScoreAuditor(*scores).epsilon_from_gdp(1 - SURE, DELTA)
    assert quieter(FULL_RECIPE, 0.9) < gaussian <= FULL_RECIPE.claimed


def test_noise_that_is_used_twice_is_refuted():
    """Rounds 0 and 1, 2 and 3, ... share their noise, and the canary turns around."""
    twice = np.arange(ROUNDS) // 2 * 2
    bound = audited(FULL_RECIPE, confidence=SURE, noise_rounds=twice)
    assert bound > 3 * FULL_RECIPE.claimed


def test_division_by_those_who_came_is_refuted():
    """The others pull against the canary, and who is missing makes them pull more."""
    expected = FULL_RECIPE.privacy.sampling.expected_clients

    def spoil(views, given):
        came = given.canary + given.others
        return views * (expected / came)[:, :, None]

    bound = audited(FULL_RECIPE, confidence=SURE, spoil=spoil)
    assert bound > CLEARLY * FULL_RECIPE.claimed


class _Leaky:
    """Central privacy that forgets to clip one leaf."""

    def __init__(self, privacy):
        self._privacy = privacy
        self.sampling, self.clipping = privacy.sampling, privacy.clipping
        self.init, self.release = privacy.init, privacy.release

    def encode(self, state, result, *, key):
        encoded = self._privacy.encode(state, result, key=key)
        (part,) = self._privacy._joint(result.update).parts
        unit = np.float32(self.clipping.norm / part.lattice.target)
        whole = jnp.rint(result.update["b"] / unit).astype(jnp.int32)
        return encoded._replace(update={**encoded.update, "b": whole})


def test_a_leaf_that_is_not_clipped_is_refuted():
    leaky = FULL_RECIPE._replace(privacy=_Leaky(FULL_RECIPE.privacy))
    assert audited(leaky, confidence=SURE) > 3 * FULL_RECIPE.claimed


def test_sampling_that_is_claimed_but_not_done_is_refuted():
    """Everybody takes part in every round, and the rate is counted all the same."""
    recipe = RECIPES["poisson"]
    everywhere = np.ones((attacks.DRAWN_RUNS, ROUNDS), np.int32)
    given = Attendance(everywhere, everywhere)
    bound = audited(recipe, confidence=SURE, given=given)
    assert bound > CLEARLY * recipe.claimed


@pytest.mark.slow
def test_a_contract_that_is_broken_is_refuted():
    """Correlated noise for one round in four, and a client who takes every second."""
    recipe = RECIPES["blt"]
    often = np.resize(np.int32([1, 0]), (1, recipe.rounds))
    bound = audited(recipe, confidence=SURE, given=Attendance(often, often))
    assert bound > CLEARLY * recipe.claimed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fixed_size_of_all", "local_gaussian"])
def test_replacing_that_is_counted_once_is_refuted(name):
    """One update for another moves twice the norm."""
    recipe = RECIPES[name]
    assert audited(recipe, confidence=SURE) > CLEARLY * quieter(recipe, 0.5)


@pytest.mark.slow
def test_a_count_that_is_not_paid_for_is_refuted():
    """The update has all the noise that is claimed, beside a count of little noise.

    That is what a mechanism of a smaller multiplier runs: 1 / z**2 is
    1 / `MULTIPLIER`**2 for the update and 1 / (2 stddev)**2 for the count.
    """
    stddev = MULTIPLIER / 2
    together = 1 / np.sqrt(MULTIPLIER**-2 + (2 * stddev) ** -2)
    clip = jf.clipping.Adaptive(quantile=0.5, initial=0.3, count_stddev=stddev)
    runs = central(jf.sampling.Full(population=90), clip, multiplier=together)
    recipe = RECIPES["adaptive"]._replace(privacy=runs)
    bound = audited(recipe, confidence=SURE)
    assert bound > CLEARLY * RECIPES["adaptive"].claimed


@pytest.mark.slow
def test_rates_that_are_multiplied_are_refuted():
    """An example of a silo that came, as if the silo's chance of it still hid it."""
    recipe = RECIPES["example_level"]
    bound = audited(recipe, confidence=SURE)
    assert bound > 2 * claimed_with(recipe, rate=0.2 * recipe.privacy.rate)
