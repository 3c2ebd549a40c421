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

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import ValidationError

from kedge.base import Event, Label, Role, Scalar
from kedge.batch_layout import CONTENT_TYPE, CONTENT_TYPE_HEADER
from kedge.codec import dead_letter_of, encode
from kedge.errors import DeadLetter, DeliveryFailed, QueueFull, UsageError
from kedge.events import Outcome, Prediction, ScoringRequest
from kedge.outbox import Batch, LostEvent, Outbox
from kedge.topics import DEFAULT_PREFIX, request_id

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Client", "LostEvent"]

E = TypeVar("E", bound=Event)


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
    headers
        Put on every record, e.g. for tracing.

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
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._prefix = prefix
        self._outbox = Outbox(
            bootstrap_servers,
            max_queue=max_queue,
            max_wait_s=max_wait_s,
            on_error=on_error,
            properties=properties or {},
            headers=headers or {},
        )

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

    def predict_batch(
        self,
        rows: pa.Table | pa.RecordBatch | Mapping[str, Any],
        *,
        model: str | None = None,
        version: str | None = None,
        role: Role | None = None,
        rows_per_record: int = 1_000,
        block: bool = True,
    ) -> int:
        """Send predictions in columns and give their number.

        They travel as Arrow batches, one for some rows of one partition, and count as the
        same rows sent one by one would; ``docs/arrow.md`` names the columns.  Needs
        pyarrow: ``pip install kedge[arrow]``.

        Parameters
        ----------
        rows
            A table, or columns by name (lists or arrays), such as ``prediction_id``,
            ``event_time_ms``, ``features`` (again columns by name) and ``output``.
            Without ids random ones are made, without times it is now.
        model, version, role
            Of all rows; None: there is such a column (without a role it is champion).
        rows_per_record
            At most so many rows in a record.
        block
            False raises QueueFull at once instead of waiting for room.

        Raises
        ------
        UsageError
            pyarrow is not installed, or the columns make no table.
        DeadLetter
            A column or row is wrong; nothing was sent.
        QueueFull
            Its ``sent`` says how many rows were accepted before.  Sending all of them
            again does no harm: a prediction that comes twice counts once.
        Misconfigured, BrokerUnavailable
            The number of partitions could not be had.
        """
        try:
            from kedge.batches import pieces, table_of
        except ImportError as error:
            raise UsageError(
                f"batches need pyarrow and numpy ({error}): pip install 'kedge[arrow]'"
            ) from error
        if rows_per_record < 1:
            raise UsageError(f"rows_per_record is {rows_per_record}, it should be 1 or more")
        constants = {"model": model, "version": version, "role": role}
        table = table_of(rows, constants, now_ms=_now_ms())
        topic = f"{self._prefix}predictions"
        headers = {CONTENT_TYPE_HEADER: CONTENT_TYPE}
        sent = 0
        try:
            for piece in pieces(
                table, partitions=self._outbox.partitions(topic), most_rows=rows_per_record
            ):
                batch = Batch(piece.rows, piece.partition, headers)
                self._outbox.send(topic, piece.key, piece.value, block=block, batch=batch)
                sent += piece.rows
        except QueueFull as full:
            full.sent = sent
            raise
        return sent

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
        return self._outbox.delivered

    @property
    def lost(self) -> int:
        """Number of events accepted by this client and not taken by the broker."""
        return self._outbox.lost

    @property
    def waiting(self) -> int:
        """Number of events accepted whose fate is not known yet."""
        return self._outbox.waiting

    def flush(self, timeout: float = 30.0) -> None:
        """Wait until the fate of every event is known.

        Raises
        ------
        DeliveryFailed
            Some were lost since this was last reported.
        BrokerUnavailable
            After ``timeout`` seconds some still wait; they stay in the queue.
        """
        self._outbox.flush(timeout)

    def close(self, timeout: float = 30.0) -> None:
        """Wait like :meth:`flush`; what is not delivered by then counts as lost.

        Raises
        ------
        DeliveryFailed
            Some were lost since this was last reported.
        """
        self._outbox.close(timeout)

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
        key = request_id(event_id)
        if not key:
            raise DeadLetter("bad-key", f"{event_id!r} has no request id before its `#`")
        self._outbox.send(self._prefix + topic, key, encode(event), block=block)


def _build(cls: type[E], **fields: Any) -> E:
    try:
        return cls(**fields)
    except ValidationError as error:
        raise dead_letter_of(cls, error) from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
