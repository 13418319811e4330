"""With a vault's own noise, how long it takes says next to nothing."""

import time

import pytest

from jaxfed.vault import _answer_time
from jaxfed.vault._answer_time import AnswerTime
from jaxfed.vault._errors import Refused


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(_answer_time, "_LEAST", 0.1)


def answered(one, work):
    """Returns when an answer left, after so many seconds of work."""
    began = time.monotonic()
    one.wait(began - work)
    return time.monotonic() - began + work


def test_fast_and_slow_work_are_answered_alike(tmp_path):
    one = AnswerTime(tmp_path)
    for work in (0.0, 0.03, 0.09):
        assert 0.1 <= answered(one, work) < 0.2


def test_the_time_doubles_and_stays(tmp_path):
    one = AnswerTime(tmp_path)
    assert 0.4 <= answered(one, 0.25) < 0.5
    for work in (0.0, 0.3):
        assert 0.4 <= answered(AnswerTime(tmp_path), work) < 0.5  # also from now on


@pytest.mark.parametrize("text", ["soon", "nan", "-1", "0", "inf", ""])
def test_a_damaged_file_is_said(text, tmp_path):
    (tmp_path / "answer-seconds").write_text(text)
    with pytest.raises(Refused, match="must hold a number of seconds"):
        AnswerTime(tmp_path)
