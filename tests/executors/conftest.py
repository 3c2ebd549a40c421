"""A pipeline elsewhere, and the service around it, in memory and on a clock that pauses move on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from kedge import Candidate, Example, Monitor, RetrainRequest
from kedge.codec import decode, encode
from kedge.events import RetrainCause
from kedge_services.executors.desk import Board, Desk, Now, Parts
from kedge_services.executors.inspecting import Finding, Order, inspect
from kedge_services.executors.kinds import pipelines
from kedge_services.executors.ledger import CHANGELOG, Ledger
from kedge_services.executors.runs import Sources
from kedge_services.executors.storing import Storing
from kedge_services.runtime.http import Web
from kedge_services.runtime.memory import Crash, ManualClock, MemoryBroker
from kedge_services.runtime.metrics import RUNS, Metrics
from kedge_services.runtime.ports import Record
from kedge_services.trainer.training import Trained, train

URL = "https://pipelines.example/runs?token=s3cret"
NOW_S = 1_795_220_000.0


def monitor(model: str = "m", **executor: Any) -> Monitor:
    declared = {"name": "theirs", "kind": "webhook", "url_env": "URL", **executor}
    return Monitor.model_validate(
        {
            "model": model,
            "task": "binary",
            "classes": ["no", "yes"],
            "features": {"a": "numeric", "k": "categorical"},
            "retrain": {"executor": "theirs", "trainer": "river-logistic"},
            "executors": [declared],
        }
    )


def request(request_id: str = "m.1", model: str = "m", executor: str = "theirs") -> RetrainRequest:
    return RetrainRequest(
        request_id=request_id,
        model=model,
        base_version="v7",
        cause=RetrainCause(kind="alert", alert_ids=["alert/1"], rule="error-rate"),
        event_time_ms=5,
        executor=executor,
    )


def record(offset: int, event: RetrainRequest | bytes) -> Record:
    value = event if isinstance(event, bytes) else encode(event)
    return Record("retrain-requests", 0, offset, 0, b"k", value, [])


@pytest.fixture(scope="session")
def trained() -> Trained:
    """Give a model of the monitor, as Kedge would have trained it."""
    examples = [
        Example(
            prediction_id=f"p{i}",
            model="m",
            features={"a": (a := i * 7919 % 1000 / 1000), "k": "u" if i % 3 else None},
            label="yes" if a > 0.5 else "no",
            outputs={},
            event_time_ms=i,
            label_time_ms=i + 10,
        )
        for i in range(1_000)
    ]
    asked = request().model_copy(update={"base_version": None})
    done = train(asked, examples, monitor=monitor(), parent=None, parent_data=None, seed=1)
    assert done.data is not None
    return done


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.001)


class Elsewhere:
    """A receiver that starts a run once a key and answers by script."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.model: dict[str, Any] = {
            "uri": "https://pipelines.example/models/1",
            "sha256": hashlib.sha256(data).hexdigest(),
            "format": "river-json",
        }
        self.result: dict[str, Any] = {}
        self.requests: list[httpx.Request] = []
        self.runs: dict[str, str] = {}
        #: Statuses of a run that the script has nothing for.
        self.statuses = ["queued", "running", "succeeded"]
        #: What comes instead, by method: each is used up once.
        self.instead: dict[str, list[httpx.Response | Exception]] = {"POST": [], "GET": []}
        self.crash_before = self.crash_after = -1
        self._looks: dict[str, int] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        number = len(self.requests)
        self.requests.append(request)
        if number == self.crash_before:
            raise Crash
        instead = self.instead[request.method]
        if instead:
            answer = instead.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        answer = self._answer(request)
        if number == self.crash_after:
            raise Crash
        return answer

    def _answer(self, request: httpx.Request) -> httpx.Response:
        key = request.headers.get("Idempotency-Key", "")
        if request.method == "POST":
            run = self.runs.setdefault(key, f"run-{len(self.runs)}")
            return httpx.Response(201, json={"run_id": run, "status_url": f"/status/{run}"})
        if request.url.path.startswith("/models/"):
            return httpx.Response(200, content=self.data)
        look = self._looks.get(key, 0)
        self._looks[key] = look + 1
        status = self.statuses[min(look, len(self.statuses) - 1)]
        report: dict[str, Any] = {"status": status, "message": "as the pipeline says"}
        if status == "succeeded":
            report["result"] = {"model": self.model, **self.result}
        return httpx.Response(200, json=report)

    def posts(self) -> list[httpx.Request]:
        return [request for request in self.requests if request.method == "POST"]

    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.posts()[-1].content)
        return found


class Wire(httpx.AsyncBaseTransport):
    """A network with one place in it; answers come as streams, as from a real one."""

    def __init__(self, place: Callable[[httpx.Request], httpx.Response]) -> None:
        self._place = place

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._place(request)
        content = httpx.ByteStream(answer.content)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=content)


class Clock:
    """A clock that pauses move on, and nothing else."""

    def __init__(self) -> None:
        self.seconds = NOW_S
        self.pauses: list[float] = []
        #: While it is there, nobody's pause ends before it is set.
        self.gate: asyncio.Event | None = None

    def now_s(self) -> float:
        return self.seconds

    def jitter(self) -> float:
        return 0.5

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds
        await (asyncio.sleep(0) if self.gate is None else self.gate.wait())


class World:
    """Everything around a desk: what dies with the process, and what stays."""

    started_s = NOW_S
    monitor = staticmethod(monitor)
    request = staticmethod(request)
    record = staticmethod(record)
    until = staticmethod(until)

    def __init__(self, tmp_path: Path, elsewhere: Elsewhere) -> None:
        self.elsewhere = elsewhere
        self.clock = Clock()
        #: Its clock stands, as transactions of a busy one would end by it.
        self.broker = MemoryBroker(ManualClock(0), {"candidates": 2, CHANGELOG: 1})
        self.metrics = Metrics("executors")
        self.monitors: dict[str, Monitor] = {"m": monitor(), "n": monitor("n")}
        self.environ = {"URL": URL}
        self.champion: str | None = "v8"
        self.planned = 0
        self.inspected: list[Order] = []
        self.crash_in_inspection = False
        self.crashes: list[BaseException] = []
        self._tmp_path = tmp_path

    # ---------------------------------------------------------- the process

    def desk(self) -> Desk:
        web, times = Web(Wire(self.elsewhere)), self.clock
        artefacts = str(self._tmp_path / "artefacts")

        async def look(order: Order) -> Finding:
            self.inspected.append(order)
            if self.crash_in_inspection:
                self.crash_in_inspection = False
                raise Crash
            return inspect(order)

        async def on_crash(error: BaseException) -> None:
            self.crashes.append(error)

        incoming = self._tmp_path / "incoming"
        parts = Parts(
            now=self._now,
            pipeline_of=pipelines(self.environ, web, times),
            store=Storing(
                web=web, times=times, inspect=look, artefacts=artefacts, incoming=incoming
            ),
            candidate_partitions=2,
            times=times,
            board=Board(self.metrics),
            on_crash=on_crash,
        )
        return Desk(0, Ledger(self.broker, 0), parts)

    def _now(self, model: str) -> Now:
        # The examples go on: who plans twice plans differently.
        self.planned += 1
        ends = {0: (0, 100 * self.planned), 1: (3, 70)}
        return Now(self.monitors.get(model), self.champion, Sources("kedge.examples", ends))

    # -------------------------------------------------------------- driving

    def candidates(self) -> list[Candidate]:
        return [decode(Candidate, r.value or b"") for r in self.broker.records("candidates")]

    def over(self) -> float:
        """Give the number of runs that are over, as it is counted last of all."""
        results = ("succeeded", "failed", "cancelled", "late", "refused", "unusable")
        return sum(self.metrics.value(RUNS, result=result) for result in results)

    def run(self, *requests: RetrainRequest | bytes, answers: int | None = None) -> list[Candidate]:
        """Have requests answered by one process that nothing happens to."""
        wanted = len(requests) if answers is None else answers

        async def scenario() -> None:
            desk = self.desk()
            await desk.open()
            for offset, event in enumerate(requests):
                assert await desk.take(record(offset, event))
            await until(lambda: self.over() >= wanted or bool(self.crashes))
            await desk.close()

        asyncio.run(scenario())
        assert self.crashes == []
        found = self.candidates()
        assert len(found) == wanted
        return found

    def one(self, event: RetrainRequest | None = None) -> Candidate:
        (candidate,) = self.run(request() if event is None else event)
        return candidate


@pytest.fixture
def elsewhere(trained: Trained) -> Elsewhere:
    assert trained.data is not None
    return Elsewhere(trained.data)


@pytest.fixture
def world(tmp_path: Path, elsewhere: Elsewhere) -> World:
    return World(tmp_path, elsewhere)
