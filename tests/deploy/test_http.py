"""HTTP: only clients that are who they say, and nobody holds up anybody else."""

import asyncio
import contextlib
import http.client
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.deploy import transports
from jaxfed.deploy._desk import Desk
from jaxfed.deploy._pki import Authority
from jaxfed.deploy._status import StatusPage
from jaxfed.deploy.transports import _tls
from jaxfed.deploy.transports._slots import Slots
from jaxfed.vault import _http, _task
from jaxfed.vault._errors import Rejected, Stale, Unreachable, WireError
from jaxfed.vault._http import Http
from jaxfed.vault._visit import Ended, Vault
from tests.deploy.running import (
    NAMES,
    POLICY,
    arrays_of,
    averaging,
    central,
    coordinator,
    ledger,
)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    authority = Authority(folder / "pki")
    authority.server(["127.0.0.1", "localhost"])
    for name in NAMES:
        authority.enroll(name)
    authority.enroll("outsider")  # a certificate, but of no client of the run
    authority.enroll("late", days=-0.5)
    other = Authority(folder / "other")
    other.server(["127.0.0.1"])
    other.enroll(NAMES[0])
    return folder


@pytest.fixture
def running(tmp_path):
    with coordinator(tmp_path, ledger(tmp_path), averaging(central())) as one:
        tasks, model = one._tasks(0, 0, one._cohorts.of(0))
        one.desk.open(tasks, model, seconds=30.0, goal=len(tasks))
        yield one


def serving(desk, pki, revoked=None, **limits):
    return transports.Http(
        desk,
        certificate=pki / "pki/server.pem",
        key=pki / "pki/server.key",
        authority=pki / "pki/authority.pem",
        revoked=revoked,
        limits=transports.Limits(**limits),
    )


@pytest.fixture
def server(running, pki):
    with serving(running.desk, pki, burst=1000) as one:
        yield one


def client(server, pki, name=NAMES[0], folder="pki", authority="pki"):
    return Http(
        server.url,
        certificate=pki / folder / f"{name}.pem",
        key=pki / folder / f"{name}.key",
        authority=pki / authority / "authority.pem",
    )


def visit(server, pki, folder, name=NAMES[0]):
    number = NAMES.index(name)
    way = client(server, pki, name)
    vault = Vault(lambda rows: arrays_of(number), POLICY, folder / name)
    try:
        return vault.visit(way, seconds=2.0)
    finally:
        way.close()
        vault.close()


def test_vaults_take_part_over_tls(server, running, pki, tmp_path):
    for name in NAMES[:3]:
        assert visit(server, pki, tmp_path, name).state == "accepted"
    assert running.desk._total.num_reports == 3
    assert visit(server, pki, tmp_path).state == "waiting"
    running.desk.end()
    assert visit(server, pki, tmp_path).state == "ended"


@pytest.mark.parametrize(
    ("name", "folder", "authority", "error"),
    [
        ("outsider", "pki", "pki", Rejected),  # enrolled elsewhere
        ("late", "pki", "pki", Rejected),  # expired
        (NAMES[0], "other", "pki", Unreachable),  # another authority's
        (NAMES[0], "pki", "other", Rejected),  # a server that we do not trust
    ],
)
def test_others_are_refused(name, folder, authority, error, server, running, pki):
    words = {
        "outsider": "not enrolled here",
        "late": "has expired",
    }.get(name, "authority")

    def asked():
        with contextlib.closing(client(server, pki, name, folder, authority)) as way:
            way.task(0)

    with pytest.raises(error, match=words):
        asked()
    assert running.desk._total.num_reports == 0


def test_the_end_of_a_certificate(pki):
    from cryptography import x509

    for name in (NAMES[0], "late", "server", "authority"):
        place = pki / f"pki/{name}.pem"
        found = x509.load_pem_x509_certificate(place.read_bytes())
        assert _http._end_of(place) == found.not_valid_after_utc.timestamp()


def test_no_certificate_and_old_encryption_are_refused(server, pki):
    for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
        context = ssl.create_default_context(cafile=pki / "pki/authority.pem")
        context.maximum_version = version
        if version == ssl.TLSVersion.TLSv1_2:
            context.load_cert_chain(
                pki / f"pki/{NAMES[0]}.pem", pki / f"pki/{NAMES[0]}.key"
            )
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.port, context=context, timeout=5
        )
        with pytest.raises(OSError, match=r"(?i)ssl|certificate|reset|pipe|closed"):
            _status_of(connection)
        connection.close()


def _status_of(connection, method="GET", path="/v1/task", **options):
    connection.request(method, path, **options)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def connected(server, pki, name=NAMES[0]):
    context = ssl.create_default_context(cafile=pki / "pki/authority.pem")
    context.load_cert_chain(pki / f"pki/{name}.pem", pki / f"pki/{name}.key")
    return http.client.HTTPSConnection(
        "127.0.0.1", server.port, context=context, timeout=10
    )


def test_a_revoked_certificate_is_refused_at_once(running, pki, tmp_path):
    revoked = tmp_path / "revoked.txt"
    revoked.write_text("")
    with serving(running.desk, pki, revoked) as server:
        connection = connected(server, pki)
        assert _status_of(connection) == 200
        serial = _tls.identity(connection.sock.getpeercert())[1]
        assert serial  # the server's, here
        from cryptography import x509

        found = x509.load_pem_x509_certificate(
            (pki / f"pki/{NAMES[0]}.pem").read_bytes()
        )
        revoked.write_text(f"{found.serial_number:X} {NAMES[0]}\n")
        assert _status_of(connection) == 403  # also where a connection is open
        connection.close()
        assert visit(server, pki, tmp_path, NAMES[1]).state == "accepted"
        revoked.unlink()  # nobody can tell any more
        other = connected(server, pki, NAMES[1])
        assert _status_of(other) == 403
        other.close()


def test_sizes_are_refused_before_memory_is_taken(server, running, pki):
    most = running.desk.most_report
    for headers, body, status in (
        ({"Content-Length": str(most + 1)}, b"x", 413),
        ({"Content-Length": str(10**15)}, b"x", 413),
        ({"Transfer-Encoding": "chunked"}, b"0\r\n\r\n", 411),
        ({"Content-Encoding": "gzip", "Content-Length": "1"}, b"x", 411),
        ({"Content-Length": "8"}, b"\xff" * 8, 400),
        ({"Content-Length": "0"}, b"", 400),
    ):
        connection = connected(server, pki)
        connection.putrequest("POST", "/v1/report")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(body)
        assert connection.getresponse().status == status
        connection.close()
    for path, status in (
        ("/v1/blob/" + "0" * 64, 404),
        ("/v1/blob/../../etc/passwd", 404),
        ("/v1/other", 404),
        ("/v1/task?seconds=x", 400),
        ("/v1/task?seconds=-5", 200),
    ):
        connection = connected(server, pki)
        assert _status_of(connection, path=path) == status
        connection.close()


def test_a_report_is_the_clients_own_whatever_it_says(server, running, pki):
    """The identity is the certificate's; a report has no place for another one."""
    task = _task.decode_task(running.desk.task(NAMES[1]))
    data = _task.encode_report(
        task, running._plan.update, [np.zeros(5, np.int32)], None
    )
    way = client(server, pki, NAMES[0])
    assert way.report(data) == "accepted"
    assert way.report(data) == "duplicate"
    assert running.desk._reported == {NAMES[0]}
    stale = _task.encode_report(
        task._replace(attempt=7), running._plan.update, [np.zeros(5, np.int32)], None
    )
    assert way.report(stale) == "stale"
    with pytest.raises(Rejected, match="400"):
        way.report(data[:-4])
    way.close()


def test_a_client_that_asks_too_often_is_slowed_down(running, pki, tmp_path):
    with serving(running.desk, pki, burst=5, requests_a_second=1.0) as server:
        connection = connected(server, pki)
        found = [_status_of(connection) for _ in range(8)]
        connection.close()
        assert found[:5] == [200] * 5
        assert set(found[5:]) == {429}
        assert visit(server, pki, tmp_path, NAMES[1]).state == "accepted"


def held_by(sockets):
    """Returns how many connections the server has not ended yet."""
    left = 0
    for one in sockets:
        one.settimeout(0.01)
        try:
            left += one.recv(64) != b""
        except TimeoutError:
            left += 1
        except OSError:
            pass
    return left


def test_connections_are_bounded_and_the_honest_come_through(running, pki):
    """Twice as many silent ones as a server may have, and half of a handshake."""
    with serving(running.desk, pki, connections=60, connections_each=3) as server:
        kept = connected(server, pki, NAMES[7])
        assert _status_of(kept) == 200
        held = []
        for number in range(120):
            one = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            if number % 2:
                one.sendall(b"\x16\x03\x01")
            held.append(one)
        for name in NAMES[:5]:
            way = client(server, pki, name)
            start = time.monotonic()
            assert way.task(0) is not None
            assert time.monotonic() - start < 1.0
            way.close()
        assert _status_of(kept) == 200  # who spoke is not ended for the silent
        assert held_by(held) < 60
        for one in held:
            one.close()
        kept.close()


def test_one_client_has_few_connections(running, pki):
    with serving(running.desk, pki, connections_each=3, burst=100) as server:
        mine = [connected(server, pki) for _ in range(10)]
        for one in mine:
            assert _status_of(one) == 200
        assert held_by(one.sock for one in mine) == 3
        other = connected(server, pki, NAMES[1])
        assert _status_of(other) == 200
        for one in (*mine, other):
            one.close()


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01"], ids=["silent", "begun"])
def test_thousands_of_strangers_take_little_memory(first, running, pki):
    """Of those who began a handshake a few hundred stay; a silent one costs a file."""
    with serving(running.desk, pki) as server:
        before, held = resident(), []
        for number in range(3000):
            one = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            if first:
                one.sendall(first)
            held.append(one)
            if len(held) > 1200:
                held.pop(0).close()
            if number % 500 == 0:
                way, start = client(server, pki), time.monotonic()
                assert way.task(0) is not None
                assert time.monotonic() - start < 1.0
                way.close()
        assert resident() - before < 250
        for one in held:
            one.close()


@pytest.mark.skipif(os.name == "nt", reason="files are limited by POSIX systems")
def test_connections_leave_files_for_a_ledger():
    """What a process may have is raised to its hard limit, less a reserve."""
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "from jaxfed.deploy.transports import _listener\n"
        "print(_listener.most_connections())\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 256))\n"
        "print(_listener.most_connections(), *resource.getrlimit(7))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["128", "128", "256", "256"]


@pytest.mark.parametrize("way", ["drip", "continue"])
def test_a_server_that_drips_does_not_hold_a_vault(way, monkeypatch):
    monkeypatch.setattr(_http, "_SECONDS", 0.5)
    monkeypatch.setattr(_http, "_SLOWEST", 1e6)
    listening = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def answer():
        while not stop.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                if way == "drip":
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"
                    )
                try:
                    while not stop.wait(0.1):
                        connection.sendall(
                            b"x" if way == "drip" else b"HTTP/1.1 100 Continue\r\n\r\n"
                        )
                except OSError:
                    continue

    thread = threading.Thread(target=answer)
    thread.start()
    slow = Http(f"http://127.0.0.1:{listening.getsockname()[1]}")
    start = time.monotonic()
    with pytest.raises(Unreachable):
        slow.task(0)
    assert time.monotonic() - start < 5
    stop.set()
    listening.close()
    slow.close()
    thread.join()


def test_what_a_server_says_of_a_report_is_printable(running, pki, server, monkeypatch):
    monkeypatch.setattr(running.desk, "submit", lambda *a: "\x1b[2J\x07accepted")
    way = client(server, pki)
    assert way.report(b"x" * 9) == "[2Jaccepted"
    way.close()


@pytest.mark.slow
def test_an_honest_client_is_answered_while_others_hold_connections(
    running, pki, tmp_path
):
    with serving(running.desk, pki, handshake_seconds=3.0) as server:
        held = []
        times = []

        def ask():
            for name in NAMES[:5] * 4:  # while the others come, and after
                way = client(server, pki, name)
                start = time.monotonic()
                assert way.task(0) is not None
                times.append(time.monotonic() - start)
                way.close()

        honest = threading.Thread(target=ask)
        honest.start()
        for number in range(1000):
            one = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            if number % 2:
                one.sendall(b"\x16\x03\x01")  # the start of a handshake
            held.append(one)
        honest.join()
        assert len(times) == 20
        assert max(times) < 1.0
        time.sleep(7.0)
        assert held_by(held) == 0
        for one in held:
            one.close()


def test_a_client_that_says_nothing_is_dropped(running, pki):
    with serving(running.desk, pki, handshake_seconds=0.5) as server:
        connection = connected(server, pki)
        connection.connect()  # a whole handshake, and no request
        connection.sock.settimeout(5)
        start = time.monotonic()
        try:
            data = connection.sock.recv(1)
        except OSError:
            data = b""
        assert data == b""
        assert 0.3 < time.monotonic() - start < 4
        connection.close()


def test_a_report_that_drips_is_dropped_and_holds_up_nobody(running, pki, tmp_path):
    with serving(running.desk, pki, handshake_seconds=1.0) as server:
        slow = connected(server, pki)
        slow.putrequest("POST", "/v1/report")
        slow.putheader("Content-Length", "300")
        slow.endheaders()
        slow.send(b"x")
        start = time.monotonic()
        assert visit(server, pki, tmp_path, NAMES[1]).state == "accepted"
        assert time.monotonic() - start < 1.0
        assert slow.getresponse().status == 408
        slow.close()
        again = connected(server, pki)
        assert _status_of(again, "POST", "/v1/report", body=b"x" * 9) == 400
        again.close()


def test_a_model_that_is_gone_is_stale(server, pki):
    way = client(server, pki)
    with pytest.raises(Stale):
        way.blob("0" * 64, 100)
    way.close()


def test_waiting_for_a_task_ends_when_there_is_one(running, server, pki):
    running.desk._open = None
    found = []
    way = client(server, pki)
    thread = threading.Thread(target=lambda: found.append(way.task(20)))
    thread.start()
    time.sleep(0.3)
    assert not found
    tasks, model = running._tasks(0, 1, running._cohorts.of(0))
    start = time.monotonic()
    running.desk.open(tasks, model, seconds=30.0, goal=8)
    thread.join(10)
    assert time.monotonic() - start < 1.0
    assert _task.decode_task(found[0]).attempt == 1
    running.desk.end()
    with pytest.raises(Ended):
        way.task(5)
    way.close()


def test_a_server_that_is_not_there_can_be_tried_again(pki, server):
    way = client(server, pki)
    server.close()
    with pytest.raises(Unreachable):
        way.task(0)
    for url in ("ftp://127.0.0.1", "http://example.org", "127.0.0.1:80"):
        with pytest.raises(ValueError, match="must be https"):
            Http(url)
    with pytest.raises(Rejected, match="needs --cert"):
        Http("https://127.0.0.1:1")
    with pytest.raises(Rejected, match="PEM files"):
        Http(
            "https://127.0.0.1:1",
            certificate=pki / "nothing",
            key=pki / "nothing",
            authority=pki / "nothing",
        )


def test_wrong_files_of_a_server_are_refused(running, pki, tmp_path):
    with pytest.raises(ValueError, match="must be PEM files that fit"):
        transports.Http(
            running.desk,
            certificate=pki / "pki/server.pem",
            key=pki / f"pki/{NAMES[0]}.key",
            authority=pki / "pki/authority.pem",
        )
    with pytest.raises(ValueError, match="revoked must be a file"):
        serving(running.desk, pki, tmp_path / "nothing")


def test_a_server_that_answers_too_much_is_not_believed(pki, monkeypatch):
    desk = Desk.__new__(Desk)
    desk.knows = lambda client: True
    desk.listen = lambda listener: None
    desk.task = lambda client: b"x" * (_task.MOST_TASK + 1)
    with serving(desk, pki) as server:
        way = client(server, pki)
        with pytest.raises(WireError, match="at most"):
            way.task(0)
        way.close()


def test_the_status_page_is_for_this_machine(running):
    with StatusPage(running) as page:
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=5)
        connection.request("GET", "/status.json")
        found = json.loads(connection.getresponse().read())
        assert found["rounds"] == 3
        assert found["open"]["missing"] == NAMES
        assert found["spent_percent"] == 0
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert b"<!doctype html>" in answer.read()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        for path, host, status in (
            ("/other", "127.0.0.1", 404),
            ("/status.json", "attacker.example", 403),
        ):
            assert _status_of(connection, path=path, headers={"Host": host}) == status
        connection.close()


def test_names_of_clients_are_checked(pki):
    authority = Authority(pki / "pki")
    for name in ("", "../x", "a b", "server", "x" * 64):
        with pytest.raises(ValueError, match="must be named"):
            authority.enroll(name)
    with pytest.raises(ValueError, match="is enrolled"):
        authority.enroll(NAMES[0])
    with pytest.raises(ValueError, match="must be enrolled"):
        authority.revoke("nobody")
    assert (pki / "pki/server.key").stat().st_mode & 0o077 == 0


@pytest.fixture
def large(tmp_path):
    """A run whose reports have 2 MB."""

    def wide(params, batch, key):
        del key
        error = batch["x"] @ params["w"][:5] - batch["y"]
        return (error**2).mean(), {}

    local = jf.clients.sgd(wide, optax.sgd(0.1), batch_size=4, epochs=1)
    params = {"w": jnp.zeros(500_000)}
    algorithm = averaging(central(), local)
    with coordinator(tmp_path, ledger(tmp_path), algorithm, params=params) as one:
        tasks, model = one._tasks(0, 0, one._cohorts.of(0))
        one.desk.open(tasks, model, seconds=60.0, goal=len(tasks))
        yield one


def report_of(running, name):
    task = _task.decode_task(running.desk.task(name))
    zeros = np.zeros(500_000, np.int32)
    return _task.encode_report(task, running._plan.update, [zeros], None)


def begun_by(server, pki, name, size):
    """Announces a report, and sends nothing of it."""
    slow = connected(server, pki, name)
    slow.putrequest("POST", "/v1/report")
    slow.putheader("Content-Length", str(size))
    slow.endheaders()
    return slow


def test_slow_reports_give_way_to_those_who_wait(large, pki):
    """Whoever waits comes in after the grace; one who is alone keeps its place."""
    with serving(large.desk, pki, large_reports=2) as server:
        most = len(report_of(large, NAMES[0]))
        slow = [begun_by(server, pki, name, most) for name in NAMES[:2]]
        slow[0].send(report_of(large, NAMES[0])[:1000])  # so much faster than nothing
        time.sleep(0.5)
        way, start = client(server, pki, NAMES[7]), time.monotonic()
        assert way.report(report_of(large, NAMES[7])) == "accepted"
        assert 1.0 < time.monotonic() - start < 6.0
        assert slow[1].getresponse().status == 503
        slow[0].send(report_of(large, NAMES[0])[1000:])  # was let alone, and goes on
        assert slow[0].getresponse().read() == b"accepted"
        for one in slow:
            one.close()
        way.close()


def test_a_busy_server_is_asked_again_with_the_same_report(large, pki, monkeypatch):
    monkeypatch.setattr(_http, "_BUSY", (0.1, 0.1))
    with serving(large.desk, pki, burst=100) as server:
        way = client(server, pki, NAMES[3])
        asked, answers = [], [(503, b"many"), (429, b"one"), (503, b"many")]
        ask = way._ask

        def busy(method, path, most, body=None, wait=0.0):
            asked.append(body)
            return answers.pop(0) if answers else ask(method, path, most, body, wait)

        way._ask = busy
        with pytest.raises(Unreachable, match="503"):
            way.report(report_of(large, NAMES[3]))
        assert len(asked) == 3
        answers[:] = [(503, b"many")]
        assert way.report(report_of(large, NAMES[3])) == "accepted"
        way.close()


def test_large_reports_that_cannot_count_are_not_read(large, pki):
    with serving(large.desk, pki, burst=100) as server:
        way = client(server, pki, NAMES[3])
        data = report_of(large, NAMES[3])
        wrong = bytearray(data)
        wrong[-1] = 0x7F  # a number beyond the clip
        with pytest.raises(Rejected, match="beyond its clip"):
            way.report(bytes(wrong))
        again = begun_by(server, pki, NAMES[3], len(data))
        assert again.getresponse().status == 429
        again.close()
        other = client(server, pki, NAMES[4])
        assert other.report(report_of(large, NAMES[4])) == "accepted"
        twice = begun_by(server, pki, NAMES[4], len(data))  # answered before it comes
        assert twice.getresponse().read() == b"duplicate"
        twice.close()
        way.close()
        other.close()


@pytest.mark.parametrize(("drip", "honest"), [(0, 8), (4, 4)])
def test_slow_honest_reports_all_end(drip, honest):
    """More of them than places, each far slower than a machine, in half their time."""
    size, rate, share = 8_000_000, 1_000_000, 16.0  # eight seconds each

    async def run():
        slots, done = Slots(4, 60.0), []

        async def reading(slot, rate):
            for _ in range(size // (rate // 10)):
                await asyncio.sleep(0.1)
                slot.came(rate // 10)

        async def sending(rate):
            while True:
                slot = await slots.take(lambda: False, size=size, share=share)
                slot.task = asyncio.ensure_future(reading(slot, rate))
                try:
                    await slot.task
                    done.append(rate)
                    return
                except asyncio.CancelledError:
                    if not slot.is_ended:
                        raise
                finally:
                    slots.give_back(slot)

        slow = [asyncio.ensure_future(sending(10)) for _ in range(drip)]
        await asyncio.wait_for(
            asyncio.gather(*(sending(rate) for _ in range(honest))), 40
        )
        for one in slow:
            one.cancel()
        return done

    assert asyncio.run(run()) == [rate] * honest


def test_a_server_listens_where_it_can(running, pki):
    files = {
        "certificate": pki / "pki/server.pem",
        "key": pki / "pki/server.key",
        "authority": pki / "pki/authority.pem",
    }
    with transports.Http(running.desk, host="localhost", **files) as server:
        way = client(server, pki)
        assert way.task(0) is not None
        way.close()
        with pytest.raises(OSError, match="in use"):
            transports.Http(running.desk, host="127.0.0.1", port=server.port, **files)
    with pytest.raises(OSError, match="no address"):
        transports.Http(running.desk, host="192.0.2.1", **files)  # of documentation
