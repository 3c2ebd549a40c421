"""A stream from the topics of a running cluster: what was sent, when it was appended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from kedge.codec import decode
from kedge.errors import BrokerUnavailable, DeadLetter, UsageError
from kedge.events import Outcome, Prediction
from kedge.monitor import Monitor
from kedge_services.local.batch_events import events_of
from kedge_services.local.replay.stream import Label, Row, Stream
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.ports import Backend, Record, TopicPartition
from kedge_services.runtime.reading import RangeReader
from kedge_services.runtime.settings import Settings

__all__ = ["stream_of_cluster", "stream_of_topics"]

#: Polls without a record after which the broker is taken to be gone.
_PATIENCE = 300
E = TypeVar("E", Prediction, Outcome)


def stream_of_cluster(
    settings: Settings,
    monitor: Monitor,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    limit: int | None = None,
) -> Stream:
    """Read a range of a model's predictions and outcomes from Kafka."""
    backend = KafkaBackend(settings)
    try:
        return stream_of_topics(backend, monitor, since_ms=since_ms, until_ms=until_ms, limit=limit)
    finally:
        backend.close()


def stream_of_topics(
    backend: Backend,
    monitor: Monitor,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    limit: int | None = None,
) -> Stream:
    """Read a range of a model's predictions and outcomes; they arrive at their append times.

    Of several predictions of one version to one id the first counts.  Outcomes
    after ``until_ms`` still count: they are the labels of what came before.

    Parameters
    ----------
    since_ms, until_ms
        Append times of the predictions, ``[since, until)``.
    limit
        Take only so many predictions, the first ones.

    Raises
    ------
    UsageError
        The range has no prediction of the model.
    """
    rows: dict[tuple[str, str], Row] = {}
    declared = {*map("features.{}".format, monitor.features)}
    declared |= {f"segments.{segment.name}" for segment in monitor.segments}
    for record, event in _events(backend, "predictions", Prediction, declared):
        is_asked = (since_ms is None or record.timestamp_ms >= since_ms) and (
            until_ms is None or record.timestamp_ms < until_ms
        )
        if is_asked and event.model == monitor.model:
            output = event.output
            row = Row(
                event.prediction_id, event.event_time_ms, record.timestamp_ms, event.features,
                None if output is None else output.model_dump(exclude_none=True),
                event.version, event.role, event.segments,
            )  # fmt: skip
            known = rows.setdefault((event.prediction_id, event.version), row)
            if known.arrival_ms > row.arrival_ms:
                rows[event.prediction_id, event.version] = row
    if not rows:
        raise UsageError(f"no prediction of model {monitor.model} lies in this range")
    taken = sorted(rows.values(), key=lambda row: row.arrival_ms)[:limit]
    ids = {row.prediction_id for row in taken}
    labels = [
        Label(event.prediction_id, event.label, event.event_time_ms, record.timestamp_ms)
        for record, event in _events(backend, "outcomes", Outcome)
        if event.prediction_id in ids and event.model in (None, monitor.model)
    ]
    return Stream.of(taken, labels, grace_ms=monitor.grace_ms)


def _events(
    backend: Backend, topic: str, kind: type[E], declared: Collection[str] = ()
) -> Iterator[tuple[Record, E]]:
    """Give the events of a topic up to its present end; what cannot be read is passed over."""
    places = [TopicPartition(topic, p) for p in range(backend.partitions(topic))]
    reader, consumer = RangeReader(backend), backend.consumer(group=None)
    try:
        for place in places:
            reader.add(place, *consumer.bounds(place))
    finally:
        consumer.close()
    try:
        yield from _read(reader, lambda: all(map(reader.is_done, places)), kind, declared)
    finally:
        reader.close()


def _read(
    reader: RangeReader, is_done: Callable[[], bool], kind: type[E], declared: Collection[str]
) -> Iterator[tuple[Record, E]]:
    idle = 0
    while not is_done():
        batches = reader.poll(10_000, 0.1)
        idle = 0 if batches else idle + 1
        if idle > _PATIENCE:
            raise BrokerUnavailable("the topics could not be read to their end")
        for batch in batches:
            for record in batch.records():
                for value in events_of(record.value, record.headers, declared).values:
                    try:
                        yield record, decode(kind, value)
                    except DeadLetter:
                        continue  # panes has put it aside, it is in no window
