"""The table: each new algorithm, privacy object or sampler is one line in it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxfed as jf
from jaxfed import tree
from jaxfed.typing import (
    Batching,
    ClientResult,
    FederatedAlgorithm,
    LocalWork,
    Shared,
)
from tests.problems import logistic_loss, logistic_params, noisy_loss, ragged_data

DATA = ragged_data()
POPULATION = DATA.num_clients
PARAMS = logistic_params()


class Case(NamedTuple):
    """One line of the table."""

    name: str
    build: Any
    keeps_client_state: bool = False
    is_random: bool = False
    """Whether the result depends on the key beyond sampling and shuffling."""
    has_noise: bool = False
    """Whether the release is noised, so that sums of parts do not add up."""


def poisson():
    return jf.sampling.Poisson(population=POPULATION, rate=0.6)


def central(multiplier=0.5):
    return jf.privacy.central(
        sampling=poisson(),
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=jf.noise.Gaussian(multiplier=multiplier),
        delta=1e-3,
    )


def none(weighting="examples"):
    return jf.privacy.none(sampling=poisson(), weighting=weighting)


def sgd(loss=logistic_loss, **options):
    settings: dict = {"batch_size": 4, "epochs": 2}
    optimizer = options.pop("optimizer", None) or optax.sgd(0.2)
    return jf.clients.sgd(loss, optimizer, **(settings | options))


def personal_offset() -> LocalWork:
    """A toy that uses both extension slots: it keeps a count and reads `extra`."""

    def init(shared, client_state):
        return shared, client_state["rounds"], jnp.zeros((), jnp.float32)

    def step(carry, batch, *, key):
        del key
        shared, rounds, seen = carry
        seen = seen + jnp.sum(batch.is_real).astype(jnp.float32)
        return (shared, rounds, seen), {"seen": seen}

    def finish(shared, carry):
        _, rounds, seen = carry
        size = 0.01 * (rounds + 1.0) * seen * shared.extra
        update = jax.tree.map(lambda a: jnp.full_like(a, size), shared.params)
        return ClientResult(update, seen, {"rounds": rounds + 1.0})

    return LocalWork(
        init=init,
        step=step,
        finish=finish,
        batching=Batching(batch_size=4, epochs=1),
        init_client=lambda params: {"rounds": jnp.zeros((), jnp.float32)},
        name="personal_offset",
    )


def with_extra() -> FederatedAlgorithm:
    """Broadcasts a scalar beside the parameters and keeps state on the clients."""
    base = jf.algorithms.fedavg(personal_offset(), none("clients"))
    return base._replace(
        init=lambda params: (base.init(params), jnp.ones((), jnp.float32)),
        broadcast=lambda state: Shared(state[0].params, state[1]),
        apply=lambda state, released: (base.apply(state[0], released), state[1] * 0.5),
        name="with_extra",
    )


ALGORITHMS = [
    Case("fedavg", lambda: jf.algorithms.fedavg(sgd(), none())),
    Case("fedavg_uniform", lambda: jf.algorithms.fedavg(sgd(), none("clients"))),
    Case(
        "fedavg_steps",
        lambda: jf.algorithms.fedavg(sgd(epochs=None, steps=3), none()),
    ),
    Case(
        "fedavg_momentum",
        lambda: jf.algorithms.fedavg(
            sgd(optimizer=optax.sgd(0.2, momentum=0.9)),
            none(),
            server_optimizer=optax.sgd(0.5, momentum=0.9),
        ),
    ),
    Case(
        "fedavg_random_loss",
        lambda: jf.algorithms.fedavg(sgd(noisy_loss), none()),
        is_random=True,
    ),
    Case(
        "dp_fedavg",
        lambda: jf.algorithms.fedavg(sgd(), central()),
        is_random=True,
        has_noise=True,
    ),
    Case("both_extension_slots", with_extra, keeps_client_state=True),
]

PRIVACY = [
    Case("central", central, has_noise=True),
    Case("central_without_noise", lambda: central(0.0)),
    Case(
        "central_calibrated",
        lambda: jf.privacy.central(
            sampling=jf.sampling.Full(population=POPULATION),
            clipping=jf.clipping.Fixed(norm=2.0),
            noise=jf.noise.Gaussian(multiplier=1.0),
        ).calibrated(epsilon=2.0, delta=1e-4, rounds=5),
        has_noise=True,
    ),
    Case("none_by_examples", none),
    Case("none_by_clients", lambda: none("clients")),
]

SAMPLERS = [
    Case("poisson", poisson),
    Case("poisson_capped", lambda: jf.sampling.Poisson(population=9, rate=0.4, cap=4)),
    Case("full", lambda: jf.sampling.Full(population=7)),
    Case("fixed_size", lambda: jf.sampling.FixedSize(population=7, size=3)),
]


def fedavg_with(privacy) -> FederatedAlgorithm:
    return jf.algorithms.fedavg(sgd(), privacy)


# every privacy object and every sampler also runs inside a round
ALGORITHMS += [
    Case(
        f"fedavg_{case.name}",
        lambda case=case: fedavg_with(case.build()),
        is_random=case.has_noise,
        has_noise=case.has_noise,
    )
    for case in PRIVACY
    if case.name != "none_by_examples"  # the first line of the table
] + [
    Case(
        f"fedavg_{case.name}",
        lambda case=case: fedavg_with(
            jf.privacy.none(
                sampling=dataclasses.replace(case.build(), population=POPULATION)
            )
        ),
    )
    for case in SAMPLERS
]


def assert_trees_equal(left, right, **tolerance):
    """Compares two pytrees: exactly, or within a tolerance."""
    import numpy as np

    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, **({"rtol": 0, "atol": 0} | tolerance))


def distance(left, right):
    """Returns the L2 distance of two pytrees."""
    return float(jnp.sqrt(tree.sum_of_squares(tree.subtract(left, right))))
