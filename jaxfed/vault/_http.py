"""The client's side of HTTP: the standard library, TLS 1.3, bounded reads."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Generator
from pathlib import Path

from jaxfed.vault import _task
from jaxfed.vault._errors import Rejected, Stale, Unreachable, WireError
from jaxfed.vault._visit import Ended

_SECONDS = 30.0  # without a byte
_SLOWEST = 10_000  # bytes in a second, of a request and its answer as a whole
_MOST_WORD = 1 << 10
_BUSY = (1.0, 4.0, 10.0, 20.0)  # seconds before a busy server is asked again


def checked_url(url: str) -> tuple[bool, str, int | None]:
    """Returns whether a URL is of TLS, its host and its port.

    Raises:
        ValueError: it is no URL of a server.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(
            f"a server must be https://host:port, got {url!r}: {error}."
        ) from None
    is_local = host in ("127.0.0.1", "localhost", "::1")
    is_secure = parts.scheme == "https"
    fits = is_secure or (parts.scheme == "http" and is_local)
    is_plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    is_plain = is_plain and parts.path in ("", "/") and url.isprintable()
    if not (fits and host and is_plain) or " " in url:
        raise ValueError(
            f"a server must be https://host:port, got {url!r}; http:// is for this "
            "machine alone."
        )
    return is_secure, host, port


class Http:
    """A server behind a URL.

    Args:
        url: `https://host:port`; `http://` on this machine alone.
        certificate: PEM file of this client's certificate.
        key: PEM file of its private key.
        authority: PEM file of who signed the server's certificate.

    Raises:
        Rejected: a file cannot be read.
        ValueError: the URL is no such URL.
    """

    def __init__(
        self,
        url: str,
        *,
        certificate: Path | None = None,
        key: Path | None = None,
        authority: Path | None = None,
    ):
        is_secure, self._host, self._port = checked_url(url)
        self._context = None
        if is_secure:
            self._context = _context(certificate, key, authority)
        self._connection: http.client.HTTPConnection | None = None

    def task(self, seconds: float) -> bytes | None:
        """Waits for a task; None if there is none for now."""
        path = f"/v1/task?seconds={seconds:.0f}"
        status, data = self._ask("GET", path, _task.MOST_TASK, wait=seconds)
        if status == 204:
            return None
        if status == 410:
            raise Ended
        return self._good(status, data)

    def blob(self, digest: str, most: int) -> bytes:
        """Fetches a plan or a model."""
        status, data = self._ask("GET", f"/v1/blob/{digest}", most)
        if status == 404:
            raise Stale("the round is over")
        return self._good(status, data)

    def report(self, data: bytes) -> str:
        """Sends a report; returns what became of it."""
        for seconds in (*_BUSY, 0.0):  # the same report, computed once
            status, answer = self._ask("POST", "/v1/report", _MOST_WORD, data)
            if status not in (429, 503) or not seconds:
                break
            time.sleep(seconds)
        if status not in (200, 409, 410):
            self._good(status, answer)
        return _printable(answer[:40])

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _good(self, status: int, data: bytes) -> bytes:
        if status in (408, 429, 500, 502, 503, 504):
            raise Unreachable(f"the server answered {status}; try again later.")
        if status != 200:
            raise Rejected(f"the server answered {status}: {_printable(data[:300])}")
        return data

    def _ask(
        self,
        method: str,
        path: str,
        most: int,
        body: bytes | None = None,
        wait: float = 0.0,
    ) -> tuple[int, bytes]:
        """Sends one request; once more if a kept connection was closed meanwhile."""
        for is_last in (self._connection is None, True):
            try:
                return self._once(method, path, most, body, wait)
            except (http.client.HTTPException, OSError, UnicodeError) as error:
                self.close()
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise Rejected(
                        f"the server's certificate must be signed by --authority: "
                        f"{error.verify_message}."
                    ) from None
                reason = getattr(error, "reason", None) or ""
                if "ALERT" in str(reason):
                    words = str(reason).lower().replace("_", " ")
                    raise Rejected(
                        f"the server does not take this certificate: {words}."
                    ) from None
                if is_last:
                    hint = ""
                    if self._context and isinstance(error, ConnectionError):
                        hint = (
                            " Where it never does, it may not take this certificate: "
                            "see that it is of the server's own authority."
                        )
                    raise Unreachable(
                        f"the server did not answer: {type(error).__name__}.{hint}"
                    ) from None
        raise AssertionError

    def _once(
        self, method: str, path: str, most: int, body: bytes | None, wait: float
    ) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._connected()
        connection, patience = self._connection, _SECONDS + wait
        connection.timeout = patience
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(patience)
        in_all = patience + (most + len(body or b"")) / _SLOWEST
        with _ended_after(in_all, connection.sock):
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            limit = most if answer.status == 200 else _MOST_WORD
            data = answer.read(limit + 1)
        if len(data) > limit:
            self.close()
            raise WireError(f"an answer must have at most {limit} bytes")
        if answer.length:  # what was announced and did not come
            raise http.client.IncompleteRead(b"", answer.length)
        return answer.status, data

    def _connected(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port)
        return http.client.HTTPSConnection(
            self._host, self._port, context=self._context
        )


@contextlib.contextmanager
def _ended_after(seconds: float, connection: socket.socket) -> Generator[None]:
    """Ends a connection that takes longer, also where a byte comes now and then."""

    def end() -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _printable(data: bytes) -> str:
    words = data.decode("ascii", "replace").strip()
    return "".join(c for c in words if c.isprintable())


def _end_of(certificate: Path) -> float:
    """Returns until when a certificate holds, in seconds of the epoch.

    Of the fields of X.509 (RFC 5280, section 4.1): a version that may be missing, then
    number, algorithm, issuer, and two times.

    Raises:
        ValueError: it is no certificate.
    """
    text = certificate.read_text("ascii", "replace")
    begin = text.index("-----BEGIN CERTIFICATE-----")
    end = "-----END CERTIFICATE-----"
    data = ssl.PEM_cert_to_DER_cert(text[begin : text.index(end, begin) + len(end)])
    (_, outer, _), *_ = _fields(data)
    fields = _fields(_fields(outer)[0][1])
    fields = fields[1:] if fields[0][0] == 0xA0 else fields
    kind, value, _ = _fields(fields[3][1])[1]
    year = value[:4] if kind == 0x18 else b"%d" % (19 + (value < b"50")) + value[:2]
    digits = (year + value[-11:-1]).decode("ascii")
    return float(
        ssl.cert_time_to_seconds(
            time.strftime(
                "%b %d %H:%M:%S %Y GMT", time.strptime(digits, "%Y%m%d%H%M%S")
            )
        )
    )


def _fields(data: bytes) -> list[tuple[int, bytes, int]]:
    """Returns tag, content and length of each value of DER, one after another."""
    found, place = [], 0
    while place + 2 <= len(data):
        tag, size, start = data[place], data[place + 1], place + 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[start : start + count], "big")
            start += count
        found.append((tag, data[start : start + size], size))
        place = start + size
    return found


def _context(
    certificate: Path | None, key: Path | None, authority: Path | None
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate is None or authority is None:
        raise Rejected(
            "https needs --cert and --authority: files of this client's certificate "
            "and of who signed the server's."
        )
    try:
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        raise Rejected(
            f"{certificate} and {authority} must be PEM files of a certificate with "
            f"its key, and of an authority: {error}."
        ) from None
    with contextlib.suppress(ValueError, IndexError, OverflowError):
        if _end_of(certificate) < time.time():
            raise Rejected(
                f"{certificate} must be valid, but has expired; ask the server's "
                "operator for another one."
            )
    return context
