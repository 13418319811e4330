"""Attackers send what an attack says, in every engine, and nobody else notices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed import attacks
from jaxfed.typing import Batch, Batching, ClientResult, LocalWork, Shared
from tests.algorithms.test_methods import plans
from tests.problems import (
    flat,
    logistic_loss,
    logistic_params,
    noisy_loss,
    ragged_data,
)
from tests.reference import fedavg as twin

DATA, PARAMS = ragged_data((7, 1, 3, 12, 5, 2, 4, 6, 3, 8)), logistic_params()
HOSTILE = ["client-3", "client-8"]  # a fifth
BATCHES: dict = {"batch_size": 3, "epochs": 2}
SAMPLING = jf.sampling.FixedSize(population=DATA.num_clients, size=6)
ENGINES = {
    "alone": jf.Strategy(executor="loop", lanes=1),
    "side_by_side": jf.Strategy(executor="loop", lanes=3),
    "stepped": jf.Strategy(executor="stepped", lanes=2),
}
ATTACKS = {
    "sign_flip": attacks.sign_flip,
    "scaled": lambda local: attacks.scaled(local, factor=6.0),
    "gaussian_noise": lambda local: attacks.gaussian_noise(local, deviation=0.5),
}


def sgd(loss=logistic_loss):
    return jf.clients.sgd(loss, optax.sgd(0.2), **BATCHES)


def run(local, data, *, rounds=3, strategy="auto", weighting="examples"):
    privacy = jf.privacy.none(sampling=SAMPLING, weighting=weighting)
    algorithm = jf.algorithms.fedavg(local, privacy)
    return jf.simulate(
        algorithm,
        data,
        params=PARAMS,
        rounds=rounds,
        seed=3,
        strategy=strategy,
        progress=False,
    )


def slow(change, rounds=3):
    """Federated averaging in NumPy, in which hostile clients change their update."""
    weights = flat(PARAMS)
    hostile = {list(DATA.client_ids).index(name) for name in HOSTILE}
    seen = 0
    for cohort in plans(DATA, SAMPLING, Batching(**BATCHES), rounds=rounds, seed=3):
        batches = twin.batches_of(DATA, cohort)
        updates = [
            twin.client_update(weights, found, learning_rate=0.2)
            for found in batches.values()
        ]
        seen += len(hostile & set(batches))
        updates = [
            change(one) if number in hostile else one
            for number, one in zip(batches, updates, strict=True)
        ]
        sizes = [DATA.client_sizes[number] for number in batches]
        weights = weights + twin.weighted_mean(updates, sizes)
    assert seen >= 2  # of rounds * 6 places
    return weights


@pytest.mark.parametrize(
    ("attack", "change", "engine"),
    [
        (attacks.sign_flip, lambda update: -update, "alone"),
        (attacks.sign_flip, lambda update: -update, "side_by_side"),
        (attacks.sign_flip, lambda update: -update, "stepped"),
        (ATTACKS["scaled"], lambda update: 6.0 * update, "stepped"),
    ],
)
def test_a_fifth_of_the_clients_changes_the_mean_as_the_slow_twin_says(
    attack, change, engine
):
    data = attacks.marked(DATA, attackers=HOSTILE)
    history = run(attack(sgd()), data, strategy=ENGINES[engine])
    wanted = slow(change)
    np.testing.assert_allclose(flat(history.params), wanted, atol=1e-5, rtol=0)
    assert np.abs(wanted - slow(lambda update: update)).max() > 0.05


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("gaussian_noise", "alone"),
        ("scaled", "side_by_side"),
        ("gaussian_noise", "stepped"),
    ],
)
def test_without_attackers_nothing_changes_bit_for_bit(name, engine):
    """Draws of the loss included: this one has a dropout of its own."""
    loss = noisy_loss
    plain = run(sgd(loss), DATA, strategy=ENGINES[engine])
    data = attacks.marked(DATA, attackers=[])
    wrapped = run(ATTACKS[name](sgd(loss)), data, strategy=ENGINES[engine])
    for one, other in zip(
        jax.tree.leaves(plain.params), jax.tree.leaves(wrapped.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(plain.rounds, wrapped.rounds, strict=True):
        assert one.private == other.private


def sent(local, data, *, strategy):
    """Returns what each client sends in a round, by its number."""
    received = {}

    def noting(shared, carry):
        result = local.finish(shared, carry)

        def note(number, update):
            received[int(number)] = flat(update)

        jax.debug.callback(note, result.weight, result.update)
        return result

    run(local._replace(finish=noting), data, rounds=1, strategy=strategy)
    jax.effects_barrier()
    return received


def test_noise_replaces_the_update_of_attackers_alone():
    """Clients have sizes of their own here, which tell them apart."""
    data = ragged_data((7, 1, 3, 12, 5, 2, 4, 6, 10, 8))
    everybody = [name for name in data.client_ids if name != "client-8"]
    noisy = attacks.gaussian_noise(sgd(), deviation=100.0)
    strategy = ENGINES["side_by_side"]
    found = sent(noisy, attacks.marked(data, attackers=everybody), strategy=strategy)
    honest = sent(sgd(), data, strategy=strategy)
    found = {size: update for size, update in found.items() if size in honest}
    draws = np.array([found[size] for size in found if size != 10])
    assert len(draws) >= 5
    assert np.unique(draws).size == draws.size  # no two alike
    # 25 draws and more of N(0, 1): the root of their mean square within 5 deviations
    assert 0.3 < np.sqrt(np.mean((draws / 100) ** 2)) < 1.7
    assert abs(np.mean(draws / 100)) < 1.0
    if 10 in honest:
        np.testing.assert_array_equal(found[10], honest[10])


def test_noise_differs_between_rounds_and_seeds_and_repeats():
    local = attacks.gaussian_noise(sgd(), deviation=2.0)
    root = jf.keys.simulated(0)

    @jax.jit
    def one(key):
        mark = jnp.ones(3, bool)
        rows = {"x": jnp.ones((3, 4)), "y": jnp.ones(3, jnp.int32), "attacker": mark}
        shared = Shared(PARAMS)
        carry = local.init(shared, ())
        batch = Batch(rows, mark, jnp.int32(3))
        carry, _ = local.step(carry, batch, key=jf.keys.for_leaf(key, 0))
        carry, _ = local.step(carry, batch, key=jf.keys.for_leaf(key, 1))
        update = local.finish(shared, carry).update
        return jnp.append(update["w"], update["b"])

    other = jf.keys.secure(bytes(range(32)), context=b"any kind of key will do")
    draws = np.array([one(jf.keys.for_round(root, index)) for index in range(400)])
    assert (one(jf.keys.for_round(root, 0)) == draws[0]).all()
    assert np.unique(draws).size == 2000
    assert np.isfinite(one(other)).all()
    # 2000 draws: the standard deviation is good to 1.6 %, so that 10 % is six of them
    assert np.std(draws) == pytest.approx(2.0, rel=0.1)
    assert abs(np.mean(draws)) < 6 * 2.0 / np.sqrt(2000)


def test_padding_marks_nobody():
    """Rows that are not real may be another client's, hostile ones included."""
    local = attacks.scaled(sgd(), factor=100.0)
    rows = {"x": jnp.ones((2, 4)), "y": jnp.ones(2, jnp.int32)}
    updates = []
    for mark in ([False, False], [False, True], [True, False]):
        shared = Shared(PARAMS)
        batch = Batch(
            {**rows, "attacker": jnp.array(mark)},
            jnp.array([True, False]),
            jnp.int32(1),
        )
        carry = local.init(shared, ())
        carry, _ = local.step(carry, batch, key=jf.keys.simulated(0))
        updates.append(flat(local.finish(shared, carry).update))
    np.testing.assert_array_equal(updates[0], updates[1])
    np.testing.assert_allclose(updates[2], 100 * updates[0], rtol=1e-6)


def test_all_else_is_carried_over():
    """What a method keeps, sends and asks for; all that it sends is changed."""
    scaffold = jf.clients.scaffold(logistic_loss, learning_rate=0.2, **BATCHES)
    wrapped = attacks.sign_flip(scaffold, scale=3.0)
    changed = {"init", "step", "finish", "validate", "name"}
    for field in LocalWork._fields:
        is_same = getattr(wrapped, field) is getattr(scaffold, field)
        assert is_same == (field not in changed), field
    assert wrapped.name == f"sign_flip({scaffold.name}, scale=3.0)"
    everybody = jf.sampling.Full(population=DATA.num_clients)
    privacy = jf.privacy.none(sampling=everybody, weighting="clients")

    def after(local, data):
        history = jf.simulate(
            jf.algorithms.scaffold(local, privacy),
            data,
            params=PARAMS,
            rounds=1,
            seed=0,
            progress=False,
        )
        return flat(history.params) - flat(PARAMS)

    alone = after(scaffold, DATA)
    everyone = attacks.marked(DATA, attackers=DATA.client_ids)
    np.testing.assert_allclose(after(wrapped, everyone), -3 * alone, atol=1e-5)


def test_what_a_client_keeps_and_weighs_is_honest():
    def finish(shared, carry):
        del carry
        return ClientResult(shared.params, jnp.float32(7), {"kept": jnp.float32(5)})

    local = LocalWork(
        init=lambda shared, kept: (),
        step=lambda carry, batch, *, key: (carry, {}),
        finish=finish,
        batching=Batching(batch_size=2, epochs=1),
    )
    wrapped = attacks.scaled(local, factor=2.0)
    batch = Batch({"attacker": jnp.ones(2, bool)}, jnp.ones(2, bool), jnp.int32(2))
    carry, _ = wrapped.step(
        wrapped.init(Shared(PARAMS), ()), batch, key=jf.keys.simulated(0)
    )
    result = wrapped.finish(Shared(PARAMS), carry)
    np.testing.assert_allclose(flat(result.update), 2 * flat(PARAMS), rtol=1e-6)
    assert (float(result.weight), float(result.client_state["kept"])) == (7.0, 5.0)


def test_the_loss_never_sees_who_is_hostile():
    seen = set()

    def loss(params, batch, key):
        seen.update(batch)
        return logistic_loss(params, batch, key)

    run(attacks.sign_flip(sgd(loss)), attacks.marked(DATA, attackers=HOSTILE))
    assert seen == {"x", "y"}


def test_marks_stand_in_every_row_of_a_client():
    data = attacks.marked(DATA, attackers=HOSTILE)
    for name in DATA.client_ids:
        rows = data.client(name)
        assert rows[attacks.ATTACKER].dtype == bool
        assert (rows[attacks.ATTACKER] == (name in HOSTILE)).all()
        np.testing.assert_array_equal(rows["x"], DATA.client(name)["x"])
    assert attacks.ATTACKER not in DATA.arrays
    none = attacks.marked(DATA, attackers=[])
    assert not none.arrays[attacks.ATTACKER].any()


def test_labels_of_attackers_are_flipped():
    arrays = {"y": np.array([0, 1, 2, 3, 2, 0], np.uint8), "x": np.zeros(6)}
    data = jf.data.FederatedData.from_arrays(arrays, client=[0, 0, 0, 1, 1, 1])
    flipped = attacks.label_flip(data, attackers=[1], num_classes=4)
    np.testing.assert_array_equal(flipped.arrays["y"], [0, 1, 2, 0, 1, 3])
    assert flipped.arrays["y"].dtype == np.uint8
    assert data.arrays["y"][3] == 3
    pixels = {"seg": np.array([[0, 1], [2, 2]])}
    data = jf.data.FederatedData.from_arrays(pixels, client=["a", "b"])
    both = attacks.label_flip(data, attackers=["b"], num_classes=3, label="seg")
    np.testing.assert_array_equal(both.arrays["seg"], [[0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: run(attacks.sign_flip(sgd()), DATA),
            ValueError,
            r"pass attacks\.marked\(data, attackers=\[\.\.\.\]\)",
        ),
        (
            lambda: attacks.marked(DATA, attackers=["client-99"]),
            ValueError,
            "there is no client 'client-99'",
        ),
        (
            lambda: attacks.marked(DATA, attackers="client-1"),
            TypeError,
            "must be a list of ids",
        ),
        (
            lambda: attacks.marked(attacks.marked(DATA, attackers=[]), attackers=[]),
            ValueError,
            "no array 'attacker' yet",
        ),
        (
            lambda: attacks.marked({"x": 1}, attackers=[]),
            TypeError,
            "data must be a FederatedData",
        ),
        (
            lambda: attacks.label_flip(DATA, attackers=[], num_classes=1),
            ValueError,
            r"labels must be in \[0, 1\)",
        ),
        (
            lambda: attacks.label_flip(DATA, attackers=[], num_classes=2, label="z"),
            ValueError,
            "label must be one of",
        ),
        (
            lambda: attacks.label_flip(DATA, attackers=[], num_classes=2, label="x"),
            TypeError,
            "must hold integers",
        ),
        (lambda: attacks.sign_flip(3), TypeError, "local must be a LocalWork"),
        (lambda: attacks.sign_flip(sgd(), scale=0), ValueError, "scale must be > 0"),
        (lambda: attacks.scaled(sgd(), factor=-1), ValueError, "factor must be > 0"),
        (
            lambda: attacks.gaussian_noise(sgd(), deviation=0),
            ValueError,
            "deviation must be > 0",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_loss_that_does_not_fit_is_still_told():
    def wrong(params, batch, key):
        del key
        return batch["x"] @ params["b"], {}

    data = attacks.marked(DATA, attackers=[])
    with pytest.raises(ValueError, match=r"loss_fn fails on a batch of \{x:"):
        run(attacks.sign_flip(sgd(wrong)), data)
