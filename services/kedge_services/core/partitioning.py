"""murmur2 of many keys at once, to check the partition of every record of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["key_partitions", "murmur2_many"]

_SEED = 0x9747B28C
_M = np.uint32(0x5BD1E995)


def murmur2_many(keys: Sequence[bytes]) -> NDArray[np.uint32]:
    """Hash keys like :func:`kedge.topics.murmur2`, vectorised over keys of equal length.

    Parameters
    ----------
    keys
        Any bytes; batches in which many keys have the same length are fast.

    Returns
    -------
    NDArray[np.uint32]
        One hash a key, shape (len(keys),).
    """
    hashes = np.empty(len(keys), dtype=np.uint32)
    lengths = np.fromiter(map(len, keys), dtype=np.int64, count=len(keys))
    for length in np.unique(lengths).tolist():
        where = np.flatnonzero(lengths == length)
        chosen = keys if where.size == len(keys) else [keys[i] for i in where.tolist()]
        data = np.frombuffer(b"".join(chosen), dtype=np.uint8)
        hashes[where] = _hash_rows(data.reshape(where.size, length), length)
    return hashes


def key_partitions(keys: Sequence[bytes], partitions: int) -> NDArray[np.int64]:
    """Give the partition of every key, as the Java clients' default partitioner would."""
    return (murmur2_many(keys) & np.uint32(0x7FFFFFFF)).astype(np.int64) % partitions


def _hash_rows(rows: NDArray[np.uint8], length: int) -> NDArray[np.uint32]:
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
