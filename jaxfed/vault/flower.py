"""The client's half of Flower: a ClientApp around a vault, one packed array each way.

Flower carries bytes; it encrypts and retries. Nothing of its strategies, weights,
metrics or privacy wrappers takes part. `flwr` is imported when an app is made, so that
a vault that does not use it does not need it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxfed.vault import _task
from jaxfed.vault._errors import DataError, PlanError, Refused, Rejected, WireError
from jaxfed.vault._visit import LOG, Vault

RECORD, ARRAY = "jaxfed", "packed"
_MOST_PARTS = 3


def client_app(vault_of: Callable[[Any], Vault]) -> Any:
    """Returns a ClientApp that answers each message with one visit of a vault.

    Args:
        vault_of: opens this node's vault, from Flower's context: its `node_config` can
            name data, policy and record. Flower starts a process for every message, so
            the record on disk is what a node remembers.

    Raises:
        ImportError: there is no flwr.
    """
    app = importlib.import_module("flwr.clientapp").ClientApp()
    flwr = importlib.import_module("flwr.app")

    @app.train()
    def train(message: Any, context: Any) -> Any:
        report = b""
        try:
            with contextlib.closing(vault_of(context)) as vault:
                way = _Message(parts_of(message))
                vault.visit(way, seconds=0.0)
                report = way.sent
        except (Refused, Rejected, PlanError, WireError, DataError) as error:
            LOG.error("%s: %s", type(error).__name__, error)
        except Exception as error:  # Flower would send its words to the server
            LOG.error("%s", type(error).__name__)
        return flwr.Message(content_of([report]), reply_to=message)

    return app


def content_of(parts: Sequence[bytes]) -> Any:
    """Returns some bytes as the content of a message: one array."""
    flwr = importlib.import_module("flwr.app")
    sizes = np.array([len(parts), *map(len, parts)], "<u8").tobytes()
    packed = np.frombuffer(b"".join([sizes, *parts]), np.uint8)
    return flwr.RecordDict({RECORD: flwr.ArrayRecord({ARRAY: flwr.Array(packed)})})


def parts_of(message: Any) -> list[bytes]:
    """Returns the bytes in a message's content.

    Raises:
        WireError: it holds something else.
    """
    try:
        data = bytes(message.content[RECORD][ARRAY].data)
        file = io.BytesIO(data)
        is_first = np.lib.format.read_magic(file) == (1, 0)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # of a parser, about whatever it was sent
        raise WireError(
            f"a message must hold one array: {type(error).__name__}"
        ) from None
    content = data[file.tell() :]
    fits = is_first and dtype == np.uint8 and shape == (len(content),)
    _require(fits, "a message must be bytes")
    return _unpacked(content)


def _unpacked(data: bytes) -> list[bytes]:
    _require(len(data) >= 8, "a message is cut off")
    count = int.from_bytes(data[:8], "little")
    _require(0 < count <= _MOST_PARTS, "a message has too many parts")
    start = 8 * (count + 1)
    _require(len(data) >= start, "a message is cut off")
    sizes = [int(size) for size in np.frombuffer(data, "<u8", count, 8)]
    _require(start + sum(sizes) == len(data), "a message is cut off, or too long")
    found = []
    for size in sizes:
        found.append(data[start : start + size])
        start += size
    return found


class _Message:
    """A vault's way to its server: what one message brought, and what it takes back."""

    def __init__(self, parts: list[bytes]):
        _require(len(parts) == _MOST_PARTS, "a message must hold task, plan and model")
        self._task, *blobs = parts
        self._blobs = {_task.digest(data): data for data in blobs}
        self.sent = b""

    def task(self, seconds: float) -> bytes | None:
        """Returns the task that came."""
        del seconds
        return self._task

    def blob(self, digest: str, most: int) -> bytes:
        """Returns the plan or the model that came."""
        found = self._blobs.get(digest)
        if found is None or len(found) > most:
            raise Rejected("the message has no such plan or model")
        return found

    def report(self, data: bytes) -> str:
        """Keeps the report for the reply."""
        self.sent = data
        return "sent"


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise WireError(what)
