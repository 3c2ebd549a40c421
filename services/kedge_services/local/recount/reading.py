"""Reads topics from Kafka, whole and committed, with a consumer of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from kedge_services.local.recount.plain import Record

__all__ = ["KafkaLog"]

#: Declared as a mapping or a list; it is a list.
_headers: Callable[[Message], Any] = Message.headers

#: Of a topic that was created just now, or a broker that comes back.
_PASSING = {
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
}
_BATCH = 5_000
_TIMEOUT_S = 30.0
_POLL_S = 0.02
_PROPERTIES = {
    "group.id": "kedge-recount",
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "fetch.queue.backoff.ms": 5,
    "fetch.wait.max.ms": 20,
    "fetch.message.max.bytes": 8 * 1024 * 1024,
}


class KafkaLog:
    """The topics of a cluster; a context manager.

    Parameters
    ----------
    properties
        librdkafka's: ``bootstrap.servers`` and what the cluster asks for.
    prefix
        Of all topics.
    """

    def __init__(self, properties: Mapping[str, Any], *, prefix: str = "kedge.") -> None:
        self._consumer = Consumer({**_PROPERTIES, **properties})
        # To who reads committed records, a topic ends before the first open transaction.
        everything = {"isolation.level": "read_uncommitted"}
        self._ends = Consumer({**_PROPERTIES, **properties, **everything})
        self._prefix = prefix

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()
        self._ends.close()

    def partitions(self, topic: str) -> int:
        """Give the number of a topic's partitions.

        Raises
        ------
        LookupError
            There is no such topic.
        """
        name = self._prefix + topic
        found = self._consumer.list_topics(name, timeout=_TIMEOUT_S).topics[name]
        if found.error is not None:
            raise LookupError(f"topic {name}: {found.error.str()}")
        return len(found.partitions)

    def read(self, topic: str) -> Iterator[Record]:
        """Give a topic's committed records up to the end it has now.

        Raises
        ------
        TimeoutError
            The end was not reached, because a transaction stays open.
        KafkaException
            The cluster refuses, or cannot be reached.
        """
        name = self._prefix + topic
        ends: dict[int, int] = {}
        for number in range(self.partitions(topic)):
            first, end = self._bounds(TopicPartition(name, number))
            if first < end:
                ends[number] = end
        self._consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for number in ends])
        quiet_since = time.monotonic()
        while ends:
            for message in self._consumer.consume(_BATCH, _POLL_S):
                quiet_since = time.monotonic()
                if (error := message.error()) is None:
                    yield _record(topic, message)
                elif error.code() in _PASSING:
                    continue
                elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    raise KafkaException(error)
                # An end before the one there was at the beginning: a transaction is open.
                elif (message.offset() or 0) >= ends.get(number := message.partition() or 0, 0):
                    ends.pop(number, None)
            if time.monotonic() - quiet_since > _TIMEOUT_S:
                raise TimeoutError(
                    f"the end of {name} was not reached within {_TIMEOUT_S:.0f} s, partitions "
                    f"{', '.join(map(str, sorted(ends)))}: does a transaction stay open?"
                )
        self._consumer.unassign()

    def _bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """Give a partition's first offset and its end, read-uncommitted."""
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                first, end = self._ends.get_watermark_offsets(partition, timeout=_TIMEOUT_S)
            except KafkaException as error:
                if error.args[0].code() not in _PASSING or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)
            else:
                return int(first), int(end)


def _record(topic: str, message: Message) -> Record:
    kind, timestamp_ms = message.timestamp()
    return Record(
        topic,
        message.partition() or 0,
        message.offset() or 0,
        0 if kind == TIMESTAMP_NOT_AVAILABLE else timestamp_ms,
        message.key(),
        message.value(),
        tuple(_headers(message) or ()),
    )
