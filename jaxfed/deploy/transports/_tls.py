"""TLS for a server that knows its clients by their certificates."""

import ssl
from pathlib import Path
from typing import Any


def server_context(
    certificate: str | Path, key: str | Path, authority: str | Path
) -> ssl.SSLContext:
    """Returns what encrypts: TLS 1.3, and a certificate from every client.

    Raises:
        ValueError: a file is missing or no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"certificate, key and authority must be PEM files that fit, got "
            f"{certificate}, {key}, {authority}: {error}; make some with "
            "`python -m jaxfed.deploy pki`."
        ) from None
    return context


def identity(certificate: dict[str, Any] | None) -> tuple[str | None, str]:
    """Returns the common name and the serial number of a certificate."""
    if not certificate:
        return None, ""
    names = [
        value
        for part in certificate.get("subject", ())
        for key, value in part
        if key == "commonName"
    ]
    serial = str(certificate.get("serialNumber", "")).lstrip("0").upper()
    return (names[0] if len(names) == 1 else None), serial


class Revoked:
    """A list of serial numbers in a file, read again whenever it changes.

    Args:
        path: a hexadecimal number a line; what follows a blank is a remark.

    Raises:
        ValueError: it cannot be read.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._serials: set[str] = set()
        self._read()

    def has(self, serial: str) -> bool:
        """Returns whether a certificate was revoked; True if nobody can tell."""
        try:
            self._read()
        except ValueError:
            return True
        return serial in self._serials

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                lines = self._path.read_text("utf-8").splitlines()
                words = [line.split() for line in lines if line.strip()]
                self._serials = {one[0].lstrip("0").upper() for one in words}
                self._stamp = stamp
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"revoked must be a file of serial numbers, got {self._path}: {error}; "
                "make an empty one."
            ) from None
