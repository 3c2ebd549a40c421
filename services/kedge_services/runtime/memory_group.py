"""Consumers and their groups on the broker in memory.

A rebalance goes as in Kafka's eager protocol: every member gives up what it
has at its next poll, and only when all have done so the next generation
begins.  Members with an instance name (static ones) keep their partitions
when they leave, until they come back, their session is over by the broker's
clock, or they are expelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kedge.errors import Fenced, Stop
from kedge_services.runtime.memory_log import Log
from kedge_services.runtime.ports import (
    Batch,
    Position,
    TopicPartition,
    TransactionAborted,
)
from kedge_services.runtime.reading import out_of_range

if TYPE_CHECKING:
    from kedge_services.runtime.memory import MemoryBroker

__all__ = ["Group", "MemoryConsumer"]

Callback = Callable[[list[TopicPartition]], None]

#: Ours, see ``kafka_consumer.py``.
SESSION_TIMEOUT_MS = 6_000


@dataclass(slots=True)
class _Member:
    number: int
    instance: str | None
    topics: tuple[str, ...]
    has_joined: bool = False
    left_ms: int | None = None
    assignment: list[TopicPartition] = field(default_factory=list)


@dataclass(slots=True)
class Group:
    """Members, generation and committed offsets of one consumer group."""

    generation: int = 0
    members: dict[int, _Member] = field(default_factory=dict)
    offsets: dict[TopicPartition, Position] = field(default_factory=dict)
    is_rebalancing: bool = False
    _numbers: int = 0

    def join(self, instance: str | None, topics: Sequence[str]) -> int:
        """Take in a member and give its number; a known instance takes its old place."""
        self._numbers += 1
        member = _Member(self._numbers, instance, tuple(topics))
        former = next(
            (m for m in self.members.values() if instance and m.instance == instance), None
        )
        self.members[member.number] = member
        if former is None:
            self.is_rebalancing = True
        else:
            del self.members[former.number]
            member.assignment = former.assignment
        return member.number

    def leave(self, number: int, now_ms: int) -> None:
        """Let a member go; a static one keeps its place until its session is over."""
        member = self.members.get(number)
        if member is not None and member.instance is None:
            self._remove(number)
        elif member is not None:
            member.left_ms = now_ms

    def end_sessions(self, now_ms: int) -> None:
        """Remove those that left a session ago and have not come back."""
        for number, member in list(self.members.items()):
            if member.left_ms is not None and now_ms - member.left_ms > SESSION_TIMEOUT_MS:
                self._remove(number)

    def expel(self, instance: str) -> None:
        """Remove a static member: its session is over."""
        for number, member in list(self.members.items()):
            if member.instance == instance:
                self._remove(number)

    def complete(self, partitions: Callable[[str], int]) -> None:
        """Begin the next generation once every member has joined."""
        if not self.is_rebalancing or not all(m.has_joined for m in self.members.values()):
            return
        self.is_rebalancing = False
        self.generation += 1
        order = sorted(self.members.values(), key=lambda m: (m.instance or "", m.number))
        for member in order:
            member.assignment = []
            member.has_joined = False
        for topic in sorted({topic for member in order for topic in member.topics}):
            _assign_range(topic, partitions(topic), [m for m in order if topic in m.topics])

    def check(self, generation: int, number: int) -> None:
        """Fence offsets of a member that is none, or not of this generation."""
        if number not in self.members or generation != self.generation:
            raise TransactionAborted("the group has gone on without this member")

    def _remove(self, number: int) -> None:
        del self.members[number]
        self.is_rebalancing = True


def _assign_range(topic: str, partitions: int, members: Sequence[_Member]) -> None:
    """Give each member a run of partitions, the first ones one more where it does not divide."""
    share, more = divmod(partitions, len(members))
    start = 0
    for index, member in enumerate(members):
        stop = start + share + (index < more)
        member.assignment += [TopicPartition(topic, p) for p in range(start, stop)]
        start = stop


class MemoryConsumer:
    """A consumer of committed records; implements ``ports.Consumer``."""

    def __init__(self, broker: MemoryBroker, *, group: str | None, instance: str | None) -> None:
        self._broker = broker
        self._group = group
        self._instance = instance
        self._topics: tuple[str, ...] = ()
        self._callbacks: tuple[Callback, Callback, Callback] | None = None
        self._number = 0
        self._generation = -1
        self._held: list[TopicPartition] = []
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        #: What is read, in order; None when it has to be found out anew.
        self._reading: list[tuple[TopicPartition, Log]] | None = None
        self._turn = 0

    def subscribe(
        self,
        topics: Sequence[str],
        *,
        on_assign: Callback,
        on_revoke: Callback,
        on_lost: Callback,
    ) -> None:
        """Join the group; callbacks run inside :meth:`poll`."""
        if self._group is None:
            raise ValueError("a consumer without a group cannot subscribe")
        for topic in topics:
            self._broker.partitions(topic)
        self._topics = tuple(topics)
        self._callbacks = (on_assign, on_revoke, on_lost)
        self._number = self._members.join(self._instance, topics)

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions from these offsets, outside any group."""
        self._positions = dict(offsets)
        self._paused.clear()
        self._reading = None

    def poll(self, max_records: int, timeout_s: float) -> list[Batch]:  # noqa: ARG002
        """Give what is there, partition by partition, beginning with another one each time."""
        self._broker.keep_time()
        if self._callbacks is not None:
            self._take_part(*self._callbacks)
        reading = self._reading
        if reading is None:
            read = sorted(self._positions.keys() - self._paused)
            reading = self._reading = [(p, self._broker.log(p)) for p in read]
        self._turn += 1
        turn = self._turn % (len(reading) or 1)
        batches, positions = [], self._positions
        for partition, log in reading[turn:] + reading[:turn] if turn else reading:
            position = positions[partition]
            if position == log.end:
                continue
            if not log.start <= position <= log.end:
                raise Stop(out_of_range(partition, position, log.start, log.end))
            batch, positions[partition] = log.read(position, max_records)
            if batch is not None:
                batches.append(batch)
                max_records -= len(batch)
                if not max_records:
                    break
        return batches

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read this assigned partition from here on."""
        self._positions[partition] = offset

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Stop handing out records of these partitions."""
        self._paused.update(partitions)
        self._reading = None

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Go on with these partitions."""
        self._paused.difference_update(partitions)
        self._reading = None

    def at_end(self, partition: TopicPartition) -> bool:
        """Say whether everything readable of the partition has been handed out."""
        return partition not in self._paused and self.lag(partition) <= 0

    def position(self, partition: TopicPartition) -> int:
        """Give the offset to be handed out next."""
        return self._positions[partition]

    def lag(self, partition: TopicPartition) -> int:
        """Give the number of offsets up to the last stable one."""
        return max(0, self._broker.log(partition).stable - self._positions[partition])

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Position]:
        """Give the group's committed positions; partitions without one are absent."""
        if self._group is None:
            raise ValueError("a consumer without a group has committed nothing")
        return self._broker.stable_offsets(self._group, partitions)

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """Give the first offset and the read-uncommitted end offset."""
        self._broker.keep_time()
        log = self._broker.log(partition)
        return log.start, log.end

    def group_metadata(self) -> Any:
        """Give what fences this member's commits, as of now."""
        if self._generation < 0:
            raise TransactionAborted("this process is no member of its group")
        return self._group, self._generation, self._number

    def close(self) -> None:
        """Leave the group."""
        if self._callbacks is not None and self._held:
            self._callbacks[1](self._held)
        if self._number:
            self._members.leave(self._number, self._broker.clock())
        self._callbacks, self._generation, self._held = None, -1, []
        self._positions.clear()
        self._reading = None

    @property
    def _members(self) -> Group:
        return self._broker.group(self._group or "")

    def _take_part(self, on_assign: Callback, on_revoke: Callback, on_lost: Callback) -> None:
        """Do what a member does at a poll: give up, join, take over."""
        group = self._members
        group.end_sessions(self._broker.clock())
        member = group.members.get(self._number)
        if member is None and any(
            m.instance == self._instance for m in group.members.values() if m.instance
        ):
            raise Fenced(f"another process has taken the place of {self._instance} in its group")
        if member is None:
            self._generation = -1
            self._give_up(on_lost)
            self._number = group.join(self._instance, self._topics)
            member = group.members[self._number]
        if group.is_rebalancing and not member.has_joined:
            self._give_up(on_revoke)
            member.has_joined = True
        group.complete(self._broker.partitions)
        if not group.is_rebalancing and self._generation != group.generation:
            self._generation = group.generation
            self._held = list(member.assignment)
            self._positions = {p: self._broker.log(p).start for p in self._held}
            self._paused = set(self._held)
            self._reading = None
            on_assign(list(self._held))

    def _give_up(self, callback: Callback) -> None:
        held, self._held = self._held, []
        if held:
            callback(held)
        self._positions.clear()
        self._paused.clear()
        self._reading = None
        self._generation = -1
