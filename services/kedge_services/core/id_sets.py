"""Sets of ids by their hashes, that take and look up whole columns.

A few ids are kept in a set of Python's, which is quick for a handful at a time.  Many lie
in a table: 16 bytes an id, and free places beside them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kedge_services.core.id_texts import Hashes

__all__ = ["IdSet", "keys_of"]

#: So many ids are kept in a table.
_MANY: Final = 1 << 10
#: Places of a bucket: halves of hashes that come from memory at once.
_PLACES: Final = 8
#: So many ids at a time stay in the processor's cache.
_AT_ONCE: Final = 1 << 13

_Flags = NDArray[np.bool_]
_Ints = NDArray[np.int64]


class IdSet:
    """A set of ids.

    Parameters
    ----------
    expected
        How many there may be in the end: a table that need not grow is quicker.
    """

    __slots__ = ("_expected", "_few", "_table")

    def __init__(self, expected: int = 0) -> None:
        self._expected = expected
        self._few: set[bytes] = set()
        self._table: _Table | None = None

    def __len__(self) -> int:
        """Give the number of ids."""
        return len(self._few) if self._table is None else self._table.taken

    def among(self, hashes: Hashes) -> _Flags:
        """Say of every id whether it is in the set."""
        if self._table is not None:
            return self._table.among(hashes)
        few = self._few
        if not few:
            return np.zeros(len(hashes), dtype=np.bool_)
        if len(hashes) > _MANY:
            return _Table.of(few).among(hashes)
        keys = keys_of(hashes)
        if few.isdisjoint(keys):
            return np.zeros(len(keys), dtype=np.bool_)
        return np.fromiter(map(few.__contains__, keys), np.bool_, len(keys))

    def add(self, hashes: Hashes) -> None:
        """Take ids; those that are in the set already change nothing."""
        self.add_new(np.unique(hashes[~self.among(hashes)], axis=0))

    def add_new(self, hashes: Hashes) -> None:
        """Take ids that are not in the set, each once."""
        if self._table is None and len(self._few) + len(hashes) <= _MANY:
            self._few.update(keys_of(hashes))
            return
        if self._table is None:
            self._table = _Table.of(self._few, max(self._expected, len(self._few) + len(hashes)))
            self._few = set()
        self._table = self._table.with_room_for(len(hashes))
        self._table.add(hashes)


def keys_of(hashes: Hashes) -> list[bytes]:
    """Give hashes as Python's own values, 16 bytes each."""
    raw = np.ascontiguousarray(hashes).tobytes()
    return [raw[at : at + 16] for at in range(0, len(raw), 16)]


class _Table:
    """Buckets of a few places each, of which at most two thirds are taken.

    An id lies in the bucket that its hash names, and where that is full in the next.
    """

    __slots__ = ("_filled", "_first", "_second", "taken")

    def __init__(self, ids: int) -> None:
        buckets = 1 << (ids * 3 // 2 // _PLACES).bit_length()
        self._filled = np.zeros(buckets, dtype=np.uint8)
        self._first = np.zeros(buckets * _PLACES, dtype=np.uint64)
        self._second = np.zeros(buckets * _PLACES, dtype=np.uint64)
        self.taken = 0

    @classmethod
    def of(cls, keys: Collection[bytes], expected: int = 0) -> _Table:
        """Give a table of ids as :func:`keys_of` gives them, with room for those expected."""
        table = cls(max(expected, len(keys)))
        table.add(np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2))
        return table

    def with_room_for(self, ids: int) -> _Table:
        """Give a table that takes so many more, itself or a larger one with the same ids."""
        if (self.taken + ids) * 3 // 2 <= self._first.size:
            return self
        larger = _Table(self.taken + ids)
        held = np.flatnonzero(np.arange(_PLACES) < self._filled[:, None])
        larger.add(np.stack([self._first[held], self._second[held]], axis=1))
        return larger

    def among(self, hashes: Hashes) -> _Flags:
        """Say of every id whether it is here."""
        found, buckets = np.zeros(len(hashes), dtype=np.bool_), self._first.reshape(-1, _PLACES)
        rows, at = np.arange(len(hashes)), self._buckets(hashes)
        while rows.size:
            # Half of a hash may be 0, as places are that are not filled.
            alike = buckets.take(at, axis=0) == hashes[rows, :1]
            filled = self._filled.take(at)
            if alike.any():
                k, place = np.nonzero(alike)
                alike_too = self._second[at[k] * _PLACES + place] == hashes[rows[k], 1]
                found[rows[k[alike_too & (place < filled[k])]]] = True
            going = np.flatnonzero(filled == _PLACES)
            rows, at = rows[going], self._next(at[going])
        return found

    def add(self, hashes: Hashes) -> None:
        """Take ids that are not here, each once; there must be room."""
        self.taken += len(hashes)
        for at in range(0, len(hashes), _AT_ONCE):
            self._add(hashes[at : at + _AT_ONCE])

    def _add(self, hashes: Hashes) -> None:
        first, second, at = hashes[:, 0], hashes[:, 1], self._buckets(hashes)
        while at.size:
            filled = self._filled.take(at)
            is_left = filled == _PLACES
            tried: _Ints | slice = np.flatnonzero(~is_left) if is_left.any() else slice(None)
            bucket, mine, place = at[tried], first[tried], filled[tried]
            places = bucket * _PLACES
            places += place
            # Of several for one place the last one gets it, the others come round again.
            self._first[places], self._second[places] = mine, second[tried]
            self._filled[bucket] = place + 1
            lost = self._first.take(places) != mine
            lost |= self._second.take(places) != second[tried]
            at = np.where(is_left, self._next(at), at)
            is_left[tried] = lost
            going = np.flatnonzero(is_left)
            first, second, at = first[going], second[going], at[going]

    def _buckets(self, hashes: Hashes) -> _Ints:
        found: _Ints = (hashes[:, 0] & np.uint64(self._filled.size - 1)).astype(np.int64)
        return found

    def _next(self, at: _Ints) -> _Ints:
        found: _Ints = (at + 1) & (self._filled.size - 1)
        return found
