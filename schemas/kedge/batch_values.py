"""Names and times of a batch as arrays; nothing is done per row.

Imports pyarrow, which the light install does not have.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kedge.key_columns import request_ends, text_partitions

__all__ = ["MOST_BYTES", "Texts", "plain", "times_of"]

_Ints = NDArray[np.int64]
_Flags = NDArray[np.bool_]

#: Names have up to 255 characters, and a character up to four bytes.
MOST_BYTES = 4 * 255
_MS_OF = {"s": (1_000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
_LATEST_MS = 253_402_300_799_999


class Texts(NamedTuple):
    """Strings, one behind the other.

    Attributes
    ----------
    array
        Of the type ``string``; what is too long to be a name is null, too.
    data
        uint8, the UTF-8 of all strings.
    starts, ends
        int64, of each string in ``data``; equal for null.
    """

    array: pa.Array
    data: NDArray[np.uint8]
    starts: _Ints
    ends: _Ints

    @classmethod
    def of(cls, array: pa.Array, *, most_bytes: int = MOST_BYTES) -> Texts:
        """Lay strings out; those of more than ``most_bytes`` become null.

        A dictionary can hold a long string many times over, so the length is looked at
        before anything is copied.
        """
        if array.type != pa.string() or (pc.max(pc.binary_length(array)).as_py() or 0) > most_bytes:
            array = _short(array, most_bytes)
        offsets = np.frombuffer(array.buffers()[1], dtype=np.int32, count=len(array) + 1,
                                offset=4 * array.offset).astype(np.int64)  # fmt: skip
        buffer = array.buffers()[2]
        data = np.frombuffer(b"" if buffer is None else buffer, dtype=np.uint8)
        return cls(array, data, offsets[:-1], offsets[1:])

    def request_ends(self) -> _Ints:
        """Give where each one's request id ends."""
        return request_ends(self.data, self.starts, self.ends)

    def partitions(self, ends: _Ints, partitions: int) -> _Ints:
        """Give the partition of each text up to its ``ends``."""
        return text_partitions(self.data, self.starts, ends, partitions)

    def strings(self) -> NDArray[np.object_]:
        """Give str or None for every row."""
        found: NDArray[np.object_] = self.array.to_numpy(zero_copy_only=False)
        return found


def times_of(array: pa.Array) -> tuple[_Ints, _Flags]:
    """Give times in ms since the epoch, and the rows that have a valid one.

    A timestamp finer than that is rounded down, as a time zone changes nothing.
    """
    if pa.types.is_null(array.type):
        return np.zeros(len(array), dtype=np.int64), np.zeros(len(array), dtype=np.bool_)
    factor, divisor = 1, 1
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_timestamp(array.type):
        factor, divisor = _MS_OF[array.type.unit]
        array = array.view(pa.int64())
    raw = array.fill_null(pa.scalar(0, array.type)).to_numpy(zero_copy_only=False)
    # Judged in the column's own type: neither the largest uint64 nor a far second wraps.
    valid &= (raw >= 0) & (raw <= _last(raw.dtype, factor, divisor))
    times = np.where(valid, raw, 0).astype(np.int64) * factor // divisor
    return times, valid


def _last(kind: np.dtype[Any], factor: int, divisor: int) -> int:
    """Give the last valid time in a column's unit, or the largest its type can hold."""
    return min(((_LATEST_MS + 1) * divisor - 1) // factor, int(np.iinfo(kind).max))


def plain(array: pa.Array) -> pa.Array:
    """Give values in a type that all functions know."""
    if pa.types.is_string_view(array.type):
        return array.cast(pa.large_string())
    if pa.types.is_float16(array.type):
        return array.cast(pa.float32())
    return array


def _short(array: pa.Array, most_bytes: int) -> pa.Array:
    if pa.types.is_null(array.type):
        return array.cast(pa.string())
    if pa.types.is_dictionary(array.type):
        return pc.take(_short(array.dictionary, most_bytes), array.indices)
    array = plain(array)
    keep = pc.less_equal(pc.binary_length(array), most_bytes)
    return pc.if_else(keep, array, pa.scalar(None, array.type)).cast(pa.string())
