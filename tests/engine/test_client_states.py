"""What clients keep: in memory and in a file alike, and a file bounds the memory."""

import dataclasses
import errno
import io
import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed.engine import _devices
from jaxfed.engine._block import Layout, pack
from jaxfed.engine._client_states import ClientStates
from jaxfed.engine._feed import Fed
from jaxfed.typing import Batching, ClientResult, Cohort, LocalWork
from tests.conformance.cases import DATA, PARAMS, feddyn, scaffold
from tests.problems import NO_WORK

FIRST = {
    "a": jnp.arange(3, dtype=jnp.float32),
    "nothing": jnp.zeros((0, 3)),
    "b": (jnp.full((2, 2), 7, jnp.int8), jnp.ones((), jnp.bfloat16)),
}
ON_DISK, IN_MEMORY = 0, 1 << 30


def states_of(most_bytes, first=FIRST, count=10, **options):
    mesh = _devices.mesh_of(1)
    return ClientStates(first, count, mesh=mesh, most_bytes=most_bytes, **options)


def block_of(numbers):
    """Returns a block of one device whose chunks hold these clients."""
    numbers = np.asarray(numbers, np.int32)
    layout = Layout(*numbers.shape, lines=1, width=1)
    fields = [np.zeros(shape, np.int32) for shape in layout.shapes()]
    packed = pack(layout, Cohort(numbers, *fields[1:]), 1)  # ty: ignore
    return Fed(layout, packed, jnp.asarray(packed), {}, True)


def moved(states, value):
    return jax.tree.map(lambda a: a + jnp.asarray(value, a.dtype), states)


def assert_equal(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("most_bytes", [ON_DISK, IN_MEMORY])
def test_rows_come_back_as_they_were_kept(most_bytes):
    states = states_of(most_bytes)
    assert states.is_on_disk == (most_bytes == ON_DISK)
    block = block_of([[4, 1], [7, 10]])  # 10 is padding
    found = states.of_block(block)
    want = jax.tree.map(lambda a: jnp.broadcast_to(a, (1, 2, 2, *a.shape)), FIRST)
    assert_equal(found, want)  # nobody began
    states.keep(block, moved(found, 1))
    states.keep(block_of([[2, 10], [10, 10]]), moved(found, 2))
    rows = states.of_clients(np.arange(10))
    added = np.array([0, 1, 2, 0, 1, 0, 0, 1, 0, 0])
    assert_equal(rows["a"], np.asarray(FIRST["a"]) + added[:, None].astype(np.float32))
    again = states.of_block(block_of([[10, 7], [2, 3]]))
    assert_equal(again["b"][0][0, :, :, 0, 0], np.array([[7, 8], [9, 7]], np.int8))
    assert_equal(again["b"][1][0].astype(np.float32), np.float32([[1, 2], [3, 1]]))


def test_padding_between_real_clients_is_left_out():
    states = states_of(IN_MEMORY)
    block = block_of([[4, 10], [7, 1]])
    values = {
        "a": jnp.arange(12, dtype=jnp.float32).reshape(1, 2, 2, 3),
        "nothing": jnp.zeros((1, 2, 2, 0, 3)),
        "b": (jnp.zeros((1, 2, 2, 2, 2), jnp.int8), jnp.ones((1, 2, 2), jnp.bfloat16)),
    }
    states.keep(block, values)
    rows = states.of_clients(np.array([4, 7, 1, 0]))["a"]
    assert rows[:, 0].tolist() == [0, 6, 9, 0]


@pytest.mark.parametrize("most_bytes", [ON_DISK, IN_MEMORY])
def test_saved_states_are_read_by_either_kind(most_bytes, tmp_path):
    states = states_of(most_bytes)
    block = block_of([[4, 1], [7, 9]])
    states.keep(block, moved(states.of_block(block), 3))
    digest = states.save(tmp_path / "saved")
    assert (tmp_path / "saved").stat().st_mode & 0o077 == 0
    other = states_of(ON_DISK if most_bytes else IN_MEMORY)
    other.load(tmp_path / "saved")
    assert_equal(other.of_clients(np.arange(10)), states.of_clients(np.arange(10)))
    assert other.save(tmp_path / "again") == digest
    whole = (tmp_path / "saved").read_bytes()
    (tmp_path / "short").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"must have the 74 bytes of this run's"):
        other.load(tmp_path / "short")


@pytest.mark.parametrize("most_bytes", [ON_DISK, IN_MEMORY])
def test_python_numbers_are_kept_as_devices_have_them(most_bytes):
    states = states_of(most_bytes, first={"n": 0.5, "k": np.arange(2)})
    block = block_of([[4, 1], [7, 10]])
    found = states.of_block(block)
    assert {n: a.dtype for n, a in found.items()} == {"n": "float32", "k": "int32"}
    states.keep(block, moved(found, 1))
    assert states.of_clients(np.array([4, 0]))["n"].tolist() == [1.5, 0.5]


def kept_as(first, last):
    """Local work that begins with one state and ends with another."""

    def finish(shared, carry):
        del carry
        return ClientResult(shared.params, jnp.float32(1), last)

    local = NO_WORK._replace(finish=finish, init_client=lambda params: first)
    sampling = jf.sampling.Full(population=DATA.num_clients)
    return jf.algorithms.fedavg(local, jf.privacy.none(sampling=sampling))


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (jnp.zeros(3), jnp.zeros(4)),
        (jnp.zeros(3, jnp.int32), jnp.zeros(3)),
        ({"a": jnp.zeros(3)}, (jnp.zeros(3),)),
    ],
)
def test_a_state_that_changes_its_kind_is_refused(first, last):
    with pytest.raises(ValueError, match="must keep what init_client begins with"):
        jf.simulate(
            kept_as(first, last),
            DATA,
            params=PARAMS,
            rounds=1,
            seed=0,
            progress=False,
            strategy="loop",
        )


@pytest.mark.parametrize("build", [lambda: scaffold(2), feddyn])
@pytest.mark.parametrize("executor", ["loop", "stepped"])
def test_a_run_over_a_file_is_the_run_in_memory(build, executor, monkeypatch):
    made = []
    original = ClientStates.__init__

    def spied(self, *arguments, **named):
        original(self, *arguments, **named)
        made.append(self)

    monkeypatch.setattr(ClientStates, "__init__", spied)

    def run(resident_bytes, block_clients=4096):
        strategy = jf.engine.Strategy(
            executor=executor,
            lanes=2,
            resident_bytes=resident_bytes,
            block_clients=block_clients,
        )
        history = jf.simulate(
            build(),
            DATA,
            params=PARAMS,
            rounds=5,
            seed=3,
            progress=False,
            strategy=strategy,
        )
        return history.state, made[-1].of_clients(np.arange(DATA.num_clients))

    memory, file, blocks = run(1 << 30), run(1), run(1, block_clients=2)
    assert [one.is_on_disk for one in made] == [False, True, True]
    assert_equal(file, memory)
    assert_equal(blocks[1], memory[1])  # each client's own work, bit for bit


@pytest.mark.parametrize("executor", ["loop", "stepped"])
def test_what_clients_keep_is_written_over_the_same_memory(executor, monkeypatch):
    """Fresh memory in every round costs more than what a method does with it."""
    places = []

    def spied(self, block, original=ClientStates.room):
        room = original(self, block)
        places.append([leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(room)])
        return room

    monkeypatch.setattr(ClientStates, "room", spied)
    strategy = jf.engine.Strategy(
        executor=executor, lanes=2, devices=1, resident_bytes=1 << 30
    )
    jf.simulate(
        scaffold(2),
        DATA,
        params=PARAMS,
        rounds=5,
        seed=3,
        progress=False,
        strategy=strategy,
    )
    assert places == [places[0]] * 5


def whose() -> LocalWork:
    """A client that counts its rounds and remembers whose state it got.

    The update of client 1 is never finite, and neither is the state of client 4.
    """

    def init(shared, kept):
        return kept, jnp.full((), -1, jnp.int32)

    def step(carry, batch, *, key):
        del key
        kept, client = carry
        here = jnp.max(jnp.where(batch.is_real, batch.rows["client"], -1))
        return (kept, jnp.maximum(client, here)), {}

    def finish(shared, carry):
        kept, client = carry
        is_strange = (kept["client"] != -1) & (kept["client"] != client)
        kept = {
            "client": jnp.where(is_strange, -99, client),
            "rounds": kept["rounds"] + 1,
            "value": jnp.where(client == 4, jnp.nan, kept["value"]),
        }
        update = jnp.where(client == 1, jnp.nan, jnp.ones(()))
        update = jax.tree.map(lambda a: update * jnp.ones_like(a), shared.params)
        return ClientResult(update, jnp.ones(()), kept)

    start = {
        "client": jnp.full((), -1, jnp.int32),
        "rounds": jnp.zeros((), jnp.int8),
        "value": jnp.zeros(2),
    }
    return LocalWork(
        init, step, finish, Batching(batch_size=2, epochs=1), lambda params: start
    )


@pytest.mark.parametrize("block_clients", [2, 4096])
@pytest.mark.parametrize("executor", ["loop", "stepped"])
def test_a_state_stays_with_its_client(executor, block_clients):
    """Also beside clients that fail, whose old states are kept."""
    owners = np.repeat(np.arange(DATA.num_clients), DATA.client_sizes)
    arrays = {**DATA.arrays, "client": owners.astype(np.int32)}
    sampling = jf.sampling.FixedSize(population=DATA.num_clients, size=4)
    none = jf.privacy.none(sampling=sampling, weighting="clients")
    history = jf.simulate(
        jf.algorithms.fedavg(whose(), none),
        dataclasses.replace(DATA, arrays=arrays),
        params=PARAMS,
        rounds=8,
        seed=3,
        progress=False,
        strategy=jf.engine.Strategy(
            executor=executor,
            lanes=2,
            resident_bytes=1 << 30 if block_clients > 2 else 1,
            block_clients=block_clients,
        ),
    )
    states = history.client_states(np.arange(DATA.num_clients))
    assert sum(record.private["num_failed"] for record in history.rounds) > 3
    for number in range(DATA.num_clients):
        is_kept = number not in (1, 4)
        assert states["client"][number] == (number if is_kept else -1)
        assert (states["rounds"][number] > 0) == is_kept
    assert not np.any(states["value"])


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    states = states_of(ON_DISK, directory=str(tmp_path))
    block = block_of([[4, 1]])
    found = states.of_block(block)

    class Full(io.RawIOBase):
        def seek(self, *_):
            return 0

        def write(self, *_):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(states._rows, "_file", Full())
    states.keep(block, found)
    with pytest.raises(RuntimeError, match=r"No space left.*state_directory"):
        states.settle()


def test_the_file_has_no_name(tmp_path):
    states = states_of(ON_DISK, directory=str(tmp_path))
    block = block_of([[4, 1]])
    states.keep(block, states.of_block(block))
    states.settle()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="state_directory must be a directory"):
        jf.engine.Strategy(state_directory=str(tmp_path / "missing"))


def test_keys_are_refused():
    with pytest.raises(TypeError, match="init_client must return numbers, got key"):
        states_of(IN_MEMORY, first={"key": jax.random.key(0)})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_population(tmp_path):
    """A child with a million clients of 4 KB each may take a tenth of their 4 GB."""
    program = """
        import sys
        import jax.numpy as jnp
        import numpy as np
        sys.path.insert(0, {root!r})
        from tests.engine.test_client_states import block_of, states_of
        row = jnp.zeros(1024, jnp.float32)
        states = states_of(1 << 20, row, 1_000_000, directory={place!r})
        draw = np.random.default_rng(0)
        for _ in range(4):
            block = block_of(draw.permutation(1_000_000)[:4000].reshape(-1, 8))
            states.keep(block, states.of_block(block) + 1)
            states.settle()
        assert states.is_on_disk
        # of this program alone; ru_maxrss may be the peak of what forked it
        with open("/proc/self/status") as file:
            status = dict(line.split(":", 1) for line in file)
        print(int(status["VmHWM"].split()[0]) // 1024)
    """
    root = str(pathlib.Path(__file__).parents[2])
    text = textwrap.dedent(program).format(root=root, place=str(tmp_path))
    child = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) < 500
