"""Where entries lie in the join store: segments of time that expire whole.

An entry belongs to the segment that contains the last moment it may matter.
The length of a segment is a power of two between a quarter and half of how
long its entries matter, so a horizon is covered by a few segments; models with
short horizons do not share segments with those of long ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kedge_services.core.entries import Entry
from kedge_services.core.filters import Filter, id_hashes
from kedge_services.core.kinds import Kind

__all__ = ["SegmentInfo", "Segments", "segment_of"]

_SHORTEST = 10
"""Segments are at least 2**10 ms long."""
_NEVER = 1 << 63


def segment_of(until_ms: int, span_ms: int) -> str:
    """Name the segment of something that matters until ``until_ms``, ``span_ms`` long.

    >>> segment_of(86_400_000, 3_600_000), segment_of(86_400_000, 1)
    ('20-82', '10-84375')
    """
    power = _power(span_ms)
    return f"{power}-{until_ms >> power}"


def _power(span_ms: int) -> int:
    """Give the length of the segments of what matters for so long, as a power of two."""
    return max(_SHORTEST, (span_ms // 4).bit_length())


def end_of(segment: str) -> int:
    """Give the end of a segment: nothing in it matters at or after this time."""
    power, index = map(int, segment.split("-", 1))
    return (index + 1) << power


@dataclass(slots=True)
class SegmentInfo:
    """What must be known of a segment to drop it and to rebuild without it.

    Attributes
    ----------
    models
        Models that have entries in it.
    lows
        Smallest offset of a record in it, by topic.
    newest_ms
        Append time up to which predictions had been read when it last grew.
    kinds
        Numbers of the kinds of its packed entries.
    until_ms
        A repetition of one of its predictions matters until then.  Read again without
        the first, it would be taken for a new one.
    """

    models: set[str] = field(default_factory=set)
    lows: dict[str, int] = field(default_factory=dict)
    newest_ms: int = 0
    kinds: set[int] = field(default_factory=set)
    until_ms: int = 0


@dataclass(slots=True)
class Segments:
    """The segments of a store.

    The one an entry was placed in last is remembered: the next mostly goes there, too.
    """

    infos: dict[str, SegmentInfo] = field(default_factory=dict)
    _last: tuple[int, int, str, SegmentInfo] | None = None
    _filters: dict[str, Filter] = field(default_factory=dict)
    _grown: set[str] = field(default_factory=set)

    def place_rows(
        self,
        prediction_ids: Sequence[str],
        kind: Kind,
        *,
        kinds: Iterable[int],
        times_ms: NDArray[np.int64],
        offsets: NDArray[np.int64],
        hashes: NDArray[np.uint64],
    ) -> list[str]:
        """Find the segments for new predictions of one monitor, and note there what they hold.

        Parameters
        ----------
        prediction_ids
            Their ids.
        kind
            Of one of them.
        kinds
            Numbers of all their kinds.
        times_ms, offsets, hashes
            Of each.
        """
        span_ms = kind.horizon_ms + kind.wait_ms
        power = _power(span_ms)
        indices = (times_ms + span_ms) >> power
        used, which = np.unique(indices, return_inverse=True)
        names = []
        for k, index in enumerate(used.tolist()):
            chosen = slice(None) if used.size == 1 else which == k
            name, info = self._at(power, index << power)
            info.models.add(kind.model)
            info.kinds.update(kinds)
            lowest = int(offsets[chosen].min())
            info.lows["predictions"] = min(lowest, info.lows.get("predictions", _NEVER))
            self._filter(name, hashes[chosen])
            self._grown.add(name)
            names.append(name)
        if len(names) == 1:
            return names * len(prediction_ids)
        return [names[k] for k in which.tolist()]

    def note_labels(self, names: Sequence[str], offsets: Sequence[int]) -> None:
        """Note labels that came to entries which are there already: segment and offset of each."""
        # The first offset of every segment: what comes later in a dictionary replaces it.
        lowest = dict(zip(reversed(names), reversed(offsets), strict=True))
        for name, offset in lowest.items():
            lows = self.infos[name].lows
            lows["outcomes"] = min(offset, lows.get("outcomes", _NEVER))
            self._grown.add(name)

    def grown(self, clock_ms: int) -> None:
        """Note up to which append time predictions have been read, where something was added."""
        for name in self._grown & self.infos.keys():
            self.infos[name].newest_ms = max(self.infos[name].newest_ms, clock_ms)
        self._grown.clear()

    def may_hold(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Say of ids, by their hashes, whether any segment may hold them; False is certain."""
        if self.infos.keys() - self._filters.keys():
            # Begun before the store was opened: what is in it, nobody has counted.
            return np.ones(hashes.size, dtype=np.bool_)
        found = np.zeros(hashes.size, dtype=np.bool_)
        for kept in self._filters.values():
            found |= kept.may_hold(hashes)
        return found

    def place(self, entry: Entry, wait_ms: int, clock_ms: int) -> str:
        """Find the segment for an entry, and note there what it holds, but for its id.

        Parameters
        ----------
        entry
            At least one prediction or label.
        wait_ms
            How long a label without prediction may matter.
        clock_ms
            Append time up to which predictions have been read.
        """
        if not entry.predictions:
            until_ms = max(label.time_ms for label in entry.labels) + wait_ms
            span_ms = wait_ms
        else:
            held = entry.predictions[0]
            if len(entry.predictions) > 1:
                held = max(entry.predictions, key=lambda p: p.until_ms)
            span_ms = max(held.horizon_ms, 0) + held.wait_ms
            until_ms = held.time_ms + span_ms
        name, info = self._at(_power(span_ms), until_ms)
        lows = info.lows
        for prediction in entry.predictions:
            if prediction.model not in info.models:
                info.models.add(prediction.model)
        if entry.predictions and entry.predictions[0].offset < lows.get("predictions", _NEVER):
            lows["predictions"] = entry.predictions[0].offset
        if entry.labels and entry.labels[0].offset < lows.get("outcomes", _NEVER):
            lows["outcomes"] = entry.labels[0].offset
        info.newest_ms = max(info.newest_ms, clock_ms)
        return name

    def note_ids(self, prediction_ids: Sequence[str], names: Sequence[str]) -> None:
        """Note the ids of entries that were placed one by one, and the segment of each."""
        ids: dict[str, list[str]] = {}
        for prediction_id, name in zip(prediction_ids, names, strict=True):
            ids.setdefault(name, []).append(prediction_id)
        for name, held in ids.items():
            self._filter(name, id_hashes(held))

    def _filter(self, name: str, hashes: NDArray[np.uint64]) -> None:
        known = self._filters.get(name)
        if known is not None:
            known.add(hashes)

    def _at(self, power: int, until_ms: int) -> tuple[str, SegmentInfo]:
        last, index = self._last, until_ms >> power
        if last is not None and last[0] == power and last[1] == index:
            return last[2], last[3]
        name = f"{power}-{index}"
        info = self.infos.get(name)
        if info is None:
            info = self.infos[name] = SegmentInfo()
            self._filters[name] = Filter()
        self._last = (power, index, name, info)
        return name, info

    def keep(self, name: str, until_ms: int) -> None:
        """Keep a segment until this time, be it beyond its end."""
        info = self.infos.get(name)
        if info is not None:
            info.until_ms = max(info.until_ms, until_ms)

    def expired(self, watermark: Callable[[str], int], oldest_ms: int) -> list[str]:
        """Give the segments that nothing can need any more.

        Parameters
        ----------
        watermark
            Gives a model's watermark: the lower of its two inputs.
        oldest_ms
            Append time of the oldest record the inputs still keep; what is
            older could not be rebuilt, and is given up.
        """
        return [
            name
            for name, info in self.infos.items()
            if info.newest_ms < oldest_ms
            or all(watermark(m) >= max(end_of(name), info.until_ms) for m in info.models)
        ]

    def drop(self, names: Iterable[str]) -> None:
        """Forget segments."""
        self._last = None
        for name in names:
            self.infos.pop(name, None)
            self._filters.pop(name, None)

    def lows(self, next_offsets: Mapping[str, int]) -> dict[str, int]:
        """Give, by topic, the smallest offset that rebuilding the store needs."""
        return {
            topic: min([info.lows[topic] for info in self.infos.values() if topic in info.lows]
                       + [next_offset])
            for topic, next_offset in next_offsets.items()
        }  # fmt: skip
