"""All strategies train the same clients on the same batches with the same keys."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from tests.problems import flat, logistic_params, noisy_loss, ragged_data

ROOT = pathlib.Path(__file__).parents[2]
SIZES = (7, 1, 3, 12, 5, 2, 33, 8, 9, 21)
ROUNDS = 3
# client updates differ by the order in which a batch is summed: a few units in the
# last place of float32 a step
TOLERANCE = 2e-6
STRATEGIES = {
    "one lane": {"executor": "loop", "lanes": 1, "batch_widths": (4,)},
    "narrow batches": {"executor": "loop", "lanes": 1, "batch_widths": (4, 2, 1)},
    "three lanes": {"executor": "loop", "lanes": 3},
    "more lanes than clients": {"executor": "loop", "lanes": 64},
    "stepped": {"executor": "stepped", "lanes": 1, "batch_widths": (4, 2)},
    "stepped lanes": {"executor": "stepped", "lanes": 2},
    "blocks": {"executor": "loop", "lanes": 2, "block_clients": 4},
    "streamed": {
        "executor": "loop",
        "lanes": 2,
        "block_clients": 4,
        "resident_bytes": 9,
    },
    "stepped, streamed": {
        "executor": "stepped",
        "lanes": 1,
        "block_clients": 4,
        "resident_bytes": 9,
    },
}


def counting(work):
    """Local work whose clients count their rounds, and keep an array of no elements."""
    nothing = jnp.zeros((0, 2))

    def finish(shared, carry):
        result = work.finish(shared, carry[0])
        kept = {"rounds": carry[1] + 1, "nothing": nothing}
        return result._replace(client_state=kept)

    return work._replace(
        init=lambda shared, state: (work.init(shared, ()), state["rounds"]),
        step=lambda carry, batch, *, key: _first(
            work.step(carry[0], batch, key=key), carry
        ),
        finish=finish,
        init_client=lambda params: {
            "rounds": jnp.zeros((), jnp.int32),
            "nothing": nothing,
        },
    )


def _first(result, carry):
    return (result[0], carry[1]), result[1]


def algorithm(*, is_private=True):
    sampling = jf.sampling.Poisson(population=len(SIZES), rate=0.7)
    privacy = jf.privacy.none(sampling=sampling)
    if is_private:
        privacy = jf.privacy.central(
            sampling=sampling,
            clipping=jf.clipping.Fixed(norm=0.5),
            noise=jf.noise.Gaussian(multiplier=1.0),
        )
    local = jf.clients.sgd(noisy_loss, optax.sgd(0.1), batch_size=4, epochs=2)
    return jf.algorithms.fedavg(counting(local), privacy)


def run(strategy, *, is_private=True):
    """Returns parameters, clients' rounds and the private facts of each round."""
    history = jf.simulate(
        algorithm(is_private=is_private),
        ragged_data(SIZES),
        params=logistic_params(),
        rounds=ROUNDS,
        seed=3,
        progress=False,
        strategy=strategy,
    )
    counts = history.client_states(np.arange(len(SIZES)))["rounds"]
    facts = [record.private for record in history.rounds]
    return flat(history.params).tolist(), counts.tolist(), facts


def assert_same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], atol=TOLERANCE, rtol=0)
    assert found[1] == expected[1]
    for ours, theirs in zip(found[2], expected[2], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.fixture(scope="module")
def expected():
    return {
        private: run(jf.Strategy(executor="loop", lanes=2), is_private=private)
        for private in (True, False)
    }


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_agree(name, expected):
    assert sum(expected[False][1]) > len(SIZES)  # clients do come, and come again
    found = run(jf.Strategy(**STRATEGIES[name]), is_private=False)
    assert_same(found, expected[False])


@pytest.mark.parametrize("name", ["narrow batches", "stepped", "streamed"])
def test_strategies_agree_with_privacy(name, expected):
    assert_same(run(jf.Strategy(**STRATEGIES[name])), expected[True])


DEVICES = """
    import json, sys
    import jax
    import jaxfed as jf

    assert jf.use_cores(3) == 3
    sys.path.insert(0, {root!r})
    import conftest
    from tests.engine import test_strategies as t

    assert jax.device_count() == 3
    out = {{}}
    for name in ("one lane", "three lanes", "blocks", "streamed", "stepped, streamed"):
        out[name] = t.run(jf.Strategy(**t.STRATEGIES[name]))
    two = jf.Strategy(executor="loop", lanes=1, devices=2)
    out["two devices"] = t.run(two)
    print(json.dumps(out))
"""


@pytest.mark.slow
def test_devices_change_nothing(expected, tmp_path):
    program = textwrap.dedent(DEVICES).format(root=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 6
    for values in found.values():
        assert_same(values, expected[True])


def given_updates(options):
    """Returns the parameters after rounds of updates that nobody rounds differently."""
    from tests.hazards.problems import says

    data = jf.data.FederatedData.from_arrays(
        {"update": np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)},
        client=np.arange(40),
    )
    privacy = jf.privacy.central(
        sampling=jf.sampling.Full(population=40),
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=1.0),
    )
    params = {"w": jnp.zeros(4), "b": jnp.zeros(())}
    history = jf.simulate(
        jf.algorithms.fedavg(says(params), privacy),
        data,
        params=params,
        rounds=2,
        seed=1,
        progress=False,
        strategy=jf.Strategy(**options),
    )
    return [np.asarray(leaf) for leaf in jax.tree.leaves(history.params)]


def test_sums_of_given_updates_have_the_same_bits():
    """Updates that no strategy can round differently give the same noised bits."""
    first, *others = [
        given_updates(options)
        for options in (
            {"executor": "loop", "lanes": 1},
            {"executor": "loop", "lanes": 7, "block_clients": 14},
            {"executor": "stepped", "lanes": 3},
        )
    ]
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "pmap"}, "executor must be one of"),
        ({"lanes": 0}, "lanes must be"),
        ({"batch_widths": (2, 4)}, "batch_widths must fall"),
        ({"batch_widths": ()}, "batch_widths must fall"),
        ({"resident_bytes": -1}, "resident_bytes must be"),
    ],
)
def test_wrong_strategies_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jf.Strategy(**options)


def test_widths_must_be_several():
    with pytest.raises(TypeError, match=r"batch_widths must be a tuple.*\(20, 10\)"):
        jf.Strategy(batch_widths=4)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("fast", "strategy must be one of"),
        (jf.Strategy(devices=64), "devices must be at most"),
        (jf.Strategy(batch_widths=(3, 1)), "batch_widths must start with the widest"),
    ],
)
def test_strategies_that_do_not_fit_are_refused(strategy, message):
    with pytest.raises(ValueError, match=message):
        jf.simulate(
            algorithm(is_private=False),
            ragged_data(SIZES),
            params=logistic_params(),
            rounds=1,
            seed=0,
            strategy=strategy,
        )


def test_cores_are_asked_for_before_jax_starts():
    jax.devices()
    with pytest.raises(RuntimeError, match="before JAX starts"):
        jf.use_cores(2)
