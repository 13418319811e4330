"""The operator's page: one HTML file that asks for one JSON document, on loopback.

Who is missing from an open round is private: the page is served to this machine alone.
"""

import http.server
import json
import threading
from typing import Any, Self

from jaxfed.deploy._coordinator import Coordinator
from jaxfed.deploy._status_page import PAGE

_HOSTS = ("127.0.0.1", "localhost")


class StatusPage:
    """Serves the status of a coordinator on this machine.

    Args:
        coordinator: what to look at.
        port: 0 for any.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, coordinator: Coordinator, port: int = 0):
        def handler(*arguments: Any) -> _Handler:
            return _Handler(coordinator, *arguments)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="jaxfed-status", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/"

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = 10

    def __init__(self, coordinator: Coordinator, *arguments: Any):
        self._coordinator = coordinator
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Answers with the page, or with the document that it asks for."""
        host = (self.headers.get("Host") or "").partition(":")[0]
        if host not in _HOSTS:  # another site's name that leads here
            self.send_error(403)
        elif self.path == "/":
            self._send("text/html; charset=utf-8", PAGE)
        elif self.path == "/status.json":
            status = self._coordinator.status()
            self._send("application/json", json.dumps(status, allow_nan=False))
        else:
            self.send_error(404)

    def _send(self, kind: str, text: str) -> None:
        data = text.encode("utf-8")
        self.send_response(200)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            (
                "Content-Security-Policy",
                "default-src 'none'; style-src 'unsafe-inline'; "
                "script-src 'unsafe-inline'; connect-src 'self'",
            ),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""
