"""The list of recipes that are audited: every part of `jaxfed.privacy` is in a line."""

import numpy as np

import jaxfed as jf
from tests.statistical import attacks
from tests.statistical.attacks import HORIZON, ROUNDS, Recipe

MULTIPLIER = np.sqrt(ROUNDS)  # ten rounds are one Gaussian of multiplier 1
FIXED = jf.clipping.Fixed(norm=0.5)
FULL = jf.sampling.Full(population=6)


def central(sampling, clipping=FIXED, multiplier=MULTIPLIER, noise=None, rounds=None):
    return jf.privacy.central(
        sampling=sampling,
        clipping=clipping,
        noise=noise or jf.noise.Gaussian(multiplier=multiplier),
        rounds=rounds,
    )


def correlated(sampling, noise):
    privacy = central(sampling, noise=noise, rounds=HORIZON)
    return Recipe(privacy, attacks.correlated, HORIZON)


def local(noise, scores, clipping=FIXED, rounds=ROUNDS, **options):
    privacy = jf.privacy.local(sampling=FULL, clipping=clipping, noise=noise)
    return Recipe(privacy, scores, rounds, **options)


# Attacks on chance know too few runs to be tight; the bounds of Renyi divergences, for
# fixed sizes and Skellam noise, are not tight themselves.
RECIPES = {
    "full": Recipe(central(FULL), attacks.public),
    "poisson_of_all": Recipe(
        central(jf.sampling.Poisson(population=6, rate=1.0)),
        attacks.public,
        key=jf.keys.simulated(1),
    ),
    "poisson": Recipe(
        central(jf.sampling.Poisson(population=99, rate=0.2), multiplier=0.8),
        attacks.by_chance,
        least=0.5,
    ),
    "fixed_size": Recipe(
        central(jf.sampling.FixedSize(population=99, size=20), multiplier=1.8),
        attacks.replaced_by_chance,
        least=0.25,
    ),
    "fixed_size_of_all": Recipe(
        central(jf.sampling.FixedSize(population=6, size=6), multiplier=2 * MULTIPLIER),
        attacks.replaced,
    ),
    "cyclic": Recipe(
        central(jf.sampling.Cyclic(population=6, groups=2), multiplier=np.sqrt(5)),
        attacks.public,
    ),
    "min_separation": Recipe(
        central(
            jf.sampling.MinSeparation(
                population=10, size=2, separation=3, max_participations=2
            ),
            multiplier=np.sqrt(2),
        ),
        attacks.public,
    ),
    "balls_in_bins": Recipe(
        central(jf.sampling.BallsInBins(population=20, bins=5), multiplier=np.sqrt(2)),
        lambda recipe: attacks.public(recipe, others=2),
    ),
    "adaptive": Recipe(
        central(
            jf.sampling.Full(population=90),
            jf.clipping.Adaptive(quantile=0.5, initial=0.3),
        ),
        lambda recipe: attacks.public(recipe, others=0),
    ),
    "per_layer": Recipe(
        central(FULL, jf.clipping.PerLayer(norms={"w": 0.5, "": 0.2})), attacks.public
    ),
    "scaled": Recipe(
        central(FULL, jf.clipping.Scaled(norm=0.5, floor=0.1)), attacks.public
    ),
    "skellam": Recipe(
        central(FULL, noise=jf.noise.Skellam(multiplier=MULTIPLIER)),
        attacks.public,
        least=0.6,
    ),
    "blt": correlated(
        jf.sampling.Cyclic(population=8, groups=4), jf.noise.BLT(multiplier=3.0)
    ),
    "banded": correlated(
        jf.sampling.MinSeparation(
            population=8, size=2, separation=2, max_participations=3
        ),
        jf.noise.Banded(multiplier=2.0, bands=2),
    ),
    "tree": correlated(
        jf.sampling.BallsInBins(population=8, bins=4), jf.noise.Tree(multiplier=4.0)
    ),
    "local_gaussian": local(
        jf.noise.Gaussian(multiplier=2 * MULTIPLIER), attacks.gaussian_reports
    ),
    "local_laplace": local(
        jf.noise.Laplace(multiplier=4.0),
        attacks.laplace_reports,
        jf.clipping.FixedL1(norm=0.5),
    ),
    "local_privunit": local(
        jf.noise.PrivUnit(epsilon=0.7),
        attacks.directions,
        rounds=4,
        least=0.5,
        runs=6_000,
    ),
    "example_level": Recipe(
        jf.privacy.example_level(
            sampling=jf.sampling.Full(population=1),
            sizes=(99,),
            rate=0.2,
            steps=5,
            clipping=FIXED,
            noise=jf.noise.Gaussian(multiplier=0.8),
        ),
        attacks.dp_sgd,
        rounds=ROUNDS // 5,
        least=0.5,
    ),
}
IN_EVERY_RUN = (
    "full",
    "poisson",
    "adaptive",
    "blt",
    "local_laplace",
    "example_level",
)
