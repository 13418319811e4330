"""Connections of one server: bounded in all, and of each client; none stays silent.

A process may have so many files open, and a ledger needs some of them. So connections
end where files would: the oldest that has said nothing makes room for a new one.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from jaxfed.deploy.transports import _tls

_MOST_FILES = 1 << 16
_RESERVE = 128  # files for ledger, models, plan, and what else a process has open
_AT_ONCE = 64  # connections that are accepted before any is looked at
_UNKNOWN = 512  # files of a system that does not say


def most_connections() -> int:
    """Returns how many connections a server may have; lets this process have them."""
    try:
        import resource
    except ImportError:  # Windows
        return _UNKNOWN - _RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            pass
    files = _MOST_FILES if soft == resource.RLIM_INFINITY else soft
    return max(files // 2, files - _RESERVE)


class Listener:
    """Accepts connections, encrypts them, and hands them on.

    Args:
        context: of TLS, that asks for certificates.
        protocol: returns who speaks on an encrypted connection.
        most: connections in all.
        most_each: of one client; its oldest one ends.
        handshake_seconds: until a connection is encrypted, and then until it spoke.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        protocol: Callable[[], asyncio.Protocol],
        *,
        most: int,
        most_each: int,
        handshake_seconds: float,
    ):
        self._context, self._protocol = context, protocol
        self._most, self._most_each = most, most_each
        self._patience = handshake_seconds
        self._open: dict[_Connection, None] = {}  # the oldest first
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Returns the server, once it listens."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(
            lambda: _Connection(self), host, port, backlog=_AT_ONCE
        )

    def spoke(self, transport: Any) -> None:
        """Notes that a request came over a connection."""
        for one in self._open:
            if one.encrypted is transport:
                one.has_spoken = True
                return

    def close(self) -> None:
        """Ends all connections that are not encrypted yet."""
        for task in self._tasks:
            task.cancel()
        for one in list(self._open):
            if one.encrypted is None:
                one.abort()

    def admit(self, one: "_Connection") -> None:
        """Takes a new connection, in the place of a silent one if there is no other."""
        if len(self._open) >= self._most:
            silent = (old for old in self._open if not old.has_spoken)
            victim = next(silent, one)
            victim.abort()
            if victim is one:
                return
            self._open.pop(victim, None)
        self._open[one] = None
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._encrypt(one))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        loop.call_later(2 * self._patience, self._close_if_silent, one)

    def gone(self, one: "_Connection") -> None:
        """Forgets a connection that ended."""
        self._open.pop(one, None)

    async def _encrypt(self, one: "_Connection") -> None:
        loop = asyncio.get_running_loop()
        assert one.raw is not None
        try:
            encrypted = await loop.start_tls(
                one.raw,
                one,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._patience,
            )
        except (OSError, TimeoutError, asyncio.CancelledError):
            encrypted = None
        if encrypted is None or encrypted.is_closing():
            one.abort()
            self.gone(one)
            return
        one.client, _ = _tls.identity(encrypted.get_extra_info("peercert"))
        same = [old for old in self._open if one.client and old.client == one.client]
        for old in same[: max(0, len(same) - self._most_each)]:
            old.abort()
        one.begin(encrypted, self._protocol())

    def _close_if_silent(self, one: "_Connection") -> None:
        if one in self._open and not one.has_spoken:
            one.abort()


class _Connection(asyncio.Protocol):
    """One connection from its first byte on; passes on what comes once it is safe."""

    def __init__(self, listener: Listener):
        self._listener = listener
        self._inner: asyncio.Protocol | None = None
        self._early: list[bytes] = []
        self.raw: asyncio.Transport | None = None
        self.encrypted: asyncio.Transport | None = None
        self.client: str | None = None
        self.has_spoken = False

    def abort(self) -> None:
        """Ends it at once."""
        if self.raw is not None:
            self.raw.abort()

    def begin(self, encrypted: asyncio.Transport, inner: asyncio.Protocol) -> None:
        """Lets the server speak."""
        self.encrypted, self._inner = encrypted, inner
        inner.connection_made(encrypted)
        for data in self._early:  # what came with the end of the handshake
            inner.data_received(data)
        self._early = []

    def connection_made(self, transport: Any) -> None:
        """Begins: nothing is read before it can be decrypted."""
        transport.pause_reading()
        self.raw = transport
        self._listener.admit(self)

    def data_received(self, data: bytes) -> None:
        """Passes on what was decrypted."""
        if self._inner is None:
            self._early.append(data)
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Passes on that no more will come."""
        return None if self._inner is None else self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Passes on that it ended."""
        self._listener.gone(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Passes on that the other side is slow."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Passes on that it is not any more."""
        if self._inner is not None:
            self._inner.resume_writing()
