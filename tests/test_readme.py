"""The README's program runs as it stands there."""

import pathlib
import re

import jax
import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_first_program_runs(capsys):
    (program,) = re.findall(
        r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL
    )
    names: dict = {}
    with jax.numpy_dtype_promotion("standard"):  # which optax.adam itself needs
        exec(compile(program, str(README), "exec"), names)
    assert names["history"].epsilon <= 1.0
    assert names["history"].rounds[-1].evaluation["auc"] > 0.7
    assert "After 50 rounds" in capsys.readouterr().out
