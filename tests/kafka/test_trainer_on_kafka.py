"""The trainer as a process would run it, on a real Kafka, with a real subprocess."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from kedge import Candidate, Example, Monitor, RetrainRequest
from kedge.base import Event
from kedge.codec import decode, encode
from kedge.events import RetrainCause
from kedge.topics import model_partition, request_partition
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.formats import load_predictor
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.ports import Produce, TopicPartition
from kedge_services.runtime.settings import Settings
from kedge_services.trainer.service import make

pytestmark = pytest.mark.kafka
WAIT_S = 60.0


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


def until(look: Callable[[], Any]) -> None:
    """Look again until there is something to see."""
    deadline, pause = time.monotonic() + WAIT_S, threading.Event()
    while not look():
        assert time.monotonic() < deadline, "it did not happen in time"
        pause.wait(0.02)


def read_candidates(backend: KafkaBackend) -> Callable[[], list[Candidate]]:
    consumer = backend.consumer(group=None)
    partitions = range(backend.partitions("candidates"))
    consumer.assign({TopicPartition("candidates", p): 0 for p in partitions})
    found: list[Candidate] = []

    def look() -> list[Candidate]:
        for batch in consumer.poll(100, 0.05):
            found.extend(decode(Candidate, value or b"") for value in batch.values)
        return found

    return look


def test_a_request_on_kafka_is_answered_by_a_subprocess(kafka_settings: Settings) -> None:
    backend = KafkaBackend(kafka_settings)

    def record(topic: str, key: str, event: Event, partition: int) -> Produce:
        return Produce(topic, key.encode(), encode(event), partition)

    m, n = kafka_settings.request_partitions, kafka_settings.model_partitions
    here = model_partition("m", n)
    monitor = Monitor.model_validate(
        {"model": "m", "task": "binary", "classes": ["no", "yes"],
         "features": {"a": "numeric", "k": "categorical"}}
    )  # fmt: skip
    request = RetrainRequest(
        request_id="m/r1",
        model="m",
        mode="batch",
        cause=RetrainCause(kind="alert", alert_ids=["a1"]),
        event_time_ms=1,
    )
    producer = backend.producer("a-test")
    producer.begin()
    producer.produce(record("monitors", "m", monitor, here))
    for i in range(600):
        one = example(i)
        partition = request_partition(one.prediction_id, m)
        producer.produce(record("examples", one.prediction_id, one, partition))
    producer.produce(record("retrain-requests", "m/r1", request, here))
    producer.commit()
    # A transaction that is still open when the plan is made lies within its range:
    # its rows, and whether there will be any, are waited for.
    last = request_partition("p600", m)
    producer.begin()
    producer.produce(record("examples", "p600", example(600), last))
    # Each partition has its rows and the marker of the first transaction, one a row more.
    rows = Counter(request_partition(f"p{i}", m) for i in range(601))
    ends = {p: rows[p] + 1 for p in range(m)}
    until(lambda: all(backend.bounds(TopicPartition("examples", p))[1] == ends[p] for p in ends))

    look = read_candidates(backend)
    loop = Loop(make(kafka_settings), backend, kafka_settings, lambda: time.time_ns() // 1_000_000)
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        until(lambda: backend.bounds(TopicPartition("trainer-changelog", here))[1] > 0)
        producer.commit()
        until(look)
        [candidate] = look()
    finally:
        stop.set()
        thread.join()
    assert candidate.failure is None
    assert candidate.artefact is not None
    data = ArtefactStore(kafka_settings.artefacts).get(candidate.artefact)
    outputs = load_predictor(candidate, data).predict([{"a": 0.1}, {"a": 0.9}])
    assert [output.label for output in outputs] == ["no", "yes"]
    assert set(candidate.cost) == {"cpu_seconds", "wall_seconds", "peak_rss_mb"}
    assert candidate.lineage.alert_ids == ["a1"]
    assert candidate.lineage.examples == {p: (0, end) for p, end in ends.items()}
    assert candidate.lineage.last_label_time_ms == example(600).label_time_ms
