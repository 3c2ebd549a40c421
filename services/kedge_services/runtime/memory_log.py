"""One partition of the broker in memory, as columns.

Records of aborted transactions and transaction markers are not kept, they only
leave gaps in the offsets; so what is readable is always a slice.  Nothing here
is done per record that can be done per slice: a replay pushes millions through.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kedge_services.runtime.ports import Batch, Headers, Position, TopicPartition

__all__ = ["Log", "Transaction"]


@dataclass(slots=True, eq=False)
class Transaction:
    """What a producer has sent since it began.

    ``runs`` are the ranges of offsets it has written, by partition; the run
    being written is known to the log alone.
    """

    transactional_id: str
    began_ms: int
    status: Literal["open", "committed", "aborted"] = "open"
    runs: dict[Log, list[tuple[int, int]]] = field(default_factory=dict)
    offsets: dict[str, dict[TopicPartition, Position]] = field(default_factory=dict)


class Log:
    """Records in the order of their offsets, which have gaps.

    Attributes
    ----------
    start
        The first offset that can be read.
    end
        The read-uncommitted end offset.
    """

    __slots__ = (
        "_headers", "_keys", "_offsets", "_open", "_run", "_timestamps", "_values", "_writer",
        "end", "partition", "start", "topic",
    )  # fmt: skip

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.start = 0
        self.end = 0
        self._offsets: list[int] = []
        self._timestamps: list[int] = []
        self._keys: list[bytes | None] = []
        self._values: list[bytes | None] = []
        self._headers: list[Headers] = []
        #: Open transactions and their first offset here, in that order.
        self._open: dict[Transaction, int] = {}
        #: Who wrote the last record, and since which offset without a break.
        self._writer: Transaction | None = None
        self._run = 0

    @property
    def stable(self) -> int:
        """The last stable offset: nothing is open before it."""
        return next(iter(self._open.values())) if self._open else self.end

    # ------------------------------------------------------------------- writing

    def append(
        self,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        transaction: Transaction | None = None,
    ) -> int:
        """Add a record at the end; give its offset."""
        if transaction is not self._writer:
            self._change_writer(transaction)
        offset = self.end
        self.end = offset + 1
        self._offsets.append(offset)
        self._timestamps.append(timestamp_ms)
        self._keys.append(key)
        self._values.append(value)
        self._headers.append(headers)
        return offset

    def extend(
        self,
        timestamps_ms: Sequence[int],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
    ) -> None:
        """Add records of no transaction and without headers at the end."""
        count = len(values)
        if not len(keys) == len(timestamps_ms) == count:
            raise ValueError(f"{len(keys)} keys, {count} values, {len(timestamps_ms)} times")
        self._change_writer(None)
        self._offsets += range(self.end, self.end + count)
        self._timestamps += timestamps_ms
        self._keys += keys
        self._values += values
        self._headers += [()] * count
        self.end += count

    def decide(self, transaction: Transaction) -> None:
        """Write the marker that ends a transaction; forget what was aborted."""
        self._change_writer(None)
        del self._open[transaction]
        if transaction.status == "aborted":
            for first, stop in transaction.runs[self]:
                begin = bisect_left(self._offsets, first)
                end = bisect_left(self._offsets, stop, begin)
                for column in self._columns():
                    del column[begin:end]
        self.end += 1

    def _change_writer(self, transaction: Transaction | None) -> None:
        if self._writer is not None:
            self._writer.runs[self].append((self._run, self.end))
        if transaction is not None and transaction not in self._open:
            self._open[transaction] = self.end
            transaction.runs[self] = []
        self._writer, self._run = transaction, self.end

    # ------------------------------------------------------------------- reading

    def read(self, position: int, limit: int) -> tuple[Batch | None, int]:
        """Give up to ``limit`` committed records from ``position``, and the next position."""
        offsets, stable = self._offsets, self.stable
        first = bisect_left(offsets, position)
        stop = bisect_left(offsets, stable, first) if self._open else len(offsets)
        if stop - first > limit:
            stop = first + limit
            # What lies between two records is passed with the second one.
            following = offsets[stop - 1] + 1 if limit else position
        else:
            following = max(position, stable)
        if first == stop:
            return None, following
        batch = Batch(
            self.topic,
            self.partition,
            offsets[first:stop],
            self._timestamps[first:stop],
            self._keys[first:stop],
            self._values[first:stop],
            self._headers[first:stop],
        )
        return batch, following

    # ------------------------------------------------------------------ forgetting

    def delete_before(self, offset: int) -> None:
        """Delete the records before an offset; the first offset never goes back."""
        if offset > self.end:
            raise ValueError(f"{self.topic}/{self.partition} ends at {self.end}, before {offset}")
        self.start = max(self.start, offset)
        count = bisect_left(self._offsets, self.start)
        for column in self._columns():
            del column[:count]

    def compact(self, *, keep_tombstones: bool) -> None:
        """Keep the last stable record of every key; records without a key go."""
        stop = bisect_left(self._offsets, self.stable)
        keys, values = self._keys, self._values
        last = {key: index for index, key in enumerate(keys[:stop]) if key is not None}
        kept = [i for i in sorted(last.values()) if keep_tombstones or values[i] is not None]
        for column in self._columns():
            column[:stop] = [column[i] for i in kept]

    def _columns(self) -> tuple[list[Any], ...]:
        return self._offsets, self._timestamps, self._keys, self._values, self._headers
