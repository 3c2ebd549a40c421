"""Request ids of a column of prediction ids, and the partitions they belong to.

The texts lie one behind the other in one array of bytes, as Arrow keeps them; nothing is
done per row in Python.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

__all__ = ["hash_texts", "request_ends", "text_partitions", "texts_by_length"]

_SEED = 0x9747B28C
_M = np.uint32(0x5BD1E995)
_HASH = ord("#")
#: So many rows at a time stay in the processor's cache.
_ROWS = 8_192

_Bytes = NDArray[np.uint8]
_Ints = NDArray[np.int64]


def request_ends(data: _Bytes, starts: _Ints, ends: _Ints) -> _Ints:
    """Give where the request id of every prediction id ends: at its first ``#``, or with it.

    Parameters
    ----------
    data
        The bytes of all texts.
    starts, ends
        Of every text in ``data``, int64, shape (rows,).
    """
    marks = np.flatnonzero(data == _HASH)
    if not marks.size:
        return ends
    following: _Ints = np.append(marks, data.size)[np.searchsorted(marks, starts)]
    return np.minimum(ends, following)


def text_partitions(data: _Bytes, starts: _Ints, ends: _Ints, partitions: int) -> _Ints:
    """Give the partition of every text, as the Java clients' default partitioner would."""
    hashes = hash_texts(data, starts, ends)
    return (hashes & np.uint32(0x7FFFFFFF)).astype(np.int64) % partitions


def hash_texts(data: _Bytes, starts: _Ints, ends: _Ints) -> NDArray[np.uint32]:
    """Hash texts like :func:`kedge.topics.murmur2`.

    Texts of one length are hashed together, so columns of few lengths are fast.
    """
    hashes = np.empty(starts.size, dtype=np.uint32)
    for where, rows in texts_by_length(data, starts, ends):
        hashes[where] = _hash_rows(rows, rows.shape[1])
    return hashes


def texts_by_length(
    data: _Bytes, starts: _Ints, ends: _Ints
) -> Iterator[tuple[_Ints | slice, _Bytes]]:
    """Give the texts of one length as rows, some thousands at a time, and where they are."""
    lengths = ends - starts
    if not lengths.size:
        return
    if (lengths == lengths[0]).all():
        length = int(lengths[0])
        for at in range(0, starts.size, _ROWS):
            part = slice(at, at + _ROWS)
            yield part, _rows(data, starts[part], length)
        return
    for length in np.unique(lengths).tolist():
        chosen = np.flatnonzero(lengths == length)
        for at in range(0, chosen.size, _ROWS):
            where = chosen[at : at + _ROWS]
            yield where, _rows(data, starts[where], length)


def _rows(data: _Bytes, starts: _Ints, length: int) -> _Bytes:
    """Give texts of one length as rows, shape (texts, length); not to be written to."""
    begin = int(starts[0])
    if starts.size == 1:
        return data[begin : begin + length].reshape(1, length)
    stride = int(starts[1]) - begin
    if stride >= length and (np.diff(starts) == stride).all():
        return as_strided(data[begin:], (starts.size, length), (stride, 1), writeable=False)
    gathered: _Bytes = data[starts[:, None] + np.arange(length)]
    return gathered


def _hash_rows(rows: _Bytes, length: int) -> NDArray[np.uint32]:
    """Hash rows of bytes, shape (keys, length); uint32 arithmetic wraps as the hash wants."""
    whole = length & ~3
    h = np.full(len(rows), (_SEED ^ length) & 0xFFFFFFFF, dtype=np.uint32)
    words = np.ascontiguousarray(rows[:, :whole]).view("<u4").astype(np.uint32, copy=False)
    for column in range(whole // 4):
        k = words[:, column] * _M
        k = (k ^ (k >> np.uint32(24))) * _M
        h = (h * _M) ^ k
    if length & 3:
        tail = np.zeros(len(rows), dtype=np.uint32)
        for i in range(length & 3):
            tail |= rows[:, whole + i].astype(np.uint32) << np.uint32(8 * i)
        h = (h ^ tail) * _M
    h = (h ^ (h >> np.uint32(13))) * _M
    return h ^ (h >> np.uint32(15))
