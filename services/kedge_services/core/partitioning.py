"""murmur2 of many keys at once, to check the partition of every record of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kedge.key_columns import hash_texts

__all__ = ["key_partitions", "murmur2_many"]


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
    lengths = np.fromiter(map(len, keys), dtype=np.int64, count=len(keys))
    ends = np.cumsum(lengths)
    return hash_texts(np.frombuffer(b"".join(keys), dtype=np.uint8), ends - lengths, ends)


def key_partitions(keys: Sequence[bytes], partitions: int) -> NDArray[np.int64]:
    """Give the partition of every key, as the Java clients' default partitioner would."""
    return (murmur2_many(keys) & np.uint32(0x7FFFFFFF)).astype(np.int64) % partitions
