"""A ledger is where it was opened, whatever the process or its folder do."""

import os

import pytest
from dp_accounting import dp_event

from jaxfed.ledger import Ledger, LedgerError
from jaxfed.ledger.__main__ import main

EVENT = dp_event.GaussianDpEvent(30.0)


def created(path, **options):
    return Ledger.create(path, epsilon=9.0, delta=1e-5, **options)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here", tmp_path / "there"


def test_a_process_that_changes_its_folder_keeps_its_ledger(folders, monkeypatch):
    here, there = folders
    created(there / "budget.db").close()
    before = (there / "budget.db-seal").read_bytes()
    with created("budget.db", anchor="anchor") as ledger:
        monkeypatch.chdir(there)
        (there / "anchor").write_text("something else")
        ledger.charge(EVENT)
        assert ledger.path == here / "budget.db"
    assert (there / "budget.db-seal").read_bytes() == before
    assert (there / "anchor").read_text() == "something else"
    with Ledger.open(here / "budget.db", anchor=here / "anchor") as ledger:
        assert ledger.num_entries == 3
    Ledger.open(there / "budget.db").close()


def test_links_stand_for_what_they_point_to(folders):
    here, there = folders
    (there / "anchor").touch()
    (there / "anchor").unlink()
    (here / "anchor").symlink_to(there / "anchor")
    created(there / "budget.db", anchor=here / "anchor").close()
    (here / "linked.db").symlink_to(there / "budget.db")
    copies = {f: f.read_bytes() for f in there.glob("budget.db*")}
    with Ledger.open(here / "linked.db", anchor=here / "anchor") as ledger:
        ledger.charge(EVENT)
    assert (here / "anchor").is_symlink()
    for file, content in copies.items():
        file.write_bytes(content)
    with pytest.raises(LedgerError, match="older copy"):
        Ledger.open(there / "budget.db", anchor=there / "anchor")


def test_a_seal_of_another_ledger_is_not_taken_over(tmp_path):
    created(tmp_path / "b.db").close()
    for name in ("b.db", "b.db-secret"):
        (tmp_path / name).unlink()
    with pytest.raises(LedgerError, match="the seal of a ledger that was there"):
        created(tmp_path / "b.db")
    assert not (tmp_path / "b.db-secret").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_forked_child_holds_no_lock(tmp_path):
    with created(tmp_path / "b.db"):
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writes)
            os.read(reads, 1)  # until the parent lets it go
            os._exit(0)
        os.close(reads)
        with pytest.raises(LedgerError, match="one writer"):  # the parent holds it
            Ledger.open(tmp_path / "b.db")
    Ledger.open(tmp_path / "b.db").close()
    os.close(writes)
    os.waitpid(child, 0)


def test_an_export_is_of_one_ledger_and_adds_up(tmp_path, capsys):
    for name in ("a", "b"):
        with created(
            tmp_path / f"{name}.db", anchor=tmp_path / f"{name}.anchor"
        ) as one:
            one.charge(EVENT)
            one.export(tmp_path / f"{name}.json")
    with Ledger.open(tmp_path / "a.db", anchor=tmp_path / "a.anchor") as ledger:
        with pytest.raises(LedgerError, match="an earlier export of this"):
            ledger.export(tmp_path / "b.json")
        ledger.export(tmp_path / "a.json")
    changed = (tmp_path / "a.json").read_text()
    at = changed.index('"epsilon_spent": ')
    end = changed.index(",", at)
    (tmp_path / "a.json").write_text(
        changed[:at] + '"epsilon_spent": 0.0' + changed[end:]
    )
    assert main(["verify", str(tmp_path / "a.json")]) == 1
    assert "summary that its entries add up to" in capsys.readouterr().err


def test_an_anchor_counts_for_an_export_too(tmp_path, capsys):
    anchor, export = tmp_path / "anchor", tmp_path / "e.json"
    with created(tmp_path / "b.db", anchor=anchor) as ledger:
        ledger.plan(EVENT, 3)
        ledger.export(export)
        arguments = ["verify", str(export), "--anchor", str(anchor)]
        assert main(arguments) == 0
        ledger.charge(EVENT)
    assert main(arguments) == 1
    assert "older copy" in capsys.readouterr().err
    assert main(["verify", str(export), "--anchor", str(tmp_path / "no")]) == 1


def test_verify_says_whether_it_saw_who_wrote_the_entries(tmp_path, capsys):
    path = tmp_path / "b.db"
    with created(path) as ledger:
        ledger.charge(EVENT)
    assert main(["verify", str(path)]) == 0
    assert "written with the ledger's secret" in capsys.readouterr().out
    secret = (tmp_path / "b.db-secret").read_text()
    (tmp_path / "b.db-secret").write_text("0" * 64 + "\n")
    assert main(["verify", str(path)]) == 1
    assert "not written with this ledger's secret" in capsys.readouterr().err
    (tmp_path / "b.db-secret").unlink()
    assert main(["verify", str(path)]) == 0
    assert "who wrote them was not checked" in capsys.readouterr().out
    assert secret not in capsys.readouterr().out
