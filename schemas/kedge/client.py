"""Sends predictions, outcomes and scoring requests to Kedge.

::

    with Client("localhost:9092") as kedge:
        kedge.predict(prediction_id="r-1", model="fraud", version="12",
                      features={"amount": 12.5}, label="fraud", score=0.93)
        kedge.outcome("r-1", "fraud")

Sending does not wait for the broker.  Every event that was accepted is either
delivered or reported as lost: to ``on_error`` at once, and by ``flush`` and
``close``, which raise.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer
from pydantic import ValidationError

from kedge.base import Event, Label, Role, Scalar
from kedge.codec import dead_letter_of, encode
from kedge.errors import (
    BrokerUnavailable,
    DeadLetter,
    DeliveryFailed,
    QueueFull,
    Stop,
    UsageError,
)
from kedge.events import Outcome, Prediction, ScoringRequest
from kedge.topics import DEFAULT_PREFIX, request_id

__all__ = ["Client", "LostEvent"]

_log = logging.getLogger(__name__)
_POLL_S = 0.05

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class LostEvent:
    """An event the broker did not take; ``value`` can be sent again as it is."""

    topic: str
    key: str
    value: bytes
    why: str


class Client:
    """A producer of Kedge's input topics; may be used from several threads.

    Parameters
    ----------
    bootstrap_servers
        Kafka's addresses; nothing is connected before the first event.
    prefix
        What the names of Kedge's topics start with.
    max_queue
        Events that may wait in memory for the broker.
    max_wait_s
        How long a call waits for room in that queue before it raises QueueFull.
    on_error
        Called with every event that was lost, inside a later call of this
        client; what it raises is logged, not passed on.
    properties
        Further librdkafka properties, e.g. for TLS and SASL.  The ones a
        prediction needs to meet its outcome cannot be changed.

    Raises
    ------
    UsageError
        A property is unknown to librdkafka or fixed by Kedge.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        prefix: str = DEFAULT_PREFIX,
        max_queue: int = 100_000,
        max_wait_s: float = 10.0,
        on_error: Callable[[LostEvent], None] | None = None,
        properties: Mapping[str, str | float | bool] | None = None,
    ) -> None:
        fixed = {"partitioner": "murmur2_random", "enable.idempotence": True}
        if wrong := sorted(fixed.keys() & (properties or {}).keys()):
            raise UsageError(f"{', '.join(wrong)}: fixed by Kedge, leave it out")
        config = {
            "bootstrap.servers": bootstrap_servers,
            "compression.type": "zstd",
            "linger.ms": 5,
            "queue.buffering.max.messages": max_queue,
            **(properties or {}),
            **fixed,
        }
        try:
            self._producer = Producer(config, logger=_log)
        except (KafkaException, ValueError, TypeError) as error:
            raise UsageError(f"Kafka properties are not valid: {_why(error)}") from error
        self._servers = bootstrap_servers
        self._prefix = prefix
        self._max_wait_s = max_wait_s
        self._on_error = on_error
        self._lock = threading.Lock()
        self._accepted = 0
        self._delivered = 0
        self._lost = 0
        self._reported = 0
        self._last_error = ""
        self._closed = False

    # ------------------------------------------------------------- sending

    def predict(  # noqa: PLR0913 -- the fields of a prediction
        self,
        *,
        model: str,
        version: str,
        features: Mapping[str, Scalar | None],
        label: Label | None = None,
        score: float | None = None,
        scores: Mapping[str, float] | None = None,
        value: float | None = None,
        prediction_id: str | None = None,
        event_time_ms: int | None = None,
        segments: Mapping[str, Scalar] | None = None,
        role: Role = "champion",
        latency_ms: float | None = None,
        block: bool = True,
    ) -> str:
        """Send one prediction and give its id.

        Parameters
        ----------
        label, score, scores, value
            What the model answered, see :class:`~kedge.events.Output`; none of
            them: only the features are watched.
        prediction_id
            The outcome names it later; None makes a random one.
        event_time_ms
            When the prediction was made, ms since the epoch; None is now.
        block
            False raises QueueFull at once instead of waiting for room.

        Raises
        ------
        DeadLetter
            A field is wrong: the event could never be processed.
        QueueFull
            The queue is full; nothing was sent.
        """
        answered = any(part is not None for part in (label, score, scores, value))
        output = {"label": label, "score": score, "scores": scores, "value": value}
        event = _build(
            Prediction,
            prediction_id=uuid.uuid4().hex if prediction_id is None else prediction_id,
            model=model,
            version=version,
            role=role,
            event_time_ms=_now_ms() if event_time_ms is None else event_time_ms,
            features=dict(features),
            output=output if answered else None,
            segments=dict(segments or {}),
            latency_ms=latency_ms,
        )
        self._send("predictions", event.prediction_id, event, block=block)
        return event.prediction_id

    def predict_many(self, predictions: Iterable[Prediction], *, block: bool = True) -> int:
        """Send predictions in order and give their number.

        Rows of one scored batch carry the ids ``<request>#<row>``.

        Raises
        ------
        QueueFull
            Its ``sent`` says how many of them were accepted before.
        """
        return self._send_many("predictions", predictions, block=block)

    def outcome(
        self,
        prediction_id: str,
        label: Label,
        *,
        event_time_ms: int | None = None,
        model: str | None = None,
        source: str | None = None,
        block: bool = True,
    ) -> None:
        """Send what really happened to a prediction.

        ``model`` is needed only where several models share prediction ids.

        Raises
        ------
        DeadLetter
            A field is wrong: the event could never be processed.
        QueueFull
            The queue is full; nothing was sent.
        """
        event = _build(
            Outcome,
            prediction_id=prediction_id,
            label=label,
            event_time_ms=_now_ms() if event_time_ms is None else event_time_ms,
            model=model,
            source=source,
        )
        self._send("outcomes", prediction_id, event, block=block)

    def outcome_many(self, outcomes: Iterable[Outcome], *, block: bool = True) -> int:
        """Send outcomes in order and give their number; see :meth:`predict_many`."""
        return self._send_many("outcomes", outcomes, block=block)

    def request(
        self,
        *,
        model: str,
        rows: Sequence[Mapping[str, Scalar | None]],
        request_id: str | None = None,
        event_time_ms: int | None = None,
        segments: Mapping[str, Scalar] | None = None,
        block: bool = True,
    ) -> str:
        """Ask serving to score rows and give the request's id.

        A single row is answered as the prediction ``<request_id>``, row k of
        several as ``<request_id>#<k>``.

        Raises
        ------
        DeadLetter
            A field is wrong: the event could never be processed.
        QueueFull
            The queue is full; nothing was sent.
        """
        event = _build(
            ScoringRequest,
            request_id=uuid.uuid4().hex if request_id is None else request_id,
            model=model,
            rows=[dict(row) for row in rows],
            event_time_ms=_now_ms() if event_time_ms is None else event_time_ms,
            segments=dict(segments or {}),
        )
        self._send("requests", event.request_id, event, block=block)
        return event.request_id

    # ---------------------------------------------------------- accounting

    @property
    def delivered(self) -> int:
        """Number of events the broker has confirmed."""
        return self._delivered

    @property
    def lost(self) -> int:
        """Number of events accepted by this client and not taken by the broker."""
        return self._lost

    @property
    def waiting(self) -> int:
        """Number of events accepted whose fate is not known yet."""
        # Not the producer's length: that counts its pending log lines, too.
        with self._lock:
            return self._accepted - self._delivered - self._lost

    def flush(self, timeout: float = 30.0) -> None:
        """Wait until the fate of every event is known.

        Raises
        ------
        DeliveryFailed
            Some were lost since this was last reported.
        BrokerUnavailable
            After ``timeout`` seconds some still wait; they stay in the queue.
        """
        self._producer.flush(timeout)
        self._report()
        if waiting := self.waiting:
            raise BrokerUnavailable(
                f"{waiting} events still wait for Kafka at {self._servers}"
                f"{': ' + self._last_error if self._last_error else ''}"
            )

    def close(self, timeout: float = 30.0) -> None:
        """Wait like :meth:`flush`; what is not delivered by then counts as lost.

        Raises
        ------
        DeliveryFailed
            Some were lost since this was last reported.
        """
        if self._closed:
            return
        self._closed = True
        self._producer.flush(timeout)
        if self.waiting:
            self._producer.purge()
            self._producer.flush(1.0)
        self._report()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except DeliveryFailed as failed:
            if error is None:
                raise
            # The caller's own error comes first; this one must not hide it.
            error.add_note(f"{failed}")

    # ------------------------------------------------------------ internal

    def _send_many(self, topic: str, events: Iterable[Any], *, block: bool) -> int:
        sent = 0
        try:
            for event in events:
                self._send(topic, event.prediction_id, event, block=block)
                sent += 1
        except QueueFull as full:
            full.sent = sent
            raise
        return sent

    def _send(self, topic: str, event_id: str, event: Event, *, block: bool) -> None:
        if self._closed:
            raise UsageError("the client is closed")
        key, value = request_id(event_id), encode(event)
        if not key:
            raise DeadLetter("bad-key", f"{event_id!r} has no request id before its `#`")
        deadline = time.monotonic() + (self._max_wait_s if block else 0.0)
        self._count_accepted(1)
        try:
            self._produce(topic, key, value, deadline)
        except BaseException:
            self._count_accepted(-1)
            raise
        self._producer.poll(0)

    def _produce(self, topic: str, key: str, value: bytes, deadline: float) -> None:
        name = self._prefix + topic
        while True:
            try:
                self._producer.produce(name, value, key, on_delivery=self._delivery)
            except BufferError:
                if time.monotonic() >= deadline:
                    waiting = self.waiting - 1  # without this one
                    raise QueueFull(f"{waiting} events wait for Kafka at {self._servers}") from None
                self._producer.poll(_POLL_S)
            except KafkaException as error:
                raise _refused(error.args[0]) from error
            else:
                return

    def _count_accepted(self, events: int) -> None:
        with self._lock:
            self._accepted += events

    def _delivery(self, error: KafkaError | None, message: Any) -> None:
        if error is None:
            with self._lock:
                self._delivered += 1
            return
        lost = LostEvent(
            topic=message.topic(),
            key=(message.key() or b"").decode(),
            value=message.value() or b"",
            why=error.str(),
        )
        with self._lock:
            self._lost += 1
            self._last_error = lost.why
        _log.error("lost an event for %s with key %s: %s", lost.topic, lost.key, lost.why)
        if self._on_error is not None:
            try:
                self._on_error(lost)
            except Exception:  # noqa: BLE001 -- the user's code; it must not look like a failed send
                _log.exception("on_error raised")

    def _report(self) -> None:
        with self._lock:
            new, self._reported = self._lost - self._reported, self._lost
        if new:
            raise DeliveryFailed(new, self._last_error)


def _build(cls: type[E], **fields: Any) -> E:
    try:
        return cls(**fields)
    except ValidationError as error:
        raise dead_letter_of(cls, error) from error


def _refused(error: KafkaError) -> DeadLetter | Stop:
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return DeadLetter("too-large", error.str())
    return Stop(f"Kafka's producer has failed for good, make a new Client: {error.str()}")


def _why(error: Exception) -> str:
    first = error.args[0] if error.args else error
    return first.str() if isinstance(first, KafkaError) else str(first)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
