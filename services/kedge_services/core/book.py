"""The entries of the join between memory and store.

Entries live in a :class:`JoinStore`; between two commits the changed ones wait
in memory and go down as one batch once the transaction is durable, so the
store is never ahead of Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from kedge_services.core.entries import Entry, decode_entry, encode_entry
from kedge_services.core.segments import SegmentInfo, Segments

__all__ = ["Book", "JoinStore"]


class JoinStore(Protocol):
    """Entries by segment and key, and one value that says up to where they reach."""

    def meta(self) -> bytes | None:
        """Give what the last write said; None for a store that was never written."""

    def get(self, keys: Sequence[bytes]) -> list[tuple[str, bytes] | None]:
        """Give the segment and the value of every key, None where there is none."""

    def write(
        self,
        puts: Iterable[tuple[str, bytes, bytes]],
        deletes: Iterable[tuple[str, bytes]],
        drops: Sequence[str],
        meta: bytes,
    ) -> None:
        """Write all of it at once, then drop whole segments.

        Parameters
        ----------
        puts
            Segment, key and value; a segment that does not exist is made.
        deletes
            Segment and key.
        drops
            Segments.
        meta
            What :meth:`meta` gives from now on.
        """

    def clear(self) -> None:
        """Delete everything."""

    def close(self) -> None:
        """Release what the store holds."""


class StoreMeta(msgspec.Struct):
    """What a store says of itself: offsets applied (exclusive) and its segments."""

    offsets: dict[str, int] = {}
    segments: dict[str, SegmentInfo] = {}


@dataclass(slots=True)
class _Writes:
    puts: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    deletes: list[tuple[str, bytes]] = field(default_factory=list)
    drops: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Book:
    """The entries of a partition.

    Attributes
    ----------
    store
        Where they are between commits.
    """

    store: JoinStore
    _segments: Segments = field(default_factory=Segments)
    _entries: dict[str, Entry] = field(default_factory=dict)
    _found_in: dict[str, str] = field(default_factory=dict)
    _changed: dict[str, Entry] = field(default_factory=dict)
    _writes: _Writes = field(default_factory=_Writes)

    def open(self) -> dict[str, int]:
        """Read what the store says of itself; give the offsets it reaches up to."""
        data = self.store.meta()
        meta = StoreMeta() if data is None else msgspec.json.decode(data, type=StoreMeta)
        self._segments = Segments(meta.segments)
        return meta.offsets

    def clear(self) -> None:
        """Delete the store, to build it anew."""
        self.store.clear()
        self._segments = Segments()

    def load(self, prediction_ids: Iterable[str]) -> None:
        """Fetch the entries of a batch at once; unchanged ones of the last batch are dropped."""
        self._entries = dict(self._changed)
        names = [name for name in dict.fromkeys(prediction_ids) if name not in self._changed]
        found = self.store.get([name.encode() for name in names])
        for name, hit in zip(names, found, strict=True):
            if hit is not None:
                self._found_in[name] = hit[0]
                self._entries[name] = decode_entry(hit[1])

    def get(self, prediction_id: str) -> Entry | None:
        """Give the entry of an id of the batch that was loaded."""
        return self._entries.get(prediction_id)

    def change(self, prediction_id: str, entry: Entry) -> None:
        """Note that this is the entry now."""
        self._entries[prediction_id] = self._changed[prediction_id] = entry

    @property
    def pending(self) -> int:
        """Number of entries that are not in the store yet."""
        return len(self._changed)

    def seal(
        self, *, label_wait_ms: int, clock_ms: int, expired: Callable[[Segments], list[str]]
    ) -> None:
        """Prepare what :meth:`write` will write.

        Parameters
        ----------
        label_wait_ms
            How long a label without prediction may matter.
        clock_ms
            Append time up to which predictions have been read.
        expired
            Gives the segments that nothing needs any more.
        """
        writes, placed = self._writes, []
        for name, entry in self._changed.items():
            segment = self._segments.place(entry, label_wait_ms, clock_ms)
            placed.append((segment, name, entry))
        gone = set(expired(self._segments))
        if gone:
            self._segments.drop(gone)
            writes.drops += sorted(gone)
            writes.puts = [put for put in writes.puts if put[0] not in gone]
            writes.deletes = [delete for delete in writes.deletes if delete[0] not in gone]
        for segment, name, entry in placed:
            # What is needed no more goes with its segment, without being written first.
            before = self._found_in.get(name)
            if before is not None and before != segment and before not in gone:
                writes.deletes.append((before, name.encode()))
            if segment not in gone:
                writes.puts.append((segment, name.encode(), encode_entry(entry)))
        self._entries, self._changed = {}, {}
        self._found_in.clear()

    def lows(self, next_offsets: Mapping[str, int]) -> dict[str, int]:
        """Give, by topic, the smallest offset that building the store anew needs."""
        return self._segments.lows(next_offsets)

    def write(self, offsets: Mapping[str, int]) -> None:
        """Bring the store up to these offsets, by topic: what was sealed is durable now."""
        meta = msgspec.json.encode(StoreMeta(dict(offsets), self._segments.infos))
        writes, self._writes = self._writes, _Writes()
        self.store.write(writes.puts, writes.deletes, writes.drops, meta)
