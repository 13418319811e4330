"""Epsilon for other units than an object's own: an example, a person who is several."""

import dataclasses
import json
import math

import pytest

import jaxfed as jf
from jaxfed.privacy import _statement

DELTA, ROUNDS = 1e-5, 8


def central(sampling=None, multiplier=12.0):
    return jf.privacy.central(
        sampling=sampling or jf.sampling.Full(population=2000),
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )


def correlated(multiplier=12.0):
    return jf.privacy.central(
        sampling=jf.sampling.Cyclic(population=2000, groups=4),
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=jf.noise.BLT(multiplier=multiplier),
        rounds=ROUNDS,
    )


def example_level(multiplier=12.0, rate=0.2):
    return jf.privacy.example_level(
        sampling=jf.sampling.Full(population=2),
        sizes=(300, 200),
        rate=rate,
        steps=2,
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )


@pytest.mark.parametrize("build", [central, correlated])
@pytest.mark.parametrize(
    ("unit", "count", "factor"),
    [("client", 1, 1), ("client", 3, 3), ("example", 1, 2), ("example", 2, 4)],
)
def test_without_amplification_noise_is_divided_by_what_changes(
    build, unit, count, factor
):
    """A Gaussian at k times the distance is one of a k-th of the multiplier."""
    privacy = build(multiplier=24.0)
    found = privacy.epsilon_of(unit, count=count, rounds=ROUNDS, delta=DELTA)
    less = build(multiplier=24.0 / factor).epsilon(rounds=ROUNDS, delta=DELTA)
    assert found == pytest.approx(less, rel=1e-4)


def test_with_sampling_more_than_one_client_costs_more_than_its_share():
    privacy = central(jf.sampling.Poisson(population=2000, rate=0.1), multiplier=2.0)
    settings = {"rounds": ROUNDS, "delta": DELTA}
    one, two, three = (
        privacy.epsilon_of("client", count=count, **settings) for count in (1, 2, 3)
    )
    assert one == privacy.epsilon(**settings)
    assert 2 * one < two < three
    replaced = privacy.epsilon_of("example", **settings)
    assert one < replaced <= two * 1.001  # left out and put back: no worse than two


def test_a_relation_of_replacement_covers_examples_already():
    privacy = central(jf.sampling.FixedSize(population=2000, size=100))
    settings = {"rounds": ROUNDS, "delta": DELTA}
    assert privacy.epsilon_of("example", **settings) == privacy.epsilon(**settings)


def test_a_silo_has_no_claim_where_examples_are_protected():
    privacy = example_level()
    settings = {"rounds": ROUNDS, "delta": 1e-4}
    assert privacy.epsilon_of("example", **settings) == privacy.epsilon(**settings)
    assert privacy.epsilon_of("example", count=2, **settings) > privacy.epsilon(
        **settings
    )
    assert privacy.epsilon_of("client", **settings) == math.inf


def test_reports_of_several_clients_compose():
    privacy = jf.privacy.local(
        sampling=jf.sampling.Full(population=2000),
        clipping=jf.clipping.FixedL1(norm=1.0),
        noise=jf.noise.Laplace(multiplier=4.0),
    )
    assert privacy.epsilon_of("client", count=3, rounds=2) == pytest.approx(3.0)
    assert privacy.epsilon_of("example", rounds=2) == privacy.epsilon(rounds=2)


def test_no_privacy_has_no_claim_for_any_unit():
    privacy = jf.privacy.none(sampling=jf.sampling.Full(population=2000))
    assert privacy.epsilon_of("client", rounds=1, delta=DELTA) == math.inf


def test_a_deviation_of_the_noise_is_charged_to_groups_too():
    event = jf.sampling.Full(population=2000).event(4.0)
    bound = jf.accounting.group_epsilon
    exact = bound(event, 1, delta=DELTA, size=2)
    near = bound(event, 1, delta=DELTA, size=2, distance=2.0**-46)
    far = bound(event, 1, delta=DELTA, size=2, distance=DELTA / 20)
    assert exact <= near < exact * 1.0001
    assert far > exact * 1.001
    assert bound(event, 1, delta=DELTA, size=2, distance=DELTA) == math.inf


def test_a_statement_says_other_units_when_asked():
    privacy = dataclasses.replace(central(), delta=DELTA, rounds=ROUNDS)
    statement = privacy.statement(units=[("example", 1), ("client", 2)])
    words = str(statement)
    assert "one example, changed at will: epsilon" in words
    assert "2 clients together: epsilon" in words
    fields = json.loads(statement.to_json())["units"]
    assert [line["count"] for line in fields] == [1, 2]
    silos = dataclasses.replace(example_level(), delta=1e-4, rounds=ROUNDS)
    words = str(silos.statement(units=[("client", 1), ("example", 2)]))
    assert "one client: no claim; 2 examples together in one silo: epsilon" in words
    assert "changed at will" not in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unit": "person"}, "unit must be one of"),
        ({"unit": "client", "count": 0}, "count must be"),
        ({"unit": "client", "delta": None}, "epsilon needs delta"),
        ({"unit": "client", "delta": 0.5}, "delta must be < 1 / population"),
    ],
)
def test_wrong_units_are_refused(arguments, message):
    settings = {"rounds": ROUNDS, "delta": DELTA} | arguments
    with pytest.raises(ValueError, match=message):
        central().epsilon_of(settings.pop("unit"), **settings)


def test_units_that_are_not_pairs_are_refused_with_an_example():
    privacy = dataclasses.replace(central(), delta=DELTA, rounds=ROUNDS)
    for wrong in (["example"], ("example", 1)):
        with pytest.raises(TypeError, match="units must hold pairs of a unit and a"):
            privacy.statement(units=wrong)


def test_more_reports_than_can_be_composed_are_refused_as_they_were_asked():
    privacy = jf.privacy.local(
        sampling=jf.sampling.Full(population=2000),
        clipping=jf.clipping.FixedL1(norm=1.0),
        noise=jf.noise.Laplace(multiplier=400.0),
    )
    with pytest.raises(ValueError, match="got 2,000 \\* 1,000; so many reports"):
        privacy.epsilon_of("client", count=1000, rounds=2000, delta=DELTA)


@pytest.mark.parametrize(
    "value", [1.000000000009, 0.9999999, 9.9999, 1.2345649e-5, 1e-300, 123456.7, 5.0]
)
@pytest.mark.parametrize("digits", [3, 6])
def test_a_number_in_words_is_never_below_the_number(value, digits):
    found = float(_statement.up(value, digits))
    assert value <= found <= value * (1 + 10.0 ** (1 - digits))
