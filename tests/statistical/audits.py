"""Thousands of runs of a mechanism on two neighbours, and what they prove of epsilon.

Nasr et al. 2021, arXiv:2101.04535, and 2023, arXiv:2302.07956: an attacker sees all
that is released, knows all but whether the canary took part, and gives every run a
score. How often scores are high on either side bounds epsilon from below, with a
confidence (`jax_privacy.auditing`). The canary sends the worst that it can: an update
of many times the clip norm, whose sign may change from round to round.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax_privacy import auditing

import jaxfed as jf
from jaxfed.typing import Batch, ClientResult, Shared

PARAMS = {"w": jnp.zeros(3), "b": jnp.zeros(())}
CANARY = jax.tree.map(lambda a: jnp.full(a.shape, 10.0), PARAMS)
SPIKE = {"w": jnp.array([10.0, 0.0, 0.0]), "b": jnp.zeros(())}
PILOT = 4  # one run in four is for learning how to attack
SELECTION = 0.3  # and of the rest, this share is for choosing the threshold


class Runs(NamedTuple):
    """What both neighbours released, (runs, rounds, scalars), in units of the noise."""

    present: np.ndarray
    absent: np.ndarray


class Attendance(NamedTuple):
    """Who took part, (runs, rounds) int32: the canary, and how many others."""

    canary: np.ndarray
    others: np.ndarray


def lower_bound(present, absent, delta, *, confidence=0.95):
    """Returns a lower confidence bound of epsilon, from the scores of runs.

    Clopper-Pearson for both error rates, each with half of what may go wrong, at one
    threshold that a part of the scores has chosen and that is judged by the others; it
    may tell presence or absence. Nothing is assumed of the mechanism.
    """
    auditor = auditing.CanaryScoreAuditor(present, absent)
    return float(
        auditor.epsilon_clopper_pearson(
            1 - confidence,
            delta,
            one_sided=False,
            threshold_strategy=auditing.Split(SELECTION, seed=0),
        )
    )


def discriminated(runs):
    """Scores runs by the best linear attack, learned from those that are left out.

    Fisher's discriminant knows the mechanism by its simulation alone: it is the
    matched filter of correlated noise, and finds any noise that cancels.
    """
    present, absent = (np.reshape(a, (len(a), -1)).astype(np.float64) for a in runs)
    pilot = len(present) // PILOT
    one, other = present[:pilot], absent[:pilot]
    spread = np.atleast_2d(np.cov(one.T) + np.cov(other.T))
    ridge = 1e-9 * np.trace(spread) * np.eye(len(spread))  # where nothing is noised
    weights = np.linalg.solve(spread + ridge, one.mean(0) - other.mean(0))
    return present[pilot:] @ weights, absent[pilot:] @ weights


def mixed(runs, signs, *, rate, shift):
    """Scores runs by the likelihood ratio of a canary that joins by chance.

    Args:
        runs: whose scalars the canary moves alike.
        signs: (rounds,) of its updates.
        rate: how often it joins.
        shift: how many deviations of the noise it then moves the release.
    """

    def along(views):
        return np.einsum("nrd,r->nr", views, signs, dtype=np.float64)

    silent = along(runs.absent)
    pilot = silent[: len(silent) // PILOT]

    def score(views):
        z = (along(views) - pilot.mean(0)) / pilot.std(0)
        return np.log1p(rate * np.expm1(shift * z - shift**2 / 2)).sum(axis=1)

    return score(runs.present), score(runs.absent[len(pilot) :])


def attendance(sampler, rounds, runs, *, key):
    """Draws cohorts of a whole population, whose every client is one run's canary.

    Coins of different clients are independent; places in a cohort of fixed size, and
    in one that is cut at its cap, are negatively associated: counts over such runs are
    no more spread than those of independent ones.
    """
    population = sampler.population
    canary = np.zeros((-(-runs // population), population, rounds), np.int32)
    for draw, of_draw in enumerate(canary):
        own = jf.keys.for_client(key, draw)
        for index in range(rounds):
            of_draw[sampler.draw(index, key=own), index] = 1
    others = canary.sum(axis=1, keepdims=True, dtype=np.int32) - canary
    shape = (-1, rounds)
    return Attendance(*(a.reshape(shape)[:runs] for a in (canary, others)))


@functools.cache
def releases(privacy, rounds):
    """Compiles the rounds of a central mechanism: encode, sum, release.

    Returns:
        `(key, attendance, sign, signs, noise_rounds) -> views`: the canary sends `sign`
        times `signs[t]` times `CANARY`, everybody else minus that with sign 1, and
        round t takes the noise of round `noise_rounds[t]`: t, if all is well.
    """

    def encoded(state, scale, key):
        update = jax.tree.map(lambda a: scale * a, CANARY)
        return privacy.encode(state, ClientResult(update, jnp.float32(1), ()), key=key)

    def run(key, given, sign, signs, noise_rounds):
        def one_round(state, now):
            index, canary, others, way, noise_round = now
            own = jf.keys.for_round(key, index)
            clients = jax.vmap(lambda i: jf.keys.for_client(own, i))(jnp.arange(2))
            scales = jnp.stack([sign * way, -way])
            both = jax.vmap(encoded, (None, 0, 0))(state, scales, clients)
            total = jax.tree.map(lambda a: canary * a[0] + others * a[1], both)
            branch = jf.keys.for_purpose(key, jf.keys.Purpose.NOISE)
            noise_key = jf.keys.for_round(branch, noise_round)
            after, released = privacy.release(state, total, key=noise_key)
            return after, _view(privacy.clipping, state, released.value, after)

        every = (jnp.arange(rounds), *given, signs, noise_rounds)
        return jax.lax.scan(one_round, privacy.init(PARAMS), every)[1]

    return _many(run)


def _view(clip, before, value, after):
    """Returns a release in units in which its noise is the same in every round."""
    if isinstance(clip, jf.clipping.Scaled):  # the way of the canary changes too
        way = _flat(clip.scale(before, CANARY))
        along = jnp.sum(way * _flat(clip.scale(before, value)))
        return (along / jnp.sqrt(jnp.sum(way**2)))[None]
    view = _flat(value)
    if isinstance(clip, jf.clipping.Adaptive):  # the next norm tells the noisy count
        return jnp.append(view / before, jnp.log(after / before))
    return view


@functools.cache
def reports(privacy, rounds):
    """Compiles the reports of one client: `(key, update) -> views`, local privacy.

    A view is what the server decodes from a report alone.
    """

    def run(key, update):
        result = ClientResult(update, jnp.float32(1), ())
        state = privacy.init(PARAMS)

        def report(index):
            own = jf.keys.for_round(key, index)
            encoded = privacy.encode(state, result, key=own)
            _, released = privacy.release(state, encoded, key=key)
            return _flat(released.value) * privacy.sampling.expected_clients

        return jax.lax.map(report, jnp.arange(rounds))

    compiled = jax.jit(jax.vmap(run, (0, None)))
    return lambda key, runs, update: np.asarray(compiled(_branches(key, runs), update))


@functools.cache
def steps(privacy, count):
    """Compiles DP-SGD steps: `(key, attendance, signs) -> views`.

    The gradient of an example is what it holds; all but the canary's are zero, which
    is worst: nothing else hides when it joins.
    """

    def loss(params, batch, key):
        del key
        products = jax.tree.map(lambda a, b: a * b[0], params, batch["gradient"])
        return jnp.sum(_flat(products)), {}

    local = privacy.sgd(loss, optax.sgd(1.0))
    size = jnp.int32(privacy.sizes[0])

    def run(key, given, signs):
        def step(carry, now):
            index, canary, way = now
            rows = {
                "gradient": jax.tree.map(
                    lambda a: jnp.stack([way * a, jnp.zeros_like(a)]), CANARY
                )
            }
            is_real = jnp.stack([canary > 0, jnp.array(True)])
            own = jf.keys.for_round(key, index)
            new, _ = local.step(carry, Batch(rows, is_real, size), key=own)
            moved = jax.tree.map(jnp.subtract, carry.params, new.params)
            return new, _flat(moved)

        start = local.init(Shared(PARAMS, ()), ())
        every = (jnp.arange(count), given.canary, signs)
        return jax.lax.scan(step, start, every)[1]

    return _many(run)


def _many(run):
    """Compiles a run for many keys and attendances at once."""
    compiled = jax.jit(
        lambda keys, given, *rest: jax.vmap(lambda k, g: run(k, g, *rest))(keys, given)
    )

    def many(key, given, *rest):
        keys = _branches(key, len(given.canary))
        return np.asarray(compiled(keys, Attendance(*map(jnp.asarray, given)), *rest))

    return many


@functools.partial(jax.jit, static_argnums=1)
def _branches(key, runs):
    return jax.vmap(lambda run: jf.keys.for_client(key, run))(jnp.arange(runs))


def _flat(tree):
    return jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(tree)])
