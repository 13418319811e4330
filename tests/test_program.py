"""A program is known again in another process, and another one is not taken for it."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfed import _program

ROOT = Path(__file__).resolve().parents[1]
X = jax.ShapeDtypeStruct((5,), jnp.float32)
WEIGHTS = np.arange(5, dtype=np.float32)
AGAIN = (
    "import jax\n"
    "from tests.test_program import X, plain, program\n"
    "print(program(plain).hex(), flush=True)\n"
)


def program(function):
    return _program.digest_of(function, X)


def plain(x):
    @jax.jit
    def inner(y):
        return jax.nn.relu(y * jnp.asarray(WEIGHTS)).sum()

    return jax.grad(lambda z: inner(z) * 0.1)(x)


def changed(weights=WEIGHTS, factor=0.1, activation=jax.nn.relu):
    def function(x):
        @jax.jit
        def inner(y):
            return activation(y * jnp.asarray(weights)).sum()

        return jax.grad(lambda z: inner(z) * factor)(x)

    return function


def test_the_same_in_other_words_is_the_same():
    assert program(plain) == program(plain) == program(changed())


@pytest.mark.parametrize(
    "options",
    [
        {"weights": WEIGHTS + np.float32(1e-6)},
        {"weights": WEIGHTS[::-1]},
        {"factor": np.nextafter(np.float32(0.1), np.float32(1))},
        {"activation": jax.nn.softplus},
        {"activation": jax.nn.leaky_relu},
    ],
)
def test_another_constant_or_step_is_another_program(options):
    assert program(changed(**options)) != program(plain)


@pytest.mark.parametrize("are_literals", [False, True])
def test_arrays_count_wherever_jax_keeps_them(are_literals):
    """Beside a program, or in it, as JAX may do one day by itself."""
    name = "jax_use_simplified_jaxpr_constants"
    before = getattr(jax.config, name)
    jax.config.update(name, are_literals)
    try:
        for convert in (np.asarray, jnp.asarray):
            given = [convert(w) for w in (WEIGHTS, WEIGHTS + np.float32(1), WEIGHTS)]
            found = [program(lambda x, w=w: jax.jit(lambda y: y * w)(x)) for w in given]
            assert found[0] == found[2] != found[1]
        returned = [program(lambda x, w=w: jnp.asarray(w)) for w in (WEIGHTS, -WEIGHTS)]
        assert returned[0] != returned[1]
    finally:
        jax.config.update(name, before)


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("seed", ["0", "1"])
def test_other_processes_agree(is_terminal, seed):
    """With another hash seed, and where output would be coloured."""
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    ours, theirs = os.openpty() if is_terminal else os.pipe()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AGAIN],
        env=environment,
        cwd=ROOT,
        stdout=theirs,
        check=True,
    )
    found = os.read(ours, 1000).decode()
    os.close(ours)
    os.close(theirs)
    assert found.strip() == program(plain).hex()


def test_the_machine_is_told_without_what_is_its_owners(monkeypatch):
    before = _program.machine()
    assert before == _program.machine()
    assert {"jax", "jaxlib", "numpy", "jaxfed", "processor"} <= set(before)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/home/somebody")
    after = _program.machine()
    assert after != before
    assert "somebody" not in str(after)
