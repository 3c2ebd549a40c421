"""The two brokers the suites of this folder run on."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from kedge_services.local.broker import LocalBroker
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.memory import ManualClock, MemoryBroker
from kedge_services.runtime.ports import (
    Backend,
    Batch,
    Consumer,
    Headers,
    Produce,
    Producer,
    Record,
    TopicPartition,
)
from kedge_services.runtime.settings import KafkaSettings, Settings


@dataclass
class Member:
    """A member of a group, with what its callbacks were told."""

    consumer: Consumer
    held: list[TopicPartition] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def subscribe(self, *topics: str) -> Member:
        def on_assign(partitions: list[TopicPartition]) -> None:
            self.told.append("assign")
            self.held = sorted(partitions)

        def given_up(word: str) -> Callable[[list[TopicPartition]], None]:
            def callback(_: list[TopicPartition]) -> None:
                self.told.append(word)
                self.held = []

            return callback

        self.consumer.subscribe(
            topics, on_assign=on_assign, on_revoke=given_up("revoke"), on_lost=given_up("lost")
        )
        return self


class Rig(Protocol):
    """What a suite needs beside the ports."""

    settings: Settings
    deadline_s: float

    @property
    def backend(self) -> Backend: ...

    def create(self, topics: Mapping[str, int], **config: str) -> None: ...

    def close(self) -> None: ...

    def delete_before(self, topic: str, partition: int, offset: int) -> None: ...


class Driver:
    """Waits for conditions, on either broker, and closes what was opened."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.backend = rig.backend
        self._opened: list[Consumer | Producer] = []
        self._writer: Producer | None = None
        self._reader: Consumer | None = None

    def consumer(self, group: str | None = None, instance: str | None = None) -> Consumer:
        consumer = self.backend.consumer(group=group, instance=instance)
        self._opened.append(consumer)
        return consumer

    def producer(self, transactional_id: str) -> Producer:
        producer = self.backend.producer(transactional_id)
        self._opened.append(producer)
        return producer

    def member(self, instance: str | None, *topics: str, group: str = "group") -> Member:
        return Member(self.consumer(group, instance)).subscribe(*topics)

    def write(self, topic: str, *values: bytes | None, partition: int = 0, **kwargs: Any) -> None:
        """Commit records in one transaction."""
        producer = self.producer(f"writer-{uuid.uuid4().hex[:8]}")
        producer.begin()
        for value in values:
            producer.produce(
                Produce(topic, kwargs.get("key"), value, partition, self.headers(kwargs))
            )
        producer.commit()

    @staticmethod
    def headers(kwargs: Mapping[str, Any]) -> Headers:
        headers: Headers = kwargs.get("headers", ())
        return headers

    def until(self, condition: Callable[[], object], *consumers: Consumer) -> list[Batch]:
        """Poll until the condition holds; give what was read on the way."""
        batches: list[Batch] = []
        deadline = time.monotonic() + self.rig.deadline_s
        while not condition():
            assert time.monotonic() < deadline, "the condition was never met"
            for consumer in consumers:
                batches += consumer.poll(1_000, 0.02)
        return batches

    def read(self, consumer: Consumer, *partitions: TopicPartition) -> list[Record]:
        """Read until the consumer says that these partitions are at their end."""
        batches = self.until(lambda: all(consumer.at_end(p) for p in partitions), consumer)
        return [record for batch in batches for record in batch.records()]

    def values(self, topic: str, partition: int = 0) -> list[bytes | None]:
        """Give the values of all committed records there are now."""
        place = TopicPartition(topic, partition)
        self._reader = self._reader or self.consumer()
        self._reader.assign({place: self._reader.bounds(place)[0]})
        return [record.value for record in self.read(self._reader, place)]

    def close(self) -> None:
        for resource in self._opened:
            resource.close()
        self.rig.close()


class MemoryRig:
    deadline_s = 0.5  # nothing in memory waits

    def __init__(self) -> None:
        self.settings = Settings()
        self.clock = ManualClock(1_000)
        self.backend = MemoryBroker(self.clock, {})

    def create(self, topics: Mapping[str, int], **_: str) -> None:
        self.backend.create(topics)

    def close(self) -> None:
        pass

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        self.backend.delete_before(topic, partition, offset)


class KafkaRig:
    deadline_s = 20.0

    def __init__(self, bootstrap_servers: str) -> None:
        self.settings = Settings(
            # Short waits, as every test has new topics and reads little.
            kafka=KafkaSettings(
                bootstrap_servers=bootstrap_servers,
                properties={"fetch.wait.max.ms": 10},
            ),
            prefix=f"c{uuid.uuid4().hex[:10]}.",
        )
        self.backend = KafkaBackend(self.settings)
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 2})

    def create(self, topics: Mapping[str, int], **config: str) -> None:
        config = {name.replace("_", "."): value for name, value in config.items()}
        new = [
            NewTopic(self.settings.prefix + name, count, 1, config=config)
            for name, count in topics.items()
        ]
        for future in self._admin.create_topics(new).values():
            future.result()

    def close(self) -> None:
        self.backend.close()

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        wanted = KafkaPartition(self.settings.prefix + topic, partition, offset)
        for future in self._admin.delete_records([wanted]).values():
            future.result()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def rig(request: pytest.FixtureRequest) -> Rig:
    if request.param == "memory":
        return MemoryRig()
    broker: LocalBroker = request.getfixturevalue("kafka")
    return KafkaRig(broker.bootstrap_servers)


@pytest.fixture
def driver(rig: Rig) -> Iterator[Driver]:
    driver = Driver(rig)
    yield driver
    driver.close()
