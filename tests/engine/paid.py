"""A small problem, and runs of it that a ledger pays for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.ledger import Ledger

CLIENTS, DIMENSION = 40, 5
LOOP = jf.engine.Strategy(executor="loop", lanes=8, devices=1)


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(1)
    x = draw.normal(size=(3 * CLIENTS, DIMENSION)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.float32)
    return jf.data.FederatedData.from_arrays(
        {"x": x, "y": y}, client=np.repeat(np.arange(CLIENTS), 3)
    )


def loss(params, batch, key):
    del key
    logits = batch["x"] @ params["w"]
    return optax.sigmoid_binary_cross_entropy(logits, batch["y"]).mean(), {}


LOCAL = jf.clients.sgd(loss, optax.sgd(0.1), epochs=1, batch_size=2)
PARAMS = {"w": jnp.zeros(DIMENSION)}
POISSON = jf.sampling.Poisson(population=CLIENTS, rate=0.5)
CYCLIC = jf.sampling.Cyclic(population=CLIENTS, groups=4)
FIXED = jf.clipping.Fixed(norm=1.0)


def central(sampling=POISSON, clipping=FIXED, noise=None, rounds=None):
    return jf.privacy.central(
        sampling=sampling,
        clipping=clipping,
        noise=noise or jf.noise.Gaussian(multiplier=1.0),
        delta=1e-3,
        rounds=rounds,
    )


ADAPTIVE = central(clipping=jf.clipping.Adaptive(quantile=0.5, initial=0.1))


@functools.cache  # one object compiles once
def averaging(privacy=ADAPTIVE, local=LOCAL):
    return jf.algorithms.fedavg(
        local, privacy, server_optimizer=optax.sgd(0.5, momentum=0.9)
    )


def ledger(folder, epsilon=200.0, **terms):
    path = folder / "budget.db"
    Ledger.create(path, epsilon=epsilon, delta=1e-3, **terms).close()
    return path


def train(data, path, algorithm=None, rounds=4, params=PARAMS, **options):
    return jf.train(
        algorithm or averaging(),
        data,
        params=params,
        rounds=rounds,
        ledger=path,
        **({"progress": False} | options),
    )


def bits(values):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(values)]


def kinds(path):
    with Ledger.open(path, read_only=True) as opened:
        return [entry.kind for entry in opened.history()]


class Killed(BaseException):
    """Ends a run where it is."""


def dies_after(rounds):
    def callback(history):
        if len(history.rounds) == rounds:
            raise Killed

    return callback
