"""The notifier on a real Kafka with a real HTTP receiver."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from confluent_kafka import Consumer, TopicPartition

from kedge.base import AlertStatus
from kedge.codec import encode
from kedge.events import Alert
from kedge.monitor import Monitor
from kedge_services.notifier.service import Notifier
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.metrics import NOTIFICATIONS, Metrics
from kedge_services.runtime.ports import Produce
from kedge_services.runtime.ports import TopicPartition as Place
from kedge_services.runtime.settings import Settings

pytestmark = pytest.mark.kafka


class Receiver:
    """An on-call system that fails as often as it is told to."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.bodies: list[dict[str, object]] = []
        self.failures_left = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.keys.append(self.headers["Idempotency-Key"])
                failing = receiver.failures_left > 0
                if failing:
                    receiver.failures_left -= 1
                else:
                    receiver.bodies.append(json.loads(body))
                self.send_response(503 if failing else 204)
                self.send_header("Retry-After", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@contextmanager
def notifying(settings: Settings, receiver: Receiver) -> Iterator[Metrics]:
    stop, metrics, crashed = threading.Event(), Metrics("notifier"), []
    notifier = Notifier(settings, metrics, environ={"ONCALL_URL": receiver.url})

    def work() -> None:
        try:
            asyncio.run(notifier.run(stop))
        except BaseException as error:  # noqa: BLE001 -- shown by the test
            crashed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield metrics
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert crashed == []
    assert notifier.is_ready


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alert(name: str, status: AlertStatus, model: str = "fraud") -> Produce:
    event = Alert(
        alert_id=name,
        fingerprint="f",
        model=model,
        rule="r",
        kind="rule",
        severity="warning",
        status=status,
        starts_ms=1_795_220_224_624,
        summary="s",
    )
    return Produce("alerts", b"k", encode(event), 0)


def monitor(settings: Settings, model: str) -> None:
    declared = Monitor.model_validate(
        {
            "model": model,
            "task": "binary",
            "classes": [0, 1],
            "features": {"x": "numeric"},
            "notify": [{"kind": "webhook", "url_env": "ONCALL_URL"}],
        }
    )
    send(settings, Produce("monitors", model.encode(), encode(declared), 0))


def send(settings: Settings, *records: Produce, commit: bool = True) -> None:
    backend = KafkaBackend(settings)
    producer = backend.producer("test-sender")
    before = backend.bounds(Place("alerts", 0))[1]
    producer.begin()
    for record in records:
        producer.produce(record)
    if commit:
        producer.commit()
    else:
        # Aborted at once it would never have left the queue.
        until(lambda: backend.bounds(Place("alerts", 0))[1] > before)
        producer.abort()
    producer.close()


def committed_offset(settings: Settings) -> int:
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": f"{settings.prefix}notifier",
        }
    )
    try:
        (found,) = consumer.committed([TopicPartition(f"{settings.prefix}alerts", 0)], timeout=10)
        return int(found.offset)
    finally:
        consumer.close()


def test_committed_alerts_are_told_once_each_in_order_whatever_lies_between(
    kafka_settings: Settings, receiver: Receiver
) -> None:
    monitor(kafka_settings, "fraud")
    send(kafka_settings, alert("aborted-before", "firing"), commit=False)
    receiver.failures_left = 2
    send(
        kafka_settings,
        alert("a", "pending"),
        alert("a", "firing"),
        Produce("alerts", b"k", b"\xff{no json", 0),
        alert("elsewhere", "firing", model="has-no-monitor"),
        alert("a", "resolved"),
    )
    send(kafka_settings, alert("aborted-after", "firing"), commit=False)
    producer = KafkaBackend(kafka_settings).producer("slow")
    with notifying(kafka_settings, receiver) as metrics:
        until(lambda: "a/resolved" in receiver.keys)
        # Two failures and one success for the first; the same key each time.
        assert receiver.keys == ["a/firing"] * 3 + ["a/resolved"]
        assert [body["status"] for body in receiver.bodies] == ["firing", "resolved"]

        # An open transaction holds back what is behind it; only its commit shows anything.
        producer.begin()
        producer.produce(alert("b", "firing"))
        send(kafka_settings, alert("c", "firing"))
        assert not {"b/firing", "c/firing"} & set(receiver.keys)
        producer.commit()
        until(lambda: "c/firing" in receiver.keys)
        assert receiver.keys[4:] == ["b/firing", "c/firing"]

        # A monitor that comes while it runs counts for the alerts behind it.
        monitor(kafka_settings, "late-comer")
        send(kafka_settings, alert("d", "firing", model="late-comer"))
        until(lambda: "d/firing" in receiver.keys)
        until(lambda: metrics.value(NOTIFICATIONS, result="delivered") == 5)
        end = KafkaBackend(kafka_settings).bounds(Place("alerts", 0))[1]
        # A transaction's marker stays behind the last committed offset.
        until(lambda: committed_offset(kafka_settings) == end - 1)
    producer.close()

    (letter,) = dead_letters(kafka_settings)
    assert letter[0] == b"\xff{no json"
    assert letter[1]["kedge-reason"] == b"undecodable"
    assert letter[1]["kedge-topic"] == b"alerts"


def test_what_was_not_delivered_at_the_stop_is_delivered_after_the_start(
    kafka_settings: Settings, receiver: Receiver
) -> None:
    monitor(kafka_settings, "fraud")
    send(kafka_settings, alert("a", "firing"))
    receiver.failures_left = 1_000_000
    with notifying(kafka_settings, receiver):
        until(lambda: len(receiver.keys) >= 2)
    receiver.failures_left = 0
    before = len(receiver.keys)
    with notifying(kafka_settings, receiver):
        until(lambda: len(receiver.bodies) == 1)
    assert set(receiver.keys) == {"a/firing"}
    assert len(receiver.keys) == before + 1


def dead_letters(settings: Settings) -> list[tuple[bytes | None, dict[str, bytes]]]:
    consumer = KafkaBackend(settings).consumer(group=None)
    places = [Place("dead-letters", partition) for partition in range(2)]
    consumer.assign(dict.fromkeys(places, 0))
    found: list[tuple[bytes | None, dict[str, bytes]]] = []

    def is_read() -> bool:
        for batch in consumer.poll(100, 0.1):
            found.extend((record.value, dict(record.headers)) for record in batch.records())
        return all(consumer.at_end(place) for place in places)

    try:
        until(is_read)
    finally:
        consumer.close()
    return found
