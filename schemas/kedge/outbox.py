"""The way of events to the broker: bounded queues whose every event has a known fate."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from kedge.errors import (
    BrokerUnavailable,
    DeadLetter,
    DeliveryFailed,
    Misconfigured,
    QueueFull,
    Stop,
    UsageError,
)

__all__ = ["Batch", "LostEvent", "Outbox"]

_log = logging.getLogger("kedge.client")
_POLL_S = 0.05
#: Those who count commit twice a second; many small batches cost Kafka and them.
_LINGER_MS = 50
#: The two names librdkafka has for how long it tries to deliver a record.
_PATIENCE = ("message.timeout.ms", "delivery.timeout.ms")
_FIXED: Mapping[str, Any] = {"partitioner": "murmur2_random", "enable.idempotence": True}
#: Columns of floats hardly get smaller; zstd would take three times as long over them.
_OF_BATCHES: Mapping[str, Any] = {"compression.type": "lz4"}
#: What a user sets of these holds for events and batches alike.
_COMPRESSION = ("compression.type", "compression.codec")


@dataclass(frozen=True, slots=True)
class LostEvent:
    """An event, or a batch of them, that the broker did not take.

    ``value`` can be sent again as it is, with the same key; a batch also needs its
    partition and its header ``content-type``.
    """

    topic: str
    key: str
    value: bytes
    why: str
    events: int = 1
    partition: int | None = None


class Batch(NamedTuple):
    """What is particular to a record of several events: how many, where, and its headers."""

    events: int
    partition: int
    headers: Mapping[str, str | bytes | None]


class Outbox:
    """An idempotent producer that accounts for what it was given.

    Batches have a producer of their own, as compression is set for a producer.  What a
    thread sends of both arrives in the order it was sent in.
    The parameters are those of :class:`kedge.client.Client`.
    """

    def __init__(
        self,
        servers: str,
        *,
        max_queue: int,
        max_wait_s: float,
        on_error: Callable[[LostEvent], None] | None,
        properties: Mapping[str, str | float | bool],
        headers: Mapping[str, str],
    ) -> None:
        if wrong := sorted(_FIXED.keys() & properties.keys()):
            raise UsageError(f"{', '.join(wrong)}: fixed by Kedge, leave it out")
        self._config: dict[str, Any] = {
            "bootstrap.servers": servers,
            "compression.type": "zstd",
            "linger.ms": _linger_ms(properties),
            "queue.buffering.max.messages": max_queue,
            **properties,
            **_FIXED,
        }
        try:
            self._producer = Producer(self._config, logger=_log)
        except (KafkaException, ValueError, TypeError) as error:
            raise UsageError(f"Kafka properties are not valid: {_why(error)}") from error
        #: The producer of batches, once there was one; see :meth:`_of_batches`.
        self._second = self._producer if any(name in properties for name in _COMPRESSION) else None
        self._thread = threading.local()
        self._servers = servers
        self._headers: dict[str, str | bytes | None] = {**headers}
        self._max_wait_s = max_wait_s
        self._on_error = on_error
        self._lock = threading.Lock()
        self._partitions: dict[str, int] = {}
        self._accepted = 0
        self._reported = 0
        self._last_error = ""
        self._closed = False
        self.delivered = 0
        self.lost = 0

    @property
    def waiting(self) -> int:
        """Number of events accepted whose fate is not known yet."""
        # Not the producer's length: that counts its pending log lines, too.
        with self._lock:
            return self._accepted - self.delivered - self.lost

    def partitions(self, topic: str) -> int:
        """Give the number of a topic's partitions; ``topic`` with its prefix.

        Raises
        ------
        BrokerUnavailable
            No broker told it in time.
        Misconfigured
            There is no such topic.
        """
        known = self._partitions.get(topic)
        if known is None:
            try:
                found = self._producer.list_topics(topic, timeout=self._max_wait_s).topics[topic]
            except KafkaException as error:
                raise BrokerUnavailable(
                    f"no Kafka at {self._servers} told the partitions of {topic}: {_why(error)}"
                ) from error
            if found.error is not None:
                raise Misconfigured(
                    f"topic {topic}: {found.error.str()}; `kedge topics create` makes it"
                )
            known = self._partitions[topic] = len(found.partitions)
        return known

    def send(
        self,
        topic: str,
        key: str,
        value: bytes,
        *,
        block: bool,
        batch: Batch | None = None,
    ) -> None:
        """Accept an event, or a batch of them; ``topic`` with its prefix.

        Raises
        ------
        QueueFull
            There was no room, at once or after the wait.
        DeadLetter
            The event is too large for Kafka.
        Stop
            The producer has failed for good.
        UsageError
            It is closed.
        """
        if self._closed:
            raise UsageError("the client is closed")
        deadline = time.monotonic() + (self._max_wait_s if block else 0.0)
        events = 1 if batch is None else batch.events
        producer = self._producer if batch is None else self._of_batches()
        self._keep_order(producer, deadline)
        self._count_accepted(events)
        try:
            self._produce(producer, topic, key, value, deadline, batch)
        except BaseException:
            self._count_accepted(-events)
            raise
        for each in self._producers():
            each.poll(0)

    def flush(self, timeout: float) -> None:
        """Wait until the fate of every event is known; see ``Client.flush``."""
        self._flush(timeout)
        self._report()
        if waiting := self.waiting:
            raise BrokerUnavailable(
                f"{waiting} events still wait for Kafka at {self._servers}"
                f"{': ' + self._last_error if self._last_error else ''}"
            )

    def close(self, timeout: float) -> None:
        """Wait, then give up what is left; see ``Client.close``."""
        if self._closed:
            return
        self._closed = True
        self._flush(timeout)
        if self.waiting:
            for producer in self._producers():
                producer.purge()
            self._flush(1.0)
        self._report()

    def _producers(self) -> tuple[Producer, ...]:
        second = self._second
        if second is None or second is self._producer:
            return (self._producer,)
        return self._producer, second

    def _of_batches(self) -> Producer:
        """Give the producer of batches."""
        with self._lock:
            if self._second is None:
                self._second = Producer({**self._config, **_OF_BATCHES}, logger=_log)
            return self._second

    def _keep_order(self, producer: Producer, deadline: float) -> None:
        """Wait until what this thread has given to the other producer is with the broker."""
        before = getattr(self._thread, "producer", producer)
        if before is not producer:
            before.flush(max(0.0, deadline - time.monotonic()))
            if len(before) and (waiting := self.waiting):
                raise QueueFull(
                    f"{waiting} events wait for Kafka at {self._servers}; "
                    "batches and single events do not overtake each other"
                )
        self._thread.producer = producer

    def _flush(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for producer in self._producers():
            producer.flush(max(0.0, deadline - time.monotonic()))

    def _produce(
        self,
        producer: Producer,
        name: str,
        key: str,
        value: bytes,
        deadline: float,
        batch: Batch | None,
    ) -> None:
        more: dict[str, Any] = {"on_delivery": self._delivery, "headers": self._headers}
        if batch is not None:
            more = {
                "on_delivery": partial(self._delivery, events=batch.events),
                "headers": {**self._headers, **batch.headers},
                "partition": batch.partition,
            }
        while True:
            try:
                producer.produce(name, value, key, **more)
            except BufferError:
                if time.monotonic() >= deadline:
                    waiting = self.waiting - (1 if batch is None else batch.events)  # without these
                    raise QueueFull(f"{waiting} events wait for Kafka at {self._servers}") from None
                producer.poll(_POLL_S)
            except KafkaException as error:
                raise _refused(error.args[0]) from error
            else:
                return

    def _count_accepted(self, events: int) -> None:
        with self._lock:
            self._accepted += events

    def _delivery(self, error: KafkaError | None, message: Any, *, events: int = 1) -> None:
        if error is None:
            with self._lock:
                self.delivered += events
            return
        lost = LostEvent(
            topic=message.topic(),
            key=(message.key() or b"").decode(),
            value=message.value() or b"",
            why=error.str(),
            events=events,
            partition=message.partition(),
        )
        with self._lock:
            self.lost += events
            self._last_error = lost.why
        what = "an event" if events == 1 else f"{events} events"
        _log.error("lost %s for %s with key %s: %s", what, lost.topic, lost.key, lost.why)
        if self._on_error is not None:
            try:
                self._on_error(lost)
            except Exception:  # noqa: BLE001 -- the user's code; it must not look like a failed send
                _log.exception("on_error raised")

    def _report(self) -> None:
        with self._lock:
            new, self._reported = self.lost - self._reported, self.lost
        if new:
            raise DeliveryFailed(new, self._last_error)


def _refused(error: KafkaError) -> DeadLetter | Stop:
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return DeadLetter("too-large", error.str())
    return Stop(f"Kafka's producer has failed for good, make a new Client: {error.str()}")


def _linger_ms(properties: Mapping[str, str | float | bool]) -> int:
    """Give how long records wait for others: less than they may take to be delivered."""
    told = [str(properties[name]) for name in _PATIENCE if name in properties]
    # What is no number is librdkafka's to refuse; 0 is for ever.
    limits = [int(text) // 2 for text in told if text.isdigit() and int(text)]
    return min([_LINGER_MS, *limits])


def _why(error: Exception) -> str:
    first = error.args[0] if error.args else error
    return first.str() if isinstance(first, KafkaError) else str(first)
