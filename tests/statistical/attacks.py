"""Attacks, each for a kind of mechanism: how its runs are drawn and scored."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxfed as jf
from jaxfed.engine._block import unpack
from jaxfed.engine._planner import Planner
from jaxfed.typing import Batching
from tests.statistical import audits
from tests.statistical.audits import CANARY, SPIKE, Attendance, Runs

DELTA = 0.01
ROUNDS, HORIZON = 10, 12  # of independent and of correlated noise
RUNS, DRAWN_RUNS = 60_000, 9_900
_DRAWS = 20  # of public cohorts, each for many runs
SIGNS = np.resize(np.float32([1, -1]), ROUNDS)
KEYS = jf.keys.simulated(0)
SECURE = jf.keys.secure(bytes(range(32)), context=b"audit")


class Recipe(NamedTuple):
    """A mechanism, and the attack that fits it."""

    privacy: Any
    scores: Callable[["Recipe"], tuple[np.ndarray, np.ndarray]]
    """`(recipe) -> (present, absent)`: how an attack scores its runs."""
    rounds: int = ROUNDS
    least: float = 0.7
    """Which share of the claim the lower bound reaches, or the attack has got weak."""
    runs: int = RUNS
    """How many of each neighbour, where who takes part costs nothing to draw."""
    key: jax.Array = KEYS

    @property
    def claimed(self):
        """The epsilon that is claimed at `DELTA`."""
        return self.privacy.epsilon(rounds=self.rounds, delta=DELTA)


def audited(recipe, *, confidence=0.95, **changes):
    """Returns the lower bound of epsilon at `DELTA`, with that confidence."""
    scores = recipe.scores(recipe, **changes)
    return audits.lower_bound(*scores, DELTA, confidence=confidence)


def public(recipe, *, others=None, given=None, noise_rounds=None, spoil=None):
    """The attack where everybody may know who takes part: no chance is claimed.

    Args:
        recipe: whose noise is independent.
        others: how many send the opposite of the canary's update; who comes if None.
        given: the attendance, if not the sampler's.
        noise_rounds: whose noise each round takes, if not its own.
        spoil: `(views, given) -> views`, what a fault makes of releases.
    """
    given = given or cohorts_of(recipe)
    if others is not None:
        given = Attendance(given.canary, np.full_like(given.others, others))
    absent = Attendance(np.zeros_like(given.canary), given.others)
    runs = _central(recipe, (given, absent), noise_rounds=noise_rounds)
    if spoil is not None:
        runs = Runs(*map(spoil, runs, (given, absent)))
    told = given.canary[:, :, None]  # rounds without it tell nothing
    return audits.discriminated(Runs(*(views * told for views in runs)))


def replaced(recipe):
    """The attack of `public` on a canary that sends one of two opposite updates."""
    given = cohorts_of(recipe)
    return audits.discriminated(_central(recipe, (given, given)))


def by_chance(recipe, *, given=None):
    """The attack on cohorts that are drawn in secret, where the others send zeros."""
    sampler = recipe.privacy.sampling
    given = given or secret_cohorts(sampler, recipe.rounds)
    given = Attendance(given.canary, np.zeros_like(given.others))
    absent = Attendance(*map(np.zeros_like, given))
    runs = _central(recipe, (given, absent))
    shift = 1 / recipe.privacy.noise.multiplier
    return audits.mixed(runs, SIGNS, rate=sampler.rate, shift=shift)


def replaced_by_chance(recipe):
    """The attack on secret cohorts of a fixed size.

    The others send the opposite of the canary's update, so that its place counts
    twice.
    """
    sampler = recipe.privacy.sampling
    given = secret_cohorts(sampler, recipe.rounds)
    runs = _central(recipe, (given, given))
    rate, shift = sampler.size / sampler.population, 2 / recipe.privacy.noise.multiplier
    return audits.mixed(runs, SIGNS, rate=rate, shift=shift)


def correlated(recipe, *, given=None):
    """The attack on correlated noise: all rounds tell of each other's noise."""
    sampler, rounds = recipe.privacy.sampling, recipe.rounds
    given = given or audits.attendance(sampler, rounds, 1, key=KEYS)
    given = Attendance(*(np.repeat(a, recipe.runs, axis=0) for a in given))
    absent = Attendance(np.zeros_like(given.canary), given.others)
    signs = np.ones(rounds, np.float32)  # worst: no entry of C is negative
    return audits.discriminated(_central(recipe, (given, absent), signs=signs))


def gaussian_reports(recipe):
    """The attack on local reports with Gaussian noise."""
    return audits.discriminated(_reported(recipe, CANARY))


def laplace_reports(recipe):
    """The likelihood ratio of one coordinate: it is bounded, and often at its bound."""
    norm = recipe.privacy.clipping.norm

    def score(views):
        first = views[:, :, 1].astype(np.float64)  # after the only scalar of "b"
        return (np.abs(first + norm) - np.abs(first - norm)).sum(axis=1)

    return tuple(map(score, _reported(recipe, SPIKE)))


def directions(recipe):
    """How many reports lie in the canary's cap, less those in the opposite one."""
    cap = recipe.privacy.noise.cap(4)

    def score(views):
        along = views.sum(axis=2, dtype=np.float64) / 2  # a unit vector's: 1/2 each
        along *= cap.mean / recipe.privacy.clipping.norm
        above = (along >= cap.threshold).sum(axis=1)
        return above - (along <= -cap.threshold).sum(axis=1)

    return tuple(map(score, _reported(recipe, CANARY)))


def dp_sgd(recipe):
    """The attack on an example that joins batches by chance, as the planner draws."""
    privacy = recipe.privacy
    given = secret_batches(privacy, ROUNDS)
    absent = Attendance(*map(np.zeros_like, given))
    program = audits.steps(privacy, ROUNDS)
    runs = Runs(
        *(
            program(jf.keys.for_leaf(recipe.key, side), one, jnp.asarray(SIGNS))
            for side, one in enumerate((given, absent))
        )
    )
    shift = 1 / privacy.noise.multiplier
    return audits.mixed(runs, SIGNS, rate=privacy.rate, shift=shift)


def cohorts_of(recipe):
    """Returns a few cohorts again and again, of clients who take part most often."""
    sampler, few = recipe.privacy.sampling, _DRAWS * recipe.privacy.sampling.population
    few = audits.attendance(sampler, recipe.rounds, few, key=KEYS)
    uses = few.canary.sum(axis=1)
    chosen = np.resize(np.flatnonzero(uses == uses.max()), recipe.runs)
    return Attendance(*(a[chosen] for a in few))


@functools.cache
def secret_cohorts(sampler, rounds):
    """Returns a cohort for every round of every run."""
    return audits.attendance(sampler, rounds, DRAWN_RUNS, key=KEYS)


def secret_batches(privacy, steps):
    """Returns batches of a silo for every step, whose examples are the canaries."""
    (size,) = privacy.sizes
    local = privacy.sgd(lambda *_: (0.0, {}), optax.sgd(1.0)).batching
    count = DRAWN_RUNS // size * steps
    batching = Batching(batch_size=local.batch_size, steps=count, rate=local.rate)
    data = jf.data.FederatedData.from_arrays(
        {"x": np.zeros(size, np.float32)}, client=np.zeros(size, int)
    )
    planner = Planner(data, batching, max_clients=1, lanes=1)
    (block,) = planner.plan(np.array([0]), key=jf.keys.simulated(11))
    lines = unpack(block.layout, block.packed[0]).rows[:count]
    joined = np.zeros((count, size + 1), np.int32)
    np.put_along_axis(joined, np.where(lines >= 0, lines, size), 1, axis=1)
    of_runs = joined[:, :size].reshape(-1, steps, size).swapaxes(1, 2)
    canary = of_runs.reshape(-1, steps)
    return Attendance(canary, np.zeros_like(canary))


def _central(recipe, attendances, *, signs=SIGNS, noise_rounds=None):
    """Runs a central mechanism with the canary, and without it or with its opposite."""
    program = audits.releases(recipe.privacy, recipe.rounds)
    if noise_rounds is None:
        noise_rounds = np.arange(recipe.rounds)
    rest = jnp.asarray(signs), jnp.asarray(noise_rounds)
    return Runs(
        *(
            program(jf.keys.for_leaf(recipe.key, side), given, way, *rest)
            for side, (given, way) in enumerate(
                zip(attendances, jnp.array([1.0, -1.0]), strict=True)
            )
        )
    )


def _reported(recipe, update):
    """Returns the reports of a client that has one update, or the opposite one."""
    program = audits.reports(recipe.privacy, recipe.rounds)
    updates = (update, jax.tree.map(jnp.negative, update))
    return Runs(
        *(
            program(jf.keys.for_leaf(recipe.key, side), recipe.runs, one)
            for side, one in enumerate(updates)
        )
    )
