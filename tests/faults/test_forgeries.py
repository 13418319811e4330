"""A ledger that was edited, swapped or rolled back is refused, and so is its use."""

import os
import shutil

import pytest

from jaxfed.ledger import LedgerError, _rows, _store
from tests.faults import sessions, tampering
from tests.faults.tampering import edited, filled, killed, outcome, rechained, resealed

EDITS = {
    "delete": ["DELETE FROM entries WHERE number = 50"],
    "delete and move up": [
        "DELETE FROM entries WHERE number = 50",
        "UPDATE entries SET number = -number WHERE number > 50",
        "UPDATE entries SET number = -number - 1 WHERE number < 0",
    ],
    "insert a copy": [
        "UPDATE entries SET number = -number WHERE number > 50",
        "UPDATE entries SET number = 1 - number WHERE number < 0",
        "INSERT INTO entries SELECT 51, text, hash, mac FROM entries WHERE number = 50",
    ],
    "reorder": [
        "UPDATE entries SET number = -1 WHERE number = 50",
        "UPDATE entries SET number = 50 WHERE number = 51",
        "UPDATE entries SET number = 51 WHERE number = -1",
    ],
    "spend less": [
        "UPDATE entries SET text = replace(text, '\"uses\":1', '\"uses\":0') "
        "WHERE number = 50"
    ],
    "another subject": [
        'UPDATE entries SET text = replace(text, \'"about":""\', '
        '\'"about":"x"\') WHERE number = 50'
    ],
    "another kind of value": ["UPDATE entries SET text = CAST(text AS BLOB)"],
    "no first entry": ["DELETE FROM entries WHERE number = 0"],
}


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("closed") / "ledger")


@pytest.fixture
def anchored(quick_path):
    return filled(quick_path / "anchored", anchored=True)


@pytest.fixture(params=["sealed", "sealed again", "killed"])
def copy(closed, quick_path, request):
    """A ledger to edit, and what is done to its seal afterwards."""
    if request.param == "killed":
        return killed(closed, quick_path / "copy"), lambda: None
    folder = shutil.copytree(closed, quick_path / "copy")
    again = request.param == "sealed again"
    return folder, (lambda: resealed(folder)) if again else (lambda: None)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_ledger_is_refused(copy, edit):
    folder, finish = copy
    edited(folder, *EDITS[edit])
    finish()
    for read_only in (True, False):
        with pytest.raises(LedgerError, match=r"must be as it was|must have the"):
            sessions.opened(folder, False, read_only=read_only)


@pytest.mark.parametrize("edit", [e for e in EDITS if e != "another kind of value"])
def test_a_chain_computed_anew_needs_the_secret(copy, edit):
    """A reader without the secret believes it, if it makes sense, and not if not."""
    folder, finish = copy
    edited(folder, *EDITS[edit])
    rechained(folder)
    finish()
    outcome(folder, read_only=True)  # whatever it says, it is no other error
    with pytest.raises(LedgerError, match="must be as it was"):
        sessions.opened(folder, False)


def test_rows_without_their_mac_would_be_noticed(closed, quick_path, monkeypatch):
    """The power: without the secret's MAC a forged chain is believed."""
    folder = shutil.copytree(closed, quick_path / "copy")
    edited(folder, *EDITS["another subject"])
    rechained(folder)
    resealed(folder)
    monkeypatch.setattr(_rows.hmac, "compare_digest", lambda a, b: True)
    assert len(outcome(folder)) == 100


def test_a_file_without_its_seals_check_would_be_noticed(
    closed, quick_path, monkeypatch
):
    """The power: without the seal a bit that SQLite does not use goes unnoticed."""
    folder = shutil.copytree(closed, quick_path / "copy")
    content = bytearray((folder / "ledger").read_bytes())
    content[72] ^= 1  # reserved for expansion
    (folder / "ledger").write_bytes(bytes(content))
    assert outcome(folder, read_only=True) is None
    monkeypatch.setattr(_store, "checked_seal", lambda path: None)
    assert len(outcome(folder, read_only=True)) == 100


@pytest.mark.parametrize("parts", [["ledger"], ["ledger", "ledger-seal"]])
def test_another_ledger_in_its_place_is_refused(closed, quick_path, parts):
    folder = shutil.copytree(closed, quick_path / "copy")
    other = filled(quick_path / "other")
    for part in parts:
        shutil.copy(other / part, folder / part)
    with pytest.raises(LedgerError, match=r"secret|must be as it was when"):
        sessions.opened(folder, False)


def test_an_older_copy_is_refused_by_the_anchor(anchored, quick_path):
    old = shutil.copytree(anchored, quick_path / "old")
    with sessions.opened(anchored, True) as ledger:
        ledger.charge("single")
    for part in ("ledger", "ledger-seal"):
        shutil.copy(old / part, anchored / part)
    for read_only in (True, False):
        with pytest.raises(LedgerError, match="older copy, and would forget"):
            sessions.opened(anchored, True, read_only=read_only)


def test_a_fork_is_refused_by_the_anchor(anchored, quick_path):
    fork = shutil.copytree(anchored, quick_path / "fork")
    for folder, charges in ((anchored, 1), (fork, 0)):
        with sessions.opened(folder, True) as ledger:
            sessions.work(ledger, lambda line: None, charges=charges, rounds=2)
    shutil.copy(fork / "elsewhere/anchor", anchored / "elsewhere/anchor")
    with pytest.raises(LedgerError, match="edited, forked or swapped"):
        sessions.opened(anchored, True)


def test_an_anchor_must_be_named_and_there(anchored):
    with pytest.raises(LedgerError, match="must be opened with its anchor"):
        sessions.opened(anchored, False)
    (anchored / "elsewhere/anchor").write_text('{"entries": 3, "head": ""}\n')
    with pytest.raises(LedgerError, match="must be the ledger that"):
        sessions.opened(anchored, True)
    (anchored / "elsewhere/anchor").write_text("{}")
    with pytest.raises(LedgerError, match="must be as it was written"):
        sessions.opened(anchored, True)
    (anchored / "elsewhere/anchor").unlink()
    with pytest.raises(LedgerError, match=r"the anchor must be at .* bring it back"):
        sessions.opened(anchored, True)


def test_a_secret_that_is_missing_wrong_or_shown_is_refused(closed, quick_path):
    folder = shutil.copytree(closed, quick_path / "copy")
    secret = folder / "ledger-secret"
    text = secret.read_text()
    secret.chmod(0o644)
    with pytest.raises(LedgerError, match="readable by its owner alone, got mode 0644"):
        sessions.opened(folder, False)
    secret.chmod(0o600)
    secret.write_text("0" * 64)
    with pytest.raises(LedgerError, match="not written with this ledger's secret"):
        sessions.opened(folder, False)
    secret.write_text(text[:-3])
    with pytest.raises(LedgerError, match="must hold 64 hexadecimal digits"):
        sessions.opened(folder, False)
    os.remove(secret)
    with pytest.raises(LedgerError, match="the ledger's secret must be at"):
        sessions.opened(folder, False)
    assert len(tampering.hashes(folder, read_only=True)) == 100
