"""What a checkpoint holds is what was released, and nothing that is whole is lost."""

import errno
import hashlib
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import jaxfed as jf
from jaxfed.engine import _checkpoint
from jaxfed.ledger import LedgerError
from tests.engine.paid import (
    ADAPTIVE,
    LOCAL,
    PARAMS,
    Killed,
    bits,
    dies_after,
    kinds,
    ledger,
    loss,
    train,
)
from tests.engine.paid import data as data  # a fixture


def saved_in(folder, every=1, keep=3):
    return jf.Checkpoint(directory=folder / "saved", every=every, keep=keep)


def noisy():
    """An optimizer whose state holds a key, as those with noise or dropout do."""

    def init(params):
        del params
        return {"key": jax.random.key(3), "count": jnp.zeros((), jnp.int32)}

    def update(updates, state, params=None):
        del params
        key, used = jax.random.split(state["key"])
        leaves, structure = jax.tree.flatten(updates)
        moved = [leaf + 1e-3 * jax.random.normal(used, leaf.shape) for leaf in leaves]
        new = {"key": key, "count": state["count"] + 1}
        return structure.unflatten(moved), new

    return optax.GradientTransformation(init, update)


def by_key():
    return jf.algorithms.fedavg(
        LOCAL, ADAPTIVE, server_optimizer=optax.chain(noisy(), optax.sgd(1.0))
    )


@pytest.mark.filterwarnings("ignore:.*key.*:UserWarning")
def test_an_optimizer_with_a_key_goes_on_to_the_same_bits(data, tmp_path):
    path, algorithm = ledger(tmp_path), by_key()
    with pytest.raises(Killed):
        train(
            data,
            path,
            algorithm,
            checkpoint=saved_in(tmp_path),
            callbacks=[dies_after(2)],
        )
    history = train(data, path, algorithm, checkpoint=saved_in(tmp_path))
    whole = train(data, path, algorithm)
    assert bits(history.params) == bits(whole.params)
    keys = [
        jax.random.key_data(leaf).tolist()
        for state in (history.state, whole.state)
        for leaf in jax.tree.leaves(state)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_a_model_that_was_swapped_is_refused(data, tmp_path):
    """With all its digests: the ledger knows the hash of the right one."""
    path, saved = ledger(tmp_path), saved_in(tmp_path)
    train(data, path, checkpoint=saved)
    with ocp.CheckpointManager(tmp_path / "saved") as manager:
        args = ocp.args
        found = manager.restore(
            4,
            args=args.Composite(
                arrays=args.StandardRestore(), facts=args.JsonRestore()
            ),
        )
        arrays = {n: np.array(a) for n, a in found["arrays"].items()}
        for name, array in arrays.items():
            if array.shape == PARAMS["w"].shape:
                arrays[name] = array + np.ones_like(array)
        facts = {k: v for k, v in found["facts"].items() if k != "digest"}
        facts["arrays"] = _checkpoint._digest_of_arrays(arrays)
        text = json.dumps(facts, sort_keys=True).encode()
        facts["digest"] = hashlib.sha256(text).hexdigest()
        manager.delete(4)
        manager.save(
            4,
            args=args.Composite(
                arrays=args.StandardSave(arrays), facts=args.JsonSave(facts)
            ),
        )
        manager.wait_until_finished()
    with pytest.raises(LedgerError, match="must hold the model that was saved"):
        train(data, path, checkpoint=saved)
    assert kinds(path).count("charge") == 4


@pytest.mark.parametrize("part", ["facts", "arrays"])
def test_a_process_at_its_limit_loses_no_checkpoint(part, data, tmp_path, monkeypatch):
    path, saved = ledger(tmp_path), saved_in(tmp_path)
    train(data, path, checkpoint=saved)
    whole = sorted(p.name for p in (tmp_path / "saved").iterdir())
    original = _checkpoint.Saver._restored

    def busy(self, rounds, **items):
        if rounds == 4 and part in items:
            raise ValueError(
                f"Error opening: {os.strerror(errno.EMFILE)} [OS error 24]"
            )
        return original(self, rounds, **items)

    monkeypatch.setattr(_checkpoint.Saver, "_restored", busy)
    with pytest.raises(RuntimeError, match="It may be whole: nothing was changed"):
        train(data, path, checkpoint=saved)
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == whole
    monkeypatch.undo()
    train(data, path, checkpoint=saved)
    assert kinds(path).count("charge") == 4


def test_what_cannot_be_read_is_put_aside(data, tmp_path):
    path, saved = ledger(tmp_path), saved_in(tmp_path)
    first = train(data, path, checkpoint=saved)
    for _ in range(2):
        for file in (tmp_path / "saved" / "4").rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[:-1] + b"\0")
        again = train(data, path, checkpoint=saved)
        assert bits(again.params) == bits(first.params)
    names = sorted(p.name for p in (tmp_path / "saved").iterdir())
    assert names == ["2", "3", "4", "damaged-4-1", "damaged-4-2"]


def test_another_optimizer_after_a_move_is_told_so(data, tmp_path, monkeypatch):
    from jaxfed import _program

    path, saved = ledger(tmp_path), saved_in(tmp_path)
    train(data, path, checkpoint=saved)
    machine = _program.machine() | {"numpy": "99"}
    monkeypatch.setattr(_program, "machine", lambda: machine)
    other = optax.chain(optax.trace(0.9), optax.trace(0.8), optax.scale(-0.5))
    double = jf.algorithms.fedavg(LOCAL, ADAPTIVE, server_optimizer=other)
    with pytest.raises(ValueError, match="of this server optimizer"):
        train(data, path, double, checkpoint=saved)


@pytest.mark.parametrize("what", ["pure", "print"])
def test_a_program_that_calls_the_host_is_not_released(what, data, tmp_path):
    """Nobody knows what a host function computes, or who reads what it prints."""

    def calling(params, batch, key):
        value, metrics = loss(params, batch, key)
        if what == "print":
            jax.debug.print("{}", value)
            return value, metrics
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        one = jax.pure_callback(lambda: np.float32(1.0), shape)
        return value * jax.lax.stop_gradient(one), metrics

    path = ledger(tmp_path)
    local = jf.clients.sgd(calling, optax.sgd(0.1), epochs=1, batch_size=2)
    algorithm = jf.algorithms.fedavg(
        local, ADAPTIVE, server_optimizer=optax.sgd(0.5, momentum=0.9)
    )
    with pytest.raises(ValueError, match="must be computed by JAX alone"):
        train(data, path, algorithm)
    assert "charge" not in kinds(path)
    saved = saved_in(tmp_path)
    options = {"params": PARAMS, "rounds": 1, "seed": 0, "progress": False}
    jf.simulate(algorithm, data, checkpoint=saved, **options)  # releases nothing


def test_a_replay_that_computes_otherwise_can_still_go_on(data, tmp_path, monkeypatch):
    """Another server optimizer's arithmetic makes another model of one release."""
    from jaxfed.engine import _release

    path, saved = ledger(tmp_path), saved_in(tmp_path)
    with pytest.raises(Killed):
        train(data, path, callbacks=[dies_after(3)])
    original = _release.Release._model
    monkeypatch.setattr(
        _release.Release, "_model", lambda self: original(self)[:-1] + "x"
    )
    with pytest.raises(Killed):
        train(data, path, checkpoint=saved, callbacks=[dies_after(3)])
    history = train(data, path, checkpoint=saved)
    assert len(history.rounds) == 4
    assert kinds(path).count("charge") == 4


def test_no_message_tells_how_many_examples_a_client_has(data, tmp_path):
    strategy = jf.Strategy(batch_widths=(20,))
    with pytest.raises(ValueError, match="how wide it is is private"):
        train(data, ledger(tmp_path), strategy=strategy)
