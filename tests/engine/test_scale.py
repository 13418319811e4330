"""What must not grow with the number of rounds, clients and bytes of data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.engine import _devices, _feed, _round

POPULATION, ROUNDS = 40, 50


def linear(params, batch, key):
    del key
    return jnp.mean(jnp.square(batch["x"] @ params["w"] - batch["y"])), {}


def ragged(generator, arrays=None):
    """Clients of 1 to 6 examples; `arrays` may hold them already."""
    sizes = generator.integers(1, 7, POPULATION)
    client = np.repeat(np.arange(POPULATION), sizes)
    x = generator.normal(size=(len(client), 16)).astype(np.float32)
    arrays = arrays or {"x": x, "y": x[:, 0]}
    return jf.data.FederatedData.from_arrays(arrays, client=client)


def averaging(sampling):
    local = jf.clients.sgd(linear, optax.sgd(0.02), batch_size=2, epochs=1)
    privacy = jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=0.0),
    )
    return jf.algorithms.fedavg(local, privacy)


def test_cohorts_of_any_size_share_a_program(monkeypatch):
    """Fifty Poisson cohorts, from nobody to the cap, are traced once or twice."""
    traces = []
    original = _round.close

    def counted(*arguments, **options):
        traces.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(_round, "close", counted)
    sampling = jf.sampling.Poisson(population=POPULATION, rate=0.06, cap=5)
    history = jf.simulate(
        averaging(sampling),
        ragged(np.random.default_rng(0)),
        params={"w": jnp.zeros(16)},
        rounds=ROUNDS,
        seed=1,
        progress=False,
        strategy=jf.Strategy(executor="loop", lanes=1),
    )
    counts = [record.private["num_clients"] for record in history.rounds]
    assert min(counts) == 0
    assert counts.count(5) > 1  # the cap
    assert len(set(counts)) == 6
    assert 1 <= len(traces) <= 2


@pytest.fixture
def mapped(tmp_path):
    """The same data in memory and memory-mapped, as (in memory, mapped)."""
    inside = ragged(np.random.default_rng(2))
    arrays = {}
    for name, array in inside.arrays.items():
        path = tmp_path / f"{name}.npy"
        np.save(path, array)
        arrays[name] = np.load(path, mmap_mode="r")
    return inside, ragged(np.random.default_rng(2), arrays)


def test_mapped_data_is_streamed_when_it_is_too_large(mapped, monkeypatch):
    built = []
    for kind in (_feed.Resident, _feed.Streamed):
        original = kind.__init__

        def spied(self, *arguments, original=original):
            built.append(type(self).__name__)
            original(self, *arguments)

        monkeypatch.setattr(kind, "__init__", spied)
    inside, outside = mapped
    limit = sum(array.nbytes for array in outside.arrays.values())
    found = [
        jf.simulate(
            averaging(jf.sampling.Poisson(population=POPULATION, rate=0.5)),
            data,
            params={"w": jnp.zeros(16)},
            rounds=3,
            seed=4,
            progress=False,
            strategy=jf.Strategy(
                executor="loop", lanes=1, block_clients=8, resident_bytes=resident
            ),
        )
        for data, resident in ((inside, limit), (outside, limit), (outside, limit - 1))
    ]
    assert built == ["Resident", "Resident", "Streamed"]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].params["w"], other.params["w"])


def test_mapped_data_is_not_copied(mapped):
    """The devices read the file's own pages."""
    if jax.default_backend() != "cpu":
        pytest.skip("an accelerator has a memory of its own")
    _, outside = mapped
    mesh = _devices.mesh_of(1)
    fed = next(iter(_feed.Resident(mesh, dict(outside.arrays)).feed(_one_block())))
    for name, array in fed.arrays.items():
        base = outside.arrays[name]
        while not isinstance(base, np.memmap):
            base = base.base
        assert array.addressable_data(0).unsafe_buffer_pointer() == base.ctypes.data


def _one_block():
    from jaxfed.engine._block import Block, Layout

    layout = Layout(1, 1, 1, 1)
    yield Block(layout, np.zeros((1, layout.size), np.int32), 0, [])
