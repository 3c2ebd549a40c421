"""What a supervisor and Prometheus ask of every process: three pages over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CONTENT_TYPE_LATEST

from kedge.errors import UsageError
from kedge_services.runtime.metrics import Metrics

__all__ = ["HealthServer", "health_app"]

_StartResponse = Callable[[str, list[tuple[str, str]]], Any]
App = Callable[[dict[str, Any], _StartResponse], Iterable[bytes]]


def health_app(
    metrics: Metrics, *, is_alive: Callable[[], bool], is_ready: Callable[[], bool]
) -> App:
    """Give a WSGI app: ``/metrics``, ``/healthz`` (is it going on) and ``/readyz`` (does it work).

    The latter two answer 200 ``ok`` or 503 with what is wrong.
    """

    def app(environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if environ.get("REQUEST_METHOD") not in {"GET", "HEAD"}:
            status, kind, body = "405 Method Not Allowed", "text/plain", b"only GET\n"
        elif path == "/metrics":
            status, kind, body = "200 OK", CONTENT_TYPE_LATEST, metrics.render()
        elif path == "/healthz":
            status, kind, body = _verdict("stuck", is_ok=is_alive())
        elif path == "/readyz":
            status, kind, body = _verdict("not ready", is_ok=is_ready())
        else:
            status, kind, body = "404 Not Found", "text/plain", b"/metrics /healthz /readyz\n"
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [b"" if environ.get("REQUEST_METHOD") == "HEAD" else body]

    return app


def _verdict(otherwise: str, *, is_ok: bool) -> tuple[str, str, bytes]:
    if is_ok:
        return "200 OK", "text/plain", b"ok\n"
    return "503 Service Unavailable", "text/plain", f"{otherwise}\n".encode()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base's name
        """Say nothing: a scrape every few seconds is no news."""


class HealthServer:
    """Serves a WSGI app in a thread while it is entered.

    Raises
    ------
    UsageError
        The port is taken.
    """

    def __init__(self, app: App, *, host: str, port: int) -> None:
        try:
            self._server = make_server(
                host, port, app, server_class=_Server, handler_class=_Quiet
            )  # fmt: skip
        except OSError as error:
            raise UsageError(f"port {port} on {host} cannot be used: {error.strerror}") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )

    @property
    def port(self) -> int:
        """The port it listens on; a free one when 0 was asked for."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop answering and give the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
