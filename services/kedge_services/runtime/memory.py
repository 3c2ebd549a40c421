"""A broker in memory: for replays, for users' tests and for ours.

It keeps what Kedge builds on: transactions that are visible only when they
are committed, the last stable offset, markers that take up an offset, fencing
of transactional ids and of expelled members, consumer groups with range
assignment, offsets with metadata.  The same suite runs on it and on Kafka
(``tests/kafka``).

What it has not: compaction (a compacted topic keeps every record), retention
other than :meth:`MemoryBroker.delete_before`, sessions that end by themselves
(:meth:`MemoryBroker.expel` ends one), and threads.  Nothing in it waits: a
poll gives what is there at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from kedge.errors import Fenced, Misconfigured, Stop
from kedge.topics import LARGE_MESSAGE, murmur2
from kedge_services.runtime.memory_group import Group, MemoryConsumer
from kedge_services.runtime.ports import (
    Clock,
    Headers,
    OffsetsPending,
    Position,
    Produce,
    Record,
    TopicPartition,
    TransactionAborted,
)

__all__ = ["Crash", "ManualClock", "MemoryBroker", "MemoryProducer", "Step"]

#: Where a crash can be scripted; ``commit`` is before, ``committed`` after the decision.
Step = Literal["begin", "produce", "send_offsets", "commit", "committed", "abort"]

#: Kafka's ``offset.metadata.max.bytes``.
METADATA_BYTES = 4_096


class Crash(Exception):
    """The process dies here; give it to :meth:`MemoryBroker.inject`."""


@dataclass(slots=True)
class ManualClock:
    """A clock that stands still until it is moved."""

    now_ms: int = 0

    def __call__(self) -> int:
        """Give the time."""
        return self.now_ms

    def advance(self, ms: int) -> None:
        """Move on."""
        self.now_ms += ms


@dataclass(slots=True, eq=False)
class _Transaction:
    status: Literal["open", "committed", "aborted"] = "open"
    touched: set[TopicPartition] = field(default_factory=set)
    offsets: dict[str, dict[TopicPartition, Position]] = field(default_factory=dict)


class _Entry(NamedTuple):
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    transaction: _Transaction | None
    is_marker: bool = False


class Log:
    """One partition: records and transaction markers, at offsets without gaps."""

    def __init__(self) -> None:
        self.start = 0
        self._entries: list[_Entry] = []
        self._open: dict[_Transaction, int] = {}

    @property
    def end(self) -> int:
        """The read-uncommitted end offset."""
        return len(self._entries)

    @property
    def stable(self) -> int:
        """The last stable offset: nothing is open before it."""
        return min(self._open.values(), default=len(self._entries))

    def append(self, entry: _Entry) -> None:
        """Add a record at the end."""
        if entry.transaction is not None:
            self._open.setdefault(entry.transaction, len(self._entries))
        self._entries.append(entry)

    def decide(self, transaction: _Transaction, timestamp_ms: int) -> None:
        """Write the marker that ends a transaction."""
        self._open.pop(transaction, None)
        self._entries.append(_Entry(timestamp_ms, None, None, (), transaction, is_marker=True))

    def read(self, position: int, limit: int) -> tuple[list[tuple[int, _Entry]], int]:
        """Give up to ``limit`` committed records from ``position``, and the next position."""
        found: list[tuple[int, _Entry]] = []
        stable = self.stable
        while position < stable and len(found) < limit:
            entry = self._entries[position]
            decided = entry.transaction is None or entry.transaction.status == "committed"
            if decided and not entry.is_marker:
                found.append((position, entry))
            position += 1
        return found, position


class MemoryBroker:
    """Topics, groups and transactions in one process; implements ``ports.Backend``.

    Parameters
    ----------
    clock
        Gives the time of appending.
    partitions
        Number of partitions by topic, named without prefix.
    """

    def __init__(self, clock: Clock, partitions: Mapping[str, int]) -> None:
        self.clock = clock
        self._logs: dict[str, list[Log]] = {}
        self._groups: dict[str, Group] = {}
        self._epochs: dict[str, int] = {}
        self._transactions: dict[str, _Transaction] = {}
        self._script: list[tuple[Step, int, Exception]] = []
        self.create(partitions)

    # ---------------------------------------------------------------- backend

    def consumer(self, *, group: str | None, instance: str | None = None) -> MemoryConsumer:
        """Make a consumer; without a group it can only ``assign``."""
        return MemoryConsumer(self, group=group, instance=instance)

    def producer(self, transactional_id: str) -> MemoryProducer:
        """Make a producer; an older one of this id is fenced, what it left open aborted."""
        return MemoryProducer(self, transactional_id)

    def partitions(self, topic: str) -> int:
        """Give the number of partitions.

        Raises
        ------
        Misconfigured
            The topic does not exist.
        """
        if topic not in self._logs:
            raise Misconfigured(f"topic {topic} does not exist")
        return len(self._logs[topic])

    # ------------------------------------------------------- for whoever drives it

    def create(self, partitions: Mapping[str, int]) -> None:
        """Create topics with these numbers of partitions."""
        for topic, count in partitions.items():
            self._logs[topic] = [Log() for _ in range(count)]

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
    ) -> int:
        """Append a record outside any transaction; give its offset."""
        record = Produce(topic, key, value, partition, headers)
        log = self.log(self._place(record))
        log.append(
            _Entry(
                self.clock() if timestamp_ms is None else timestamp_ms, key, value, headers, None
            )
        )
        return log.end - 1

    def records(self, topic: str, partition: int | None = None) -> list[Record]:
        """Give the committed records of a topic, by partition and offset."""
        chosen = range(self.partitions(topic)) if partition is None else [partition]
        return [
            Record(topic, p, offset, e.timestamp_ms, e.key, e.value, e.headers)
            for p in chosen
            for offset, e in self._logs[topic][p].read(
                self._logs[topic][p].start, self._logs[topic][p].end
            )[0]
        ]

    def committed(self, group: str) -> dict[TopicPartition, Position]:
        """Give the committed positions of a group."""
        return dict(self.group(group).offsets)

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Delete the records before an offset, as retention does."""
        self._logs[topic][partition].start = offset

    def expel(self, group: str, instance: str) -> None:
        """End the session of a member, as a broker does that hears nothing of it."""
        self.group(group).expel(instance)

    def inject(self, step: Step, error: Exception, *, after: int = 0) -> None:
        """Let the next producer call of this kind fail once, after some that succeed.

        :class:`Crash` stands for the death of the process;
        ``TransactionAborted`` and ``Fenced`` for what a broker answers.
        """
        self._script.append((step, after, error))

    # ------------------------------------------------- for consumers and producers

    def group(self, name: str) -> Group:
        """Give a group, made when it is first asked for."""
        return self._groups.setdefault(name, Group())

    def log(self, partition: TopicPartition) -> Log:
        """Give the log of a partition."""
        logs = self._logs.get(partition.topic, [])
        if not 0 <= partition.partition < len(logs):
            raise Misconfigured(f"{partition.topic}/{partition.partition} does not exist")
        return logs[partition.partition]

    def pending(self, group: str, partition: TopicPartition) -> bool:
        """Say whether an open transaction holds an offset of the group."""
        return any(partition in t.offsets.get(group, {}) for t in self._transactions.values())

    def stable_offsets(
        self, group: str, partitions: list[TopicPartition]
    ) -> dict[TopicPartition, Position]:
        """Give committed positions once no open transaction decides about them."""
        if any(self.pending(group, partition) for partition in partitions):
            raise OffsetsPending("an open transaction holds offsets of this group")
        offsets = self.group(group).offsets
        return {partition: offsets[partition] for partition in partitions if partition in offsets}

    def new_epoch(self, transactional_id: str) -> int:
        """Fence the producers of this id and abort what they left open."""
        self._epochs[transactional_id] = self._epochs.get(transactional_id, 0) + 1
        self.decide(transactional_id, "aborted")
        return self._epochs[transactional_id]

    def epoch(self, transactional_id: str) -> int:
        """Give the epoch that is not fenced."""
        return self._epochs[transactional_id]

    def open(self, transactional_id: str) -> None:
        """Open a transaction."""
        self._transactions[transactional_id] = _Transaction()

    def is_open(self, transactional_id: str) -> bool:
        """Say whether the id has an open transaction."""
        return transactional_id in self._transactions

    def add_record(self, transactional_id: str, record: Produce) -> None:
        """Append a record to the open transaction."""
        if len(record.value or b"") > LARGE_MESSAGE:
            raise Stop(f"{record.topic}: message size too large")
        transaction = self._transactions[transactional_id]
        place = self._place(record)
        log = self.log(place)
        transaction.touched.add(place)
        log.append(_Entry(self.clock(), record.key, record.value, record.headers, transaction))

    def add_offsets(
        self, transactional_id: str, offsets: Mapping[TopicPartition, Position], member: Any
    ) -> None:
        """Put offsets into the open transaction; the group fences who is no member."""
        name, generation, member_id = member
        self.group(name).check(generation, member_id)
        for position in offsets.values():
            if len(position.metadata.encode()) >= METADATA_BYTES:
                raise TransactionAborted("the metadata of an offset is too large")
        self._transactions[transactional_id].offsets.setdefault(name, {}).update(offsets)

    def decide(self, transactional_id: str, status: Literal["committed", "aborted"]) -> None:
        """End the open transaction, if there is one."""
        transaction = self._transactions.pop(transactional_id, None)
        if transaction is None:
            return
        transaction.status = status
        for place in sorted(transaction.touched):
            self.log(place).decide(transaction, self.clock())
        if status == "committed":
            for group, offsets in transaction.offsets.items():
                self.group(group).offsets.update(offsets)

    def play(self, step: Step) -> None:
        """Raise what the script has for this step."""
        for index, (scripted, after, error) in enumerate(self._script):
            if scripted == step:
                if after == 0:
                    del self._script[index]
                    raise error
                self._script[index] = (scripted, after - 1, error)
                return

    def _place(self, record: Produce) -> TopicPartition:
        partition = record.partition
        if partition is None:
            partition = (murmur2(record.key or b"") & 0x7FFFFFFF) % self.partitions(record.topic)
        return TopicPartition(record.topic, partition)


class MemoryProducer:
    """A transactional producer of a :class:`MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, transactional_id: str) -> None:
        self._broker = broker
        self._id = transactional_id
        self._epoch = broker.new_epoch(transactional_id)

    def begin(self) -> None:
        """Open a transaction."""
        self._enter("begin")
        self._broker.open(self._id)

    def produce(self, record: Produce) -> None:
        """Append a record that nobody sees before the commit."""
        self._enter("produce")
        self._broker.add_record(self._id, record)

    def send_offsets(self, offsets: Mapping[TopicPartition, Position], group_metadata: Any) -> None:
        """Put consumed offsets into the open transaction."""
        self._enter("send_offsets")
        self._broker.add_offsets(self._id, offsets, group_metadata)

    def commit(self) -> None:
        """Make the transaction visible."""
        self._enter("commit")
        self._broker.decide(self._id, "committed")
        self._broker.play("committed")

    def abort(self) -> None:
        """Abort the open transaction, if there is one."""
        self._enter("abort")
        self._broker.decide(self._id, "aborted")

    def close(self) -> None:
        """Abort what is open."""
        if self._broker.epoch(self._id) == self._epoch:
            self._broker.decide(self._id, "aborted")

    def _enter(self, step: Step) -> None:
        if self._broker.epoch(self._id) != self._epoch:
            raise Fenced(f"another process has taken the slot {self._id}")
        if step not in {"begin", "abort"} and not self._broker.is_open(self._id):
            raise RuntimeError(f"{step} without a transaction")
        self._broker.play(step)
