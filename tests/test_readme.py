"""The README's program runs as it stands there."""

import pathlib
import re

import jax
import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_both_programs_run(capsys, tmp_path, monkeypatch):
    first, second = re.findall(
        r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with jax.numpy_dtype_promotion("standard"):  # which optax.adam itself needs
        exec(compile(first, str(README), "exec"), names)
        assert names["history"].epsilon <= 1.0
        assert names["history"].private is False
        assert names["history"].rounds[-1].evaluation["auc"] > 0.7
        assert "After 50 rounds" in capsys.readouterr().out
        exec(compile(second, str(README), "exec"), names)
    assert names["history"].private is True
    assert names["history"].epsilon <= 1.0
    assert (tmp_path / "report.html").stat().st_size > 10_000
