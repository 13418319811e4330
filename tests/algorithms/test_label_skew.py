"""FedLC and FedRS equal their formulas, and help where labels are skewed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxfed as jf
from jaxfed import clients
from jaxfed.deploy._export import export

CLASSES, FEATURES, HIDDEN = 10, 20, 32


def given_scores(params, batch, key):
    """The scores are data, so that a loss can be looked at alone."""
    del key
    return batch["scores"] + params[None]


def rows_of(seed, counts, size=6, classes=4):
    draw = np.random.default_rng(seed)
    present = np.flatnonzero(counts)
    return {
        "scores": draw.normal(0, 3, (size, classes)).astype(np.float32),
        "y": draw.choice(present, size).astype(np.int32),
        "label_counts": np.tile(np.asarray(counts, np.float32), (size, 1)),
    }


def value(loss, rows):
    found, metrics = loss(
        jnp.zeros(rows["scores"].shape[1]), jax.tree.map(jnp.asarray, rows), None
    )
    assert metrics == {}
    return float(found)


def cross_entropy(scores, labels):
    """In float64."""
    peak = scores.max(axis=1, keepdims=True)
    normal = peak[:, 0] + np.log(np.exp(scores - peak).sum(axis=1))
    return np.mean(normal - scores[np.arange(len(labels)), labels])


COUNTS = st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any)


@settings(max_examples=20, deadline=None)
@given(counts=COUNTS, tau=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 99))
def test_fedlc_is_its_formula(counts, tau, seed):
    rows = rows_of(seed, counts)
    margin = tau * np.maximum(np.array(counts, float), 1e-8) ** -0.25
    wanted = cross_entropy(rows["scores"].astype(float) - margin, rows["y"])
    found = value(clients.fedlc_loss(given_scores, tau=tau), rows)
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(counts=COUNTS, alpha=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99))
def test_fedrs_is_its_formula(counts, alpha, seed):
    rows = rows_of(seed, counts)
    factor = np.where(np.array(counts) > 0, 1.0, alpha)
    wanted = cross_entropy(rows["scores"].astype(float) * factor, rows["y"])
    found = value(clients.fedrs_loss(given_scores, alpha=alpha), rows)
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_with_even_counts_both_are_cross_entropy():
    rows = rows_of(0, [7, 7, 7, 7])
    wanted = cross_entropy(rows["scores"].astype(float), rows["y"])
    for loss in (clients.fedlc_loss, clients.fedrs_loss):
        assert value(loss(given_scores), rows) == pytest.approx(wanted, rel=1e-6)


def test_labels_that_are_not_there_are_pushed_down_less():
    """The gradient on their scores: next to none, and half."""
    rows = jax.tree.map(jnp.asarray, rows_of(0, [5, 0, 3, 0]))
    zeros = jnp.zeros(4)

    def pushed(loss):
        return jax.grad(lambda params: loss(params, rows, None)[0])(zeros)

    plain = pushed(clients.fedrs_loss(given_scores, alpha=1.0))
    calibrated = pushed(clients.fedlc_loss(given_scores, tau=1.0))
    restricted = pushed(clients.fedrs_loss(given_scores, alpha=0.0))
    for absent in (1, 3):
        assert plain[absent] > 0.01
        assert abs(calibrated[absent]) < 1e-6
        assert restricted[absent] == 0
    assert np.isfinite(calibrated).all()


def scores(params, batch, key):
    del key
    hidden = jax.nn.relu(batch["x"] @ params["w1"] + params["b1"][None])
    return hidden @ params["w2"] + params["b2"][None]


def params_of(seed):
    draw = np.random.default_rng(seed)
    shapes = {
        "w1": (FEATURES, HIDDEN),
        "b1": (HIDDEN,),
        "w2": (HIDDEN, CLASSES),
        "b2": (CLASSES,),
    }
    return {
        name: jnp.asarray((0.2 * draw.normal(size=shape)).astype(np.float32))
        for name, shape in shapes.items()
    }


def rows_with(centres, count, draw):
    y = draw.integers(0, CLASSES, count).astype(np.int32)
    return (centres[y] + draw.normal(size=(count, FEATURES))).astype(np.float32), y


@functools.cache
def skewed(seed):
    """Ten normal classes, divided among twenty clients by Dirichlet(0.3)."""
    draw = np.random.default_rng(seed)
    centres = 0.7 * draw.normal(size=(CLASSES, FEATURES))
    x, y = rows_with(centres, 3000, draw)
    client = jf.data.partition.dirichlet_over_clients(
        y, num_clients=20, concentration=0.3, seed=seed
    )
    data = jf.data.FederatedData.from_arrays({"x": x, "y": y}, client=client)
    data = jf.data.with_label_counts(data, num_classes=CLASSES)
    return data, *rows_with(centres, 2000, draw)


def local_of(loss):
    return clients.sgd(loss, optax.sgd(0.1), batch_size=20, epochs=5)


@pytest.mark.parametrize(
    ("loss", "name", "plain", "corrected"),
    [(clients.fedlc_loss, "tau", 0.0, 1.0), (clients.fedrs_loss, "alpha", 1.0, 0.5)],
)
def test_they_help_where_labels_are_skewed(loss, name, plain, corrected):
    """Accuracy after ten rounds, five of twenty clients in each; over six seeds.

    Seeds draw the same cohorts with and without: what is looked at is their difference.
    """
    data, x, y = skewed(1)
    sampling = jf.sampling.FixedSize(population=20, size=5)
    none = jf.privacy.none(sampling=sampling)

    def accuracy(params):
        found = jnp.argmax(scores(params, {"x": jnp.asarray(x)}, None), axis=1)
        return {"accuracy": jnp.mean((found == y).astype(jnp.float32))}

    swept = jf.sweep(
        lambda **given: jf.algorithms.fedavg(local_of(loss(scores, **given)), none),
        data,
        params=params_of(1),
        rounds=10,
        seeds=range(6),
        settings={name: [plain, corrected]},
        evaluate=accuracy,
    )
    rows = swept.table("accuracy", largest=True)
    found = {row.values[name]: row.mean for row in rows}
    assert found[corrected] > found[plain] + 0.01


def test_they_run_on_vaults():
    """A plan is compared with JAX where it is made."""
    data, _, _ = skewed(0)
    for loss in (clients.fedlc_loss, clients.fedrs_loss):
        none = jf.privacy.none(sampling=jf.sampling.Full(population=data.num_clients))
        algorithm = jf.algorithms.fedavg(local_of(loss(scores)), none)
        assert export(algorithm, data, params_of(0))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: clients.fedlc_loss(scores, tau=-1), ValueError, "tau must be >= 0"),
        (lambda: clients.fedrs_loss(scores, alpha=2), ValueError, r"in \[0, 1\]"),
        (lambda: clients.fedlc_loss(3), TypeError, "scores_fn must be a function"),
        (
            lambda: clients.fedlc_loss(scores)(params_of(0), {"x": 0, "y": 0}, None),
            ValueError,
            "must have the array 'label_counts', got x, y",
        ),
        (
            lambda: clients.fedlc_loss(lambda params, batch, key: jnp.zeros((3, 1)))(
                {}, {"y": 0, "label_counts": jnp.zeros((3, 4))}, None
            ),
            ValueError,
            r"scores must be \(rows, 4\)",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()
