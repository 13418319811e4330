"""Configurations print, hash, compare, and survive JSON."""

import dataclasses
import importlib
import inspect
import json
import math
import pkgutil

import numpy as np
import pytest

import jaxfed as jf
from jaxfed._config import Configuration

POISSON = jf.sampling.Poisson(population=1000, rate=0.1)
FIXED = jf.clipping.Fixed(norm=0.3)
GAUSSIAN = jf.noise.Gaussian(multiplier=1.1)
FIXED_L1 = jf.clipping.FixedL1(norm=2.5)
LAPLACE = jf.noise.Laplace(multiplier=0.4)
PRIVUNIT = jf.noise.PrivUnit(epsilon=8.0)
CENTRAL = jf.privacy.central(sampling=POISSON, clipping=FIXED, noise=GAUSSIAN)

# one entry for every concrete class of the library: a new class needs a line here
EXAMPLES = {
    "Poisson": [POISSON, jf.sampling.Poisson(population=10, rate=0.5, cap=7)],
    "Full": [jf.sampling.Full(population=3)],
    "FixedSize": [jf.sampling.FixedSize(population=5912, size=50)],
    "Cyclic": [jf.sampling.Cyclic(population=10, groups=3)],
    "BallsInBins": [
        jf.sampling.BallsInBins(population=100, bins=5),
        jf.sampling.BallsInBins(population=100, bins=5, cap=30),
    ],
    "MinSeparation": [
        jf.sampling.MinSeparation(
            population=100, size=5, separation=15, max_participations=4
        )
    ],
    "Fixed": [FIXED, jf.clipping.Fixed(norm=1e-3), jf.clipping.Fixed(norm=0.1 + 0.2)],
    "Adaptive": [
        jf.clipping.Adaptive(quantile=0.5, initial=0.1),
        jf.clipping.Adaptive(
            quantile=0.3, initial=1, learning_rate=0.1, count_stddev=7
        ),
    ],
    "PerLayer": [jf.clipping.PerLayer(norms={"encoder": 0.5, "": 1})],
    "Scaled": [
        jf.clipping.Scaled(norm=10, floor=1e-3),
        jf.clipping.Scaled(norm=0.1, floor=1, decay=0.9),
    ],
    "Gaussian": [GAUSSIAN, jf.noise.Gaussian(multiplier=0)],
    "Skellam": [jf.noise.Skellam(multiplier=1 / 3)],
    "FixedL1": [FIXED_L1],
    "Laplace": [LAPLACE, jf.noise.Laplace(multiplier=1 / 3)],
    "PrivUnit": [PRIVUNIT, jf.noise.PrivUnit(epsilon=0.5)],
    "Local": [
        jf.privacy.local(sampling=POISSON, clipping=FIXED, noise=GAUSSIAN),
        jf.privacy.local(sampling=POISSON, clipping=FIXED_L1, noise=LAPLACE, delta=0),
        jf.privacy.local(sampling=POISSON, clipping=FIXED, noise=PRIVUNIT).calibrated(
            epsilon=16.0, delta=1e-5, rounds=3
        ),
    ],
    "Tree": [jf.noise.Tree(multiplier=2)],
    "Banded": [jf.noise.Banded(multiplier=1.5, bands=20)],
    "BLT": [jf.noise.BLT(multiplier=1), jf.noise.BLT(multiplier=1, buffers=3)],
    "Central": [
        CENTRAL,
        jf.privacy.central(
            sampling=jf.sampling.Full(population=3),
            clipping=FIXED,
            noise=GAUSSIAN,
            delta=1e-6,
        ),
        jf.privacy.central(
            sampling=jf.sampling.Full(population=3), clipping=FIXED, noise=GAUSSIAN
        ).calibrated(epsilon=2.0, delta=1e-5, rounds=3),
    ],
    "CentralCorrelated": [
        jf.privacy.central(
            sampling=jf.sampling.Cyclic(population=10, groups=3),
            clipping=FIXED,
            noise=jf.noise.BLT(multiplier=1.5),
            rounds=7,
            delta=1e-3,
        )
    ],
    "ExampleLevel": [
        jf.privacy.example_level(
            sampling=jf.sampling.Full(population=2),
            sizes=(30, 40),
            rate=0.1,
            steps=3,
            clipping=FIXED,
            noise=GAUSSIAN,
            delta=1e-3,
        )
    ],
    "Hypothetical": [
        jf.privacy.hypothetical(
            CENTRAL, sampling=jf.sampling.FixedSize(population=40, size=10)
        ),
        jf.privacy.hypothetical(
            CENTRAL, sampling=jf.sampling.Poisson(population=40, rate=0.1)
        ).calibrated(epsilon=2.0, delta=1e-5, rounds=3),
    ],
    "Median": [jf.robust.Median()],
    "TrimmedMean": [jf.robust.TrimmedMean(fraction=0.1 + 0.2)],
    "Krum": [jf.robust.Krum(attackers=1), jf.robust.Krum(attackers=2, selected=3)],
    "GeometricMedian": [
        jf.robust.GeometricMedian(),
        jf.robust.GeometricMedian(iterations=3, smoothing=1e-3),
    ],
    "NormBounded": [jf.robust.NormBounded(norm=1)],
    "EveryReport": [
        jf.privacy.every_report(
            sampling=POISSON, rule=jf.robust.Krum(attackers=1, selected=2)
        )
    ],
    "NoPrivacy": [
        jf.privacy.none(sampling=jf.sampling.Full(population=3)),
        jf.privacy.none(sampling=POISSON, weighting="clients"),
    ],
}
ALL = [example for examples in EXAMPLES.values() for example in examples]


def concrete_kinds():
    for module in pkgutil.walk_packages(jf.__path__, "jaxfed."):
        importlib.import_module(module.name)
    return {
        name
        for name, kind in Configuration._kinds.items()
        if kind.__module__.startswith("jaxfed.") and not inspect.isabstract(kind)
    }


def test_every_configuration_has_an_example():
    assert set(EXAMPLES) == concrete_kinds()
    for name, examples in EXAMPLES.items():
        assert all(type(example).__name__ == name for example in examples)


@pytest.mark.parametrize("config", ALL, ids=repr)
def test_json_brings_back_an_equal_value(config):
    text = config.to_json()
    assert "\n" not in text
    for reader in (type(config), Configuration):
        read = reader.from_json(text)
        assert type(read) is type(config)
        assert read == config
        assert hash(read) == hash(config)
        assert repr(read) == repr(config)
        assert read.to_json() == text
    assert type(config).from_dict(config.to_dict()) == config
    assert json.loads(text)["kind"] == type(config).__name__


@pytest.mark.parametrize("config", ALL, ids=repr)
def test_nothing_can_be_changed_or_given_by_position(config):
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, None)
    with pytest.raises(TypeError, match="positional"):
        type(config)(3)


@pytest.mark.parametrize("config", ALL, ids=repr)
def test_the_printed_form_is_code(config):
    names = dict(Configuration._kinds)
    assert eval(repr(config), names) == config


def test_different_values_are_different():
    assert len({*ALL}) == len(ALL)
    assert len({config.to_json() for config in ALL}) == len(ALL)
    for i, left in enumerate(ALL):
        assert all(left != right for right in ALL[i + 1 :])


def test_a_privacy_object_is_read_with_its_guarantee():
    calibrated = EXAMPLES["Central"][2]
    read = jf.privacy.from_json(calibrated.to_json())
    assert read.epsilon() == calibrated.epsilon()
    assert read.statement() == calibrated.statement()
    assert math.isinf(
        jf.privacy.from_json(EXAMPLES["NoPrivacy"][0].to_json()).epsilon()
    )


def test_numpy_scalars_are_written_as_numbers():
    config = jf.sampling.Poisson(population=np.int64(100), rate=np.float32(0.25))
    assert json.loads(config.to_json()) == {
        "kind": "Poisson",
        "population": 100,
        "rate": 0.25,
        "cap": config.cap,
    }
    assert jf.sampling.Poisson.from_json(config.to_json()) == config


@pytest.mark.parametrize("kind", ["Fixd", "Privacy", "Sampler", None, 3])
def test_an_unknown_or_abstract_kind_is_refused(kind):
    values = {"kind": kind, "population": 3}
    with pytest.raises(ValueError, match=rf"one of .*Poisson.*, got {kind!r}; was it"):
        Configuration.from_dict(values)


def test_a_missing_kind_is_refused():
    with pytest.raises(ValueError, match="got None; was it written by a newer"):
        Configuration.from_dict({"norm": 1.0})


@pytest.mark.parametrize("config", ALL, ids=repr)
def test_another_kind_is_refused(config):
    other = (
        jf.sampling.Full if type(config) is not jf.sampling.Full else jf.noise.Gaussian
    )
    with pytest.raises(ValueError, match=f"one of {other.__name__}, got"):
        other.from_json(config.to_json())


def test_the_kinds_of_a_family_are_listed():
    with pytest.raises(
        ValueError, match=r"one of .*FixedSize, Full, .*Poisson, got 'Fixed'"
    ):
        jf.sampling.Sampler.from_json(FIXED.to_json())


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (FIXED, {"norm": -1.0}, "norm must be > 0, got -1.0"),
        (GAUSSIAN, {"multiplier": "1"}, "multiplier must be a finite number, got '1'"),
        (POISSON, {"rate": 1.5}, r"rate must be in \(0, 1\], got 1.5"),
        (POISSON, {"cap": 5}, "cap must be >= population"),
        (CENTRAL, {"delta": 2.0}, "delta must be strictly between 0 and 1, got 2.0"),
        (CENTRAL, {"noise": FIXED.to_dict()}, "noise must be a Gaussian or Skellam, "),
        (CENTRAL, {"noise": {"kind": "Nose"}}, "got 'Nose'"),
    ],
)
def test_what_is_read_is_checked_again(config, change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Configuration.from_dict(config.to_dict() | change)


def test_unknown_and_missing_fields_are_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'radius'"):
        Configuration.from_dict(FIXED.to_dict() | {"radius": 1.0})
    with pytest.raises(TypeError, match=r"missing 1 required .* 'norm'"):
        Configuration.from_dict({"kind": "Fixed"})


@pytest.mark.parametrize("text", ["privacy.json", "", "{'kind': 'Fixed'}"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError, match=r"text must be JSON, got .* not a path"):
        Configuration.from_json(text)


@pytest.mark.parametrize("text", ["[]", "3", "null"])
def test_json_of_something_else_is_refused(text):
    with pytest.raises(TypeError, match="values must be a dict, got"):
        Configuration.from_json(text)


def test_reading_runs_no_code():
    text = json.dumps({"kind": "jaxfed.data.FederatedData", "arrays": {}})
    with pytest.raises(ValueError, match="kind must be one of"):
        Configuration.from_json(text)
