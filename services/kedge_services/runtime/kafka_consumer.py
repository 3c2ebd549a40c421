"""A consumer of committed records on Kafka, whose batches are columns."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress, groupby
from operator import itemgetter, not_
from typing import Any

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from kedge.errors import Fenced, KedgeError, Misconfigured, Stop
from kedge_services.runtime import ports
from kedge_services.runtime.kafka_errors import MISSING, PASSING
from kedge_services.runtime.kafka_properties import CONSUMER, manner_of
from kedge_services.runtime.ports import (
    Batch,
    OffsetsPending,
    Position,
    TransactionAborted,
)
from kedge_services.runtime.reading import out_of_range

__all__ = ["KafkaConsumer"]

Callback = Callable[[list[ports.TopicPartition]], None]

_CALL_S = 15.0
#: How long an answer about offsets is waited for while a transaction holds them.
_PENDING_S = 0.3
_WAKE_S = 1.0
#: How often it is asked how far behind we are.
_LOOK_S = 1.0

_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 -- its public name begins like that
_FATAL = KafkaError._FATAL  # noqa: SLF001
_STATE = KafkaError._STATE  # noqa: SLF001
_TIMED_OUT = KafkaError._TIMED_OUT  # noqa: SLF001
_RESET = KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001
_GENERATION = struct.Struct("<i")

_error, _topic, _partition, _offset, _timestamp, _key, _value = (
    Message.error, Message.topic, Message.partition, Message.offset,
    Message.timestamp, Message.key, Message.value,
)  # fmt: skip
#: Declared as a mapping or a list; it is a list.
_headers: Callable[[Message], Any] = Message.headers
_second = itemgetter(1)

_log = structlog.get_logger(__name__)


class KafkaConsumer:
    """Implements ``ports.Consumer``; one caller only.

    Parameters
    ----------
    properties
        librdkafka's, of the cluster; they win over ours.
    prefix
        Of all topics.
    bounds
        Gives first and read-uncommitted end offset of a partition.
    ends
        Gives the end offsets of partitions at once, of those of which they are known.
    group, instance
        With their prefix; without a group it can only ``assign``.
    """

    def __init__(
        self,
        properties: Mapping[str, Any],
        *,
        prefix: str,
        bounds: Callable[[ports.TopicPartition], tuple[int, int]],
        ends: Callable[[Sequence[ports.TopicPartition]], dict[ports.TopicPartition, int]],
        group: str | None,
        instance: str | None,
    ) -> None:
        identity = {"group.id": group or f"{prefix}assigned"}
        if instance is not None:
            identity["group.instance.id"] = instance
        self._properties = {**CONSUMER, **properties, **identity}
        self._given = set(properties)
        self._prefix = prefix
        self._bounds = bounds
        self._ends = ends
        self._instance = instance
        self._made: Consumer | None = None
        self._topics: dict[str, int] = {}
        self._positions: dict[ports.TopicPartition, int] = {}
        self._at_end: set[ports.TopicPartition] = set()
        self._paused: set[ports.TopicPartition] = set()
        self._gone_back: set[ports.TopicPartition] = set()
        self._known_ends: dict[ports.TopicPartition, int] = {}
        self._looked_s = -_LOOK_S

    # -------------------------------------------------------------- what to read

    def subscribe(
        self,
        topics: Sequence[str],
        *,
        on_assign: Callback,
        on_revoke: Callback,
        on_lost: Callback,
    ) -> None:
        """Join the group; callbacks run inside :meth:`poll`."""
        self._topics = {topic: number for number, topic in enumerate(topics)}
        manner = manner_of(topics)
        self._properties.update({k: v for k, v in manner.items() if k not in self._given})

        def assigned(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            ours = [self._ours(p) for p in partitions]
            for partition in partitions:
                partition.offset = OFFSET_BEGINNING
            consumer.assign(partitions)
            consumer.pause(partitions)
            self._positions = dict.fromkeys(ours, 0)
            self._at_end.clear()
            self._paused = set(ours)
            on_assign(ours)

        def given_up(callback: Callback) -> Callable[[Consumer, list[TopicPartition]], None]:
            def forget(_: Consumer, partitions: list[TopicPartition]) -> None:
                callback([self._ours(p) for p in partitions])
                self._positions.clear()
                self._at_end.clear()
                self._paused.clear()

            return forget

        self._consumer.subscribe(
            [self._prefix + topic for topic in topics],
            on_assign=assigned,
            on_revoke=given_up(on_revoke),
            on_lost=given_up(on_lost),
        )

    def assign(self, offsets: Mapping[ports.TopicPartition, int]) -> None:
        """Read exactly these partitions from these offsets, outside any group."""
        if self._paused:
            # librdkafka keeps paused what is assigned again.
            self.resume(list(self._paused))
        self._topics = {topic: number for number, (topic, _) in enumerate(offsets)}
        self._positions = dict(offsets)
        self._at_end.clear()
        self._consumer.assign([self._theirs(p, offset) for p, offset in offsets.items()])

    def seek(self, partition: ports.TopicPartition, offset: int) -> None:
        """Read this assigned partition from here on."""
        deadline = time.monotonic() + _CALL_S
        while True:
            try:
                self._consumer.seek(self._theirs(partition, offset))
            except KafkaException as error:
                # Right after an assignment fetching has not begun, and cannot be moved.
                if error.args[0].code() not in {_STATE, _TIMED_OUT} or time.monotonic() > deadline:
                    raise Stop(
                        f"{partition.topic}/{partition.partition} cannot be read from {offset}: "
                        f"{error.args[0].str()}"
                    ) from error
                time.sleep(0.005)
            else:
                break
        self._positions[partition] = offset
        self._at_end.discard(partition)

    def pause(self, partitions: Sequence[ports.TopicPartition]) -> None:
        """Stop handing out records of these partitions."""
        self._consumer.pause([self._theirs(p) for p in partitions])
        self._paused.update(partitions)
        self._at_end.difference_update(partitions)

    def resume(self, partitions: Sequence[ports.TopicPartition]) -> None:
        """Go on with these partitions."""
        is_asleep = self._positions.keys() <= self._paused
        self._consumer.resume([self._theirs(p) for p in partitions])
        self._paused.difference_update(partitions)
        # Of a consumer that was paused altogether the threads sleep for up to a second;
        # a question to the partitions' leaders wakes them.  Else it would only wait for
        # its turn behind the answer to a fetch.
        if is_asleep:
            with contextlib.suppress(KafkaException):
                asked = [self._theirs(p, OFFSET_END) for p in partitions]
                self._consumer.offsets_for_times(asked, timeout=_WAKE_S)

    # ------------------------------------------------------------------- reading

    def poll(self, max_records: int, timeout_s: float) -> list[Batch]:
        """Give what has arrived within the time-out, one batch a run of one partition."""
        messages: list[Any] = self._consumer.consume(max_records, timeout_s)
        if not messages:
            return []
        self._gone_back.clear()
        # All that is done per message is done in C: a pass of `map` costs some 25 ns each.
        if not any(map(_error, messages)):
            return self._batches(messages)
        errors: list[Any] = list(map(_error, messages))
        batches = self._batches(list(compress(messages, map(not_, errors))))
        last = {ports.TopicPartition(b.topic, b.partition): b.offsets[-1] for b in batches}
        for error, message in compress(zip(errors, messages, strict=True), errors):
            self._judge(error, message, last)
        return batches

    def _batches(self, messages: list[Any]) -> list[Batch]:
        batches = []
        parts = sorted(self._parts(messages).items(), key=lambda item: self._topics[item[0].topic])
        for partition, part in parts:
            offsets: list[Any] = list(map(_offset, part))
            if self._goes_back(partition, offsets):
                continue
            self._positions[partition] = offsets[-1] + 1
            self._at_end.discard(partition)
            batches.append(
                Batch(
                    topic=partition.topic,
                    partition=partition.partition,
                    offsets=offsets,
                    timestamps_ms=list(map(_second, map(_timestamp, part))),
                    keys=list(map(_key, part)),
                    values=list(map(_value, part)),
                    headers=_headers_of(part),
                )
            )
        return batches

    def _parts(self, messages: list[Any]) -> dict[ports.TopicPartition, list[Any]]:
        """Give the messages by partition, in their order.

        An answer of Kafka holds a run of each partition, and a poll a few of them.
        What belongs together goes into one batch, as each costs something of its own,
        and topics come in the order they were named: what is joined is there first.
        """
        parts: dict[ports.TopicPartition, list[Any]] = {}
        start = 0
        # With one topic, as mostly, the numbers say it all.
        places: Iterator[Any] = (
            map(_partition, messages)
            if len(self._topics) == 1
            else zip(map(_topic, messages), map(_partition, messages), strict=True)
        )
        for _, run in groupby(places):
            stop = start + len(list(run))
            partition = self._place(messages[start])
            part = messages[start:stop]
            if partition in parts:
                parts[partition] += part
            else:
                parts[partition] = part
            start = stop
        return parts

    def _goes_back(self, partition: ports.TopicPartition, offsets: list[int]) -> bool:
        """Say whether records come again; then all of this poll are left out and sought again.

        After a seek an older answer, about where the partition begins, may take
        librdkafka back to there (its issue 2256).
        """
        place = self._positions.get(partition, 0)
        if partition in self._gone_back:
            return True
        if offsets[0] >= place and offsets == sorted(offsets):
            return False
        self._gone_back.add(partition)
        _log.info("reading has gone back and is put right", partition=str(partition), place=place)
        self.seek(partition, place)
        return True

    def _judge(
        self, error: KafkaError, message: Any, last: Mapping[ports.TopicPartition, int]
    ) -> None:
        """Take what stood between the records, of which ``last`` has the last offsets."""
        code = error.code()
        if code == _EOF:
            partition = self._place(message)
            is_read = partition not in self._paused and partition not in self._gone_back
            # Records of the same poll may have come behind that end.
            is_last = last.get(partition, -1) < message.offset()
            if partition in self._positions and is_read and is_last:
                self._positions[partition] = max(self._positions[partition], message.offset())
                self._at_end.add(partition)
        elif code == _RESET:
            raise self._out_of_range(message)
        elif code in MISSING:
            raise Misconfigured(f"Kafka refuses {message.topic() or 'to be read'}: {error.str()}")
        elif code == _FATAL:
            # Nothing else is fatal for a consumer; the cause is only in the text.
            raise Fenced(
                f"another process has taken the place of {self._instance} in its group "
                f"({error.str()}); give this one another --ordinal"
            )
        else:
            # librdkafka goes on by itself; what it cannot mend shows as no progress.
            _log.warning("reading from Kafka", error=error.str())

    def _out_of_range(self, message: Any) -> Stop:
        """Name what cannot be read; Kafka says only that it cannot."""
        partition = self._place(message)
        offset, (low, end) = message.offset(), self._bounds(partition)
        return Stop(out_of_range(partition, offset, low, end))

    # ------------------------------------------------------------------- asking

    def at_end(self, partition: ports.TopicPartition) -> bool:
        """Say whether everything readable of the partition has been handed out."""
        return partition in self._at_end

    def position(self, partition: ports.TopicPartition) -> int:
        """Give the offset to be handed out next."""
        return self._positions[partition]

    def lag(self, partition: ports.TopicPartition) -> int:
        """Give the number of offsets up to the last known end."""
        if partition in self._at_end:
            return 0  # the end librdkafka knows lies behind transactions that are still open
        self._look_for_ends()
        position = self._positions.get(partition, 0)
        return max(0, self._known_ends.get(partition, position) - position)

    def _look_for_ends(self) -> None:
        """Ask now and then where the partitions end that have not been read to their end.

        What librdkafka knows is as old as the last fetch: of a partition that is
        paused, or while the local queue is full, that can be long ago.
        """
        if time.monotonic() - self._looked_s > _LOOK_S:
            self._looked_s = time.monotonic()
            self._known_ends |= self._ends(list(self._positions.keys() - self._at_end))

    def committed(
        self, partitions: Sequence[ports.TopicPartition]
    ) -> dict[ports.TopicPartition, Position]:
        """Give the group's committed positions; partitions without one are absent."""
        try:
            found = self._consumer.committed([self._theirs(p) for p in partitions], _PENDING_S)
        except KafkaException as error:
            raise self._no_offsets(error.args[0]) from error
        for partition in found:
            if partition.error is not None:
                raise self._no_offsets(partition.error)
        return {self._ours(p): Position(p.offset, p.metadata or "") for p in found if p.offset >= 0}

    def bounds(self, partition: ports.TopicPartition) -> tuple[int, int]:
        """Give the first offset and the read-uncommitted end offset."""
        return self._bounds(partition)

    def group_metadata(self) -> Any:
        """Give what fences this member's commits, as of now."""
        metadata = self._consumer.consumer_group_metadata()
        # The broker takes offsets of generation -1 from anybody.
        if metadata is None or _GENERATION.unpack_from(metadata, 7)[0] < 0:
            raise TransactionAborted("this process is no member of its group")
        return metadata

    def close(self) -> None:
        """Leave the group; a static member keeps its place until its session is over."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def _no_offsets(self, error: KafkaError) -> KedgeError:
        if error.code() in PASSING:
            return OffsetsPending(error.str())
        return Misconfigured(f"Kafka gives no committed offsets: {error.str()}")

    @property
    def _consumer(self) -> Consumer:
        """The client, made when it is first used: its properties depend on the use."""
        if self._made is None:
            self._made = Consumer(self._properties)
        return self._made

    def _theirs(self, partition: ports.TopicPartition, offset: int = -1001) -> TopicPartition:
        return TopicPartition(self._prefix + partition.topic, partition.partition, offset)

    def _place(self, message: Any) -> ports.TopicPartition:
        return ports.TopicPartition(message.topic()[len(self._prefix) :], message.partition())

    def _ours(self, partition: TopicPartition) -> ports.TopicPartition:
        return ports.TopicPartition(partition.topic[len(self._prefix) :], partition.partition)


def _headers_of(messages: list[Any]) -> list[ports.Headers]:
    """Give the headers; mostly no record has any."""
    if not any(map(_headers, messages)):
        return [()] * len(messages)
    return [headers or () for headers in map(_headers, messages)]
