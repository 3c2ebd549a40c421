"""The ports between services and Kafka: what a task is given and what it gives back.

A *task* is one partition of one service: it owns partition p of all the
service's input topics and of its changelog.  It never meets Kafka; the loop
(:mod:`kedge_services.runtime.loop`) hands it batches and takes what it wants
committed.  Topics are named without their prefix everywhere above the ports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from kedge.errors import Retry
from kedge.topics import LARGE_MESSAGE
from kedge_services.runtime.metrics import Metric

__all__ = [
    "RECORD_BYTES",
    "Backend",
    "Batch",
    "Clock",
    "Commit",
    "Consumer",
    "Count",
    "Headers",
    "OffsetsPending",
    "Position",
    "Produce",
    "Producer",
    "Record",
    "Service",
    "Table",
    "Task",
    "TaskContext",
    "TopicPartition",
    "TransactionAborted",
]

#: What a record may have at most.  A broker counts what it puts around a record, too,
#: and what it refuses looks like an abort, after which the same would be sent again.
RECORD_BYTES = LARGE_MESSAGE - 4_096


class TransactionAborted(Retry):
    """The open transaction is gone; restore the state and go on from what is committed."""


class OffsetsPending(Retry):
    """A transaction that is still open decides about the offsets asked for."""


Headers = Sequence[tuple[str, bytes]]
Clock = Callable[[], int]
"""Gives processing time in ms since the epoch."""


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Record(NamedTuple):
    """One record, for services whose rate is low."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition in offset order, as columns of equal length.

    Columns, because the hot path decodes whole batches; offsets may have gaps
    where transaction markers lie.
    """

    topic: str
    partition: int
    offsets: Sequence[int]
    timestamps_ms: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers]

    def __len__(self) -> int:
        """Give the number of records."""
        return len(self.offsets)

    def records(self) -> Iterator[Record]:
        """Go through the records one by one."""
        for offset, timestamp_ms, key, value, headers in zip(
            self.offsets, self.timestamps_ms, self.keys, self.values, self.headers, strict=True
        ):
            yield Record(
                self.topic, self.partition, offset, timestamp_ms, key, value, headers
            )  # fmt: skip


class Produce(NamedTuple):
    """A record to be sent; ``partition`` None lets murmur2 of the key decide."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Position:
    """A committed offset (the next to be read) and the metadata committed with it."""

    offset: int
    metadata: str = ""


class Count(NamedTuple):
    """What a counter rises by when the transaction is durable."""

    metric: Metric
    amount: int
    labels: Mapping[str, str]


@dataclass(slots=True)
class Commit:
    """What a task wants in the next transaction.

    Attributes
    ----------
    outputs
        Records for other topics.
    changelog
        Pairs of state key and value for the task's partition of the changelog;
        None deletes.
    offsets
        Next offset by input topic, only where it differs from what the loop has
        handed over (a task that has not finished what it was given).
    metadata
        Up to 4,000 bytes a topic, committed with the offset.
    counts
        For ``/metrics``; counted only if the transaction is committed.
    """

    outputs: list[Produce] = field(default_factory=list)
    changelog: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    counts: list[Count] = field(default_factory=list)


class Task(Protocol):
    """One partition of a service.

    The loop calls ``restore`` with the changelog, then ``start``, then
    ``replay`` for what ``start`` asked to be read again, and from then on
    ``process`` and ``tick``; ``commit`` and ``committed`` enclose a
    transaction.  After an abort the task is closed and made anew.  Anything it
    raises stops the process.
    """

    def restore(self, batch: Batch) -> None:
        """Take a batch of the changelog, in order; the last value of a key counts."""

    def start(self, positions: Mapping[str, Position]) -> Mapping[str, int]:
        """Learn the committed positions; give, by topic, from where to replay up to them.

        A topic without a committed position is absent from ``positions``.
        """

    def replay(self, batch: Batch) -> None:
        """Take records again that were committed before: rebuild, send nothing."""

    def process(self, batch: Batch) -> None:
        """Take new records of one input topic."""

    def tick(self, now_ms: int, at_end: Mapping[str, bool]) -> None:
        """Do what time asks for; called after every poll, with or without records.

        ``at_end[topic]`` says that the partition has been read to its end.
        """

    def paused(self) -> frozenset[str]:
        """Give the input topics that should not be read for now (back-pressure)."""

    def commit(self) -> Commit:
        """Give what belongs into the transaction now about to be committed."""

    def committed(self) -> None:
        """Write to the local store what belongs there: the transaction is durable."""

    def close(self) -> None:
        """Release local resources; not called after a crash."""


class Table(Protocol):
    """A small compacted topic that a process reads whole, outside its group."""

    @property
    def topic(self) -> str:
        """Give the topic's name."""

    def apply(self, record: Record) -> None:
        """Take one record; a value of None deletes."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a task is made from.

    ``refresh`` reads the service's tables to their present end, so that an
    event can be judged with everything that was committed before it was sent.
    ``partitions`` gives the number of partitions of a topic.
    """

    partition: int
    clock: Clock
    refresh: Callable[[], None]
    partitions: Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Service:
    """A service as the loop sees it.

    ``inputs`` are co-partitioned: one task owns the same partition of each.
    ``changelog`` says whether ``<name>-changelog`` exists.  ``commit_interval_ms``
    replaces a longer setting for a service whose answers are waited for.  Inputs
    ``from_end`` are read from their end by a group that has no position in
    them: it owes nothing to what came before.  ``sends_in_parts`` says that a
    task pauses when it has enough for a transaction; it is committed at once.
    """

    name: str
    inputs: tuple[str, ...]
    tables: tuple[Table, ...]
    make_task: Callable[[TaskContext], Task]
    changelog: bool = True
    commit_interval_ms: int | None = None
    from_end: frozenset[str] = frozenset()
    sends_in_parts: bool = False


# ------------------------------------------------- what a broker has to offer


class Consumer(Protocol):
    """A consumer of committed records; one caller only."""

    def subscribe(
        self,
        topics: Sequence[str],
        *,
        on_assign: Callable[[list[TopicPartition]], None],
        on_revoke: Callable[[list[TopicPartition]], None],
        on_lost: Callable[[list[TopicPartition]], None],
    ) -> None:
        """Join the group; callbacks run inside :meth:`poll`.

        Newly assigned partitions stand at their beginning, paused: seek and resume them.
        """

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions from these offsets, none paused, outside any group."""

    def poll(self, max_records: int, timeout_s: float) -> list[Batch]:
        """Give what has arrived, grouped by partition, after at most the time-out.

        Raises
        ------
        Stop
            Records that were to be read have been deleted.
        Fenced
            Another process has this member's place in its group.
        """

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read this assigned partition from here on."""

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Stop handing out records of these partitions."""

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Go on with these partitions."""

    def at_end(self, partition: TopicPartition) -> bool:
        """Say whether everything readable of the partition has been handed out.

        False while it is paused: nobody looks then.
        """

    def position(self, partition: TopicPartition) -> int:
        """Give the offset to be handed out next.

        At the end of what is readable it lies behind transaction markers and
        aborted records, which are never handed out.
        """

    def lag(self, partition: TopicPartition) -> int:
        """Give the number of offsets up to the last known end; 0 at the end.

        An open transaction may be counted in until the end has been seen.
        """

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Position]:
        """Give the group's committed positions; partitions without one are absent.

        Raises
        ------
        OffsetsPending
            An open transaction holds offsets of these partitions; ask again.
        """

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """Give the first offset and the read-uncommitted end offset."""

    def group_metadata(self) -> Any:
        """Give what fences this member's commits, as of now.

        Raises
        ------
        TransactionAborted
            The group has expelled this member; nobody would fence its commit.
        """

    def close(self) -> None:
        """Leave the group."""


class Producer(Protocol):
    """A transactional producer."""

    def begin(self) -> None:
        """Open a transaction.

        This and all calls inside a transaction raise what :meth:`commit` raises.
        """

    def produce(self, record: Produce) -> None:
        """Send a record in the open transaction.

        Raises
        ------
        Stop
            It has more than :data:`RECORD_BYTES`, or no transaction is open.
        Misconfigured
            The topic does not exist.
        """

    def send_offsets(
        self,
        offsets: Mapping[TopicPartition, Position],
        group_metadata: Any,
    ) -> None:
        """Put consumed offsets into the open transaction."""

    def commit(self) -> None:
        """Commit; readers may see it a moment later.

        Raises
        ------
        TransactionAborted
            The transaction is gone; restore and go on from the committed state.
        Fenced
            Another process has this transactional id.
        """

    def abort(self) -> None:
        """Abort the open transaction."""

    def close(self) -> None:
        """Give up the connection; an open transaction is aborted."""


class Backend(Protocol):
    """A broker: Kafka or the one in memory."""

    def consumer(self, *, group: str | None, instance: str | None = None) -> Consumer:
        """Make a consumer; without a group it can only ``assign``."""

    def producer(self, transactional_id: str) -> Producer:
        """Make a producer and initialise its transactions (fencing older ones)."""

    def partitions(self, topic: str) -> int:
        """Give the number of partitions.

        Raises
        ------
        Misconfigured
            The topic does not exist.
        """
