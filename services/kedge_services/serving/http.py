"""The Open Inference Protocol v2 by HTTP."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import kedge
from kedge.errors import DeadLetter, UsageError
from kedge_services.runtime.metrics import HTTP_REQUESTS, Metrics
from kedge_services.serving.scorer import NoChampion, Scorer, UnknownModel, VersionFailed

__all__ = ["HttpServer", "make_app"]

#: Bytes of a request.
LARGEST_BODY = 8 * 1024 * 1024
#: Threads that score; more than the processors only helps models that wait.
WORKERS = 2
_STATUS = {UnknownModel: 404, NoChampion: 503, VersionFailed: 500}


def make_app(
    scorer: Scorer, metrics: Metrics, *, is_ready: Callable[[], bool], max_pending: int
) -> FastAPI:
    """Make the web application.

    Parameters
    ----------
    is_ready
        Whether the versions are known and the champions loaded.
    max_pending
        Requests scored or waiting for it; beyond: 503.
    """
    app = FastAPI(title="Kedge serving", version=kedge.__version__, docs_url=None, redoc_url=None)
    api = _Api(scorer, is_ready, max_pending)
    app.add_api_route("/v2", api.server)
    app.add_api_route("/v2/health/live", api.live)
    app.add_api_route("/v2/health/ready", api.ready)
    app.add_api_route("/v2/models/{model:path}/ready", api.model_ready)
    app.add_api_route("/v2/models/{model:path}/infer", api.infer, methods=["POST"])
    app.add_api_route("/v2/models/{model:path}", api.describe)
    app.add_exception_handler(DeadLetter, _refused)
    for kind in _STATUS:
        app.add_exception_handler(kind, _unanswered)
    app.add_middleware(_Counted, metrics=metrics)
    return app


class _Counted:
    """Counts answers by status; plain ASGI, because Starlette's own way costs a task each."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.add(HTTP_REQUESTS, code=str(message["status"]))
            await send(message)

        await self._app(scope, receive, counted)


class _Api:
    def __init__(self, scorer: Scorer, is_ready: Callable[[], bool], max_pending: int) -> None:
        self._scorer = scorer
        self._is_ready = is_ready
        self._max_pending = max_pending
        # Changed in the event loop's thread alone, hence without a lock.
        self._pending = 0
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="score")

    async def server(self) -> dict[str, Any]:
        return {"name": "kedge", "version": kedge.__version__, "extensions": []}

    async def live(self) -> dict[str, bool]:
        return {"live": True}

    async def ready(self) -> JSONResponse:
        ready = self._is_ready()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, model: str) -> dict[str, Any]:
        self._scorer.champion(model)
        return {"name": model, "ready": True}

    async def describe(self, model: str) -> dict[str, Any]:
        return self._scorer.describe(model)

    async def infer(self, model: str, request: Request) -> JSONResponse:
        if "inference-header-content-length" in request.headers:
            raise DeadLetter("unsupported-format", "binary tensors are not read; send JSON")
        if self._pending >= self._max_pending:
            why = f"{self._pending} requests are waiting already"
            return JSONResponse({"error": why}, 503, {"Retry-After": "1"})
        self._pending += 1
        try:
            body = await _body(request)
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._pool, self._scorer.infer, model, body)
        finally:
            self._pending -= 1
        return JSONResponse(answer)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    reason, detail = (
        (error.reason, error.detail) if isinstance(error, DeadLetter) else ("invalid", str(error))
    )
    content = {"error": detail, "reason": reason}
    return JSONResponse(content, 413 if reason == "too-large" else 400)


async def _unanswered(_: Request, error: Exception) -> JSONResponse:
    headers = {"Retry-After": "1"} if isinstance(error, NoChampion) else None
    return JSONResponse({"error": str(error)}, _STATUS[type(error)], headers)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise DeadLetter("too-large", f"the body has more than {LARGEST_BODY} bytes")
    return bytes(body)


class HttpServer:
    """Runs an application in a thread of its own, so that signals stay with the caller.

    Raises
    ------
    UsageError
        The port is taken.
    """

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise UsageError(f"port {port} on {host} cannot be used: {error.strerror}") from error
        self.host, self.port = host, int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        return self

    @property
    def is_alive(self) -> bool:
        """Say whether it runs."""
        return self._thread.is_alive()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the requests at hand and stop."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])
