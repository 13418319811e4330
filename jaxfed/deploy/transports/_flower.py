"""The server's half of Flower: a desk served over the public Grid of a ServerApp.

Messages carry task, plan and model as one array; replies carry a report. Which node is
which client is the operator's word: nodes keep their number only where they have keys
(`flwr supernode register`).
"""

import importlib
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

from jaxfed.deploy._desk import Desk, Stranger
from jaxfed.vault import _task
from jaxfed.vault import flower as both
from jaxfed.vault._errors import WireError
from jaxfed.vault._visit import Ended

_LOG = logging.getLogger("jaxfed")
_TRAIN = "train"


class Flower:
    """Serves a desk over a grid, in a thread of its own.

    Args:
        desk: of a `Coordinator`.
        grid: what a ServerApp gets.
        nodes: the number of each client's node.
        poll_seconds: how often it looks for replies.

    Raises:
        ValueError: two clients have one node, or one is not enrolled.
    """

    def __init__(
        self,
        desk: Desk,
        grid: Any,
        nodes: Mapping[str, int],
        *,
        poll_seconds: float = 0.2,
    ):
        if len(set(nodes.values())) != len(nodes) or not all(map(desk.knows, nodes)):
            raise ValueError(
                "nodes must name enrolled clients, each with a node of its own, got "
                f"{dict(nodes)!r}."
            )
        self._desk, self._grid, self._nodes = desk, grid, dict(nodes)
        self._poll = poll_seconds
        self._asked: dict[str, tuple[int, int]] = {}
        self._pending: dict[str, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jaxfed-flower")
        self._thread.start()

    def close(self) -> None:
        """Stops serving."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._ask()
                self._take()
            except Ended:
                return
            except Exception as error:  # the grid's own: it may come back
                _LOG.warning("Flower's grid failed: %s", type(error).__name__)
                _LOG.debug("Flower's grid failed", exc_info=True)
            self._stop.wait(self._poll)

    def _ask(self) -> None:
        """Sends every client that has a new task its message."""
        clients, messages = [], []
        for client, node in self._nodes.items():
            data = self._desk.task(client)
            if data is None:
                continue
            task = _task.decode_task(data)
            if self._asked.get(client) == (task.round, task.attempt):
                continue
            message = self._message(client, node, data, task)
            if message is not None:
                clients.append((client, task))
                messages.append(message)
        if not messages:
            return
        numbers = list(self._grid.push_messages(messages))
        for (client, task), number in zip(clients, numbers, strict=True):
            until = time.monotonic() + task.seconds
            self._asked[client] = task.round, task.attempt
            self._pending[number] = client, until

    def _message(self, client: str, node: int, data: bytes, task: _task.Task) -> Any:
        message = importlib.import_module("flwr.app").Message
        plan = self._desk.blob(client, task.plan)
        model = self._desk.blob(client, task.model)
        if plan is None or model is None:  # the round closed meanwhile
            return None
        return message(
            both.content_of([data, plan, model]),
            node,
            _TRAIN,
            ttl=task.seconds + 2,
            group_id=f"{task.round}.{task.attempt}",
        )

    def _take(self) -> None:
        """Hands in the replies that have come, and forgets what is too late."""
        if not self._pending:
            return
        for reply in self._grid.pull_messages(list(self._pending)):
            number = reply.metadata.reply_to_message_id
            client, _ = self._pending.pop(number, ("", 0.0))
            if client:
                self._submit(client, reply)
        now = time.monotonic()
        self._pending = {n: one for n, one in self._pending.items() if one[1] > now}

    def _submit(self, client: str, reply: Any) -> None:
        if reply.has_error() or reply.metadata.src_node_id != self._nodes[client]:
            _LOG.warning("a node failed, or another one answered for it")
            return
        try:
            (report,) = both.parts_of(reply)
            if report:  # else the vault refused, and said why in its own log
                self._desk.submit(client, report)
        except (WireError, Stranger, ValueError) as error:
            _LOG.warning("a report was refused: %s", error)
        except Ended:
            raise
        except Exception as error:  # of one reply, and the others go on
            _LOG.warning("a report was refused: %s", type(error).__name__)
