"""Registry and serving as processes would run them, on a real Kafka and by real HTTP."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx
import numpy as np
import pytest
from confluent_kafka import Producer

from kedge import Candidate, Command, FeatureColumn, Monitor, Prediction
from kedge.base import Event
from kedge.client import Client
from kedge.codec import decode, encode
from kedge.topics import model_partition
from kedge_services.registry.service import make as make_registry
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.ports import TopicPartition
from kedge_services.runtime.settings import ServingSettings, Settings
from kedge_services.serving.service import run as run_serving

pytestmark = pytest.mark.kafka
T = TypeVar("T")
WAIT_S = 30.0


def tree(threshold: float) -> bytes:
    """Fit a model that says "UP" for an x above the threshold."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline

    from kedge_services.runtime.formats.skops_files import dump

    x = np.linspace(0, 1, 200).reshape(-1, 1)
    model = HistGradientBoostingClassifier(max_iter=5, early_stopping=False, random_state=0)
    pipeline = Pipeline([("encode", "passthrough"), ("model", model)])
    pipeline.fit(x, (x[:, 0] > threshold).astype(int))
    return dump(pipeline)


def until(look: Callable[[], T | None]) -> T:
    """Look again until there is something to see."""
    deadline, pause = time.monotonic() + WAIT_S, threading.Event()
    while time.monotonic() < deadline:
        if found := look():
            return found
        pause.wait(0.02)
    raise AssertionError("it did not happen in time")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    stop, errors = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            work(stop)
        except BaseException as error:  # noqa: BLE001 -- raised again in the test's thread
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert not thread.is_alive()
    assert errors == []


class World:
    """Both services, and whoever talks to them."""

    def __init__(self, settings: Settings, stack: contextlib.ExitStack) -> None:
        self.settings = settings
        servers = str(settings.kafka.bootstrap_servers)
        backend = KafkaBackend(settings)
        self.store = ArtefactStore(settings.artefacts)
        self.producer = Producer({"bootstrap.servers": servers})
        self.client = stack.enter_context(Client(servers, prefix=settings.prefix))
        self.http = stack.enter_context(httpx.Client(timeout=10))
        self.reader = backend.consumer(group=None)
        stack.callback(self.reader.close)
        self.reader.assign({TopicPartition("predictions", p): 0 for p in range(2)})
        self.found: dict[tuple[str, str], Prediction] = {}
        self.records = 0
        registry = Loop(
            make_registry(settings), backend, settings, lambda: time.time_ns() // 1_000_000
        )
        stack.enter_context(beside(registry.run))
        stack.enter_context(beside(lambda stop: run_serving(settings, stop)))

    def send(self, topic: str, event: Event) -> None:
        where = model_partition("m", self.settings.model_partitions)
        self.producer.produce(self.settings.prefix + topic, encode(event), b"m", partition=where)
        assert self.producer.flush(WAIT_S) == 0

    def offer(self, request: str, threshold: float) -> None:
        artefact = self.store.put(tree(threshold), "skops")
        columns = [FeatureColumn(name="x", type="numeric")]
        candidate = Candidate(
            request_id=request, model="m", artefact=artefact, feature_schema=columns,
            classes=["DOWN", "UP"], created_ms=1,
        )  # fmt: skip
        self.send("candidates", candidate)

    def promote(self, version: str) -> None:
        command = Command(
            command_id="c", model="m", action="promote", by="ann", event_time_ms=1, version=version
        )  # fmt: skip
        self.send("commands", command)

    def get(self, path: str, *, health: bool = False) -> httpx.Response | None:
        port = self.settings.port if health else self.settings.serving.port
        try:
            return self.http.get(f"http://127.0.0.1:{port}{path}")
        except httpx.TransportError:
            return None

    def is_ok(self, path: str, *, health: bool = False) -> bool:
        answer = self.get(path, health=health)
        return answer is not None and answer.status_code == 200

    def infer(self, name: str, x: float, version: str | None = None) -> tuple[str, str]:
        """Give the version that answered, and its label."""
        tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [x]}
        path = "m" if version is None else f"m/versions/{version}"
        url = f"http://127.0.0.1:{self.settings.serving.port}/v2/models/{path}/infer"
        answer = self.http.post(url, json={"id": name, "inputs": [tensor]})
        assert answer.status_code == 200, answer.text
        return answer.json()["model_version"], answer.json()["outputs"][0]["data"][0]

    def predicted(self, name: str, version: str) -> Prediction | None:
        """Give what lies on Kafka."""
        for batch in self.reader.poll(1_000, 0.0):
            for value in batch.values:
                prediction = decode(Prediction, value or b"")
                self.found[prediction.prediction_id, prediction.version] = prediction
                self.records += 1
        return self.found.get((name, version))


@pytest.fixture
def world(kafka_settings: Settings) -> Iterator[World]:
    serving = ServingSettings(port=free_port(), drain_ms=0)
    changes = {"serving": serving, "port": free_port()}
    with contextlib.ExitStack() as stack:
        yield World(kafka_settings.model_copy(update=changes), stack)


def test_a_version_is_registered_serves_and_is_replaced_while_requests_come(world: World) -> None:
    until(lambda: world.is_ok("/v2/health/ready"))
    assert world.is_ok("/readyz", health=True)
    assert world.is_ok("/healthz", health=True)
    assert not world.is_ok("/v2/models/m")

    world.offer("a", 0.5)
    until(lambda: world.is_ok("/v2/models/m/ready"))
    assert world.infer("h-1", 0.3) == ("k1", "DOWN")
    world.client.request(model="m", rows=[{"x": 0.9}, {"x": 0.3}], request_id="t-1")
    by_topic = until(lambda: world.predicted("t-1#1", "k1"))
    assert by_topic.output is not None
    assert by_topic.output.label == "DOWN"

    # The second version predicts in the shadow, then a person promotes it.
    world.offer("b", 0.1)
    until(lambda: world.infer("shadowed", 0.3) and world.predicted("shadowed", "k2"))
    world.promote("k2")
    answers: list[tuple[str, str]] = []
    while not answers or answers[-1][0] == "k1":
        answers.append(world.infer(f"p-{len(answers)}", 0.3))
        assert len(answers) < 5_000
    assert set(answers) == {("k1", "DOWN"), ("k2", "UP")}

    # Every answer is on Kafka too, under its id and version, and the old champion shadows.
    for i, (version, _) in enumerate(answers):
        sent = until(functools.partial(world.predicted, f"p-{i}", version))
        assert sent.role == "champion"
    last = until(lambda: world.infer("last", 0.3) and world.predicted("last", "k1"))
    assert last.role == "shadow"
    metrics = world.get("/metrics", health=True)
    assert metrics is not None
    assert "kedge_http_seconds" in metrics.text


def test_a_challenger_follows_each_answer_given_elsewhere_once(world: World) -> None:
    until(lambda: world.is_ok("/readyz", health=True))
    monitor = {
        "model": "m",
        "task": "binary",
        "classes": ["DOWN", "UP"],
        "features": {"x": "numeric"},
    }
    world.send("monitors", Monitor.model_validate(monitor))
    foreign = Candidate(request_id="a", model="m", version="12", as_champion=True, created_ms=1)
    world.send("candidates", foreign)
    world.offer("b", 0.5)
    until(lambda: world.is_ok("/v2/models/m/versions/k1/ready"))
    assert not world.is_ok("/v2/models/m/ready")
    for i in range(200):
        world.client.predict(
            prediction_id=f"e-{i}", model="m", version="12", features={"x": i / 200}, label="DOWN"
        )
    for i in range(200):
        shadow = until(functools.partial(world.predicted, f"e-{i}", "k1"))
        answer = world.found[f"e-{i}", "12"]
        assert (shadow.role, shadow.event_time_ms) == ("shadow", answer.event_time_ms)
        assert shadow.features == answer.features
    # What serving has read of its own by now it has not followed.
    assert world.infer("by-name", 0.9, version="k1") == ("k1", "UP")
    until(functools.partial(world.predicted, "by-name", "k1"))
    assert world.records == 401
