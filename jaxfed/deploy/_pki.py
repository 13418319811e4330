"""Certificates for a small deployment, or a test: one authority, a server, clients.

Elliptic keys (P-256), a common name that is the client's name, and a file for each. An
organisation with an authority of its own uses that instead.
"""

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAYS = 365
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Authority:
    """Who signs certificates, in a folder.

    Args:
        folder: made, with a new authority, if it is not there.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / "authority.pem").exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = ec.generate_private_key(ec.SECP256R1())
            name = _name("jaxfed authority")
            certificate = _built(name, key.public_key(), name, _DAYS * 10)
            certificate = certificate.add_extension(
                x509.BasicConstraints(ca=True, path_length=0), critical=True
            ).add_extension(_usage(signs_others=True), critical=True)
            self._write("authority", key, certificate.sign(key, hashes.SHA256()))
            for name_ in ("clients.txt", "revoked.txt"):
                (folder / name_).touch()
        self._certificate = x509.load_pem_x509_certificate(
            (folder / "authority.pem").read_bytes()
        )
        key = serialization.load_pem_private_key(
            (folder / "authority.key").read_bytes(), None
        )
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    @property
    def clients(self) -> list[str]:
        """The names of all enrolled clients, in the order of their numbers."""
        return (self.folder / "clients.txt").read_text("utf-8").split()

    def server(self, hosts: Sequence[str]) -> None:
        """Makes `server.pem` and `server.key` for some host names or addresses."""
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        self._sign("server", hosts[0], ExtendedKeyUsageOID.SERVER_AUTH, names)

    def enroll(self, client: str, *, days: float = _DAYS) -> None:
        """Makes `<client>.pem` and `<client>.key`, and adds the client to the list.

        Raises:
            ValueError: it is no name for a file, or taken.
        """
        if not _NAME.fullmatch(client) or client in ("server", "authority"):
            raise ValueError(
                f"a client must be named by up to 63 letters, digits, '-', '_' or '.', "
                f"got {client!r}."
            )
        if client in self.clients:
            raise ValueError(f"client must be new, got {client!r}; it is enrolled.")
        self._sign(client, client, ExtendedKeyUsageOID.CLIENT_AUTH, days=days)
        with open(self.folder / "clients.txt", "a", encoding="utf-8") as file:
            file.write(client + "\n")

    def renew(self, client: str, *, days: float = _DAYS) -> None:
        """Revokes a client's certificate and makes another one; its number stays.

        Raises:
            ValueError: it is not enrolled.
        """
        if client not in self.clients:
            raise ValueError(f"client must be enrolled, got {client!r}.")
        self.revoke(client)
        self._sign(client, client, ExtendedKeyUsageOID.CLIENT_AUTH, days=days)

    def revoke(self, client: str) -> None:
        """Puts a client's certificate on the list of revoked ones."""
        place = self.folder / f"{client}.pem"
        if not place.exists():
            raise ValueError(f"client must be enrolled, got {client!r}.")
        serial = x509.load_pem_x509_certificate(place.read_bytes()).serial_number
        with open(self.folder / "revoked.txt", "a", encoding="utf-8") as file:
            file.write(f"{serial:X} {client}\n")

    def _sign(
        self,
        file: str,
        name: str,
        usage: x509.ObjectIdentifier,
        names: x509.SubjectAlternativeName | None = None,
        days: float = _DAYS,
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self._certificate.subject
        certificate = _built(_name(name), key.public_key(), issuer, days)
        certificate = certificate.add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        ).add_extension(_usage(signs_others=False), critical=True)
        certificate = certificate.add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(
            self._key.public_key()
        )
        certificate = certificate.add_extension(authority, critical=False)
        if names is not None:
            certificate = certificate.add_extension(names, critical=False)
        self._write(file, key, certificate.sign(self._key, hashes.SHA256()))

    def _write(
        self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
    ) -> None:
        pem = serialization.Encoding.PEM
        secret = key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        place = self.folder / f"{name}.key"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(os.open(place, flags, 0o600), "wb") as file:
            file.write(secret)
        (self.folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_others: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_others,
        key_cert_sign=signs_others,
        crl_sign=signs_others,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _built(
    name: x509.Name, key: ec.EllipticCurvePublicKey, issuer: x509.Name, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    begin = now - datetime.timedelta(days=1)
    end = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(begin, end - datetime.timedelta(seconds=1)))
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
