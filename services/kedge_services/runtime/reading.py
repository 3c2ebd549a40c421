"""Reading to the end, outside any group: tables, changelogs, ranges to replay.

*The end* is the read-uncommitted end offset, asked for before reading.  An
end-of-partition event alone is not enough: with a transaction still open it
comes at the last stable offset, and committed records may lie behind it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from kedge.errors import BrokerUnavailable
from kedge_services.runtime.ports import Backend, Batch, Consumer, Table, TopicPartition

__all__ = ["RangeReader", "TableReader", "out_of_range"]

#: Longer than a dead process can hold the last stable offset back.
_REFRESH_TIMEOUT_S = 30.0


class RangeReader:
    """Reads ``[start, end)`` of some partitions; its consumer lives only while it is needed."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._consumer: Consumer | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._is_assigned = False

    def add(self, partition: TopicPartition, start: int, end: int) -> None:
        """Read this range too."""
        if start < end:
            self._positions[partition] = start
            self._ends[partition] = end
            self._is_assigned = False

    def forget(self, partition: TopicPartition) -> None:
        """Read this partition no further."""
        if self._ends.pop(partition, None) is not None:
            del self._positions[partition]
            self._is_assigned = False

    def is_done(self, partition: TopicPartition) -> bool:
        """Say whether the partition's range has been read."""
        return partition not in self._ends

    def poll(self, max_records: int, timeout_s: float) -> list[Batch]:
        """Give what has arrived of the ranges."""
        if not self._ends:
            self.close()
            return []
        if self._consumer is None:
            self._consumer = self._backend.consumer(group=None)
        if not self._is_assigned:
            self._consumer.assign(self._positions)
            self._is_assigned = True
        batches = [
            _before(batch, self._ends.get(TopicPartition(batch.topic, batch.partition), 0))
            for batch in self._consumer.poll(max_records, timeout_s)
        ]
        for partition, end in list(self._ends.items()):
            self._positions[partition] = self._consumer.position(partition)
            if self._positions[partition] >= end:
                del self._ends[partition], self._positions[partition]
                # What has been read to its end is not worth another fetch.
                self._consumer.pause([partition])
        return [batch for batch in batches if batch.offsets]

    def close(self) -> None:
        """Release the consumer."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
            self._is_assigned = False


def _before(batch: Batch, end: int) -> Batch:
    count = bisect_left(batch.offsets, end)
    if count == len(batch):
        return batch
    return replace(
        batch,
        offsets=batch.offsets[:count],
        timestamps_ms=batch.timestamps_ms[:count],
        keys=batch.keys[:count],
        values=batch.values[:count],
        headers=batch.headers[:count],
    )


def out_of_range(partition: TopicPartition, offset: int, low: int, end: int) -> str:
    """Say what is wrong with reading from an offset that is not in ``[low, end]``."""
    where = f"{partition.topic}/{partition.partition}"
    if offset < low:
        return f"records {offset} to {low} of {where} were deleted before they were read"
    return (
        f"offset {offset} of {where} lies beyond its end {end}: the topic has been deleted and "
        "created anew"
    )


class TableReader:
    """Feeds the tables of a service from their topics."""

    def __init__(self, backend: Backend, tables: Sequence[Table]) -> None:
        self._tables: dict[str, list[Table]] = {}
        for table in tables:
            self._tables.setdefault(table.topic, []).append(table)
        self._partitions = [
            TopicPartition(topic, partition)
            for topic in self._tables
            for partition in range(backend.partitions(topic))
        ]
        self._consumer: Consumer | None = None
        self._ends: dict[TopicPartition, int] = {}
        if self._partitions:
            self._consumer = backend.consumer(group=None)
            bounds = {p: self._consumer.bounds(p) for p in self._partitions}
            self._ends = {p: end for p, (_, end) in bounds.items()}
            self._consumer.assign({p: start for p, (start, _) in bounds.items()})

    @property
    def is_read(self) -> bool:
        """Whether everything there was at the start has been applied."""
        return not self._ends

    def poll(self, timeout_s: float) -> None:
        """Apply what has arrived."""
        if self._consumer is None:
            return
        for batch in self._consumer.poll(1_000, timeout_s):
            tables = self._tables[batch.topic]
            for record in batch.records():
                for table in tables:
                    table.apply(record)
        if self._ends:
            position = self._consumer.position
            self._ends = {p: end for p, end in self._ends.items() if position(p) < end}

    def refresh(self) -> None:
        """Apply everything that has been committed before this call.

        Raises
        ------
        BrokerUnavailable
            The end was not reached in time.
        """
        if self._consumer is None:
            return
        self._ends = {p: self._consumer.bounds(p)[1] for p in self._partitions}
        deadline = time.monotonic() + _REFRESH_TIMEOUT_S
        self.poll(0.0)
        while self._ends:
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"{', '.join(sorted({p.topic for p in self._ends}))} could not be read to the "
                    f"end within {_REFRESH_TIMEOUT_S:.0f} s"
                )
            self.poll(0.05)

    def close(self) -> None:
        """Release the consumer."""
        if self._consumer is not None:
            self._consumer.close()
