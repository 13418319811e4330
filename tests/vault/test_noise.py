"""A vault's own noise: the draws of JAX's tables, exact bounds, and no second noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxfed as jf
from jaxfed import keys
from jaxfed.noise import _alias
from jaxfed.vault import _noise, _rules, _tables
from tests.vault.test_policy import RULES

SEED = bytes(range(32))
MULTIPLIERS = (0.5, 4.0, 100.0)


def privacy_of(law, multiplier, clients=8):
    clip = jf.clipping.FixedL1 if law == "laplace" else jf.clipping.Fixed
    noise = jf.noise.Laplace if law == "laplace" else jf.noise.Gaussian
    return jf.privacy.local(
        sampling=jf.sampling.Full(population=clients),
        clipping=clip(norm=0.5),
        noise=noise(multiplier=multiplier),
    )


def rules_of(law="gaussian", multiplier=4.0, leaves=1, clients=8):
    report = privacy_of(law, multiplier, clients)._report()
    group = {"norm": 0.5, "levels": report.levels, "target": report.levels}
    given = {
        **RULES,
        "mechanism": f"local {law}",
        "noise_multiplier": multiplier,
        "noise_scale": report.scale,
        "shift": report.shift,
        "groups": [{**group, "indices": list(range(leaves)), "is_random": False}],
    }
    return _rules.read(given, leaves), report


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_draws_are_those_of_the_tables_in_jax(law):
    tables = _tables.gaussian(1e5)[0] if law == "gaussian" else _tables.laplace(1e5)
    draw = np.random.default_rng(0)
    for _, rows in tables:
        words = draw.integers(0, 1 << 32, (3, 5000), dtype=np.uint32)
        words[1:, :100] = rows.rows[1:, :1]  # words on the edge of a threshold
        wanted = _alias.of(rows).draw([jnp.asarray(one) for one in words])
        assert np.array_equal(_noise.from_table(rows, list(words)), wanted)


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_reports_of_nothing_have_the_law_of_privacy_local(law, multiplier):
    """40,000 numbers: moments to six standard errors, and the law of JAX's own.

    False alarm of each below 1e-6; noise wrong by 3 % shows with power above 0.99.
    """
    rules, report = rules_of(law, multiplier)
    size = 40_000
    found = _noise.report([np.zeros(size, np.float32)], rules, SEED)[0].astype(float)
    key = keys.simulated(1)
    own = np.asarray(report.encode({"w": jnp.zeros(size)}, key=key)["w"], float)
    scale = report.scale / 2**report.shift
    stddev = scale * (np.sqrt(2) if law == "laplace" else 1)
    kurtosis = 6 if law == "laplace" else 3
    assert abs(found.mean()) < 6 * stddev / np.sqrt(size)
    error = stddev**2 * np.sqrt((kurtosis - 1) / size)
    assert abs(found.var() - stddev**2) < 6 * error + 1
    assert stats.ks_2samp(found, own).pvalue > 1e-6
    assert np.abs(found).max() <= _noise.most_value(rules) == report.largest


def test_the_clip_is_exact_for_every_update():
    rules, _ = rules_of("gaussian", leaves=2)
    l1, _ = rules_of("laplace", leaves=2)
    draw = np.random.default_rng(1)
    for scale in (0, 1e-40, 1e-6, 0.3, 0.5, 1, 1e10, 3e38):
        for _ in range(20):
            update = [draw.normal(size=n).astype(np.float32) for n in (7, 300)]
            with np.errstate(over="ignore"):
                update = [np.float32(scale) * leaf for leaf in update]
            for one, power in ((rules, 2), (l1, 1)):
                exact = _noise._clipped(update, one)
                total = sum(abs(int(x)) ** power for leaf in exact for x in leaf)
                assert total <= one.groups[0].levels ** power
                if 0.3 <= scale < 1e10:  # and hardly shorter
                    assert total > 0.99 * one.groups[0].levels ** power or scale < 1
    for bad in (np.nan, np.inf, -np.inf):
        update = [np.ones(7, np.float32), np.full(300, bad, np.float32)]
        for one in (rules, l1):
            assert not any(leaf.any() for leaf in _noise._clipped(update, one))


def test_an_update_comes_through_without_bias():
    rules, report = rules_of("gaussian", 0.5, clients=4000)
    assert rules.shift > 0  # so that rounding is in it
    update = [np.array([0.3, -0.2, 0.1, 0.0], np.float32)]
    unit = report.unit(4)
    many = [
        _noise.report(update, rules, number.to_bytes(32, "little"))[0]
        for number in range(4000)
    ]
    mean = np.mean(many, axis=0) * unit
    error = 0.5 * 0.5 / np.sqrt(4000)  # multiplier times norm
    assert np.abs(mean - update[0]).max() < 6 * error


def test_one_seed_gives_one_report_and_another_another():
    rules, _ = rules_of(leaves=2)
    update = [np.ones(70_000, np.float32), np.ones(3, np.float32)]
    first, again = (_noise.report(update, rules, SEED) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    moved = [update[0], update[1] + np.float32(1e-3)]
    other = _noise.report(moved, rules, SEED)  # noise of its own, or a difference shows
    assert (first[0] != other[0]).mean() > 0.99
    other = _noise.report(update, rules, SEED[::-1])
    assert (first[0] != other[0]).mean() > 0.99
    assert (first[0][:3] != first[1]).all()  # no two arrays or blocks share noise
    assert (first[0][:4000] != first[0][65536:69536]).mean() > 0.99


def test_noise_is_as_private_as_it_says():
    """The vault's own scale is the one that is accounted, to the last bit."""
    for law in ("gaussian", "laplace"):
        privacy = privacy_of(law, 4.0)
        rules, report = rules_of(law, 4.0)
        assert rules.noise_scale == report.scale == 4.0 * report.levels
        assert privacy._report().sampler.scale == rules.noise_scale
    assert jax.tree.leaves(rules.groups)
