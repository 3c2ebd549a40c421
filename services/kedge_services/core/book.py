"""The entries of the join between memory and store.

Entries live in a :class:`JoinStore`.  Changed ones wait in memory until their
transaction is durable, so the store is never ahead of Kafka; a bounded number of them
lingers there longer, as most labels that come soon then need neither reading nor a
second writing.  What a process takes with it when it dies is read again from Kafka.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from kedge_services.core.entries import Entry, encode_entry
from kedge_services.core.kinds import Kind, Kinds
from kedge_services.core.packing import unpack
from kedge_services.core.segments import SegmentInfo, Segments

__all__ = ["LAYOUT", "Book", "JoinStore", "Placed"]

#: How entries and meta are laid out; a store of another layout is built anew.
LAYOUT: Final = 2
#: Records that a kill costs to read again, for each entry that may linger.
_READ_AGAIN: Final = 4

Placed = tuple[str, bytes]
"""The segment of an entry, and the entry as it lies there."""


class JoinStore(Protocol):
    """Entries by segment and key, and one value that says up to where they reach."""

    def meta(self) -> bytes | None:
        """Give what the last write said; None for a store that was never written."""

    def get(self, keys: Sequence[bytes]) -> list[Placed | None]:
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
    """What a store says of itself: offsets applied (exclusive), its segments and kinds."""

    offsets: dict[str, int] = {}
    segments: dict[str, SegmentInfo] = {}
    kinds: msgspec.Raw = msgspec.Raw(b"{}")
    layout: int = 1


_decode_kinds = msgspec.json.Decoder(dict[int, Kind]).decode


@dataclass(slots=True)
class Book:
    """The entries of a partition.

    Attributes
    ----------
    store
        Where they are in the end.
    lingering
        So many entries that are durable in Kafka may be missing there.
    kinds
        What its packed entries have in common.
    """

    store: JoinStore
    lingering: int = 0
    kinds: Kinds = field(default_factory=Kinds)
    _segments: Segments = field(default_factory=Segments)
    #: Entries of the batch that were looked at one by one.
    _entries: dict[str, Entry] = field(default_factory=dict)
    #: What the store gave for the batch.
    _loaded: dict[str, Placed] = field(default_factory=dict)
    #: Changed since the last sealing, by being looked at one by one.
    _changed: dict[str, Entry] = field(default_factory=dict)
    #: Packed, and not in the store as they are now.
    _packed: dict[str, Placed] = field(default_factory=dict)
    #: Those of them that were placed since the last sealing; some more than once.
    _touched: list[str] = field(default_factory=list)
    #: Where the store may have an entry that has changed since.
    _found_in: dict[str, str] = field(default_factory=dict)
    #: Other segments in which the store may have an entry that waits to be written.
    _moved: dict[str, list[str]] = field(default_factory=dict)
    #: Ids whose prediction came again: the segment, where it is known, and until when it matters.
    _repeated: dict[str, tuple[str, int]] = field(default_factory=dict)
    _drops: list[str] = field(default_factory=list)
    #: By commit, up to where it reached and the entries it sealed.
    _commits: deque[tuple[dict[str, int], list[str]]] = field(default_factory=deque)
    #: What has been sealed and is not known to be durable.
    _undecided: list[str] | None = None
    #: Up to where the store reaches.
    _written: dict[str, int] = field(default_factory=dict)

    def open(self) -> dict[str, int]:
        """Read what the store says of itself; give the offsets it reaches up to.

        A store of another layout is deleted.
        """
        data = self.store.meta()
        meta = StoreMeta(layout=LAYOUT) if data is None else _meta_of(data)
        if meta is None:
            self.clear()
            return {}
        self._segments = Segments(meta.segments)
        self.kinds = Kinds(_decode_kinds(meta.kinds))
        self._written = dict(meta.offsets)
        return meta.offsets

    def clear(self) -> None:
        """Delete the store, to build it anew."""
        self.store.clear()
        self._segments = Segments()
        self.kinds = Kinds()

    def close(self) -> None:
        """Write what is durable, and release the store.

        Nothing is written where some entries may have got what is not durable.
        """
        if self._undecided is None and not self._touched and self._commits:
            self._write(len(self._commits))
        self.store.close()

    # --------------------------------------------------------- one by one

    def load(self, prediction_ids: Iterable[str]) -> None:
        """Fetch the entries of a batch at once; unchanged ones of the last batch are dropped."""
        self._entries = dict(self._changed)
        self._loaded = {}
        names = list(dict.fromkeys(prediction_ids))
        for kept in (self._changed, self._packed):
            if kept:
                names = [name for name in names if name not in kept]
        found = self.store.get([name.encode() for name in names]) if names else []
        self._loaded.update(
            (name, hit) for name, hit in zip(names, found, strict=True) if hit is not None
        )

    def get(self, prediction_id: str) -> Entry | None:
        """Give the entry of an id of the batch that was loaded."""
        entry = self._entries.get(prediction_id)
        if entry is None:
            placed = self._placed(prediction_id)
            if placed is not None:
                entry = self._entries[prediction_id] = unpack(placed[1], self.kinds)
        return entry

    def change(self, prediction_id: str, entry: Entry) -> None:
        """Note that this is the entry now."""
        self._entries[prediction_id] = self._changed[prediction_id] = entry
        placed = self._placed(prediction_id)
        if placed is not None:
            self._found_in[prediction_id] = placed[0]

    def keep(self, prediction_id: str, until_ms: int) -> None:
        """Keep the entry of an id at least until a repetition of its prediction has expired."""
        placed = self._placed(prediction_id)
        _, known_ms = self._repeated.get(prediction_id, ("", 0))
        self._repeated[prediction_id] = (placed[0] if placed else "", max(until_ms, known_ms))

    # ---------------------------------------------------------- many at once

    def unknown(
        self, prediction_ids: Sequence[str], hashes: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Load the entries of a batch, and say of each id whether it has none.

        Parameters
        ----------
        prediction_ids
            Of the batch.
        hashes
            Of these ids, see :func:`kedge_services.core.filters.id_hashes`.
        """
        doubtful = np.flatnonzero(self._segments.may_hold(hashes)).tolist()
        names = [prediction_ids[i] for i in doubtful]
        self.load(names)
        is_new = np.ones(len(prediction_ids), dtype=np.bool_)
        for i, name in zip(doubtful, names, strict=True):
            is_new[i] = self._placed(name) is None
        if self._changed:
            # Only when it is sealed an entry gets a segment, which then knows of it.
            is_new &= [name not in self._changed for name in prediction_ids]
        return is_new

    def place(
        self,
        prediction_ids: Sequence[str],
        values: Sequence[bytes],
        *,
        kinds: NDArray[np.int64],
        times_ms: NDArray[np.int64],
        offsets: NDArray[np.int64],
        hashes: NDArray[np.uint64],
    ) -> None:
        """Take new predictions of one monitor, packed."""
        numbers = np.unique(kinds).tolist()
        segments = self._segments.place_rows(
            prediction_ids, self.kinds[numbers[0]].kind,
            kinds=numbers, times_ms=times_ms, offsets=offsets, hashes=hashes,
        )  # fmt: skip
        self._packed.update(zip(prediction_ids, zip(segments, values, strict=True), strict=True))
        self._touched += prediction_ids

    def fetch(self, prediction_ids: Sequence[str]) -> list[Placed | None]:
        """Load the entries of a batch at once, like :meth:`load`, and give them as they lie.

        None stands for those that are not there, and for those that have changed since
        they were last placed: they are to be looked at one by one.
        """
        self._entries = dict(self._changed)
        found: list[Placed | None] = list(map(self._packed.get, prediction_ids))
        missing = [i for i, placed in enumerate(found) if placed is None] if None in found else []
        if self._changed:
            missing = [i for i in missing if prediction_ids[i] not in self._changed]
        names = [prediction_ids[i] for i in missing]
        hits = self.store.get([name.encode() for name in names]) if names else []
        self._loaded = {n: hit for n, hit in zip(names, hits, strict=True) if hit is not None}
        for i, hit in zip(missing, hits, strict=True):
            found[i] = hit
        if self._changed:
            return [None if n in self._changed else p
                    for n, p in zip(prediction_ids, found, strict=True)]  # fmt: skip
        return found

    def label(
        self, prediction_ids: Sequence[str], values: Sequence[Placed], offsets: Sequence[int]
    ) -> None:
        """Take entries of the batch again, which each have got a label; by offset of these."""
        self._segments.note_labels([segment for segment, _ in values], offsets)
        self._packed.update(zip(prediction_ids, values, strict=True))
        self._touched += prediction_ids

    # ------------------------------------------------------------- commits

    @property
    def pending(self) -> int:
        """Number of entries that are not in the store yet."""
        return len(self._changed) + len(self._packed)

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
        places = [
            self._segments.place(entry, label_wait_ms, clock_ms) for entry in self._changed.values()
        ]
        self._segments.note_ids(list(self._changed), places)
        for (name, entry), segment in zip(self._changed.items(), places, strict=True):
            before = self._found_in.get(name)
            if before is not None and before != segment:
                self._moved.setdefault(name, []).append(before)
            self._packed[name] = (segment, encode_entry(entry))
        for name, (segment, until_ms) in self._repeated.items():
            placed = self._packed.get(name)
            self._segments.keep(placed[0] if placed else segment, until_ms)
        self._repeated = {}
        self._segments.grown(clock_ms)
        self._touched += self._changed
        self._undecided, self._touched = self._touched, []
        gone = set(expired(self._segments))
        if gone:
            # What is needed no more goes with its segment, without being written first.
            self._segments.drop(gone)
            self._drops += sorted(gone)
            self._packed = {
                n: placed for n, placed in self._packed.items() if placed[0] not in gone
            }
            self.kinds.keep(set().union(*(i.kinds for i in self._segments.infos.values())))
        self._entries, self._changed, self._loaded = {}, {}, {}
        self._found_in = {}

    def lows(self, next_offsets: Mapping[str, int]) -> dict[str, int]:
        """Give, by topic, the smallest offset that building the store anew needs."""
        return self._segments.lows(next_offsets)

    def write(self, offsets: Mapping[str, int]) -> None:
        """Learn that what was sealed is durable, up to these offsets; write what is oldest.

        An entry is written as it is now: what it has got after the offsets that the store
        then reaches is recognised when it is read again.
        """
        self._commits.append((dict(offsets), self._undecided or []))
        self._undecided = None
        held, read, due = len(self._packed), sum(offsets.values()), 0
        for reached, names in self._commits:
            age = read - sum(reached.values())
            if held <= self.lingering and age < _READ_AGAIN * self.lingering:
                break
            held -= len(names)
            due += 1
        if due or self._drops:
            self._write(due)

    def _write(self, commits: int) -> None:
        """Write what so many commits have sealed, the oldest ones."""
        names: list[str] = []
        for _ in range(commits):
            self._written, part = self._commits.popleft()
            names += part
        found = map(self._packed.pop, names, repeat(None))
        # One at a time: what is written is not looked at a second time.
        puts = ((p[0], n.encode(), p[1]) for n, p in zip(names, found, strict=True) if p)
        deletes: list[tuple[str, bytes]] = []
        if self._moved:
            for name in names:
                former = self._moved.pop(name, ())
                deletes += [(segment, name.encode()) for segment in former]
        meta = StoreMeta(self._written, self._segments.infos, self.kinds.encode(), LAYOUT)
        self.store.write(puts, deletes, self._drops, msgspec.json.encode(meta))
        self._drops = []

    def _placed(self, prediction_id: str) -> Placed | None:
        return self._packed.get(prediction_id) or self._loaded.get(prediction_id)


def _meta_of(data: bytes) -> StoreMeta | None:
    """Read what a store says of itself; None when this is not its layout."""
    try:
        meta = msgspec.json.decode(data, type=StoreMeta)
    except msgspec.MsgspecError:
        return None
    return meta if meta.layout == LAYOUT else None
