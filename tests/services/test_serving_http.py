from __future__ import annotations

import contextlib
import gc
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from kedge import Artefact, FeatureColumn, ModelVersion, Monitor, Output, Prediction
from kedge.base import Scalar
from kedge.errors import DeadLetter, QueueFull, UsageError
from kedge_services.runtime import metrics as m
from kedge_services.serving.http import LARGEST_BODY, HttpServer, make_app
from kedge_services.serving.models import Loaded, Models
from kedge_services.serving.scorer import Outbox, Question, Scorer, Shadowed, VersionFailed
from kedge_services.serving.scoring import Rows

SCHEMA = [
    FeatureColumn(name="x", type="numeric"),
    FeatureColumn(name="where", type="categorical"),
]
MONITOR = Monitor.model_validate(
    {"model": "n", "task": "binary", "classes": ["a", "b"], "features": {"x": "numeric"}}
)


@dataclass
class Plus:
    """Adds its own number to x, so that an answer shows who gave it."""

    number: int
    gate: threading.Event | None = None
    entered: threading.Event = field(default_factory=threading.Event)
    calls: list[list[float]] = field(default_factory=list)

    def predict(self, rows: Sequence[Mapping[str, Scalar | None]]) -> list[Output]:
        numbers = [x if isinstance(x := row["x"], float) else 0.0 for row in rows]
        self.calls.append(numbers)
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        if any(x < 0 for x in numbers):
            raise ValueError("x is negative")
        return [Output(label=f"{x + self.number:g}", score=0.5) for x in numbers]

    def wait_for_calls(self, count: int) -> None:
        deadline, pause = time.monotonic() + 10, threading.Event()
        while len(self.calls) < count:
            assert time.monotonic() < deadline
            pause.wait(0.005)


class Sent:
    """Takes predictions where Kafka would."""

    def __init__(self) -> None:
        self.events: list[Prediction] = []
        self.room: int | None = None

    def predict_many(self, predictions: Iterable[Prediction], *, block: bool = True) -> int:
        assert not block
        events = list(predictions)
        if self.room is not None and len(events) > self.room:
            full = QueueFull("full")
            full.sent = self.room
            raise full
        self.events += events
        return len(events)

    def flush(self, timeout: float = 30.0) -> None: ...

    def close(self, timeout: float = 30.0) -> None: ...


def version(name: str, status: str, sequence: int, **changes: Any) -> ModelVersion:
    artefact = Artefact(uri=name, sha256="0" * 64, format="skops", size=1)
    fields = {
        "model": "m", "version": name, "status": status, "sequence": sequence, "changed_ms": 0,
        "artefact": artefact, "feature_schema": SCHEMA, "classes": ["a", "b"], **changes,
    }  # fmt: skip
    return ModelVersion.model_validate(fields)


@dataclass
class World:
    """A server that really runs, with models and an outbox in the test's hands."""

    predictors: dict[str, Plus]
    sent: Sent
    metrics: m.Metrics
    models: Models
    scorer: Scorer
    client: httpx.Client
    stop: threading.Event
    follower: threading.Thread
    server: HttpServer
    is_ready: bool = True
    is_draining: bool = False

    def infer(self, *xs: float, model: str = "m", **more: Any) -> httpx.Response:
        tensor = {"name": "x", "shape": [len(xs)], "datatype": "FP64", "data": list(xs)}
        return self.client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor], **more})

    def champion(self, name: str, sequence: int) -> None:
        self.models.update("m", [version(name, "champion", sequence)])
        self.models.settle()

    def shadows(self) -> tuple[Loaded, ...]:
        lineup = self.models.lineup("m")
        assert lineup is not None
        return lineup.shadows

    def finish(self) -> None:
        self.stop.set()
        self.follower.join(10)
        assert not self.follower.is_alive()


@contextlib.contextmanager
def running(max_pending: int) -> Iterator[World]:
    predictors = {f"k{i}": Plus(i * 1_000) for i in range(10)}
    sent, stop, metrics = Sent(), threading.Event(), m.Metrics("serving")
    models = Models(lambda version: predictors[version.version])
    scorer = Scorer(
        models, {"n": MONITOR}.get, Outbox(sent, metrics), metrics,
        clock=lambda: 77, max_pending=max_pending,
    )  # fmt: skip
    world: World
    app = make_app(
        scorer, metrics, max_pending=max_pending,
        is_ready=lambda: world.is_ready, is_draining=lambda: world.is_draining,
    )  # fmt: skip
    follower = threading.Thread(target=scorer.follow, args=(stop,))
    follower.start()
    with HttpServer(app, "127.0.0.1", 0) as server:
        server.open()
        client = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=10)
        with client:
            world = World(predictors, sent, metrics, models, scorer, client, stop, follower, server)
            yield world
    world.finish()


@pytest.fixture
def make() -> Iterator[Callable[[int], World]]:
    with contextlib.ExitStack() as stack:
        yield lambda max_pending: stack.enter_context(running(max_pending))


@pytest.fixture
def world(make: Callable[[int], World]) -> World:
    world = make(100)
    world.models.update("m", [version("k1", "champion", 1), version("k2", "shadow", 2)])
    world.models.settle()
    return world


def test_an_answer_names_its_version_and_echoes_the_id(world: World) -> None:
    found = world.infer(1, 2, id="r#1")
    assert found.status_code == 200
    assert found.json() == {
        "model_name": "m",
        "model_version": "k1",
        "id": "r#1",
        "parameters": {"prediction_id": "r%231"},
        "outputs": [
            {"name": "predict", "shape": [2], "datatype": "BYTES", "data": ["1001", "1002"]},
            {"name": "score", "shape": [2], "datatype": "FP64", "data": [0.5, 0.5]},
        ],
    }


def test_champion_and_shadows_are_sent_as_predictions(world: World) -> None:
    world.infer(1, 2, id="r", parameters={"segments": {"region": "NO"}})
    world.infer(3, id="s")
    world.finish()
    sent = world.sent.events
    of_r = [p for p in sent if p.prediction_id.startswith("r")]
    assert [(p.prediction_id, p.version, p.role) for p in of_r] == [
        ("r#0", "k1", "champion"), ("r#1", "k1", "champion"),
        ("r#0", "k2", "shadow"), ("r#1", "k2", "shadow"),
    ]  # fmt: skip
    assert all(p.segments == {"region": "NO"} and p.event_time_ms == 77 for p in of_r)
    assert [p.output and p.output.label for p in of_r] == ["1001", "1002", "2001", "2002"]
    assert [p.prediction_id for p in sent if p.model == "m" and p not in of_r] == ["s", "s"]
    assert Prediction.model_validate(sent[0].model_dump()) == sent[0]


def test_a_request_without_id_gets_one_to_name_in_its_outcome(world: World) -> None:
    found = world.infer(1).json()
    assert found["id"]
    assert world.sent.events[0].prediction_id == found["id"]


def test_an_answer_does_not_wait_for_a_slow_shadow(world: World) -> None:
    gate = threading.Event()
    world.predictors["k2"].gate = gate
    try:
        assert world.infer(1).status_code == 200
        assert world.predictors["k2"].entered.wait(10)
        assert world.infer(1).status_code == 200
        assert {p.role for p in world.sent.events} == {"champion"}
    finally:
        gate.set()
    world.finish()
    assert [p.role for p in world.sent.events].count("shadow") == 2


def test_requests_that_wait_are_scored_together_each_with_its_own_fate(world: World) -> None:
    def question(*xs: float, **more: Any) -> Question:
        tensor = {"name": "x", "shape": [len(xs)], "datatype": "FP64", "data": list(xs)}
        return Question(json.dumps({"inputs": [tensor], **more}).encode(), 0.0)

    good, also = question(1, 2, id="r"), question(3, id="s")
    answers, shadowed = world.scorer.answer("m", [good, also])
    assert [json.loads(answer)["id"] for answer in answers if isinstance(answer, bytes)] == [
        "r", "s",
    ]  # fmt: skip
    assert world.predictors["k1"].calls == [[1.0, 2.0, 3.0]]
    assert [each.request.request_id for each in shadowed] == ["r", "s"]

    wrong, unread = question(4, outputs=[{"name": "nothing"}]), Question(b"{", 0.0)
    answers, shadowed = world.scorer.answer("m", [good, question(-1), wrong, unread, also])
    assert [type(answer) for answer in answers] == [
        bytes, VersionFailed, DeadLetter, DeadLetter, bytes,
    ]  # fmt: skip
    # All that could be read in one call; as that failed, each of them alone.
    assert world.predictors["k1"].calls[1:] == [
        [1.0, 2.0, -1.0, 4.0, 3.0], [1.0, 2.0], [-1.0], [4.0], [3.0],
    ]  # fmt: skip
    assert [each.request.request_id for each in shadowed] == ["r", "s"]
    sent = [p.prediction_id for p in world.sent.events]
    assert sent == ["r#0", "r#1", "s", "r#0", "r#1", "s"]
    assert world.predictors["k2"].calls == []


def test_shadows_score_together_what_waits_for_them(world: World) -> None:
    gate, shadow = threading.Event(), world.predictors["k2"]
    shadow.gate = gate
    assert world.infer(0).status_code == 200
    shadow.wait_for_calls(1)
    for x in (1, -2, 3):
        world.scorer.let_follow([Shadowed(Rows("r", "m", [{"x": float(x)}], 7), world.shadows())])
    gate.set()
    world.finish()
    assert shadow.calls == [[0.0], [1.0, -2.0, 3.0], [1.0], [-2.0], [3.0]]
    labels = [p.output.label for p in world.sent.events if p.output and p.role == "shadow"]
    assert labels == ["2000", "2001", "2003"]
    assert world.metrics.value(m.SKIPPED_SHADOWS) == 1


def test_no_answer_is_lost_and_each_is_its_versions_own_during_hot_swaps(world: World) -> None:
    answered = threading.Semaphore(0)
    answers: list[httpx.Response] = []

    def ask(start: int) -> None:
        with httpx.Client(base_url=world.client.base_url, timeout=10) as client:
            for i in range(start, start + 60):
                xs = [i, i + 0.5]
                tensor = {"name": "x", "shape": [2, 1], "datatype": "FP64", "data": xs}
                body = {"id": str(i), "inputs": [tensor]}
                answers.append(client.post("/v2/models/m/infer", json=body))
                answered.release()

    def swap() -> None:
        # In the middle of the next answers, since three clients never wait.
        for sequence in range(3, 63):
            for _ in range(3):
                assert answered.acquire(timeout=10)
            world.champion(f"k{1 + sequence % 8}", sequence)

    with ThreadPoolExecutor(4) as pool:
        swapping = pool.submit(swap)
        asking = [pool.submit(ask, start) for start in (0, 100, 200)]
        for each in asking:
            each.result()
        swapping.result()
    assert len(answers) == 180
    versions = set()
    for answer in answers:
        assert answer.status_code == 200, answer.text
        found = answer.json()
        number = int(found["model_version"][1:]) * 1_000
        i = int(found["id"])
        assert found["outputs"][0]["data"] == [f"{i + number:g}", f"{i + 0.5 + number:g}"]
        versions.add(found["model_version"])
    assert len(versions) == 8
    sent = {(p.prediction_id, p.version) for p in world.sent.events if p.role == "champion"}
    assert sent == {
        (f"{a.json()['id']}#{k}", a.json()["model_version"]) for a in answers for k in (0, 1)
    }


def test_beyond_its_queue_the_server_says_503_and_when_to_come_back(
    make: Callable[[int], World],
) -> None:
    world = make(1)
    gate = threading.Event()
    world.predictors["k1"].gate = gate
    world.champion("k1", 1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(world.infer, 1)
        assert world.predictors["k1"].entered.wait(10)
        with httpx.Client(base_url=world.client.base_url) as other:
            refused = other.post("/v2/models/m/infer", json={})
        gate.set()
        assert first.result().status_code == 200
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert world.infer(1).status_code == 200
    assert world.metrics.value(m.HTTP_REQUESTS, code="503") == 1
    assert world.metrics.value(m.HTTP_REQUESTS, code="200") == 2


def test_answers_go_on_when_kafka_takes_no_more_and_losses_are_counted(world: World) -> None:
    world.sent.room = 1
    world.champion("k1", 3)
    assert world.infer(1, 2, 3).status_code == 200
    assert world.metrics.value(m.UNSENT) == 2


def test_errors_are_sentences_with_the_right_status(world: World) -> None:
    post = world.client.post
    unknown = world.infer(1, model="nobody")
    assert (unknown.status_code, unknown.json()["error"]) == (404, "there is no model 'nobody'")
    assert world.infer(1, model="n").status_code == 503
    bad = post("/v2/models/m/infer", content=b"{")
    assert (bad.status_code, bad.json()["reason"]) == (400, "undecodable")
    assert "score" in world.infer(1, outputs=[{"name": "nothing"}]).json()["error"]
    binary = post("/v2/models/m/infer", headers={"Inference-Header-Content-Length": "7"})
    assert (binary.status_code, binary.json()["reason"]) == (400, "unsupported-format")
    large = post("/v2/models/m/infer", content=b" " * (LARGEST_BODY + 1))
    assert large.status_code == 413
    assert world.infer(1, parameters={"segments": [1]}).status_code == 400
    failing = world.infer(-1)
    assert (failing.status_code, failing.json()["error"]) == (
        500, "version k1 fails: ValueError: x is negative",
    )  # fmt: skip


def test_health_readiness_and_metadata(world: World) -> None:
    get = world.client.get
    assert get("/v2").json()["name"] == "kedge"
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").status_code == 200
    world.is_ready = False
    assert get("/v2/health/ready").status_code == 503
    assert get("/v2/models/m/ready").json() == {"name": "m", "ready": True}
    assert get("/v2/models/n/ready").status_code == 503
    assert get("/v2/models/nobody/ready").status_code == 404
    assert get("/v2/models/m").json() == {
        "name": "m",
        "versions": ["k1", "k2"],
        "platform": "kedge_skops",
        "inputs": [
            {"name": "x", "datatype": "FP64", "shape": [-1]},
            {"name": "where", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "predict", "datatype": "BYTES", "shape": [-1]},
            {"name": "score", "datatype": "FP64", "shape": [-1]},
        ],
    }


def test_a_client_need_not_change_its_columns_when_a_version_wants_fewer(world: World) -> None:
    both = [
        {"name": "x", "shape": [1], "datatype": "FP64", "data": [1]},
        {"name": "where", "shape": [1], "datatype": "BYTES", "data": ["NO"]},
    ]
    few = version("k3", "champion", 3, feature_schema=SCHEMA[:1])
    world.models.update("m", [version("k1", "shadow", 1), few])
    world.models.settle()
    found = world.client.post("/v2/models/m/infer", json={"inputs": both}).json()
    assert found["model_version"] == "k3"


def test_a_version_is_asked_for_by_its_name(world: World) -> None:
    world.models.update(
        "m", [version("k1", "champion", 1), version("k2", "shadow", 2), version("k3", "shadow", 3)]
    )
    world.models.settle()
    tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [5]}
    body = {"id": "r", "inputs": [tensor]}
    found = world.client.post("/v2/models/m/versions/k2/infer", json=body).json()
    assert (found["model_version"], found["outputs"][0]["data"]) == ("k2", ["2005"])
    get = world.client.get
    assert get("/v2/models/m/versions/k2/ready").json() == {"name": "m", "ready": True}
    described = get("/v2/models/m/versions/k2").json()
    assert (described["name"], described["versions"]) == ("m", ["k1", "k2", "k3"])
    for path in ("/v2/models/m/versions/k9", "/v2/models/m/versions/k9/ready"):
        missing = get(path)
        assert missing.status_code == 404
        assert missing.json()["error"] == "'m' has no version 'k9' here; there are: k1, k2, k3"
    assert world.client.post("/v2/models/m/versions/k9/infer", json=body).status_code == 404
    assert get("/v2/models/nobody/versions/k1").status_code == 404
    world.finish()
    # Who gave the answer is its champion on record; the others predict in its shadow.
    assert [(p.version, p.role) for p in world.sent.events] == [
        ("k2", "champion"), ("k1", "shadow"), ("k3", "shadow"),
    ]  # fmt: skip


def test_while_it_drains_it_answers_and_closes_each_connection(world: World) -> None:
    assert "connection" not in world.infer(1).headers
    world.is_draining = True
    world.is_ready = False
    last = world.infer(1)
    assert (last.status_code, last.headers["connection"]) == (200, "close")
    assert world.client.get("/v2/health/ready").status_code == 503


def test_a_server_that_stops_finishes_what_it_took() -> None:
    gate = threading.Event()
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(running(100))
        world.predictors["k1"].gate = gate
        world.champion("k1", 1)
        pool = stack.enter_context(ThreadPoolExecutor(2))
        asked = pool.submit(world.infer, 1)
        assert world.predictors["k1"].entered.wait(10)
        stopping = pool.submit(world.server.__exit__, None, None, None)
        while True:  # the port is closed
            try:
                httpx.get(f"{world.client.base_url}/v2/health/live", timeout=10)
            except httpx.ConnectError:
                break
        gate.set()
        assert asked.result().json()["outputs"][0]["data"] == ["1001"]
        stopping.result()


def test_before_it_is_opened_the_port_refuses() -> None:
    scorer: Any = None
    app = make_app(scorer, m.Metrics("serving"), is_ready=lambda: True, max_pending=1)
    with HttpServer(app, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.port}/v2/health/live"
        assert server.is_alive
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, timeout=10)
        server.open()
        assert httpx.get(url, timeout=10).status_code == 200


def test_what_is_small_is_sent_at_once(world: World) -> None:
    """Otherwise a body waits 40 ms for the client's word about the head before it."""
    assert world.infer(1).status_code == 200
    gc.collect()
    ends = [
        each for each in gc.get_objects()
        if isinstance(each, socket.socket) and each.fileno() >= 0
        and each.family == socket.AF_INET and each.getsockname()[1] == world.server.port
    ]  # fmt: skip
    taken = [each for each in ends if not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)]
    assert taken
    assert all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in taken)


def test_a_port_that_is_taken_is_a_sentence() -> None:
    scorer: Any = None
    app = make_app(scorer, m.Metrics("serving"), is_ready=lambda: True, max_pending=1)
    with HttpServer(app, "127.0.0.1", 0) as first:
        first.open()
        with pytest.raises(UsageError, match=f"port {first.port} on 127.0.0.1 cannot be used"):
            HttpServer(app, "127.0.0.1", first.port)
