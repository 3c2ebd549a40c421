"""Sends events that were checked: keyed and partitioned as the services expect it."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable

from kedge.batch_layout import CONTENT_TYPE, CONTENT_TYPE_HEADER
from kedge.errors import Retry
from kedge.outbox import Batch, Outbox
from kedge.topics import TOPICS, model_partition
from kedge_services.local.batch_file import BatchFile
from kedge_services.local.event_file import ReadyEvent
from kedge_services.runtime.admin import client_properties
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.ports import Produce, Producer, TransactionAborted
from kedge_services.runtime.settings import Settings

__all__ = ["EventSender", "Pace"]

_QUEUE = 100_000
_BATCH_ROWS = 1_000
_WAIT_S = 60.0
_LAST_WAIT_S = 30.0
_LEAST_SLEEP_S = 0.01
_CATCH_UP_S = 0.1


class EventSender:
    """Sends events and counts them by topic.

    Parameters
    ----------
    settings
        Where Kafka is.

    Attributes
    ----------
    accepted
        Events by topic that are in Kafka or on their way.
    """

    def __init__(self, settings: Settings) -> None:
        self.accepted: Counter[str] = Counter()
        self._prefix = settings.prefix
        self._backend = KafkaBackend(settings)
        # What predictions and outcomes need to meet is the outbox's business.
        properties = client_properties(settings.kafka)
        self._outbox = Outbox(
            properties.pop("bootstrap.servers"),
            max_queue=_QUEUE,
            max_wait_s=_WAIT_S,
            on_error=None,
            properties={"log_level": 2, **properties},
            headers={},
        )
        self._producer: Producer | None = None
        self._known: set[str] = set()

    @property
    def lost(self) -> int:
        """Number of events that Kafka did not take."""
        return self._outbox.lost

    def send(self, event: ReadyEvent) -> None:
        """Send one event; waits while the queue is full.

        Raises
        ------
        Misconfigured
            Its topic does not exist.
        Retry
            Kafka takes nothing.
        """
        if event.topic not in self._known:
            # librdkafka finds out late that a topic is missing, and loses what waits for it.
            self._backend.partitions(event.topic)
            self._known.add(event.topic)
        if TOPICS[event.topic].partitioned_by == "request":
            self._outbox.send(self._prefix + event.topic, event.key, event.value, block=True)
        else:
            self._send_for_model(event)
        self.accepted[event.topic] += 1

    def send_batches(self, file: BatchFile, pace: Pace, sent: Callable[[], None]) -> None:
        """Send the predictions of a file as Arrow batches; raises as :meth:`send`.

        Parameters
        ----------
        sent
            Called after every batch.
        """
        topic = "predictions"
        rows = min(_BATCH_ROWS, max(1, int(pace.rate or _BATCH_ROWS)))
        for piece in file.pieces(self._backend.partitions(topic), rows):
            pace.wait(piece.rows)
            self._outbox.send(
                self._prefix + topic,
                piece.key,
                piece.value,
                block=True,
                batch=Batch(piece.rows, piece.partition, {CONTENT_TYPE_HEADER: CONTENT_TYPE}),
            )
            self.accepted[topic] += piece.rows
            sent()

    def close(self) -> None:
        """Wait until the fate of every event is known.

        Raises
        ------
        DeliveryFailed
            Some were lost.
        """
        if self._producer is not None:
            self._producer.close()
        try:
            self._outbox.close(_LAST_WAIT_S)
        finally:
            self._backend.close()

    def _send_for_model(self, event: ReadyEvent) -> None:
        """Put it where its model's task reads; these are few, so each is in Kafka at once."""
        if self._producer is None:
            self._producer = self._backend.producer(f"send-{uuid.uuid4().hex}")
        where = model_partition(event.model or "", self._backend.partitions(event.topic))
        try:
            self._producer.begin()
            self._producer.produce(Produce(event.topic, event.key.encode(), event.value, where))
            self._producer.commit()
        except TransactionAborted as error:
            raise Retry(f"an event for {event.topic} was not sent: {error}") from error


class Pace:
    """Holds a sender back to so many events a second.

    Of a pause, e.g. of a full queue, no more than :data:`_CATCH_UP_S` is made
    up for: the rate is a limit.
    """

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._step_s = 0.0 if rate is None else 1.0 / rate
        self._next_s = time.monotonic()

    def wait(self, events: int = 1) -> None:
        """Return when the next event may go, or so many together."""
        if self._step_s:
            now = time.monotonic()
            # A sleep is longer than it should be, so there are few of them.
            if (ahead := self._next_s - now) > _LEAST_SLEEP_S or ahead > self._step_s:
                time.sleep(ahead)
            self._next_s = max(self._next_s, now - _CATCH_UP_S) + events * self._step_s
