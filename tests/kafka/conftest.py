"""The two brokers the suites of this folder run on.

What the broker in memory has not is marked ``memory_gap``: the test must fail on it.
"""

from __future__ import annotations

import socket
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as KafkaClient
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from kedge_services.local.broker import LocalBroker
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.memory import ManualClock, MemoryBroker
from kedge_services.runtime.ports import (
    Backend,
    Batch,
    Commit,
    Consumer,
    Headers,
    Position,
    Produce,
    Producer,
    Record,
    Service,
    TaskContext,
    TopicPartition,
)
from kedge_services.runtime.settings import KafkaSettings, Settings


@dataclass
class Member:
    """A member of a group, with what its callbacks were told."""

    consumer: Consumer
    held: list[TopicPartition] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    when_revoked: Callable[[list[TopicPartition]], None] | None = None

    def subscribe(self, *topics: str) -> Member:
        def on_assign(partitions: list[TopicPartition]) -> None:
            self.told.append("assign")
            self.held = sorted(partitions)

        def given_up(word: str) -> Callable[[list[TopicPartition]], None]:
            def callback(partitions: list[TopicPartition]) -> None:
                self.told.append(word)
                self.held = []
                if word == "revoke" and self.when_revoked is not None:
                    self.when_revoked(partitions)

            return callback

        self.consumer.subscribe(
            topics, on_assign=on_assign, on_revoke=given_up("revoke"), on_lost=given_up("lost")
        )
        return self


class Rig(Protocol):
    """What a suite needs beside the ports.

    ``hasty`` is the backend whose transactions may be open for a second.
    """

    settings: Settings
    deadline_s: float
    marker_s: float

    @property
    def backend(self) -> Backend: ...

    @property
    def hasty(self) -> Backend: ...

    def create(self, topics: Mapping[str, int], **config: str) -> None: ...

    def close(self) -> None: ...

    def delete_before(self, topic: str, partition: int, offset: int) -> None: ...

    def append(self, topic: str, value: bytes, *, timestamp_ms: int) -> None:
        """Send what somebody else sends: outside a transaction, with a time of its own."""

    def create_compacted(self, topic: str, *, keep_tombstones: bool = False) -> None: ...

    def compact(self, topic: str, *, keep_tombstones: bool = False) -> None:
        """Return when partition 0 has one record of each key (and some of the key TICK)."""

    def expel(self, group: str, instance: str) -> None:
        """Take a member out of its group without asking it."""

    def let_pass(self, ms: int) -> None:
        """Move the broker's clock, where that can be done; elsewhere time passes by itself."""


#: Key of the records that make Kafka begin a new segment, as only older ones are compacted.
TICK = b"tick"


class Driver:
    """Waits for conditions, on either broker, and closes what was opened."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.backend = rig.backend
        self._opened: list[Consumer | Producer] = []
        self._writer: Producer | None = None
        self._reader: Consumer | None = None
        self._asker: Consumer | None = None

    def sent(self, producer: Producer, *records: Produce) -> int:
        """Send records in an open transaction, wait for the last one; give its partition's end."""
        place = TopicPartition(records[-1].topic, records[-1].partition or 0)
        before = self.end(place)
        for record in records:
            producer.produce(record)
        mine = sum((r.topic, r.partition or 0) == place for r in records)
        self.until(lambda: self.end(place) >= before + mine)
        return self.end(place)

    def end(self, place: TopicPartition) -> int:
        """Give the read-uncommitted end offset."""
        self._asker = self._asker or self.consumer()
        return self._asker.bounds(place)[1]

    def consumer(
        self,
        group: str | None = None,
        instance: str | None = None,
        backend: Backend | None = None,
    ) -> Consumer:
        consumer = (backend or self.backend).consumer(group=group, instance=instance)
        self._opened.append(consumer)
        return consumer

    def producer(self, transactional_id: str, backend: Backend | None = None) -> Producer:
        producer = (backend or self.backend).producer(transactional_id)
        self._opened.append(producer)
        return producer

    def member(
        self,
        instance: str | None,
        *topics: str,
        group: str = "group",
        backend: Backend | None = None,
    ) -> Member:
        return Member(self.consumer(group, instance, backend)).subscribe(*topics)

    def write(self, topic: str, *values: bytes | None, partition: int = 0, **kwargs: Any) -> None:
        """Commit records in one transaction, and wait until it can be seen."""
        place = TopicPartition(topic, partition)
        before = self.end(place)
        self._writer = self._writer or self.producer(f"writer-{uuid.uuid4().hex}")
        self._writer.begin()
        for value in values:
            self._writer.produce(
                Produce(topic, kwargs.get("key"), value, partition, self.headers(kwargs))
            )
        self._writer.commit()
        # The marker, which Kafka writes after it has answered.
        self.until(lambda: self.end(place) > before + len(values))

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
        """Give the values of all committed records there are now.

        Kafka answers a commit before it writes the markers: they get a moment.
        """
        place = TopicPartition(topic, partition)
        reader = self._reader = self._reader or self.consumer()
        low, end = reader.bounds(place)
        reader.assign({place: low})
        records = self.read(reader, place)
        deadline = time.monotonic() + self.rig.marker_s
        while reader.position(place) < end and time.monotonic() < deadline:
            records += [r for batch in reader.poll(1_000, 0.02) for r in batch.records()]
        return [record.value for record in records]

    def release(self) -> None:
        """Close what was opened."""
        for resource in self._opened:
            resource.close()

    def close(self) -> None:
        self.release()
        self.rig.close()


class MemoryRig:
    deadline_s = 2.0  # nothing in memory waits, but the machine may be busy
    marker_s = 0.0

    def __init__(self) -> None:
        self.settings = Settings()
        self.clock = ManualClock(1_000)
        self.backend = self.hasty = MemoryBroker(self.clock, {})

    def create(self, topics: Mapping[str, int], **_: str) -> None:
        self.backend.create(topics)

    def close(self) -> None:
        pass

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        self.backend.delete_before(topic, partition, offset)

    def append(self, topic: str, value: bytes, *, timestamp_ms: int) -> None:
        self.backend.append(topic, None, value, partition=0, timestamp_ms=timestamp_ms)

    def create_compacted(self, topic: str, *, keep_tombstones: bool = False) -> None:  # noqa: ARG002
        self.backend.create({topic: 1})

    def compact(self, topic: str, *, keep_tombstones: bool = False) -> None:
        self.backend.compact(topic, keep_tombstones=keep_tombstones)

    def expel(self, group: str, instance: str) -> None:
        self.backend.expel(group, instance)

    def let_pass(self, ms: int) -> None:
        self.clock.advance(ms)


class KafkaRig:
    deadline_s = 20.0
    marker_s = 0.3

    def __init__(self, bootstrap_servers: str) -> None:
        self._address = bootstrap_servers
        self.settings = Settings(
            # Short waits, as every test has new topics and reads little.
            kafka=KafkaSettings(
                bootstrap_servers=bootstrap_servers,
                properties={"fetch.wait.max.ms": 10, "heartbeat.interval.ms": 100},
            ),
            prefix=f"c{uuid.uuid4().hex[:10]}.",
        )
        self.backend = KafkaBackend(self.settings)
        self.hasty = KafkaBackend(self.with_properties({"transaction.timeout.ms": 1_000}))
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 2})

    def with_properties(self, more: Mapping[str, Any], address: str | None = None) -> Settings:
        """Give these settings with other properties of clients, or another address."""
        kafka = KafkaSettings(
            bootstrap_servers=address or self._address,
            properties={**self.settings.kafka.properties, **more},
        )
        return self.settings.model_copy(update={"kafka": kafka})

    def create(self, topics: Mapping[str, int], **config: str) -> None:
        config = {name.replace("_", "."): value for name, value in config.items()}
        new = [
            NewTopic(self.settings.prefix + name, count, 1, config=config)
            for name, count in topics.items()
        ]
        for future in self._admin.create_topics(new).values():
            future.result()
        wanted = {topic.topic: topic.num_partitions for topic in new}
        deadline = time.monotonic() + self.deadline_s
        while not self._are_led(wanted):
            assert time.monotonic() < deadline, f"{sorted(wanted)} have no leaders"

    def _are_led(self, wanted: Mapping[str, int]) -> bool:
        """Say whether the broker knows what its controller has created."""
        known = self._admin.list_topics(timeout=self.deadline_s).topics
        return all(
            name in known and sum(p.leader >= 0 for p in known[name].partitions.values()) == count
            for name, count in wanted.items()
        )

    def close(self) -> None:
        self.backend.close()
        self.hasty.close()

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        wanted = KafkaPartition(self.settings.prefix + topic, partition, offset)
        for future in self._admin.delete_records([wanted]).values():
            future.result()

    def append(self, topic: str, value: bytes, *, timestamp_ms: int) -> None:
        failed: list[KafkaError | None] = []
        client = KafkaClient({"bootstrap.servers": self._address, "log_level": 2})
        client.produce(
            self.settings.prefix + topic,
            value,
            partition=0,
            timestamp=timestamp_ms,
            on_delivery=lambda error, _: failed.append(error),
        )
        assert client.flush(self.deadline_s) == 0
        if failed[0] is not None:
            raise KafkaException(failed[0])

    def create_compacted(self, topic: str, *, keep_tombstones: bool = False) -> None:
        self.create(
            {topic: 1},
            cleanup_policy="compact",
            segment_ms="100",
            min_cleanable_dirty_ratio="0.01",
            max_compaction_lag_ms="100",
            delete_retention_ms="86400000" if keep_tombstones else "0",
        )

    def compact(self, topic: str, *, keep_tombstones: bool = False) -> None:
        driver = Driver(self)
        place, consumer = TopicPartition(topic, 0), driver.consumer()

        def is_compacted() -> bool:
            driver.write(topic, b"", key=TICK)
            consumer.assign({place: consumer.bounds(place)[0]})
            found = [r for r in driver.read(consumer, place) if r.key != TICK]
            tombstones = 0 if keep_tombstones else sum(r.value is None for r in found)
            return tombstones == 0 and len({r.key for r in found}) == len(found)

        driver.until(is_compacted)
        driver.release()

    def expel(self, group: str, instance: str) -> None:
        """Do what `kafka-consumer-groups` does: leave in the name of a static member."""
        leave_group, version = 13, 3
        prefix = self.settings.prefix
        body = (
            struct.pack(">hhi", leave_group, version, 1)
            + _string("test")
            + _string(prefix + group)
            + struct.pack(">i", 1)
            + _string("")
            + _string(prefix + instance)
        )
        host, _, port = self._address.rpartition(":")
        with socket.create_connection((host, int(port))) as broker:
            broker.sendall(struct.pack(">i", len(body)) + body)
            answer = broker.makefile("rb")
            size, number, _, error = struct.unpack(">iiih", answer.read(14))
            rest = answer.read(size - 10)
        assert (number, error, rest[-2:]) == (1, 0, b"\0\0"), rest

    def let_pass(self, ms: int) -> None:
        pass


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "memory_gap(reason): the broker in memory has not got this")


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def rig(request: pytest.FixtureRequest) -> Rig:
    if request.param == "memory":
        for gap in request.node.iter_markers("memory_gap"):
            lacks = (AssertionError, pytest.fail.Exception)
            request.applymarker(pytest.mark.xfail(strict=True, reason=gap.args[0], raises=lacks))
        return MemoryRig()
    broker: LocalBroker = request.getfixturevalue("kafka")
    return KafkaRig(broker.bootstrap_servers)


@pytest.fixture
def driver(rig: Rig) -> Iterator[Driver]:
    driver = Driver(rig)
    yield driver
    driver.close()


@dataclass
class Listing:
    """Sends each value with its number in the order of arrival."""

    seen: int = 0
    pending: Commit = field(default_factory=Commit)

    def restore(self, batch: Batch) -> None:
        self.seen = int(batch.values[-1] or 0)

    def start(self, positions: Mapping[str, Position]) -> Mapping[str, int]:  # noqa: ARG002
        return {}

    def replay(self, batch: Batch) -> None:
        raise AssertionError(f"nothing was asked to be replayed, but {batch}")

    def process(self, batch: Batch) -> None:
        for value in batch.values:
            self.seen += 1
            text = b"%d:%s" % (self.seen, value)
            self.pending.outputs.append(Produce("listed", None, text, batch.partition))
        self.pending.changelog = [(b"seen", b"%d" % self.seen)]

    def tick(self, now_ms: int, at_end: Mapping[str, bool]) -> None:
        pass

    def paused(self) -> frozenset[str]:
        return frozenset()

    def commit(self) -> Commit:
        commit, self.pending = self.pending, Commit()
        return commit

    def committed(self) -> None:
        pass

    def close(self) -> None:
        pass


def make_listing(_: TaskContext) -> Listing:
    return Listing()


@pytest.fixture
def listing() -> Service:
    """Give a service that shows with every output how often each record was counted."""
    return Service("listing", ("values",), (), make_listing)
