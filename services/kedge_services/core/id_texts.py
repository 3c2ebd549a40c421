"""Prediction ids as columns: their bytes one behind the other, and what follows from them.

What has to be known of every id of a batch (its length, its request id, its partition, its
hash) is found out for all of them at once, and nothing is done per id in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge.key_columns import request_ends, text_partitions, texts_by_length
from kedge.topics import request_id

__all__ = ["Hashes", "IdTexts", "hashes_of"]

Hashes = NDArray[np.uint64]
"""Of ids, shape (ids, 2): 128 bits that stand for each."""

_Ints = NDArray[np.int64]
_LINE: Final = 10
_LONGEST_NAME: Final = 255
#: Odd numbers without pattern: two hashes that know nothing of each other.
_SEEDS: Final = np.array([0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93], dtype=np.uint64)
_FACTORS: Final = np.array([0xC6A4A7935BD1E995, 0xA0761D6478BD642F], dtype=np.uint64)
_LAST: Final = np.array([0xFF51AFD7ED558CCD, 0xE7037ED1A0B428DB], dtype=np.uint64)
_HALF, _MOST = np.uint64(32), np.uint64(29)


class IdTexts(NamedTuple):
    """Ids, one behind the other.

    Attributes
    ----------
    raw
        UTF-8 of all of them, each followed by a line break.
    data
        The same as uint8.
    starts, ends
        int64, of each id in ``data``.
    is_plain
        Whether every id is its own request id, and none has a line break in it.
    """

    raw: bytes
    data: NDArray[np.uint8]
    starts: _Ints
    ends: _Ints
    is_plain: bool

    @classmethod
    def of(cls, ids: Sequence[str]) -> IdTexts:
        """Lay ids out.

        >>> IdTexts.of(["a", "bc"]).starts.tolist()
        [0, 2]
        """
        raw = ("\n".join(ids) + "\n").encode() if ids else b""
        data = np.frombuffer(raw, dtype=np.uint8)
        ends: _Ints = np.flatnonzero(data == _LINE)
        is_plain = ends.size == len(ids)
        if not is_plain:
            lengths = np.fromiter((len(name.encode()) for name in ids), np.int64, len(ids))
            ends = np.cumsum(lengths + 1) - 1
        starts = np.empty_like(ends)
        starts[:1], starts[1:] = 0, ends[:-1] + 1
        return cls(raw, data, starts, ends, is_plain and b"#" not in raw)

    def are_names(self, ids: Sequence[str]) -> bool:
        """Say whether none of the ids is empty or too long for a name."""
        lengths = self.ends - self.starts
        if not lengths.size:
            return True
        if lengths.min() < 1:
            return False
        # A character has up to four bytes.
        return bool(lengths.max() <= _LONGEST_NAME) or max(map(len, ids)) <= _LONGEST_NAME

    def are(self, keys: Sequence[bytes | None]) -> bool:
        """Say whether every id is the key at its place; of ids that are not plain, never."""
        if not self.is_plain:
            return False
        try:
            return b"\n".join([*keys, b""]) == self.raw  # type: ignore[list-item]
        except TypeError:  # There is none among them.
            return False

    def request_ids(self, ids: Sequence[str]) -> list[bytes]:
        """Give the request id of each, as it is a key."""
        if self.is_plain:
            return self.raw.split(b"\n")[:-1]
        return [request_id(name).encode() for name in ids]

    def partitions(self, partitions: int) -> _Ints:
        """Give the partition every id's request id belongs to."""
        ends = self.ends if self.is_plain else request_ends(self.data, self.starts, self.ends)
        return text_partitions(self.data, self.starts, ends, partitions)

    def hashes(self) -> Hashes:
        """Hash the ids; see :func:`hashes_of`."""
        return hashes_of(self.data, self.starts, self.ends)


def hashes_of(data: NDArray[np.uint8], starts: _Ints, ends: _Ints) -> Hashes:
    """Hash texts to 128 bits each, the same in every process.

    Among a thousand million texts some two have one hash with a probability of about
    1.5e-21, so texts of one hash are taken to be the same.

    Parameters
    ----------
    data
        The bytes of all texts.
    starts, ends
        Of every text in ``data``, int64, shape (texts,).
    """
    found = np.empty((starts.size, 2), dtype=np.uint64)
    for where, rows in texts_by_length(data, starts, ends):
        length = rows.shape[1]
        words = np.zeros((len(rows), (length + 7) // 8 * 8), dtype=np.uint8)
        words[:, :length] = rows
        columns = np.ascontiguousarray(words.view("<u8").T)
        for lane in range(2):
            found[where, lane] = _hash(columns, length, lane, len(rows))
    return found


def _hash(words: NDArray[np.uint64], length: int, lane: int, rows: int) -> NDArray[np.uint64]:
    """Mix the words of texts of one length into 64 bits; products wrap, as is wanted."""
    factor, last = _FACTORS[lane], _LAST[lane]
    h = np.full(rows, _SEEDS[lane] ^ np.uint64(length), dtype=np.uint64)
    for word in words:
        k = word * factor
        k ^= k >> _HALF
        k *= last
        h ^= k
        h *= factor
        h ^= h >> _MOST
    h *= last
    h ^= h >> _HALF
    h *= factor
    h ^= h >> _MOST
    return h
