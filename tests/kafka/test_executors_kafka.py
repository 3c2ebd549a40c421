"""The executors on a real Kafka, with real pipelines behind real HTTP."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from kedge import Candidate, Example, Monitor, RetrainRequest
from kedge.base import Event
from kedge.codec import decode, encode
from kedge.events import RetrainCause
from kedge.topics import model_partition, request_partition
from kedge_services.core.admission import Policy
from kedge_services.core.standing import Standing
from kedge_services.core.succession import offer
from kedge_services.executors.service import Executors
from kedge_services.local.catalogue import settings_env
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.formats import load_predictor
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.metrics import OPEN_RUNS, RUNS, Metrics
from kedge_services.runtime.ports import Produce, TopicPartition
from kedge_services.runtime.settings import Settings

pytestmark = pytest.mark.kafka

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "pipeline.py"


def until(condition: Callable[[], object], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def monitor(model: str = "m", **executor: object) -> Monitor:
    declared = {"name": "theirs", "kind": "webhook", "url_env": "PIPELINE_URL", "poll": "200ms"}
    return Monitor.model_validate(
        {
            "model": model,
            "task": "binary",
            "classes": ["no", "yes"],
            "features": {"a": "numeric", "k": "categorical"},
            "retrain": {"executor": "theirs"},
            "executors": [{**declared, **executor}],
        }
    )


def request(name: str, model: str = "m") -> RetrainRequest:
    return RetrainRequest(
        request_id=name,
        model=model,
        cause=RetrainCause(kind="manual", command_id="c"),
        event_time_ms=1,
        executor="theirs",
    )


def send(settings: Settings, *records: tuple[str, str, Event]) -> None:
    backend = KafkaBackend(settings)
    producer = backend.producer("test-sender")
    producer.begin()
    for topic, key, event in records:
        count = backend.partitions(topic)
        by = request_partition if topic == "examples" else model_partition
        name = key if topic == "examples" else str(getattr(event, "model"))  # noqa: B009
        producer.produce(Produce(topic, key.encode(), encode(event), by(name, count)))
    producer.commit()
    producer.close()
    backend.close()


def candidates(settings: Settings) -> list[Candidate]:
    backend = KafkaBackend(settings)
    consumer = backend.consumer(group=None)
    places = [TopicPartition("candidates", p) for p in range(settings.model_partitions)]
    ends = {place: consumer.bounds(place)[1] for place in places}
    consumer.assign(dict.fromkeys(places, 0))
    found: list[Candidate] = []
    while any(consumer.position(place) < end for place, end in ends.items()):
        for batch in consumer.poll(100, 0.1):
            found += [decode(Candidate, value or b"") for value in batch.values]
    consumer.close()
    backend.close()
    return found


@contextmanager
def executing(settings: Settings, environ: Mapping[str, str]) -> Iterator[Metrics]:
    stop, metrics, crashed = threading.Event(), Metrics("executors"), []
    executors = Executors(settings, metrics, environ=environ)

    def work() -> None:
        try:
            asyncio.run(executors.run(stop))
        except BaseException as error:  # noqa: BLE001 -- shown by the test
            crashed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        until(lambda: executors.is_ready or crashed)
        yield metrics
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert crashed == []


# ---------------------------------------------------- the pipeline of the documentation


@pytest.fixture(scope="module")
def documented() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pipeline", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def example(i: int) -> Example:
    a = (i * 7919 % 1000) / 1000
    return Example(
        prediction_id=f"p{i}",
        model="m",
        features={"a": a, "k": "u" if i % 3 else None},
        label="yes" if a > 0.5 else "no",
        outputs={},
        event_time_ms=i,
        label_time_ms=i + 10,
    )


def test_the_documented_pipeline_trains_on_the_ranges_and_the_registry_takes_its_model(
    kafka_settings: Settings, documented: ModuleType
) -> None:
    pipeline = documented.Pipeline(kafka_settings.kafka.bootstrap_servers, "hush")
    server = documented.serve(pipeline, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    declared = monitor(secret_env="PIPELINE_SECRET")  # noqa: S106 -- a variable's name
    environ = {"PIPELINE_URL": f"{pipeline.url}/runs", "PIPELINE_SECRET": "hush"}
    try:
        examples = [("examples", f"p{i}", example(i)) for i in range(400)]
        # Another label, later: the higher revision counts.
        revised = example(0).model_copy(update={"label": "yes", "revision": 1})
        send(kafka_settings, ("monitors", "m", declared), *examples, ("examples", "p0", revised))
        with executing(kafka_settings, environ) as metrics:
            send(kafka_settings, ("retrain-requests", "m.1", request("m.1")))
            until(lambda: candidates(kafka_settings))
            until(lambda: metrics.value(RUNS, result="succeeded") == 1)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    (candidate,) = candidates(kafka_settings)
    assert candidate.failure is None
    assert candidate.lineage.rows == 400
    assert sum(to - first for first, to in candidate.lineage.examples.values()) >= 401
    assert candidate.metrics["accuracy"] > 0.95

    step = offer(Standing("m"), candidate, Policy.of(declared), 0)
    assert step.happened == "promoted"
    version = step.written[0]
    assert version.artefact is not None
    data = ArtefactStore(kafka_settings.artefacts).get(version.artefact)
    outputs = load_predictor(version, data).predict([{"a": 0.1, "k": "u"}, {"a": 0.9, "k": None}])
    assert [output.label for output in outputs] == ["no", "yes"]


# ------------------------------------------------------------------------- a kill -9


class Receiver:
    """A pipeline that holds its answers back until it is told to give them; its runs fail."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, bytes]] = []
        self.looks: list[str] = []
        self.may_answer = threading.Event()
        self.status = "running"
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posts.append((self.headers["Idempotency-Key"], body))
                receiver.may_answer.wait(60)
                key = self.headers["Idempotency-Key"]
                self._answer({"run_id": f"run of {key}", "status_url": f"/status/{key}"})

            def do_GET(self) -> None:
                receiver.looks.append(self.headers["Idempotency-Key"])
                self._answer({"status": receiver.status, "message": "no data"})

            def _answer(self, value: object) -> None:
                body = json.dumps(value).encode()
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # whoever asked is dead

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/runs"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self.may_answer.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def start(
    kafka_settings: Settings, receiver: Receiver, tmp_path: Path
) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Give what starts the service as `kedge run` does; what still runs is killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        environ = {**os.environ, **settings_env(kafka_settings), "PIPELINE_URL": receiver.url}
        command = [sys.executable, "-m", "kedge_services.cli", "run", "executors"]
        process = subprocess.Popen(command, env=environ, cwd=tmp_path)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_kill_in_the_middle_of_a_run_costs_nothing(
    kafka_settings: Settings,
    receiver: Receiver,
    start: Callable[[], subprocess.Popen[bytes]],
) -> None:
    send(
        kafka_settings,
        ("monitors", "m", monitor()),
        ("retrain-requests", "m.1", request("m.1")),
        # Behind it, so that the process has an offset to come back to.
        ("retrain-requests", "m.2", request("m.2").model_copy(update={"executor": "local"})),
    )
    process = start()
    until(lambda: receiver.posts)
    # It was sent, but nobody has heard the answer.
    process.kill()
    process.wait()
    receiver.may_answer.set()

    process = start()
    until(lambda: len(receiver.looks) > 1)
    # The run is known and goes on; what it is called was saved.
    process.kill()
    process.wait()
    posted, looked = len(receiver.posts), len(receiver.looks)
    # Examples that come later do not belong to it.
    send(kafka_settings, ("examples", "p1", example(1)))

    start()
    until(lambda: len(receiver.looks) > looked)
    assert candidates(kafka_settings) == []
    receiver.status = "failed"
    until(lambda: candidates(kafka_settings))

    (candidate,) = candidates(kafka_settings)
    assert candidate.request_id == "m.1"
    assert candidate.failure == "executor theirs: the run failed: no data"
    assert candidate.lineage.parameters["run_id"] == "run of m.1"
    assert posted == len(receiver.posts) == 2
    assert len(set(receiver.posts)) == 1
    assert set(receiver.looks) == {"m.1"}


# --------------------------------------------------------------------- two processes


def test_partitions_move_and_every_request_has_one_candidate(
    kafka_settings: Settings, receiver: Receiver
) -> None:
    # One model on each of the two partitions.
    models = ["m", next(n for n in "abcdef" if model_partition(n, 2) != model_partition("m", 2))]
    receiver.may_answer.set()
    environ = {"PIPELINE_URL": receiver.url}
    for model in models:
        send(kafka_settings, ("monitors", model, monitor(model)))
        send(kafka_settings, ("retrain-requests", model, request(f"{model}.1", model)))

    second_settings = kafka_settings.model_copy(update={"ordinal": 1})
    with executing(kafka_settings, environ) as first:
        until(lambda: first.value(OPEN_RUNS, status="running") == 2)
        with executing(second_settings, environ) as second:
            until(lambda: first.value(OPEN_RUNS, status="running") == 1)
            until(lambda: second.value(OPEN_RUNS, status="running") == 1)
            receiver.status = "cancelled"
            until(lambda: len(candidates(kafka_settings)) == 2)
            for metrics in (first, second):
                until(lambda metrics=metrics: metrics.value(RUNS, result="cancelled") == 1)  # type: ignore[misc]
    found = candidates(kafka_settings)
    assert sorted(c.request_id for c in found) == sorted(f"{model}.1" for model in models)
    assert len(receiver.posts) == 2
