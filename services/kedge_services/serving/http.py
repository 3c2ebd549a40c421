"""The Open Inference Protocol v2 by HTTP."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import kedge
from kedge.errors import DeadLetter, UsageError
from kedge_services.runtime.metrics import HTTP_REQUESTS, Metrics
from kedge_services.serving.lanes import Lanes
from kedge_services.serving.scorer import (
    NoChampion,
    Question,
    Scorer,
    Shadowed,
    UnknownModel,
    UnknownVersion,
    VersionFailed,
)

__all__ = ["HttpServer", "make_app"]

#: Bytes of a request.
LARGEST_BODY = 8 * 1024 * 1024
#: Connections that may wait to be taken.
BACKLOG = 2_048
#: How long a thread that computes keeps the interpreter while others want it.  A request
#: changes threads twice; at Python's 5 ms it would wait as long each time beside the topic.
SWITCH_S = 0.0005
#: How long connections that came before the port was closed have to get their turn.
SETTLE_S = 0.05
_STATUS = {UnknownModel: 404, UnknownVersion: 404, NoChampion: 503, VersionFailed: 500}


def make_app(
    scorer: Scorer,
    metrics: Metrics,
    *,
    is_ready: Callable[[], bool],
    max_pending: int,
    is_draining: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """Make the web application.

    Parameters
    ----------
    is_ready
        Whether the versions are known and the champions loaded.
    max_pending
        Requests scored or waiting for it; beyond: 503.
    is_draining
        Whether the server will stop: every answer then closes its connection, so
        that its client looks for another server before this one is gone.
    """
    app = FastAPI(title="Kedge serving", version=kedge.__version__, docs_url=None, redoc_url=None)
    api = _Api(scorer, is_ready, max_pending)
    app.add_api_route("/v2", api.server)
    app.add_api_route("/v2/health/live", api.live)
    app.add_api_route("/v2/health/ready", api.ready)
    # Before the routes of models, whose names may have slashes; those of versions have none.
    version = "/v2/models/{model:path}/versions/{version}"
    app.add_api_route(f"{version}/ready", api.model_ready)
    app.add_route(f"{version}/infer", api.infer, methods=["POST"])
    app.add_api_route(version, api.describe)
    app.add_api_route("/v2/models/{model:path}/ready", api.model_ready)
    app.add_route("/v2/models/{model:path}/infer", api.infer, methods=["POST"])
    app.add_api_route("/v2/models/{model:path}", api.describe)
    app.add_exception_handler(DeadLetter, _refused)
    for kind in _STATUS:
        app.add_exception_handler(kind, _unanswered)
    app.add_middleware(_Answers, metrics=metrics, is_draining=is_draining)
    return app


class _Answers:
    """Counts answers by status, and lets the last ones close their connections.

    Plain ASGI, because Starlette's own way costs a task each.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, is_draining: Callable[[], bool]) -> None:
        self._app = app
        self._metrics = metrics
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.add(HTTP_REQUESTS, code=str(message["status"]))
                if self._is_draining():
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, counted)


@dataclass(frozen=True, slots=True)
class _Waiting:
    question: Question
    answer: asyncio.Future[bytes]


class _Api:
    def __init__(self, scorer: Scorer, is_ready: Callable[[], bool], max_pending: int) -> None:
        self._scorer = scorer
        self._is_ready = is_ready
        self._max_pending = max_pending
        # Changed in the event loop's thread alone, hence without a lock.
        self._pending = 0
        self._lanes = Lanes[tuple[str, str | None], _Waiting](
            self._score, lambda waiting: len(waiting.question.body)
        )

    async def server(self) -> dict[str, Any]:
        return {"name": "kedge", "version": kedge.__version__, "extensions": []}

    async def live(self) -> dict[str, bool]:
        return {"live": True}

    async def ready(self) -> JSONResponse:
        ready = self._is_ready()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, model: str, version: str | None = None) -> dict[str, Any]:
        self._scorer.find(model, version)
        return {"name": model, "ready": True}

    async def describe(self, model: str, version: str | None = None) -> dict[str, Any]:
        return self._scorer.describe(model, version)

    async def infer(self, request: Request) -> Response:
        if "inference-header-content-length" in request.headers:
            raise DeadLetter("unsupported-format", "binary tensors are not read; send JSON")
        if self._pending >= self._max_pending:
            why = f"{self._pending} requests are waiting already"
            return JSONResponse({"error": why}, 503, {"Retry-After": "1"})
        self._pending += 1
        try:
            question = Question(await _body(request), time.perf_counter())
            answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            place = request.path_params
            self._lanes.put((place["model"], place.get("version")), _Waiting(question, answer))
            return Response(await answer, media_type="application/json")
        finally:
            self._pending -= 1

    def _score(self, key: tuple[str, str | None], waiting: list[_Waiting]) -> None:
        """Answer requests for the same version, in a thread beside the event loop."""
        model, version = key
        answers, shadowed = self._scorer.answer(model, [w.question for w in waiting], version)
        loop = waiting[0].answer.get_loop()
        try:
            loop.call_soon_threadsafe(self._settle, waiting, answers, shadowed)
        except RuntimeError:
            # A server that stops waits for its last requests only so long.
            self._scorer.let_follow(shadowed)

    def _settle(
        self,
        waiting: list[_Waiting],
        answers: list[bytes | Exception],
        shadowed: list[Shadowed],
    ) -> None:
        """Let the requests go on; whoever has its answer has its shadows noted."""
        for each, answer in zip(waiting, answers, strict=True):
            if each.answer.done():
                continue
            if isinstance(answer, Exception):
                each.answer.set_exception(answer)
            else:
                each.answer.set_result(answer)
        self._scorer.let_follow(shadowed)


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


class _Server(uvicorn.Server):
    """A server that, when it stops, forgets nobody who has connected already."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        # Connections taken just before are not among the server's yet, and it waits
        # for none but those.
        await asyncio.sleep(SETTLE_S)
        await super().shutdown(sockets)


class HttpServer:
    """Runs an application in a thread of its own, so that signals stay with the caller.

    The port is taken at once; before :meth:`open` a connection to it is refused.

    Raises
    ------
    UsageError
        The port is taken.
    """

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # The protocol is named: only then asyncio sends what is small at once, instead of
        # letting the body of an answer wait 40 ms for the client's word about its head.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise UsageError(f"port {port} on {host} cannot be used: {error.strerror}") from error
        self.host, self.port = host, int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
            backlog=BACKLOG,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._is_open = False

    def __enter__(self) -> Self:
        """Hold the port."""
        return self

    def open(self) -> None:
        """Begin to answer."""
        self._is_open = True
        sys.setswitchinterval(SWITCH_S)
        # Who connects before the server runs waits for it.
        self._socket.listen(BACKLOG)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Say whether it runs, if it should."""
        return not self._is_open or self._thread.is_alive()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the requests at hand and stop."""
        self._server.should_exit = True
        if self._is_open:
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])
