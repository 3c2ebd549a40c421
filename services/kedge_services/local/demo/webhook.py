"""The on-call person of the demo: an HTTP endpoint that keeps what it receives."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["OnCall"]


class OnCall:
    """Listens on 127.0.0.1 and remembers each notification once by its idempotency key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received: dict[str, dict[str, Any]] = {}
        on_call = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length))
                on_call._keep(self.headers.get("Idempotency-Key", ""), body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Stay silent: the timeline tells what arrived."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="on-call", daemon=True
        )
        self._thread.start()

    def _keep(self, key: str, body: dict[str, Any]) -> None:
        with self._lock:
            self._received.setdefault(key, body)

    @property
    def url(self) -> str:
        """Where notifications are posted."""
        return f"http://127.0.0.1:{self._server.server_port}/on-call"

    def received(self) -> dict[str, dict[str, Any]]:
        """Give the notifications by idempotency key, in order of arrival."""
        with self._lock:
            return dict(self._received)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
