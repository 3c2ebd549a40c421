"""A broker in memory: for replays, for users' tests and for ours.

It keeps what Kedge builds on: transactions that are visible only when they
are committed and that end by themselves when they are left open, the last
stable offset, markers that take up an offset, fencing of transactional ids and
of expelled members, consumer groups with range assignment and static members,
offsets with metadata, compaction and retention when they are asked for.  The
same suite runs on it and on Kafka (``tests/kafka``).

What it has not: threads (nothing in it waits: a poll gives what is there at
once, and its clock is the one it is given), configurations of topics (it takes
any time a record comes with, and records without a key everywhere), and
heartbeats (a member that left keeps its place for a session; one that died
keeps it until :meth:`MemoryBroker.expel`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kedge.errors import Fenced, Misconfigured, Stop
from kedge.topics import murmur2
from kedge_services.runtime.memory_group import Group, MemoryConsumer
from kedge_services.runtime.memory_log import Log, Transaction
from kedge_services.runtime.ports import (
    RECORD_BYTES,
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
#: Ours, see ``kafka.py``: a transaction that is open for longer is aborted.
TRANSACTION_TIMEOUT_MS = 6_000


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


class MemoryBroker:
    """Topics, groups and transactions in one process; implements ``ports.Backend``.

    Parameters
    ----------
    clock
        Gives the time of appending; transactions and sessions end by it.
    partitions
        Number of partitions by topic, named without prefix.
    """

    def __init__(self, clock: Clock, partitions: Mapping[str, int]) -> None:
        self.clock = clock
        self._logs: dict[str, list[Log]] = {}
        self._groups: dict[str, Group] = {}
        self._epochs: dict[str, int] = {}
        self._transactions: dict[str, Transaction] = {}
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
            self._logs[topic] = [Log(topic, partition) for partition in range(count)]

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
        at_ms = self.clock() if timestamp_ms is None else timestamp_ms
        return self.log_for(topic, key, partition).append(at_ms, key, value, headers)

    def append_many(
        self,
        topic: str,
        partition: int,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int],
    ) -> None:
        """Append records outside any transaction, given as columns of equal length."""
        self.log(TopicPartition(topic, partition)).extend(timestamps_ms, keys, values)

    def records(self, topic: str, partition: int | None = None) -> list[Record]:
        """Give the committed records of a topic, by partition and offset."""
        chosen = range(self.partitions(topic)) if partition is None else [partition]
        logs = [self.log(TopicPartition(topic, number)) for number in chosen]
        batches = [log.read(log.start, log.end)[0] for log in logs]
        return [record for batch in batches if batch is not None for record in batch.records()]

    def committed(self, group: str) -> dict[TopicPartition, Position]:
        """Give the committed positions of a group."""
        return dict(self.group(group).offsets)

    def read_by_all(self, partition: TopicPartition) -> int | None:
        """Give the lowest offset that a group has committed here; None: no group reads it."""
        positions = (group.offsets.get(partition) for group in self._groups.values())
        return min((p.offset for p in positions if p is not None), default=None)

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Delete the records before an offset, as retention does; their memory is free."""
        self.log(TopicPartition(topic, partition)).delete_before(offset)

    def compact(self, topic: str, *, keep_tombstones: bool = False) -> None:
        """Keep the last value of every key, at its offset, as Kafka's cleaner does in time.

        Tombstones, which Kafka keeps for a day, go unless they are to be kept.
        """
        for partition in range(self.partitions(topic)):
            self.log(TopicPartition(topic, partition)).compact(keep_tombstones=keep_tombstones)

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
        return self.log_for(partition.topic, None, partition.partition)

    def log_for(self, topic: str, key: bytes | None, partition: int | None) -> Log:
        """Give the log a record goes to; murmur2 of the key decides where nobody has."""
        logs = self._logs.get(topic)
        if logs is None:
            raise Misconfigured(f"topic {topic} does not exist")
        if partition is None:
            partition = (murmur2(key or b"") & 0x7FFFFFFF) % len(logs)
        if not 0 <= partition < len(logs):
            raise Misconfigured(f"{topic}/{partition} does not exist")
        return logs[partition]

    def stable_offsets(
        self, group: str, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, Position]:
        """Give committed positions once no open transaction decides about them."""
        self.keep_time()
        for transaction in self._transactions.values():
            if not transaction.offsets.get(group, {}).keys().isdisjoint(partitions):
                raise OffsetsPending("an open transaction holds offsets of this group")
        offsets = self.group(group).offsets
        return {partition: offsets[partition] for partition in partitions if partition in offsets}

    def keep_time(self) -> None:
        """Abort the transactions that have been open for too long, and fence their owners."""
        if self._transactions:
            latest_ms = self.clock() - TRANSACTION_TIMEOUT_MS
            late = [t for t in self._transactions.values() if t.began_ms < latest_ms]
            for transaction in late:
                self.new_epoch(transaction.transactional_id)

    def new_epoch(self, transactional_id: str) -> int:
        """Fence the producers of this id and abort what they left open."""
        self._epochs[transactional_id] = self._epochs.get(transactional_id, 0) + 1
        transaction = self._transactions.get(transactional_id)
        if transaction is not None:
            self.decide(transaction, "aborted")
        return self._epochs[transactional_id]

    def epoch(self, transactional_id: str) -> int:
        """Give the epoch that is not fenced."""
        return self._epochs[transactional_id]

    def open(self, transactional_id: str) -> Transaction:
        """Open a transaction."""
        transaction = Transaction(transactional_id, self.clock())
        self._transactions[transactional_id] = transaction
        return transaction

    def add_offsets(
        self, transaction: Transaction, offsets: Mapping[TopicPartition, Position], member: Any
    ) -> None:
        """Put offsets into an open transaction; the group fences who is no member."""
        name, generation, member_id = member
        self.group(name).check(generation, member_id)
        for position in offsets.values():
            if len(position.metadata.encode()) >= METADATA_BYTES:
                raise TransactionAborted("the metadata of an offset is too large")
        transaction.offsets.setdefault(name, {}).update(offsets)

    def decide(self, transaction: Transaction, status: Literal["committed", "aborted"]) -> None:
        """End an open transaction."""
        del self._transactions[transaction.transactional_id]
        transaction.status = status
        for log in transaction.runs:
            log.decide(transaction)
        if status == "committed":
            for group, offsets in transaction.offsets.items():
                self.group(group).offsets.update(offsets)

    @property
    def is_scripted(self) -> bool:
        """Whether a failure of a producer call has been injected."""
        return bool(self._script)

    def play(self, step: Step) -> None:
        """Raise what the script has for this step."""
        for index, (scripted, after, error) in enumerate(self._script):
            if scripted == step:
                if after == 0:
                    del self._script[index]
                    raise error
                self._script[index] = (scripted, after - 1, error)
                return


class MemoryProducer:
    """A transactional producer of a :class:`MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, transactional_id: str) -> None:
        self._broker = broker
        self._id = transactional_id
        self._epoch = broker.new_epoch(transactional_id)
        self._transaction: Transaction | None = None

    def begin(self) -> None:
        """Open a transaction."""
        self._enter("begin")
        if self._transaction is not None:
            raise Stop("a transaction is open already")
        self._transaction = self._broker.open(self._id)

    def produce(self, record: Produce) -> None:
        """Append a record that nobody sees before the commit."""
        topic, key, value, partition, headers = record
        broker, transaction = self._broker, self._transaction
        if transaction is None or transaction.status != "open" or broker.is_scripted:
            transaction = self._inside("produce")
        if value is not None and len(value) > RECORD_BYTES:
            raise Stop(f"{topic}: message size too large")
        log = broker.log_for(topic, key, partition)
        log.append(broker.clock(), key, value, headers, transaction)

    def send_offsets(self, offsets: Mapping[TopicPartition, Position], group_metadata: Any) -> None:
        """Put consumed offsets into the open transaction."""
        self._broker.add_offsets(self._inside("send_offsets"), offsets, group_metadata)

    def commit(self) -> None:
        """Make the transaction visible."""
        self._broker.decide(self._inside("commit"), "committed")
        self._transaction = None
        self._broker.play("committed")

    def abort(self) -> None:
        """Abort the open transaction, if there is one."""
        self._enter("abort")
        self._give_up()

    def close(self) -> None:
        """Abort what is open."""
        if self._broker.epoch(self._id) == self._epoch:
            self._give_up()

    def _give_up(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            self._broker.decide(transaction, "aborted")

    def _enter(self, step: Step) -> None:
        self._broker.keep_time()
        if self._broker.epoch(self._id) != self._epoch:
            raise Fenced(
                f"another process has taken the slot {self._id}, or its transaction was open for "
                "longer than a transaction may take"
            )
        self._broker.play(step)

    def _inside(self, step: Step) -> Transaction:
        self._enter(step)
        if self._transaction is None:
            raise Stop(f"{step} without a transaction")
        return self._transaction
