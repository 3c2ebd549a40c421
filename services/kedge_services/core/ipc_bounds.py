"""How large an Arrow IPC stream would become, found out before anything is unpacked.

A compressed buffer begins with the size it unpacks to, and a reader makes room for whatever
stands there: 1,500 bytes unpack to 40 MB, and a number that is a lie costs as much.  So the
few numbers that decide about memory are read here first, without a copy of anything.

References
----------
Apache Arrow columnar format, "Encapsulated message format" and ``format/Message.fbs``; a
FlatBuffers table begins with the distance back to its vtable, which holds the places of
its fields.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

__all__ = ["StreamSize", "stream_size"]

_CONTINUATION = 0xFFFFFFFF
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_PREFIX = struct.Struct("<Ii")
_PLACE = struct.Struct("<i")
_VTABLE = struct.Struct("<H")
_LENGTH = struct.Struct("<I")
_LONG = struct.Struct("<q")
#: Fields by their number in the format's tables.
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3
_DATA = 1
_ROWS, _BUFFERS, _COMPRESSION = 0, 2, 3
_ENDIANNESS = 0
#: The messages of a stream of a schema and one record batch.
_TWO = 2


class StreamSize(NamedTuple):
    """What a stream says of itself.

    Attributes
    ----------
    schema
        Bytes of the message that holds the schema; equal bytes are equal schemas.
    batches
        Number of record batches.
    rows
        Of the longest record batch or dictionary.
    unpacked
        Bytes of all buffers after unpacking.
    alone
        Where the message of the only record batch begins, if nothing else is needed to read
        it but the schema: there is no dictionary, and numbers are little-endian.  Else 0.
    """

    schema: bytes
    batches: int
    rows: int
    unpacked: int
    alone: int


def stream_size(value: bytes) -> StreamSize:
    """Read the sizes of a stream.

    Raises
    ------
    ValueError
        It is no Arrow IPC stream, or it is cut off.
    """
    try:
        return _stream_size(value)
    except (struct.error, IndexError, OverflowError) as error:
        raise ValueError("a length in it points beyond its end") from error


def _stream_size(value: bytes) -> StreamSize:
    schema, batches, rows, unpacked, at = b"", 0, 0, 0, 0
    alone, messages, is_little = 0, 0, False
    while at < len(value):
        begin = at
        mark, length = _PREFIX.unpack_from(value, at)
        if mark != _CONTINUATION:
            raise ValueError("it does not begin like an Arrow IPC stream")
        at += _PREFIX.size
        if length == 0:
            break
        body = at + length
        if length < 0 or body > len(value):
            raise ValueError("it is cut off")
        table = at + _LENGTH.unpack_from(value, at)[0]
        kind = value[place] if (place := _field(value, table, _HEADER_TYPE)) else 0
        header = _table(value, table, _HEADER)
        size = _long(value, table, _BODY_LENGTH)
        if size < 0 or body + size > len(value):
            raise ValueError("it is cut off")
        if kind == _SCHEMA:
            schema = value[at:body]
            place = _field(value, header, _ENDIANNESS)
            is_little = not place or value[place] == 0
        elif kind in (_DICTIONARY, _BATCH):
            batches += kind == _BATCH
            alone = begin if kind == _BATCH and is_little else 0
            batch = header if kind == _BATCH else _table(value, header, _DATA)
            rows = max(rows, _long(value, batch, _ROWS))
            unpacked += _unpacked(value, batch, body, size)
        at, messages = body + size, messages + 1
    if not schema:
        raise ValueError("it has no schema")
    return StreamSize(schema, batches, rows, unpacked, alone if messages == _TWO else 0)


def _unpacked(value: bytes, batch: int, body: int, size: int) -> int:
    """Give the bytes of a batch's buffers after unpacking."""
    if not _field(value, batch, _COMPRESSION):
        return size
    place = _field(value, batch, _BUFFERS)
    if not place:
        return 0
    vector = place + _LENGTH.unpack_from(value, place)[0]
    count = _LENGTH.unpack_from(value, vector)[0]
    if count * 16 > len(value):
        raise ValueError("it is cut off")
    total = 0
    buffers = np.frombuffer(value, dtype="<i8", count=2 * count, offset=vector + 4)
    for start, length in buffers.reshape(-1, 2).tolist():
        if length < 0 or start < 0 or start + length > size:
            raise ValueError("a buffer points beyond its end")
        if length:
            declared = _LONG.unpack_from(value, body + start)[0]
            # -1 stands before a buffer that was not worth packing.
            total += length if declared == -1 else max(0, declared)
    return total


def _field(value: bytes, table: int, number: int) -> int:
    """Give the place of a table's field, 0 when it is absent."""
    vtable = table - _PLACE.unpack_from(value, table)[0]
    if vtable < 0:
        raise ValueError("a table points before its beginning")
    at = 4 + 2 * number
    if at >= _VTABLE.unpack_from(value, vtable)[0]:
        return 0
    offset: int = _VTABLE.unpack_from(value, vtable + at)[0]
    return table + offset if offset else 0


def _table(value: bytes, table: int, number: int) -> int:
    place = _field(value, table, number)
    if not place:
        raise ValueError("a message has no header")
    target: int = place + _LENGTH.unpack_from(value, place)[0]
    return target


def _long(value: bytes, table: int, number: int) -> int:
    place = _field(value, table, number)
    found: int = _LONG.unpack_from(value, place)[0] if place else 0
    return found
