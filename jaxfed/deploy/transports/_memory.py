"""In memory: vaults in threads of the coordinator's own process; what others equal."""

from jaxfed.deploy._desk import Desk
from jaxfed.vault._errors import Rejected, Stale


class Memory:
    """One client's way to a desk.

    Args:
        desk: of a `Coordinator`.
        client: the name of the client.
    """

    def __init__(self, desk: Desk, client: str):
        self._desk, self._client = desk, client

    def task(self, seconds: float) -> bytes | None:
        """Waits for a task; None if there is none for now."""
        return self._desk.wait_for_task(self._client, seconds)

    def blob(self, digest: str, most: int) -> bytes:
        """Fetches a plan or a model."""
        found = self._desk.blob(self._client, digest)
        if found is None:
            raise Stale("the round is over")
        if len(found) > most:
            raise Rejected("a plan or a model is too large")
        return found

    def report(self, data: bytes) -> str:
        """Sends a report; returns what became of it."""
        return self._desk.submit(self._client, data)
