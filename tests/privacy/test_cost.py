"""What a ledger charges is what the privacy object claims, after every round."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from dp_accounting import SelfComposedDpEvent

import jaxfed as jf
from jaxfed import accounting
from jaxfed.privacy._base import interval

CLIENTS, DELTA, ROUNDS = 60, 1e-3, 12
FIXED, NOISE = jf.clipping.Fixed(norm=1.0), jf.noise.Gaussian(multiplier=2.0)
POISSON = jf.sampling.Poisson(population=CLIENTS, rate=0.2)
CYCLIC = jf.sampling.Cyclic(population=CLIENTS, groups=4)
APART = jf.sampling.MinSeparation(
    population=CLIENTS, size=10, separation=5, max_participations=3
)


def central(sampling, noise=NOISE, rounds=None):
    return jf.privacy.central(
        sampling=sampling, clipping=FIXED, noise=noise, delta=DELTA, rounds=rounds
    )


def local(noise, clipping=FIXED):
    return jf.privacy.local(
        sampling=POISSON, clipping=clipping, noise=noise, delta=DELTA
    )


BOTH = {
    "Poisson": central(POISSON),
    "Full": central(jf.sampling.Full(population=CLIENTS)),
    "Cyclic": central(CYCLIC),
    "MinSeparation": central(APART),
    "BallsInBins": central(jf.sampling.BallsInBins(population=CLIENTS, bins=3)),
    "Skellam": central(POISSON, jf.noise.Skellam(multiplier=2.0)),
    "Tree": central(CYCLIC, jf.noise.Tree(multiplier=2.0), ROUNDS),
    "BLT": central(APART, jf.noise.BLT(multiplier=2.0), ROUNDS),
    "example": jf.privacy.example_level(
        sampling=jf.sampling.Full(population=3),
        sizes=(40, 50, 60),
        rate=0.2,
        steps=3,
        clipping=FIXED,
        noise=NOISE,
        delta=DELTA,
    ),
}
REPLACE = {
    "FixedSize": central(jf.sampling.FixedSize(population=CLIENTS, size=9)),
    "local Gaussian": local(jf.noise.Gaussian(multiplier=9.0)),
    "local Laplace": local(
        jf.noise.Laplace(multiplier=9.0), jf.clipping.FixedL1(norm=1.0)
    ),
    "PrivUnit": local(jf.noise.PrivUnit(epsilon=1.0)),
}


def charged(privacy, rounds, relation):
    """Epsilon of what a ledger has charged after some of all rounds."""
    cost = privacy.cost(ROUNDS, relation=relation)
    return accounting.epsilon(
        SelfComposedDpEvent(cost.event, cost.uses(rounds)),
        1,
        delta=DELTA,
        relation=relation,
        distance=cost.distance,
    )


@pytest.mark.parametrize("name", BOTH)
def test_charges_are_the_claim_after_every_round(name):
    privacy = BOTH[name]
    for rounds in (1, 2, 5, 6, ROUNDS):
        claim = privacy.epsilon(rounds=rounds, delta=DELTA)
        assert charged(privacy, rounds, "zero_out") == pytest.approx(claim, rel=1e-9)


@pytest.mark.parametrize("name", REPLACE)
def test_charges_are_the_claim_where_clients_are_replaced(name):
    privacy = REPLACE[name]
    for rounds in (1, 3, ROUNDS):
        claim = privacy.epsilon(rounds=rounds, delta=DELTA)
        if "Laplace" in name or name == "PrivUnit":  # composed more tightly there
            claim = accounting.epsilon(privacy.event(rounds), 1, delta=DELTA)
        found = charged(privacy, rounds, "replace_one")
        assert found == pytest.approx(claim, rel=1e-3)
        if name != "FixedSize":
            assert charged(privacy, rounds, "zero_out") == pytest.approx(
                claim, rel=1e-3
            )


def test_replacing_is_charged_twice_where_leaving_out_is_claimed():
    for name in ("Full", "Cyclic"):
        twice = central(BOTH[name].sampling, jf.noise.Gaussian(multiplier=4.0))
        found = charged(twice, ROUNDS, "replace_one")
        claim = BOTH[name].epsilon(rounds=ROUNDS, delta=DELTA)
        assert found == pytest.approx(claim, rel=0.02)


@hypothesis.given(st.lists(st.integers(0, 1), min_size=1, max_size=40))
def test_an_interval_never_counts_too_few(steps):
    uses = np.maximum(1, np.cumsum(steps)).tolist()
    every = interval(uses)
    rounds = range(1, len(uses) + 1)
    assert all(-(-r // every) >= used for r, used in zip(rounds, uses, strict=True))
    larger = every + 1
    if every < len(uses):  # and no larger one would do
        assert any(-(-r // larger) < used for r, used in zip(rounds, uses, strict=True))


def test_correlated_noise_is_charged_whole_and_once():
    cost = BOTH["BLT"].cost(ROUNDS)
    assert [cost.uses(r) for r in range(1, ROUNDS + 1)] == [1] * ROUNDS
    assert not cost.may_repeat
    assert all(BOTH[n].cost(ROUNDS).may_repeat for n in ("Poisson", "Full", "Cyclic"))
