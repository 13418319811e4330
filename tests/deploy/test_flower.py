"""Flower carries tasks and reports, and nothing that it brings is believed."""

import types

import numpy as np
import pytest

from jaxfed.deploy import Pace, transports
from jaxfed.vault import flower as both
from jaxfed.vault._errors import WireError
from jaxfed.vault._visit import Vault
from tests.deploy.running import (
    NAMES,
    POLICY,
    arrays_of,
    averaging,
    central,
    coordinator,
    ledger,
)
from tests.engine.paid import bits

flwr = pytest.importorskip("flwr.app", reason="needs the extra `flower`")
NODES = {name: 1000 + number for number, name in enumerate(NAMES)}


@pytest.fixture(autouse=True)
def a_task_of_a_server():
    """What Flower sets in the process of a ServerApp, where its version has it."""
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError:
        return
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


class Grid:
    """A grid of nodes that answer at once, with what `change` makes of it."""

    def __init__(self, folder, change=lambda node, reply: reply):
        self._folder, self._change = folder, change
        self._replies = {}
        self.pushed = []

    def push_messages(self, messages):
        numbers = []
        for message in messages:
            node = message.metadata.dst_node_id
            number = f"{len(self.pushed)}"
            message.metadata.__dict__["_message_id"] = number
            self.pushed.append(message)
            numbers.append(number)
            context = types.SimpleNamespace(node_config={"number": node - 1000})
            reply = self._change(node, self._app(message, context))
            if reply is not None:
                self._replies[number] = reply
        return numbers

    def pull_messages(self, numbers):
        return [self._replies.pop(n) for n in numbers if n in self._replies]

    def _app(self, message, context):
        app = both.client_app(self._open)
        return app(message, context)

    def _open(self, context):
        number = context.node_config["number"]
        place = self._folder / f"node-{number}"
        return Vault(lambda rows: arrays_of(number), POLICY, place)


def reply_from(node, reply, parts=None, source=None):
    """Returns a reply as a grid gives it: from a node, to a message."""
    content = reply.content if parts is None else both.content_of(parts)
    metadata = types.SimpleNamespace(
        reply_to_message_id=reply.metadata.reply_to_message_id,
        src_node_id=node if source is None else source,
    )
    return types.SimpleNamespace(
        content=content, metadata=metadata, has_error=lambda: False
    )


def over_flower(folder, change, pace=None):
    path = ledger(folder)
    options = {} if pace is None else {"pace": pace}
    with coordinator(folder, path, averaging(central()), **options) as running:
        grid = Grid(folder, change)
        with transports.Flower(running.desk, grid, NODES, poll_seconds=0.01):
            history = running.run()
    return history, grid


def test_a_run_over_flower_releases_every_round(tmp_path):
    history, grid = over_flower(tmp_path, reply_from)
    assert len(history.rounds) == 3
    assert len(grid.pushed) == 3 * len(NAMES)
    assert np.isfinite(np.frombuffer(bits(history.params)[0], np.float32)).all()


def test_what_nodes_may_not_send_is_not_believed(tmp_path):
    def change(node, reply):
        number = node - 1000
        if number == 0:
            return reply_from(node, reply, source=1001)  # another node's answer
        if number == 1:
            return reply_from(node, reply, parts=[b"\xff" * 300])
        if number == 2:
            return reply_from(node, reply, parts=[b"a", b"b"])
        if number == 3:
            broken = reply_from(node, reply)
            broken.has_error = lambda: True
            return broken
        if number == 4:
            return None  # a node that never answers
        return reply_from(node, reply)

    pace = Pace(deadline_seconds=1.0, least_cohort=3)
    history, _ = over_flower(tmp_path, change, pace)
    assert len(history.rounds) == 3


def test_messages_are_read_with_suspicion():
    assert both.parts_of(types.SimpleNamespace(content=both.content_of([b"a", b""])))
    for array in (
        np.zeros(3, np.uint8),
        np.zeros(64, np.uint8),
        np.full(64, 255, np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros(16, np.float32),
    ):
        with pytest.raises(WireError):
            both.parts_of(holding(flwr.Array(array)))
    with pytest.raises(WireError, match="one array"):
        both.parts_of(types.SimpleNamespace(content={}))


def holding(array):
    record = flwr.ArrayRecord({both.ARRAY: array})
    return types.SimpleNamespace(content=flwr.RecordDict({both.RECORD: record}))


def header(shape):
    words = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"
    words += " " * (-(10 + len(words) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(words).to_bytes(2, "little") + words.encode()


NO_ARRAYS = [
    b"",
    b"PK\3\4" + bytes(100),  # for NumPy a zip file
    b"\x80\x04" + bytes(100),  # and a pickle
    header("(10000000000000,)"),
    header("(3,)") + b"ab",
    header("(" + "1," * 5000 + ")"),
]


@pytest.mark.parametrize("data", NO_ARRAYS, ids=range(len(NO_ARRAYS)))
def test_bytes_that_are_no_array_are_refused(data):
    array = flwr.Array("uint8", (3,), "numpy.ndarray", data)
    with pytest.raises(WireError):
        both.parts_of(holding(array))
    assert both.parts_of(holding(flwr.Array(packed([b"abc"])))) == [b"abc"]


def packed(parts):
    sizes = np.array([len(parts), *map(len, parts)], "<u8").tobytes()
    return np.frombuffer(b"".join([sizes, *parts]), np.uint8)


@pytest.mark.parametrize("data", NO_ARRAYS[:3], ids=range(3))
def test_a_node_that_sends_no_array_stops_nobody_else(data, tmp_path):
    def change(node, reply):
        found = reply_from(node, reply)
        if node == 1000:
            array = flwr.Array("uint8", (3,), "numpy.ndarray", data)
            found.content = holding(array).content
        return found

    pace = Pace(deadline_seconds=1.0, least_cohort=7)
    history, _ = over_flower(tmp_path, change, pace)
    assert len(history.rounds) == 3


def test_a_vault_that_fails_tells_the_server_nothing(tmp_path):
    """Flower sends the words of an exception that leaves an app."""

    def failing(context):
        raise MemoryError("Unable to allocate an array with shape (737, 5)")

    message = flwr.Message(both.content_of([b"a", b"b", b"c"]), 1001, "train")
    app = both.client_app(failing)
    context = types.SimpleNamespace(node_config={})
    assert both.parts_of(app(message, context)) == [b""]


def test_nodes_are_enrolled_clients(tmp_path):
    with coordinator(tmp_path, ledger(tmp_path), averaging(central())) as running:
        for nodes in ({"stranger": 1}, {NAMES[0]: 1, NAMES[1]: 1}):
            with pytest.raises(ValueError, match="enrolled clients"):
                transports.Flower(running.desk, Grid(tmp_path), nodes)
