"""Record and replay: neighbouring cohorts through the code that runs.

The idea is that of Cebere et al. 2026, arXiv:2602.17454: run a mechanism twice, on
neighbouring inputs and with the same randomness, and compare what it does with what
it declares. Here the integers before the noise are compared exactly.
"""

import functools
import itertools
import os
import subprocess
import sys
import textwrap
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed.typing import ClientResult

COHORT, PAIRS = 5, 50
SHAPES = {
    "vector": {"w": (7,)},
    "layers": {"a": {"kernel": (3, 4), "bias": (4,)}, "head": (2,)},
    "scalar": {"w": ()},
    "long": {"w": (1500,), "b": (3,)},
}
CLIPPINGS = {
    "fixed small": lambda names: jf.clipping.Fixed(norm=1e-6),
    "fixed": lambda names: jf.clipping.Fixed(norm=0.7),
    "fixed large": lambda names: jf.clipping.Fixed(norm=1e9),
    "adaptive": lambda names: jf.clipping.Adaptive(quantile=0.5, initial=0.3),
    "adaptive count": lambda names: jf.clipping.Adaptive(
        quantile=0.9, initial=3.0, count_stddev=40.0
    ),
    "scaled": lambda names: jf.clipping.Scaled(norm=0.03, floor=0.1),
    "per layer": lambda names: (
        jf.clipping.PerLayer(norms={names[0]: 0.5, "": 2.0})
        if len(names) > 1
        else jf.clipping.PerLayer(norms={"": 0.5})
    ),
}
SAMPLINGS = {
    "poisson": lambda: jf.sampling.Poisson(population=1000, rate=0.01),
    "full": lambda: jf.sampling.Full(population=6000),
}
MULTIPLIERS = (0.0, 0.02, 1.0, 25.0)
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
HOSTILE = (0.0, 1e-30, 1.0, -1.0, 6e4, 1e20, 3e38, np.nan, np.inf, -np.inf)


def configurations(shape):
    """Every clip with every sampler; the multipliers take turns."""
    for index, pair in enumerate(itertools.product(CLIPPINGS, SAMPLINGS)):
        yield index, *pair, MULTIPLIERS[index % 4]
        if shape != "long":
            yield index + 100, *pair, MULTIPLIERS[(index + 2) % 4]


assert len(DTYPES) * sum(len([*configurations(shape)]) for shape in SHAPES) >= 250


def build(shape, clipping, sampling, multiplier):
    params = jax.tree.map(
        jnp.zeros, SHAPES[shape], is_leaf=lambda s: isinstance(s, tuple)
    )
    names = []
    jf.tree.map_with_names(lambda name, _: names.append(name), params)
    privacy = jf.privacy.central(
        sampling=SAMPLINGS[sampling](),
        clipping=CLIPPINGS[clipping](names),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )
    return privacy, params


def cohorts(params, seed):
    """Returns updates (PAIRS, COHORT, ...): normal rows, scaled, and hostile ones."""
    rng = np.random.default_rng(seed)

    def leaf(a):
        values = rng.normal(size=(PAIRS, COHORT, *a.shape))
        scale = 10.0 ** rng.uniform(-8, 4, (PAIRS, COHORT) + (1,) * a.ndim)
        values = values * scale
        for pair in range(0, PAIRS, 2):  # the one who leaves is hostile
            hostile = HOSTILE[(pair // 2) % len(HOSTILE)]
            flat = values.reshape(PAIRS, COHORT, -1)
            flat[pair, 0, : 1 + pair % max(a.size, 1)] = hostile
        return values.astype(np.float32)

    return jax.tree.map(leaf, params)


def usual_size(a):
    """Returns sizes of coordinates that differ by factors of ten."""
    sizes = 0.1 * np.random.default_rng(a.size).lognormal(size=a.shape)
    return jnp.asarray(sizes, jnp.float32)


@functools.cache
def summing(privacy):
    def one(update, key, state):
        return privacy.encode(state, ClientResult(update, jnp.float32(1), ()), key=key)

    def total(updates, is_real, keys, state):
        encoded = jax.vmap(one, (0, 0, None))(updates, keys, state)
        kept = jf.tree.where_rows(is_real, encoded, jf.tree.zeros_like(encoded))
        return jax.tree.map(lambda a: jnp.sum(a, 0, dtype=jnp.int32), kept)

    return jax.jit(jax.vmap(total, (0, None, 0, None)))


def budget_spent(layout, moved, pair):
    """Returns the squared shift over the noise's variance, an exact fraction."""
    leaves = [np.asarray(a)[pair] for a in jax.tree.leaves(moved.update)]
    spent = Fraction(0)
    parts = [
        (part, [leaves[i] for i in group.indices])
        for group, part in zip(layout.groups, layout.parts, strict=True)
    ]
    if layout.count is not None:
        parts.append((layout.count, [np.asarray(moved.count)[pair]]))
    for part, arrays in parts:
        # squares below 2**40 of fewer than 2**20 integers: exact in 64 bits
        square = int(sum((a.astype(np.int64) ** 2).sum() for a in arrays))
        assert square <= part.lattice.levels**2  # each part by itself
        if part.noise.multiplier:
            stddev = Fraction(part.noise.multiplier) * part.lattice.levels
            spent += square / stddev**2
    return spent


NIGHTLY = (("layers", "float16"), ("long", "float16"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        pytest.param(*pair, marks=[pytest.mark.nightly] * (pair in NIGHTLY))
        for pair in itertools.product(SHAPES, DTYPES)
    ],
)
def test_no_client_moves_the_sum_by_more_than_is_declared(shape, dtype):
    """In 280 configurations with 50 pairs of neighbours each (36 nightly), exactly."""
    for index, clipping, sampling, multiplier in configurations(shape):
        privacy, params = build(shape, clipping, sampling, multiplier)
        if dtype == "float16" and clipping == "fixed large":
            continue  # nothing that float16 holds is clipped
        layout = privacy._joint(params)
        updates = jax.tree.map(
            lambda a: jnp.asarray(a).astype(DTYPES[dtype]), cohorts(params, index)
        )
        run, state = summing(privacy), privacy.init(params)
        if clipping == "scaled":  # what earlier rounds taught
            state = privacy.clipping.observe(state, jax.tree.map(usual_size, params))

        def replay(
            is_real, run=run, updates=updates, state=state, index=index
        ):  # the same randomness in both runs
            keys = jax.random.split(jf.keys.simulated(index), (PAIRS, COHORT))
            return run(updates, is_real, keys, state)

        with_all = replay(jnp.ones(COHORT, bool))
        without = replay(jnp.ones(COHORT, bool).at[0].set(False))
        moved = jf.tree.subtract(with_all, without)
        most = max(budget_spent(layout, moved, pair) for pair in range(PAIRS))
        if multiplier:
            assert most <= Fraction(multiplier) ** -2 * (1 + Fraction(1, 10**12))
            assert most > Fraction(multiplier) ** -2 * Fraction(9, 10)  # it is tight


def test_the_same_bits_on_one_two_and_eight_devices():
    """Integer sums of the same updates: any layout, any order, eager or compiled."""
    script = textwrap.dedent("""
        import functools, hashlib, jax, numpy as np, jax.numpy as jnp
        from jax.sharding import Mesh, PartitionSpec as P
        import jaxfed as jf
        from jaxfed.typing import ClientResult

        privacy = jf.privacy.central(
            sampling=jf.sampling.Full(population=512),
            clipping=jf.clipping.Adaptive(quantile=0.5, initial=0.3),
            noise=jf.noise.Gaussian(multiplier=1.0),
        )
        rows = np.random.default_rng(0).normal(size=(512, 1000)).astype(np.float32)
        state = privacy.init({"w": jnp.zeros(1000)})

        def encode(row):
            result = ClientResult({"w": row}, jnp.float32(1), ())
            return privacy.encode(state, result, key=jf.keys.simulated(0))

        def local(rows):
            encoded = jax.vmap(encode)(rows)
            total = jax.tree.map(lambda a: jnp.sum(a, 0, dtype=jnp.int32), encoded)
            return jax.lax.psum(total, "clients")

        mesh = Mesh(np.array(jax.devices()), ("clients",))
        run = jax.jit(jax.shard_map(
            local, mesh=mesh, in_specs=P("clients"), out_specs=P()))
        total = run(rows)
        again = run(np.random.default_rng(1).permutation(rows))
        alone = [encode(jnp.asarray(row)) for row in rows[:64]]
        looped = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), alone)
        digest = lambda tree: hashlib.sha256(
            b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves(tree))
        ).hexdigest()
        part = jax.tree.map(
            lambda a: jnp.sum(a, 0, dtype=jnp.int32), jax.vmap(encode)(rows[:64]))
        jitted = jax.jit(encode)
        compiled = functools.reduce(
            lambda a, b: jax.tree.map(jnp.add, a, b), map(jitted, rows[:64]))
        assert digest(looped) == digest(part) == digest(compiled)
        assert digest(total) == digest(again)
        print(len(jax.devices()), digest(total))
    """)
    found = {}
    for count in (1, 2, 8):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        devices, digest = done.stdout.split()
        assert int(devices) == count
        found[count] = digest
    assert len(set(found.values())) == 1
