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
from tests.problems import (
    logistic_loss,
    logistic_params,
    noisy_loss,
    ragged_data,
    with_domains,
)

DATA = with_domains(ragged_data())
POPULATION = DATA.num_clients
PARAMS = logistic_params()


class Case(NamedTuple):
    """One line of the table."""

    name: str
    build: Any
    keeps_client_state: bool = False
    is_random: bool = False
    """Whether the result depends on the key beyond sampling and shuffling."""
    is_nightly: bool = False
    """Whether its rounds are run with `--nightly` only."""
    has_noise: bool = False
    """Whether the release is noised, so that sums of parts do not add up."""
    has_local_noise: bool = False
    """Whether each client's contribution is noised before it is summed."""
    adds_up: bool = True
    """Whether the release is made of a sum over clients."""
    params: Any = PARAMS
    """Where the server begins."""
    may_keep_the_same: bool = False
    """Whether a client's state can be after a round what it was before."""


def poisson():
    return jf.sampling.Poisson(population=POPULATION, rate=0.6)


def central(multiplier=2.0):
    return jf.privacy.central(
        sampling=poisson(),
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=jf.noise.Gaussian(multiplier=multiplier),
        delta=1e-3,
    )


def central_with(clipping):
    return lambda: dataclasses.replace(central(), clipping=clipping)


def supposed():
    large = jf.sampling.Poisson(population=100 * POPULATION, rate=0.1)
    return dataclasses.replace(central(), sampling=large, delta=1e-4)


def correlated(noise):
    return jf.privacy.central(
        sampling=jf.sampling.Cyclic(population=POPULATION, groups=2),
        clipping=jf.clipping.Fixed(norm=0.5),
        noise=noise,
        rounds=10,
        delta=1e-3,
    )


def local(noise, clip=jf.clipping.Fixed):
    return jf.privacy.local(
        sampling=poisson(), clipping=clip(norm=0.5), noise=noise, delta=1e-3
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


def every_report():
    rule = jf.robust.TrimmedMean(fraction=0.2)
    privacy = jf.privacy.every_report(sampling=poisson(), rule=rule)
    return jf.algorithms.fedavg(sgd(), privacy)


BATCHES: dict = {"batch_size": 4, "epochs": 2}


def scaffold(option, privacy=None):
    local = jf.clients.scaffold(
        logistic_loss, learning_rate=0.2, option=option, **BATCHES
    )
    return jf.algorithms.scaffold(local, privacy or none("clients"))


def feddyn():
    local = jf.clients.dyn(logistic_loss, optax.sgd(0.2), alpha=0.3, **BATCHES)
    return jf.algorithms.feddyn(local, none("clients"))


OWN: dict = {"personal_learning_rate": 0.1, **BATCHES}


def ditto():
    local = jf.clients.ditto(logistic_loss, optax.sgd(0.2), pull=0.5, **OWN)
    return jf.algorithms.fedavg(local, none("clients"))


def apfl():
    local = jf.clients.apfl(logistic_loss, optax.sgd(0.2), mixture=0.3, **OWN)
    return jf.algorithms.fedavg(local, none())


def fedrep():
    local = jf.clients.personal_layers(
        logistic_loss, optax.sgd(0.2), private=["b"], private_steps=1, **BATCHES
    )
    return jf.algorithms.fedper(local, none())


TWO_MODELS = jax.tree.map(lambda leaf: jnp.stack([-leaf, leaf + 0.5]), PARAMS)


def ifca():
    local = jf.clients.clustered(
        logistic_loss, optax.sgd(0.2), clusters=2, batch_size=3, epochs=1
    )
    return jf.algorithms.ifca(local, none("clients"))


def fednova():
    local = jf.clients.nova(logistic_loss, learning_rate=0.2, momentum=0.5, **BATCHES)
    return jf.algorithms.fednova(local, none())


def mime(lite):
    optimizer = optax.sgd(0.2, momentum=0.5)
    local = jf.clients.mime(logistic_loss, optimizer, lite=lite, **BATCHES)
    return jf.algorithms.mime(local, none("clients"))


def with_compression(compressor, privacy=None, **options):
    local = jf.compression.compressed(sgd(), compressor, **options)
    return jf.algorithms.fedavg(local, privacy or none())


def parts():
    """Trains both numbers of a model of which a third one is frozen."""

    def loss(params, batch, key):
        scaled = {**batch, "x": batch["x"] * params["scale"]}
        return logistic_loss(params, scaled, key)

    frozen = {"w": None, "b": None, "scale": jnp.linspace(0.5, 2.0, 4)[None]}
    held = jf.parts.hold(loss, frozen)
    local = sgd(lambda params, *rest: held({**params, "scale": None}, *rest))
    return jf.algorithms.fedavg(local, none())


def lora():
    """Adapters of rank one of the kernel: w is a, and b is b."""
    model = {"kernel": jnp.linspace(-1.0, 1.0, 4)[:, None]}

    def loss(params, batch, key):
        whole = {"w": params["kernel"][:, 0], "b": jnp.zeros(())}
        return logistic_loss(whole, batch, key)

    held = jf.parts.lora.hold(loss, model, alpha=2.0)

    def adapters(params):
        kernels = {"a": params["w"][:, None], "b": params["b"][None, None]}
        return {name: {"kernel": leaf} for name, leaf in kernels.items()}

    local = sgd(lambda params, *rest: held(adapters(params), *rest))
    return jf.algorithms.fedavg(local, none())


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
    # methods that keep, send or share something of their own; then those of which the
    # server alone differs
    Case("every_report", every_report, adds_up=False, is_nightly=True),
    Case("scaffold", lambda: scaffold(2), keeps_client_state=True),
    Case(
        "dp_scaffold",
        lambda: scaffold(1, central()),
        keeps_client_state=True,
        is_random=True,
        has_noise=True,
        is_nightly=True,
    ),
    Case("feddyn", feddyn, keeps_client_state=True),
    Case("fedrep", fedrep, keeps_client_state=True, is_nightly=True),
    Case("ditto", ditto, keeps_client_state=True, is_nightly=True),
    Case("apfl", apfl, keeps_client_state=True, is_nightly=True),
    Case(
        "ifca",
        ifca,
        keeps_client_state=True,
        params=TWO_MODELS,
        may_keep_the_same=True,
        is_nightly=True,
    ),
    Case("mime", lambda: mime(False)),
    Case("mimelite", lambda: mime(True), is_nightly=True),
    Case("fednova", fednova),
    Case(
        "qffl",
        lambda: jf.algorithms.qffl(
            jf.clients.fair(logistic_loss, q=2.0, learning_rate=0.2, **BATCHES),
            none("clients"),
        ),
        is_nightly=True,
    ),
    Case(
        "afl",
        lambda: jf.algorithms.afl(
            jf.clients.agnostic(
                logistic_loss, optax.sgd(0.2), num_domains=2, **BATCHES
            ),
            none(),
            domain_learning_rate=0.5,
        ),
        is_nightly=True,
    ),
    Case(
        "fedprox",
        lambda: jf.algorithms.fedprox(
            jf.clients.prox(logistic_loss, optax.sgd(0.2), mu=0.3, **BATCHES), none()
        ),
        is_nightly=True,
    ),
    Case(
        "top_k_rotated_with_error_feedback",
        lambda: with_compression(
            jf.compression.Rotated(inner=jf.compression.TopK(fraction=0.5)),
            error_feedback=True,
        ),
        keeps_client_state=True,
        is_random=True,
    ),
    Case(
        "quantized",
        lambda: with_compression(
            jf.compression.Rotated(inner=jf.compression.StochasticQuantization(bits=3))
        ),
        is_random=True,
        is_nightly=True,
    ),
    Case(
        "top_k",
        lambda: with_compression(jf.compression.TopK(fraction=0.5)),
        is_nightly=True,
    ),
    Case(
        "dp_random_k",
        lambda: with_compression(jf.compression.RandomK(fraction=0.5), central()),
        is_random=True,
        has_noise=True,
        is_nightly=True,
    ),
    Case("fedexp", lambda: jf.algorithms.fedexp(sgd(), none()), is_nightly=True),
    Case("fedavg_of_a_part", parts, is_nightly=True),
    Case("fedavg_of_adapters", lora, is_nightly=True),
    Case(
        "fedsgd",
        lambda: jf.algorithms.fedsgd(
            jf.clients.gradient(logistic_loss, batch_size=4),
            none(),
            server_optimizer=optax.sgd(0.5),
        ),
        is_nightly=True,
    ),
    *(
        Case(
            method.__name__,
            lambda method=method: method(sgd(), none(), learning_rate=0.1),
            is_nightly=True,
        )
        for method in (
            jf.algorithms.fedavgm,
            jf.algorithms.fedadagrad,
            jf.algorithms.fedyogi,
            jf.algorithms.fedadam,
        )
    ),
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
    Case(
        "central_adaptive",
        central_with(jf.clipping.Adaptive(quantile=0.5, initial=0.3)),
        has_noise=True,
    ),
    Case(
        "central_per_layer",
        central_with(jf.clipping.PerLayer(norms={"w": 0.5, "": 0.2})),
        has_noise=True,
    ),
    Case(
        "central_scaled",
        central_with(jf.clipping.Scaled(norm=0.5, floor=0.1)),
        has_noise=True,
    ),
    Case(
        "central_fixed_size",
        lambda: jf.privacy.central(
            sampling=jf.sampling.FixedSize(population=POPULATION, size=3),
            clipping=jf.clipping.Fixed(norm=0.5),
            noise=jf.noise.Gaussian(multiplier=4.0),
            delta=1e-3,
        ),
        has_noise=True,
    ),
    Case(
        "central_skellam",
        lambda: dataclasses.replace(central(), noise=jf.noise.Skellam(multiplier=2.0)),
        has_noise=True,
    ),
    Case(
        "hypothetical",
        lambda: jf.privacy.hypothetical(supposed(), sampling=poisson()),
        has_noise=True,
    ),
    Case("blt", lambda: correlated(jf.noise.BLT(multiplier=3.0)), has_noise=True),
    Case(
        "banded",
        lambda: correlated(jf.noise.Banded(multiplier=3.0, bands=2)),
        has_noise=True,
    ),
    Case("tree", lambda: correlated(jf.noise.Tree(multiplier=3.0)), has_noise=True),
    Case("none_by_examples", none),
    Case("none_by_clients", lambda: none("clients")),
    Case(
        "local_gaussian",
        lambda: local(jf.noise.Gaussian(multiplier=6.0)),
        has_local_noise=True,
    ),
    Case(
        "local_laplace",
        lambda: local(jf.noise.Laplace(multiplier=0.5), jf.clipping.FixedL1),
        has_local_noise=True,
    ),
    Case(
        "local_privunit",
        lambda: local(jf.noise.PrivUnit(epsilon=8.0)),
        has_local_noise=True,
    ),
    Case(
        "local_calibrated",
        lambda: jf.privacy.local(
            sampling=jf.sampling.FixedSize(population=POPULATION, size=3),
            clipping=jf.clipping.Fixed(norm=2.0),
            noise=jf.noise.PrivUnit(epsilon=1.0),
        ).calibrated(epsilon=12.0, delta=0.0, rounds=3),
        has_local_noise=True,
    ),
]

SAMPLERS = [
    Case("poisson", poisson),
    Case("poisson_capped", lambda: jf.sampling.Poisson(population=9, rate=0.4, cap=4)),
    Case("full", lambda: jf.sampling.Full(population=7)),
    Case("fixed_size", lambda: jf.sampling.FixedSize(population=7, size=3)),
    Case("cyclic", lambda: jf.sampling.Cyclic(population=7, groups=3)),
    Case(
        "balls_in_bins",
        lambda: jf.sampling.BallsInBins(population=9, bins=2, cap=6),
    ),
    Case(
        "min_separation",
        lambda: jf.sampling.MinSeparation(
            population=9, size=2, separation=3, max_participations=20
        ),
    ),
]


def fedavg_with(privacy) -> FederatedAlgorithm:
    return jf.algorithms.fedavg(sgd(), privacy)


# every privacy object and every sampler also runs inside a round; these in every run of
# the tests, the others with --nightly
IN_EVERY_RUN = ("central_adaptive", "blt")
ALGORITHMS += [
    Case(
        f"fedavg_{case.name}",
        lambda case=case: fedavg_with(case.build()),
        is_random=case.has_noise or case.has_local_noise,
        has_noise=case.has_noise,
        has_local_noise=case.has_local_noise,
        is_nightly=case.name not in IN_EVERY_RUN,
    )
    for case in PRIVACY
    # the first line of the table, and a mechanism that is there already
    if case.name not in ("none_by_examples", "local_calibrated")
] + [
    Case(
        f"fedavg_{case.name}",
        lambda case=case: fedavg_with(
            jf.privacy.none(
                sampling=dataclasses.replace(case.build(), population=POPULATION)
            )
        ),
        is_nightly=case.name not in IN_EVERY_RUN,
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
