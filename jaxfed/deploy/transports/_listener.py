"""Connections of one server: bounded in all, and of each client; none stays silent.

A process may have so many files open, and a ledger needs some of them; an encrypted
connection takes 300 KB. So encryption begins when the first byte is there, for so many
at once, and whoever takes longer than others wait makes room.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any

from jaxfed.deploy.transports import _tls

_MOST_FILES = 1 << 16
_RESERVE = 128  # files for ledger, models, plan, and what else a process has open
_UNKNOWN = 512  # files of a system that does not say
_MOST_BEGUN = 384  # encrypted, or about to be, without a request so far
_GRACE = 0.5  # seconds that nobody takes from them
_LOOK = 0.05  # seconds from one look at who waits to the next
_QUEUE = 1024  # of the system


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
        self._context, self.protocol = context, protocol
        self._most, self._most_each = most, most_each
        self._patience = handshake_seconds
        self._open: dict[_Connection, None] = {}  # the oldest first
        self._begun: dict[_Connection, float] = {}
        self._encrypted: dict[Any, _Connection] = {}
        self._waiting: dict[_Connection, None] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []

    async def listen(self, host: str, port: int) -> int:
        """Listens on all addresses of a host; returns the port.

        Raises:
            OSError: there is no such address, or the port is taken.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                address = (address[0], port, *address[2:])
                one = _listening(family, address)
                if one is not None:
                    self._sockets.append(one)
                    port = port or one.getsockname()[1]
        except BaseException:
            self.close()
            raise
        if not self._sockets:
            raise OSError(errno.EADDRNOTAVAIL, f"this machine has no address {host}")
        self._accepting = [loop.create_task(self._accept(one)) for one in self._sockets]
        return port

    def spoke(self, transport: Any) -> None:
        """Notes that a request came over a connection."""
        one = self._encrypted.get(transport)
        if one is not None:
            one.has_spoken = True
            self._begun.pop(one, None)

    def close(self) -> None:
        """Accepts no more, and ends all connections that are not encrypted yet."""
        for task in self._accepting:
            task.cancel()
        for listening in self._sockets:
            listening.close()
        for one in list(self._open):
            if one.transport is None:
                one.end()

    def admitted(self, one: "_Connection") -> None:
        """Ends the oldest connections of a client that has too many."""
        self._encrypted[one.transport] = one
        peer = one.transport.get_extra_info("peercert")
        one.client, _ = _tls.identity(peer)
        same = [old for old in self._open if one.client and old.client == one.client]
        for old in same[: max(0, len(same) - self._most_each)]:
            old.end()

    def gone(self, one: "_Connection") -> None:
        """Forgets a connection that ended."""
        for known in (self._open, self._waiting, self._begun):
            known.pop(one, None)
        self._encrypted.pop(one.transport, None)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError:  # no more files, after all
                self._make_room(0)
                await asyncio.sleep(0.1)
                continue
            accepted.setblocking(False)
            if not self._make_room(self._most - 1):
                accepted.close()
                continue
            one = _Connection(self, accepted)
            self._open[one] = None
            loop.add_reader(accepted.fileno(), self._came, one)
            one.timer = loop.call_later(2 * self._patience, self._end_silent, one)

    def _make_room(self, most: int) -> bool:
        """Ends the oldest silent connection if there are more than `most`."""
        if len(self._open) <= most:
            return True
        silent = next((one for one in self._open if not one.has_spoken), None)
        if silent is not None:
            silent.end()
        return silent is not None

    def _came(self, one: "_Connection") -> None:
        """Something came on a new connection: it waits to be encrypted."""
        asyncio.get_running_loop().remove_reader(one.socket.fileno())
        with contextlib.suppress(OSError):
            if not one.socket.recv(1, socket.MSG_PEEK):  # it ended
                one.end()
                return
        self._waiting[one] = None
        if self._looking is None:
            self._look()

    def _look(self) -> None:
        """Begins with those who wait, in the place of the slow if there is no other."""
        loop, self._looking = asyncio.get_running_loop(), None
        waiting = list(self._waiting)
        if len(waiting) > _MOST_BEGUN:  # of a flood, the first would be late anyway
            waiting.reverse()
        for one in waiting:
            if len(self._begun) >= _MOST_BEGUN:
                oldest, since = next(iter(self._begun.items()))
                if loop.time() - since < _GRACE:
                    self._looking = loop.call_later(_LOOK, self._look)
                    return
                oldest.end()
            del self._waiting[one]
            self._begun[one] = loop.time()
            one.task = loop.create_task(self._encrypt(one))
            one.task.add_done_callback(one.check_open)

    async def _encrypt(self, one: "_Connection") -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: one,
                one.socket,
                ssl=self._context,
                ssl_handshake_timeout=self._patience,
            )
        except (OSError, TimeoutError, asyncio.CancelledError) as error:
            error.__traceback__ = None  # whose frames would keep the buffers

    def _end_silent(self, one: "_Connection") -> None:
        if not one.has_spoken:
            one.end()


class _Connection(asyncio.Protocol):
    """One connection, from when it was accepted; passes on what was decrypted."""

    def __init__(self, listener: Listener, accepted: socket.socket):
        self._listener, self.socket = listener, accepted
        self._inner: asyncio.Protocol | None = None
        self.transport: Any = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.client: str | None = None
        self.has_spoken = False

    def end(self) -> None:
        """Ends it at once, however far it is."""
        if self.transport is not None:
            self.transport.abort()
        elif self.task is not None:
            self.task.cancel()
        else:
            asyncio.get_running_loop().remove_reader(self.socket.fileno())
            self.socket.close()
        self._forget()

    def check_open(self, task: Any) -> None:
        """Closes what could not be encrypted, also where that never began."""
        del task
        if self.transport is None:
            self.socket.close()
            self._forget()

    def connection_made(self, transport: Any) -> None:
        """It is encrypted: lets the server speak."""
        self.transport = transport
        self._inner = self._listener.protocol()
        self._inner.connection_made(transport)
        self._listener.admitted(self)

    def data_received(self, data: bytes) -> None:
        """Passes on what was decrypted."""
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Passes on that no more will come."""
        return None if self._inner is None else self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Passes on that it ended."""
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connection_lost(exc)
        self._forget()

    def pause_writing(self) -> None:
        """Passes on that the other side is slow."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Passes on that it is not any more."""
        if self._inner is not None:
            self._inner.resume_writing()

    def _forget(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self._listener.gone(self)


def _listening(family: int, address: Any) -> socket.socket | None:
    """Returns a socket that listens; None where a machine has no such address."""
    try:
        one = socket.socket(family, socket.SOCK_STREAM)
    except OSError:  # a family of addresses that it has not at all
        return None
    try:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(_QUEUE)
    except BaseException as error:
        one.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return one
