"""The vault's command line: one file, words for people, exit codes for machines."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from jaxfed.vault import _plan, _signature
from jaxfed.vault.__main__ import main
from jaxfed.vault._build import build
from tests.vault.test_policy import plan

SECRET = bytes(range(32))
PUBLIC = _signature.public_key(SECRET).hex()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.json").write_text(json.dumps({"signers": [PUBLIC]}))
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 3), np.float32))
    document = plan(epochs=1).document
    checks = {name: [[0.0, 0.0]] for name in ("begin", "step", "finish")}
    one = _plan.Plan(_plan.compressed(_plan.canonical(document)))
    from jaxfed.vault import _made_up

    for name, inputs in one.inputs.items():
        found = getattr(one, name)(*_made_up.arrays(inputs))
        checks[name] = _made_up.summary(found)
    text = _plan.compressed(_plan.canonical({**document, "check": checks}))
    (tmp_path / "plan").write_bytes(_signature.sealed(SECRET, text))
    (tmp_path / "unsigned").write_bytes(text)
    return tmp_path


def test_an_audit_says_what_a_plan_would_do(folder, capsys):
    assert main(["audit", "plan", "--policy", "policy.json", "--examples", "50"]) == 0
    said = capsys.readouterr().out
    for words in (
        f"signed by  {PUBLIC} (trusted)",
        "reads      x float32[3] of each example; nothing else",
        "sends      2 integers, clipped; no metrics, no counts",
        "epsilon 2 at delta 1e-05 for each client (zero_out) over 10 rounds",
        "fewer than 4 of 8 clients",
        "policy     would take part",
    ):
        assert words in said
    assert main(["audit", "plan"]) == 0
    assert "(not trusted)" in capsys.readouterr().out
    assert main(["audit", "unsigned"]) == 0
    assert "nobody: vaults refuse it" in capsys.readouterr().out
    strict = {"signers": [PUBLIC], "most_epsilon": 1}
    (folder / "policy.json").write_text(json.dumps(strict))
    assert main(["audit", "plan", "--policy", "policy.json"]) == 77
    assert "refuses: its epsilon is 2" in capsys.readouterr().out


def test_an_audit_says_who_adds_the_noise(capsys):
    from jaxfed.vault import _audit
    from tests.vault.test_noise import rules_of

    said = "\n".join(_audit._promised(rules_of("laplace")[0]))
    assert "local laplace: this vault adds noise of 4 clip norms" in said
    said = "\n".join(_audit._promised(plan(epochs=1).rules))
    assert "the server adds noise of 1 clip norms, and sees each report" in said


def test_an_audit_refuses_what_is_no_plan(folder, caplog):
    (folder / "bad").write_bytes(b"no plan")
    assert main(["audit", "bad"]) == 76
    assert main(["audit", "nothing"]) == 76
    changed = bytearray((folder / "plan").read_bytes())
    changed[-1] ^= 1
    (folder / "bad").write_bytes(changed)
    assert main(["audit", "bad"]) == 76
    assert "its signature must be true" in caplog.text


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"--policy": "none.json"}, 78, "the policy must be at"),
        ({"--policy": "empty.json"}, 78, "must name signers"),
        ({"--data": "none.npz"}, 65, "data must be a file"),
        ({"--columns": "none.json"}, 65, "column file must be at"),
        ({"--record": "data.npz"}, 77, "folder to write in"),
        ({"url": "http://127.0.0.1:9"}, 69, "did not answer"),
        ({"url": "https://127.0.0.1:9"}, 77, "needs --cert"),
    ],
)
def test_every_failure_has_its_words_and_its_code(change, code, words, folder, caplog):
    (folder / "empty.json").write_text("{}")
    options = {"--policy": "policy.json", "--data": "data.npz", **change}
    url = options.pop("url", "http://127.0.0.1:9")
    given = [part for pair in options.items() for part in pair]
    assert main(["join", url, "--once", "--patience", "0", *given]) == code
    assert words in caplog.text


def test_a_wrong_argument_is_said_before_anything_is_done(folder, capsys):
    rest = ["--data", "data.npz", "--policy", "policy.json"]
    for url in (
        *("http://elsewhere:1", "https://a:99999", "https://a:abc", "https://[::1"),
        *("ftp://127.0.0.1", "127.0.0.1:80", "https://", "https://a/path"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["join", url, *rest])
        assert "must be https://host:port" in capsys.readouterr().err
    for seconds in ("nan", "inf", "-40", "1e9"):
        for option in ("--wait", "--patience"):
            with pytest.raises(SystemExit, match="2"):
                main(["join", "https://a:1", *rest, option, seconds])
            assert "must be seconds" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["audit", "plan", "--examples", "0"])


def test_what_cannot_be_written_is_said(folder, caplog):
    assert main(["build", str(folder / "none" / "vault.pyz")]) == 73
    assert "cannot be written" in caplog.text


def test_a_plan_cannot_command_a_terminal():
    from jaxfed.vault import _audit

    shown = _audit.printable("\x1b[2J\u202e \nok")
    assert shown == "\\x1b[2J\\u202e \nok"


def test_a_record_has_one_process(folder, caplog):
    """Two could answer one round with two noises."""
    from jaxfed.vault import _lock

    place = folder / "vault-record"
    place.mkdir()
    once = ["join", "http://127.0.0.1:9", "--once", "--patience", "0"]
    once += ["--data", "data.npz", "--policy", "policy.json"]
    with _lock.held(place):
        assert main(once) == 75
        assert "another process takes part" in caplog.text
    assert main(once) == 69  # now it gets as far as the server


def test_wrong_arguments_are_shown(capsys):
    for given in ([], ["join"], ["join", "https://x"], ["other"]):
        with pytest.raises(SystemExit) as ended:
            main(given)
        assert ended.value.code == 2


def test_one_file_runs_and_is_the_same_for_the_same_sources(folder):
    first, second = folder / "vault.pyz", folder / "again.pyz"
    assert main(["build", str(first)]) == 0
    build(second)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 90_000
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
    assert all(name.startswith(("jaxfed/", "__main__")) for name in names)
    done = subprocess.run(
        [sys.executable, "-I", str(first), "audit", "plan"],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    assert "sends      2 integers" in done.stdout
    subprocess.run(
        [sys.executable, "-I", str(first), "build", "third.pyz"], check=True, cwd=folder
    )
    assert (folder / "third.pyz").read_bytes() == first.read_bytes()
    asked = "import sys; sys.path.insert(0, 'vault.pyz'); import jaxfed.vault.__main__"
    found = subprocess.run(
        [sys.executable, "-I", "-c", f"{asked}; print('jax' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    assert found.stdout.strip() == "False"
