"""`python -m jaxfed.deploy`: what is mistyped is said, and nothing is made of it."""

import pytest
from cryptography import x509

from jaxfed.deploy import _config
from jaxfed.deploy.__main__ import main


def serial_of(place):
    return f"{x509.load_pem_x509_certificate(place.read_bytes()).serial_number:X}"


def test_a_folder_that_is_mistyped_is_no_authority(tmp_path, capsys):
    place = str(tmp_path / "pki")
    for command in (["enroll"], ["renew"], ["revoke"]):
        assert main([*command, place, "north-clinic"]) == 2
        assert "must be the folder of an authority" in capsys.readouterr().err
    assert not (tmp_path / "pki").exists()
    assert main(["pki", place]) == 0
    assert main(["enroll", place, "north-clinic"]) == 0


def test_a_certificate_is_renewed_and_keeps_its_number(tmp_path):
    place = tmp_path / "pki"
    main(["pki", str(place), "--clients", "north", "south"])
    before, clients = (
        serial_of(place / "north.pem"),
        (place / "clients.txt").read_text(),
    )
    secret = (place / "north.key").read_bytes()
    assert main(["renew", str(place), "north"]) == 0
    assert (place / "clients.txt").read_text() == clients
    assert (place / "revoked.txt").read_text() == f"{before} north\n"
    assert serial_of(place / "north.pem") != before
    assert (place / "north.key").read_bytes() != secret
    assert main(["renew", str(place), "west"]) == 1


def test_a_key_is_made_once_and_where_it_can_be(tmp_path, capsys):
    assert main(["key", str(tmp_path / "none" / "key")]) == 2
    assert "could not be made: No such file" in capsys.readouterr().err
    assert main(["key", str(tmp_path / "key")]) == 0
    assert len(capsys.readouterr().out.strip()) == 64
    assert main(["key", str(tmp_path / "key")]) == 2
    assert "must not be there yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("build", "match"),
    [("hospital.py:build", "a file that is there"), ("hospital", "file.py:function")],
)
def test_a_missing_program_is_said(build, match, tmp_path):
    config = _config.Config(tmp_path, {"build": build}, _config.Pace(), {}, {})
    with pytest.raises(_config.ConfigError, match=match):
        config.build()
