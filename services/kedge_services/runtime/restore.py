"""How a task gets its state back after an assignment or an abort.

The order of the questions matters.  Committed offsets first: the broker does
not answer while a former owner's transaction that holds them is open, and
afterwards that owner can commit none.  Then the changelog's end: everything
that was committed with those offsets lies before it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import structlog

from kedge.errors import Stop
from kedge_services.runtime import metrics as m
from kedge_services.runtime.ports import (
    Backend,
    Consumer,
    OffsetsPending,
    Position,
    Service,
    Task,
    TopicPartition,
)
from kedge_services.runtime.reading import RangeReader

__all__ = ["Restorer", "Slot"]

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Slot:
    """A partition this process owns, and its task on the way to running.

    ``places`` are its partitions of the inputs, ``committed`` is what the group
    has, ``next`` what the task gets next, ``read_ms`` when the last record it got
    was appended, all by topic.
    """

    partition: int
    task: Task
    places: Mapping[str, TopicPartition]
    state: Literal["asking", "restoring", "replaying", "running"] = "asking"
    committed: dict[str, Position] = field(default_factory=dict)
    next: dict[str, int] = field(default_factory=dict)
    read_ms: dict[str, int] = field(default_factory=dict)
    restored: int = 0
    since_s: float = field(default_factory=time.monotonic)


class Restorer:
    """Brings slots from ``asking`` to ``running``, a bit on every step."""

    def __init__(
        self,
        service: Service,
        backend: Backend,
        consumer: Consumer,
        metrics: m.Metrics,
        *,
        accept_loss: bool,
    ) -> None:
        self._inputs = service.inputs
        self._from_end = service.from_end
        self._changelog = f"{service.name}-changelog" if service.changelog else None
        self._consumer = consumer
        self._metrics = metrics
        self._accept_loss = accept_loss
        self._reader = RangeReader(backend)
        self._slots: dict[int, Slot] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a slot is not running yet."""
        return bool(self._slots)

    def add(self, slot: Slot) -> None:
        """Begin with a slot."""
        self._slots[slot.partition] = slot

    def drop(self, slot: Slot) -> None:
        """Give up on a slot that is no longer ours."""
        if self._slots.pop(slot.partition, None) is not None:
            topics = (*self._inputs, *([self._changelog] if self._changelog else ()))
            for topic in topics:
                self._reader.forget(TopicPartition(topic, slot.partition))

    def close(self) -> None:
        """Release the consumer."""
        self._reader.close()

    def step(self, max_records: int, timeout_s: float) -> list[Slot]:
        """Go on a bit; give the slots that are running now."""
        self._ask([slot for slot in self._slots.values() if slot.state == "asking"])
        for batch in self._reader.poll(max_records, timeout_s):
            slot = self._slots[batch.partition]
            if batch.topic == self._changelog:
                slot.task.restore(batch)
                slot.restored += len(batch)
            else:
                slot.task.replay(batch)
            self._metrics.add(m.RESTORED, len(batch))
        for slot in self._slots.values():
            if slot.state == "restoring" and self._is_read(slot):
                self._start(slot)
        ready = [s for s in self._slots.values() if s.state == "replaying" and self._is_read(s)]
        for slot in ready:
            slot.state = "running"
            del self._slots[slot.partition]
            self._metrics.observe(m.RESTORE_SECONDS, time.monotonic() - slot.since_s)
        if ready:
            _log.info(
                "partitions restored",
                partitions=sorted(slot.partition for slot in ready),
                records=sum(slot.restored for slot in ready),
                seconds=round(time.monotonic() - min(slot.since_s for slot in ready), 3),
            )
        if not self._slots:
            self._reader.close()
        return ready

    def _is_read(self, slot: Slot) -> bool:
        done = self._reader.is_done
        topics = self._inputs if slot.state == "replaying" else (self._changelog,)
        return all(done(TopicPartition(t, slot.partition)) for t in topics if t is not None)

    def _ask(self, slots: list[Slot]) -> None:
        if not slots:
            return
        try:
            committed = self._consumer.committed(
                [TopicPartition(t, slot.partition) for slot in slots for t in self._inputs]
            )
        except OffsetsPending:
            return
        for slot in slots:
            for topic in self._inputs:
                position = committed.get(TopicPartition(topic, slot.partition))
                if position is not None:
                    slot.committed[topic] = position
            if self._changelog is not None:
                changelog = TopicPartition(self._changelog, slot.partition)
                self._reader.add(changelog, *self._consumer.bounds(changelog))
            slot.state = "restoring"

    def _start(self, slot: Slot) -> None:
        """Fix where each input goes on, let the task start, and read again what it asks for."""
        bounds = {t: self._consumer.bounds(TopicPartition(t, slot.partition)) for t in self._inputs}
        for topic, (low, end) in bounds.items():
            slot.next[topic] = self._begin_at(slot, topic, low, end)
        replays = slot.task.start(dict(slot.committed))
        self._replay(slot, replays, {topic: low for topic, (low, _) in bounds.items()})
        slot.state = "replaying"

    def _begin_at(self, slot: Slot, topic: str, low: int, end: int) -> int:
        where = f"{topic}/{slot.partition}"
        position = slot.committed.get(topic)
        if position is None:
            if slot.restored:
                raise Stop(
                    f"there is state for partition {slot.partition} but no committed offset of "
                    f"{where}: its group has been deleted, or its offsets have expired"
                )
            return end if topic in self._from_end else low
        if position.offset > end:
            raise Stop(
                f"the committed offset {position.offset} of {where} lies beyond its end {end}: "
                "the topic has been deleted and created anew"
            )
        return self._not_before(low, position.offset, topic, slot.partition)

    def _replay(self, slot: Slot, replays: Mapping[str, int], lows: Mapping[str, int]) -> None:
        for topic, wanted in replays.items():
            start = self._not_before(lows[topic], wanted, topic, slot.partition)
            end = slot.committed[topic].offset if topic in slot.committed else start
            self._reader.add(TopicPartition(topic, slot.partition), start, end)

    def _not_before(self, low: int, offset: int, topic: str, partition: int) -> int:
        """Give the offset, or stop (or count) when it has been deleted."""
        if offset >= low:
            return offset
        lost = f"records {offset} to {low} of {topic}/{partition} have been deleted"
        if not self._accept_loss:
            raise Stop(
                f"{lost} before they were processed or restored; to go on without them set "
                "[loop] accept_loss = true"
            )
        _log.error("records are lost", topic=topic, partition=partition, first=offset, end=low)
        self._metrics.add(m.LOST, low - offset, topic=topic)
        return low
