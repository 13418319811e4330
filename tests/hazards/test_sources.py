"""What the release path may draw from and compute with, read off its source and HLO."""

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxfed
from jaxfed.typing import ClientResult
from tests.conformance.cases import PRIVACY

ROOT = Path(jaxfed.__file__).parent
RELEASE_PATH = [
    path
    for name in (
        "clients",
        "compression",
        "clipping",
        "noise",
        "privacy",
        "sampling",
        "queries",
    )
    for path in sorted((ROOT / name).glob("*.py"))
] + [
    ROOT / name
    for name in ("keys.py", "_chacha.py", "_coins.py", "_hkdf.py", "engine/_poisson.py")
]

# derivation, and uniform words: what every draw of a release is made of
PLAIN = {
    f"jax.random.{name}"
    for name in ("bits", "split", "fold_in", "key_data", "key_impl", "wrap_key_data")
}
# everything else, with its reason; take out what is not needed any more
EXCEPTIONS = {
    ("clients/_descent.py", "jax.random.clone"): "a batch's own draws, elsewhere",
    ("clients/_flax.py", "jax.random.key"): "its shape only: nothing is drawn",
    ("clients/_loss.py", "jax.random.key"): "its shape only: nothing is drawn",
    ("noise/_optimise.py", "numpy.random.default_rng"): "starts of a public search",
    ("noise/_privunit.py", "jax.random.normal"): "PrivUnit is not proved to the bit",
    ("noise/_privunit.py", "jax.random.uniform"): "PrivUnit is not proved to the bit",
    ("privacy/_reports.py", "jax.random.uniform"): "rounds PrivUnit's float report",
}
SOURCES = ("numpy.random", "random", "jax.random", "scipy.stats")


def draws(source):
    """Returns the dotted names under a random module that some source code uses."""
    module = ast.parse(source)
    names, found = {}, set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                names[alias.asname or whole] = whole
                if alias.name in SOURCES and alias.name != "jax.random":
                    found.add(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(module):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in names:
            found.add(".".join([names[node.id], *reversed(parts)]))
    return {
        name
        for name in found
        if any(name.startswith(source + ".") or name == source for source in SOURCES)
        and name not in ("jax.random", "numpy.random")  # the module itself
    }


def test_releases_draw_from_keys_alone():
    """No global generator, no seed, no float noise: a list that is complete."""
    used = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in RELEASE_PATH
        for name in draws(path.read_text()) - PLAIN
    }
    assert used == set(EXCEPTIONS)
    assert len(RELEASE_PATH) > 50


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import numpy as np\nnp.random.seed(0)", "numpy.random.seed"),
        ("from numpy import random as r\nr.normal()", "numpy.random.normal"),
        ("from numpy.random import normal\nnormal()", "numpy.random.normal"),
        ("import random\nrandom.gauss(0, 1)", "random.gauss"),
        ("from random import gauss\ngauss(0, 1)", "random.gauss"),
        ("import jax\njax.random.normal(key)", "jax.random.normal"),
        ("from jax import random\nrandom.poisson(key)", "jax.random.poisson"),
        ("from scipy import stats\nstats.norm.rvs()", "scipy.stats.norm.rvs"),
    ],
)
def test_the_list_sees_every_way_to_draw(line, name):
    assert name in draws(line)


def programs(case):
    """The compiled-to-be text of a client's encoding, summed, and of the release."""
    privacy = case.build()
    params = {"w": jnp.zeros(40), "b": jnp.zeros((3, 5))}
    state = jax.eval_shape(privacy.init, params)
    rows = jax.tree.map(lambda a: jnp.zeros((4, *a.shape)), params)

    def total(state, rows, key):
        def encode(update):
            result = ClientResult(update, jnp.float32(1), ())
            return privacy.encode(state, result, key=key)

        parts = jax.vmap(encode)(rows)
        return jax.tree.map(lambda a: jnp.sum(a, axis=0, dtype=a.dtype), parts)

    key = jaxfed.keys.simulated(0)
    summed = jax.eval_shape(total, state, rows, key)
    yield jax.jit(total).lower(state, rows, key)

    def release(state, total, key):
        return privacy.release(state, total, key=key)

    yield jax.jit(release).lower(state, summed, key)


# what an accelerator may compute in TF32 or bfloat16 unless it is told not to
REDUCED = re.compile(
    r"\b(dot_general|dot|convolution)\(|stablehlo\.(dot|convol)|gemm|cublas|bf16|\bf16|xf16"
)


def reduced(text):
    lines = (line.partition("metadata=")[0] for line in text.splitlines())
    return [line for line in lines if REDUCED.search(line)]


IN_EVERY_RUN = ("central_adaptive",)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            c, id=c.name, marks=[pytest.mark.slow] * (c.name not in IN_EVERY_RUN)
        )
        for c in PRIVACY
        if not c.name.startswith("none")
    ],
)
def test_no_reduced_precision_between_update_and_release(case):
    """Norms and sums are elementwise or integer: no dot for an accelerator to round."""
    for lowered in programs(case):
        assert reduced(lowered.as_text()) == []


def test_a_norm_by_dot_would_be_seen():
    update = jnp.zeros(100)
    lowered = jax.jit(lambda a: jnp.vdot(a, a)).lower(update)
    assert reduced(lowered.as_text())
    assert reduced(
        jax.jit(lambda a: a * a).lower(update.astype(jnp.bfloat16)).as_text()
    )


def test_the_compiled_program_has_no_dot_either():
    """After XLA's own rewriting, which may turn a sum into a product of matrices."""
    (case,) = (c for c in PRIVACY if c.name == "central_adaptive")
    encoding = next(programs(case)).compile().as_text()
    assert "reduce(" in encoding
    assert reduced(encoding) == []
