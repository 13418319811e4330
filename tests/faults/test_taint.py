"""No client's value is in anything that comes out of a release."""

import logging
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from tests.faults import tainted

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CLIENTS = 30


@pytest.fixture
def listed(tmp_path_factory, monkeypatch):
    """The file in which canaries are noted."""
    path = tmp_path_factory.mktemp("canaries") / "list"
    path.touch()
    monkeypatch.setenv("JAXFED_TEST_CANARIES", str(path))


def test_the_search_finds_what_is_there(listed):
    data = jf.data.FederatedData.from_arrays(
        {"x": np.full((4, 2), 0.25, np.float32)}, client=np.arange(4)
    )
    (canary,) = set(tainted.tainted(data).arrays["x"].ravel()) - {np.float32(0.25)}
    assert tainted.canaries() == [canary]
    texts = {
        "digits": f"loss {canary!s}".encode(),
        "bytes": b"x" + np.array([1, canary], np.float32).tobytes(),
        "float64": np.float64(canary).tobytes(),
        "others": b"0.2503 0.25" + np.ones(3).tobytes(),
    }
    assert tainted.leaks(texts) == ["digits", "bytes", "float64"]


def loss(params, batch, key):
    del key
    logits = batch["x"] @ params["w"]
    return optax.sigmoid_binary_cross_entropy(logits, batch["y"]).mean(), {}


def right(params, rows):
    return {"right": jnp.where(rows["x"] @ params["w"] > 0, rows["y"], 0.0)}


def mechanism(sampling, norm):
    return jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Gaussian(multiplier=1.0),
        delta=1e-3,
    )


def release(data, folder):
    """Uses everything that releases something, and fails once."""
    poisson = mechanism(jf.sampling.Poisson(population=CLIENTS, rate=0.5), 1.0)
    full = mechanism(jf.sampling.Full(population=CLIENTS), 3.0)
    local = jf.clients.sgd(loss, optax.sgd(0.1), epochs=1, batch_size=2)
    algorithm = jf.algorithms.fedavg(local, poisson)
    with jf.Ledger.create(folder / "b.db", epsilon=90.0, delta=1e-3) as ledger:
        ledger.plan(poisson, rounds=4, name="training")
        looks = jf.queries.evaluation(
            right, data, bounds={"right": (0, 1)}, privacy=full, looks=4, ledger=ledger
        )
        mean = jf.queries.mean(
            data, "x", lower=-3, upper=3, privacy=full, ledger=ledger
        )
        history = jf.train(
            algorithm,
            data,
            params={"w": jnp.zeros(5)},
            rounds=4,
            ledger=ledger,
            checkpoint=jf.Checkpoint(directory=folder / "saved", every=1, keep=9),
            evaluate=looks,
            progress=False,
        )
        with pytest.raises(jf.ledger.BudgetExhausted) as refused:
            ledger.charge("training" if ledger.remaining(poisson) else poisson)
        ledger.export(folder / "export.json")
    history.to_csv(folder / "history.csv")
    history.to_json(folder / "history.json")
    return f"{history!r}{history.statement}{mean!r}{refused.value}{ledger!r}"


def test_a_canary_is_in_nothing_that_is_released(listed, tmp_path, caplog, capfd):
    draw = np.random.default_rng(3)
    x = draw.normal(size=(2 * CLIENTS, 5)).astype(np.float32)
    data = jf.data.FederatedData.from_arrays(
        {"x": x, "y": (x[:, 0] > 0).astype(np.float32)},
        client=np.repeat(np.arange(CLIENTS), 2),
    )
    data = tainted.tainted(data)
    assert len(tainted.canaries()) == 2
    with caplog.at_level(logging.DEBUG):
        shown = release(data, tmp_path)
    texts = tainted.outputs(tmp_path)
    assert {"b.db", "b.db-secret", "history.json", "export.json"} <= set(texts)
    assert any(name.startswith("saved/4/arrays") for name in texts)
    printed = capfd.readouterr()
    texts |= {"shown": shown.encode(), "log": caplog.text.encode()}
    texts |= {"stdout": printed.out.encode(), "stderr": printed.err.encode()}
    assert tainted.leaks(texts) == []


@pytest.mark.nightly
@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_examples_leak_nothing(example, listed):
    """`.ci/run` runs every example but the first in this way."""
    code, shown, leaks = tainted.run(str(example))
    assert code == 0, shown.decode()[-3000:]
    assert leaks == []
