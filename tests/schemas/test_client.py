"""The client against a real Kafka, and against none."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition

from kedge import Outcome, Prediction, ScoringRequest
from kedge.client import Client, LostEvent
from kedge.codec import decode
from kedge.errors import (
    BrokerUnavailable,
    DeadLetter,
    DeliveryFailed,
    QueueFull,
    UsageError,
)
from kedge.topics import request_partition
from kedge_services.runtime.settings import Settings

NOW = 1_795_220_224_624


@pytest.fixture
def nobody() -> Iterator[str]:
    """Give an address where no Kafka answers: bound, never listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def read_all(settings: Settings, topic: str, expected: int) -> list[tuple[int, bytes, bytes]]:
    """Read the whole topic as (partition, key, value)."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
        }
    )
    name = settings.prefix + topic
    consumer.assign([TopicPartition(name, p, 0) for p in range(settings.request_partitions)])
    found = []
    for message in consumer.consume(expected, 20.0):
        assert message.error() is None
        partition, key, value = message.partition(), message.key(), message.value()
        assert partition is not None
        assert key is not None
        assert value is not None
        found.append((partition, key, value))
    consumer.close()
    return found


@pytest.mark.kafka
def test_prediction_and_outcome_meet_on_the_partition_of_their_request(
    kafka_settings: Settings,
) -> None:
    ids = [f"r-{i}" for i in range(60)] + ["Zürich", "日本", *(f"batch#{k}" for k in range(5))]
    with Client(str(kafka_settings.kafka.bootstrap_servers), prefix=kafka_settings.prefix) as kedge:
        for i in ids:
            kedge.predict(prediction_id=i, model="m", version="1", features={"x": 1.5})
            kedge.outcome(i, "yes")
        kedge.flush()
        assert kedge.delivered == 2 * len(ids)
        assert (kedge.waiting, kedge.lost) == (0, 0)

    partitions = {}
    for partition, key, value in read_all(kafka_settings, "predictions", len(ids)):
        event = decode(Prediction, value)
        assert key.decode() == event.prediction_id.partition("#")[0]
        partitions[event.prediction_id] = partition
    assert partitions == {i: request_partition(i, 2) for i in ids}
    outcomes = {
        decode(Outcome, value).prediction_id: partition
        for partition, _, value in read_all(kafka_settings, "outcomes", len(ids))
    }
    assert outcomes == partitions
    assert set(partitions.values()) == {0, 1}


@pytest.mark.kafka
def test_its_headers_are_on_every_record(kafka_settings: Settings) -> None:
    servers = str(kafka_settings.kafka.bootstrap_servers)
    with Client(servers, prefix=kafka_settings.prefix, headers={"trace": "a-1"}) as kedge:
        kedge.predict(prediction_id="r", model="m", version="1", features={})
    consumer = Consumer({"bootstrap.servers": servers, "group.id": uuid.uuid4().hex})
    name = f"{kafka_settings.prefix}predictions"
    consumer.assign([TopicPartition(name, p, 0) for p in range(kafka_settings.request_partitions)])
    (message,) = consumer.consume(1, 20.0)
    consumer.close()
    assert message.headers() == [("trace", b"a-1")]


@pytest.mark.kafka
def test_what_is_sent_is_what_is_read(kafka_settings: Settings) -> None:
    with Client(str(kafka_settings.kafka.bootstrap_servers), prefix=kafka_settings.prefix) as kedge:
        first = kedge.predict(
            prediction_id="p",
            model="m",
            version="7",
            features={"a": 1, "b": None, "c": "NO", "d": True},
            label="yes",
            score=0.75,
            segments={"region": "NO"},
            event_time_ms=NOW,
        )
        kedge.request(model="m", rows=[{"a": 1}, {"a": None}], request_id="q", event_time_ms=NOW)
        made_up = kedge.request(model="m", rows=[{"a": 1}])
    assert first == "p"
    assert made_up != "q"
    ((_, _, value),) = read_all(kafka_settings, "predictions", 1)
    event = decode(Prediction, value)
    assert event.features == {"a": 1, "b": None, "c": "NO", "d": True}
    assert event.output is not None
    assert (event.output.label, event.output.score) == ("yes", 0.75)
    requests = {
        key.decode(): decode(ScoringRequest, value)
        for _, key, value in read_all(kafka_settings, "requests", 2)
    }
    assert requests["q"].rows == [{"a": 1}, {"a": None}]
    assert requests[made_up].request_id == made_up


@pytest.mark.kafka
def test_events_for_a_topic_that_does_not_exist_are_reported_one_by_one(
    kafka_settings: Settings,
) -> None:
    lost: list[LostEvent] = []
    client = Client(
        str(kafka_settings.kafka.bootstrap_servers),
        prefix="nowhere.",
        on_error=lost.append,
        properties={"topic.metadata.propagation.max.ms": 100, "message.timeout.ms": 2_000},
    )
    client.outcome_many(
        Outcome(prediction_id=f"r{i}", label=1, event_time_ms=NOW) for i in range(3)
    )
    with pytest.raises(DeliveryFailed, match="3 events were lost"):
        client.flush(20)
    assert [(event.topic, event.key) for event in lost] == [
        ("nowhere.outcomes", f"r{i}") for i in range(3)
    ]
    assert decode(Outcome, lost[0].value).label == 1
    client.close()  # nothing new was lost: nothing is raised twice


def test_without_a_broker_events_are_lost_only_with_a_report(nobody: str) -> None:
    lost: list[LostEvent] = []
    client = Client(nobody, on_error=lost.append, properties={"message.timeout.ms": 100})
    client.outcome("r", 1)
    with pytest.raises(DeliveryFailed, match="1 event was lost"):
        client.flush(20)
    assert [event.key for event in lost] == ["r"]
    assert (client.lost, client.delivered, client.waiting) == (1, 0, 0)


def test_flush_says_what_still_waits_and_close_counts_it_as_lost(nobody: str) -> None:
    client = Client(nobody)
    client.outcome("r", 1)
    with pytest.raises(BrokerUnavailable, match=f"1 events still wait for Kafka at {nobody}"):
        client.flush(0.01)
    with pytest.raises(DeliveryFailed):
        client.close(0.01)
    assert (client.lost, client.waiting) == (1, 0)
    with pytest.raises(UsageError, match="closed"):
        client.outcome("r", 1)


def test_a_full_queue_is_an_error_at_once_or_after_the_wait(nobody: str) -> None:
    client = Client(nobody, max_queue=2, max_wait_s=0.05)
    events = [Outcome(prediction_id=f"r{i}", label=1, event_time_ms=NOW) for i in range(5)]
    with pytest.raises(QueueFull, match="2 events wait") as full:
        client.outcome_many(events)
    assert full.value.sent == 2
    with pytest.raises(QueueFull):
        client.outcome("r", 1, block=False)
    with pytest.raises(DeliveryFailed, match="2 events were lost"):
        client.close(0.01)


def test_an_error_of_the_caller_is_not_hidden_by_lost_events(nobody: str) -> None:
    def fail() -> None:
        with Client(nobody, properties={"message.timeout.ms": 50}) as client:
            client.outcome("r", 1)
            raise KeyError("mine")

    with pytest.raises(KeyError) as raised:
        fail()
    assert any("1 event was lost" in note for note in raised.value.__notes__)


def test_an_exception_of_on_error_does_not_reach_the_sender(nobody: str) -> None:
    def broken(_event: LostEvent) -> None:
        raise RuntimeError("broken")

    client = Client(nobody, on_error=broken, properties={"message.timeout.ms": 50})
    client.outcome("r", 1)
    with pytest.raises(DeliveryFailed):
        client.flush(20)


def test_a_wrong_event_is_refused_before_it_is_sent(nobody: str) -> None:
    client = Client(nobody, max_queue=1)
    with pytest.raises(DeadLetter, match=r"features\.x: expected a number") as refused:
        client.predict(model="m", version="1", features={"x": [1]})  # type: ignore[dict-item]
    assert refused.value.reason == "bad-value"
    with pytest.raises(DeadLetter, match="before its `#`"):
        client.outcome("#3", 1)
    with pytest.raises(DeadLetter) as too_large:
        client.predict(model="m", version="1", features={"x": "y" * 2_000_000})
    assert too_large.value.reason == "too-large"
    client.close(0.01)


@pytest.mark.parametrize(
    "properties",
    [{"no.such.property": 1}, {"partitioner": "consistent"}, {"enable.idempotence": False}],
)
def test_a_property_that_is_unknown_or_fixed_is_a_usage_error(
    properties: dict[str, str | float | bool],
) -> None:
    with pytest.raises(UsageError, match=next(iter(properties))):
        Client("127.0.0.1:9", properties=properties)
