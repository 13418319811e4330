"""HTTP over TLS 1.3: who a client is, its certificate says; all sizes have bounds.

`GET /v1/task`, `GET /v1/blob/<hash>` and `POST /v1/report`, as `jaxfed.vault` calls
them. The server knows before it reads how long each body may be; it waits for no client
longer than for its bytes, and one slow client holds up nobody else.
"""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

from aiohttp import web

from jaxfed.deploy._desk import STALE, Desk, Stranger
from jaxfed.deploy.transports import _tls
from jaxfed.deploy.transports._listener import Listener, most_connections
from jaxfed.deploy.transports._slots import Slot, Slots
from jaxfed.vault._errors import WireError
from jaxfed.vault._visit import Ended

_LONGEST_WAIT = 60.0
_SMALL = 1 << 16
_CHUNK = 1 << 18
_SLOWEST = 50_000  # bytes in a second
_LONGEST_QUEUE = 15.0  # seconds, less than a vault waits for a byte
_SHARES, _LEAST_SHARE = 4, 10.0  # of the time left of a round, for a large report
_REST = 30.0  # seconds in which a client that sent a wrong large report sends none
_SHUTDOWN = 2.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Limits(NamedTuple):
    """What one server bears."""

    handshake_seconds: float = 10.0
    """Until a connection is encrypted, and then until its first request came."""
    idle_seconds: float = 75.0
    requests_a_second: float = 10.0
    """Of one client, on average."""
    burst: int = 30
    large_reports: int = 4
    """Reports above 64 KB that are read at once; see `_slots`."""
    connections: int | None = None
    """In all; as many as this process may have open if None."""
    connections_each: int = 8
    """Of one client."""


class Http:
    """A server for one desk, in a thread of its own.

    Args:
        desk: of a `Coordinator`.
        host: to listen on.
        port: 0 for any.
        certificate, key: PEM files of this server's.
        authority: PEM file of who signs clients' certificates.
        revoked: a file of serial numbers, a line each, that are refused at once.
        limits: what it bears.

    Raises:
        ValueError: a file is missing or no certificate.
        OSError: the port is taken.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        certificate: str | Path,
        key: str | Path,
        authority: str | Path,
        host: str = "127.0.0.1",
        port: int = 0,
        revoked: str | Path | None = None,
        limits: Limits | None = None,
    ):
        self._desk, self._limits = desk, limits or Limits()
        self._context = _tls.server_context(certificate, key, authority)
        self._revoked = _tls.Revoked(None if revoked is None else Path(revoked))
        self._host, self._port = host, port
        self._buckets: dict[str, tuple[float, float]] = {}
        self._sending: set[str] = set()
        self._pool = concurrent.futures.ThreadPoolExecutor(2, "jaxfed-report")
        self._started: concurrent.futures.Future[int] = concurrent.futures.Future()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._slots = Slots(self._limits.large_reports, _LONGEST_QUEUE)
        self._resting: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="jaxfed-http")
        self._thread.start()
        try:
            self.port = self._started.result()
        except BaseException:
            self._thread.join()
            raise
        desk.listen(self._changed)

    @property
    def url(self) -> str:
        """Where vaults reach it."""
        return f"https://{self._host}:{self.port}"

    def close(self) -> None:
        """Stops listening."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/v1/task", self._task)
        app.router.add_get("/v1/blob/{digest}", self._blob)
        app.router.add_post("/v1/report", self._report)
        runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=self._limits.idle_seconds
        )
        await runner.setup()
        assert runner.server is not None
        self._listener = Listener(
            self._context,
            runner.server,
            most=self._limits.connections or most_connections(),
            most_each=self._limits.connections_each,
            handshake_seconds=self._limits.handshake_seconds,
        )
        port = await self._listener.listen(self._host, self._port)
        self._started.set_result(port)
        await self._stop.wait()
        self._listener.close()
        self._wake_all()
        await asyncio.wait_for(runner.cleanup(), _SHUTDOWN + 5)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> Any:
        """Admits clients that are who they say, not revoked, and not too fast."""
        transport = request.transport
        if transport is None:
            raise web.HTTPBadRequest
        self._listener.spoke(transport)
        client, serial = _tls.identity(transport.get_extra_info("peercert"))
        if client is None or not self._desk.knows(client):
            return _words(403, "this certificate is not enrolled here")
        if self._revoked.has(serial):
            return _words(403, "this certificate was revoked")
        if not self._may(client):
            return _words(429, "too many requests; wait a little")
        try:
            return await handler(request)
        except Ended:
            return _words(410, "ended")
        except Stranger as error:
            return _words(403, str(error))
        except WireError as error:
            return _words(400, str(error))

    async def _task(self, request: web.Request) -> web.StreamResponse:
        until = self._loop.time() + _seconds(request.query.get("seconds", "0"))
        while True:
            woken = self._wake
            found = self._desk.task(_client_of(request))
            left = until - self._loop.time()
            if found is not None:
                return web.Response(body=found, content_type="application/json")
            if left <= 0 or self._stop.is_set():
                return web.Response(status=204)
            try:
                await asyncio.wait_for(woken.wait(), left)
            except TimeoutError:
                continue

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        found = self._desk.blob(_client_of(request), request.match_info["digest"])
        if found is None:
            return _words(404, "there is no such plan or model now")
        response = web.StreamResponse()
        response.content_length = len(found)
        await response.prepare(request)
        view = memoryview(found)
        for start in range(0, len(found), _CHUNK):  # waits for the client each time
            await response.write(view[start : start + _CHUNK])
        await response.write_eof()
        return response

    async def _report(self, request: web.Request) -> web.StreamResponse:
        client, size = _client_of(request), request.content_length
        if size is None or request.headers.get("Content-Encoding"):
            return _closing(411, "a report must say how long it is, uncompressed")
        if size > self._desk.most_report:
            return _closing(413, f"a report has at most {self._desk.most_report} bytes")
        if size == 0:
            return _words(400, "a report must not be empty")
        if client in self._sending:
            return _closing(429, "one report at a time")
        self._sending.add(client)
        try:
            if size <= _SMALL:
                return await self._taken(client, request, size)
            return await self._large(client, request, size)
        finally:
            self._sending.discard(client)

    async def _large(
        self, client: str, request: web.Request, size: int
    ) -> web.StreamResponse:
        """Reads a large report in a place of few."""
        early = self._desk.early_answer(client)
        if early is not None:  # it would be read for nothing
            return _closing(409 if early == STALE else 200, early)
        if self._resting.get(client, 0.0) > self._loop.time():
            return _closing(429, "the last report was wrong; wait a little")
        _, _, left = self._desk.waiting_for()
        share = max(_LEAST_SHARE, left / _SHARES)
        slot = await self._slots.take(lambda: _is_gone(request), size=size, share=share)
        if slot is None:
            return _closing(503, "many reports at once; try again")
        try:
            return await self._taken(client, request, size, slot)
        except WireError:
            self._resting[client] = self._loop.time() + _REST
            raise
        except asyncio.CancelledError:
            if not slot.is_ended:
                raise
            return _closing(503, "slow, and others wait; try again")
        finally:
            self._slots.give_back(slot)

    async def _taken(
        self, client: str, request: web.Request, size: int, slot: Slot | None = None
    ) -> web.StreamResponse:
        patience = self._limits.handshake_seconds + size / _SLOWEST
        slot = slot or Slot(self._loop.time())
        slot.task = self._loop.create_task(_read(request, size, slot))
        try:
            data = await asyncio.wait_for(slot.task, patience)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return _closing(408, "the report came too slowly")
        submit = self._desk.submit
        state = await self._loop.run_in_executor(self._pool, submit, client, data)
        return _words(409 if state == STALE else 200, state)

    def _may(self, client: str) -> bool:
        """Takes a token from a client's bucket, if there is one."""
        now, rate = time.monotonic(), self._limits.requests_a_second
        tokens, last = self._buckets.get(client, (float(self._limits.burst), now))
        tokens = min(float(self._limits.burst), tokens + (now - last) * rate)
        self._buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        return tokens >= 1

    def _changed(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        self._wake.set()
        self._wake = asyncio.Event()


async def _read(request: web.Request, size: int, slot: Slot) -> bytearray:
    """Reads a body of known size, into memory that is taken once."""
    data, place = bytearray(size), 0
    while place < size:
        part = await request.content.read(min(_CHUNK, size - place))
        if not part:
            raise asyncio.IncompleteReadError(b"", size)
        data[place : place + len(part)] = part
        place += len(part)
        slot.came(len(part))
    return data


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _client_of(request: web.Request) -> str:
    """Returns whom the guard has let in."""
    assert request.transport is not None
    client, _ = _tls.identity(request.transport.get_extra_info("peercert"))
    assert client is not None
    return client


def _seconds(text: str) -> float:
    try:
        return min(_LONGEST_WAIT, max(0.0, float(int(text))))
    except ValueError:
        raise WireError("seconds must be a whole number") from None


def _words(status: int, words: str) -> web.Response:
    return web.Response(status=status, text=words)


def _closing(status: int, words: str) -> web.Response:
    """Answers without reading the body: the connection cannot be used any more."""
    response = _words(status, words)
    response.force_close()
    return response
