"""The command line and the API refuse wrong files with one clear sentence."""

import hashlib
import json
import os
from pathlib import Path

import dp_accounting
import pytest

from jaxfed.ledger import Ledger, LedgerError, _files
from jaxfed.ledger.__main__ import main

EVENT = dp_accounting.GaussianDpEvent(4.0)


@pytest.fixture
def path(tmp_path):
    place = tmp_path / "b.db"
    with Ledger.create(
        place, epsilon=9.0, delta=1e-3, anchor=tmp_path / "anchor"
    ) as ledger:
        ledger.plan(EVENT, rounds=3, name="mine [bold]")
        ledger.charge("mine [bold]")
    return place


def contents(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}


def test_what_is_left_is_shown(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "left" in shown
    assert "mine [bold]" in shown  # is no markup


@pytest.mark.parametrize("command", ["show", "verify", "export"])
@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("folder", "must be a ledger, got a folder"),
        ("", "must be a ledger, got a folder"),
        (".", "must be a ledger, got a folder"),
        ("text", "It is no ledger"),
        ("empty", "another or an unfinished file"),
        ("none", "got no such file"),
        ("none/none", "got no such file"),
        ("lost", "got only its secret"),
        ("braces", "must be what Ledger.export wrote"),
    ],
)
def test_what_is_no_ledger_is_refused(
    command, name, match, tmp_path, capsys, monkeypatch
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("dear diary\n" * 1000)
    (tmp_path / "empty").touch()
    (tmp_path / "braces").write_text("{]")
    (tmp_path / "lost-secret").write_text("00")
    monkeypatch.chdir(tmp_path)
    if (command, name) == ("export", "braces"):
        match = "It is no ledger"
    arguments = [command, name] + ["out.json"] * (command == "export")
    before = contents(tmp_path)
    assert main(arguments) == 1
    found = capsys.readouterr()
    assert found.out == ""
    assert match in found.err
    assert found.err.count("\n") == 1
    assert contents(tmp_path) == before


def test_a_file_that_cannot_be_read_is_refused(path, capsys, monkeypatch):
    def refused(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refused)
    for command in ("show", "verify"):
        assert main([command, str(path)]) == 1
        assert "could not be read: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["b.db", "b.db-secret", "b.db-seal", "b.db-wal", "b.db-shm", "anchor", "link"],
)
def test_an_export_never_takes_a_place_of_the_ledger(name, path, tmp_path, capsys):
    os.symlink(path, tmp_path / "link")
    before = contents(tmp_path)
    with (
        Ledger.open(path, read_only=True, anchor=tmp_path / "anchor") as ledger,
        pytest.raises(LedgerError, match="must not be one of the ledger's own files"),
    ):
        ledger.export(tmp_path / name)
    if name != "anchor":  # which the command line does not know
        assert main(["export", str(path), str(tmp_path / name)]) == 1
        assert "own files" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_ledger_named_as_the_file_beside_is_safe(tmp_path):
    with Ledger.create(tmp_path / "b.new", epsilon=9.0, delta=1e-3) as ledger:
        with pytest.raises(LedgerError, match="own files"):
            ledger.export(tmp_path / "b")
        ledger.plan(EVENT, rounds=3)
    Ledger.open(tmp_path / "b.new").close()


def test_an_export_needs_room(path, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    with Ledger.open(path, read_only=True) as ledger:
        with pytest.raises(LedgerError, match="got a folder; name a file in it"):
            ledger.export(tmp_path / "folder")
        with pytest.raises(LedgerError, match=r"must exist, got none; make it first"):
            ledger.export(tmp_path / "none" / "out.json")

        def full(_):
            raise OSError(28, "No space left on device")

        before = contents(tmp_path)
        monkeypatch.setattr(_files.os, "fsync", full)
        with pytest.raises(LedgerError, match="No space left"):
            ledger.export(tmp_path / "out.json")
        assert contents(tmp_path) == before


def test_a_place_for_a_ledger_is_checked(tmp_path):
    options = {"epsilon": 1.0, "delta": 1e-6}
    with pytest.raises(LedgerError, match="must exist, got none; make it first"):
        Ledger.create(tmp_path / "none" / "b.db", **options)
    with pytest.raises(LedgerError, match="got a folder"):
        Ledger.create(tmp_path, **options)
    for call in (lambda: Ledger.create(None, **options), lambda: Ledger.open(None)):
        with pytest.raises(TypeError, match=r"path must be .*; name a file"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("terms", "match"),
    [
        ({"epsilon": 1.0, "delta": 0.1}, "with that probability"),
        ({"epsilon": 60.0, "delta": 1e-6}, r"usual budgets are 0\.5 to 10"),
    ],
)
def test_budgets_that_promise_nothing_are_warned_of(terms, match, tmp_path):
    with pytest.warns(UserWarning, match=match) as found:
        Ledger.create(tmp_path / "b.db", **terms).close()
    assert found[0].filename == __file__


def test_a_closed_ledger_says_so(path, tmp_path):
    ledger = Ledger.open(path, anchor=tmp_path / "anchor")
    ledger.close()
    assert repr(ledger).endswith(", closed)")
    assert ledger.epsilon() > 0
    for call in (
        lambda: ledger.charge("mine [bold]"),
        lambda: ledger.plan(EVENT, rounds=1),
        ledger.verify,
        lambda: ledger.export(tmp_path / "out.json"),
    ):
        with pytest.raises(LedgerError, match="was closed; open it"):
            call()


def test_what_is_printed_is_rounded_up(path):
    with Ledger.open(path, read_only=True) as ledger:
        shown = float(repr(ledger).split("epsilon ")[1].split()[0])
        assert ledger.epsilon() <= shown <= ledger.epsilon() + 1e-4
        (mechanism,) = ledger.mechanisms
    assert repr(mechanism) == "Mechanism('mine [bold]': 1 of 3 releases made)"


def test_a_permit_holds_no_secret_of_the_ledger(path, tmp_path):
    secret = bytes.fromhex((tmp_path / "b.db-secret").read_text().strip())
    with Ledger.open(path, anchor=tmp_path / "anchor") as ledger:
        one, two = ledger.charge("mine [bold]"), ledger.charge("mine [bold]")
    held = [v for permit in (one, two) for v in vars(permit).values()]
    assert secret not in held
    assert one._secret != two._secret


def test_an_export_takes_no_other_file(path, tmp_path, capsys):
    """Another ledger, its secret, or an anchor would be gone."""
    other = tmp_path / "other.db"
    Ledger.create(other, epsilon=1.0, delta=1e-5).close()
    for place in (other, tmp_path / "other.db-secret", tmp_path / "other.db-seal"):
        before = place.read_bytes()
        assert main(["export", str(path), str(place)]) == 1
        assert "must be new, or an earlier export" in capsys.readouterr().err
        assert place.read_bytes() == before
    for _ in range(2):
        assert main(["export", str(path), str(tmp_path / "exported.json")]) == 0


def rewritten(path, change):
    """An export whose chain is whole, as only a holder of the secret could write it."""
    document = json.loads(path.read_text())
    entries = [json.loads(entry["text"]) for entry in document["entries"]]
    change(entries)
    previous = "0" * 64
    document["entries"] = []
    for number, values in enumerate(entries):
        values |= {"number": number, "previous": previous}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        previous = hashlib.sha256(text.encode()).hexdigest()
        document["entries"].append({"text": text, "hash": previous})
    path.write_text(json.dumps(document | {"head": previous}))


LIES = {
    "nothing": (lambda rows: None, 0),
    "too little noise": (lambda rows: rows[1]["event"].update(noise_multiplier=0.1), 1),
    "more than planned": (lambda rows: rows.extend(3 * [dict(rows[2])]), 1),
    "no use": (lambda rows: rows[2].update(uses=0), 1),
    "a word for epsilon": (lambda rows: rows[0].update(epsilon="x"), 1),
    "a word for noise": (lambda rows: rows[1]["event"].update(noise_multiplier="x"), 1),
    "a number for words": (lambda rows: rows[0].update(purpose=5), None),
    "a new unit": (lambda rows: rows[0].update(unit="dog"), None),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_auditor_sees_what_does_not_add_up(lie, path, tmp_path, capsys):
    change, wanted = LIES[lie]
    exported = tmp_path / "exported.json"
    assert main(["export", str(path), str(exported)]) == 0
    rewritten(exported, change)
    for command in ("verify", "show"):
        capsys.readouterr()
        code = main([command, str(exported)])
        shown = capsys.readouterr()
        assert code in (0, 1)
        assert shown.err.startswith("error: ") == bool(code)
        if command == "verify" and wanted is not None:
            assert code == wanted, shown
