"""Predictions in columns as records: one Arrow batch for some rows of one partition.

Imports pyarrow and numpy, which the light install does not have:
``pip install kedge[arrow]``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kedge.batch_layout import CONSTANTS
from kedge.batch_schema import NESTED, Layout
from kedge.batch_values import Texts, times_of
from kedge.errors import DeadLetter, UsageError

__all__ = ["MOST_ROWS", "Piece", "check_rows", "pieces", "table_of"]

#: Rows of one record, unless told otherwise.
MOST_ROWS = 1_000
#: A record with its headers stays below what a topic takes (1 MB) before it is compressed.
MOST_RECORD_BYTES = 900_000
#: The longest id has so many characters.
_LONGEST_NAME = 255

Rows: TypeAlias = pa.Table | pa.RecordBatch | Mapping[str, Any]


class Piece(NamedTuple):
    """A record to be sent."""

    partition: int
    key: str
    value: bytes
    rows: int


def table_of(rows: Rows, constants: Mapping[str, str | None], *, now_ms: int) -> pa.Table:
    """Give rows in the layout of a batch.

    Parameters
    ----------
    rows
        A table in that layout, or columns by name: lists, arrays, or again columns by
        name for ``features``, ``output`` and ``segments``.
    constants
        Model, version and role of all rows; None: a column says it.
    now_ms
        Event time of rows that have no column for it.

    Returns
    -------
    pyarrow.Table
        Of one chunk, with ids and times.

    Raises
    ------
    UsageError
        It is no table, or its columns are not equally long.
    DeadLetter
        It could never be processed: ``missing-field``, ``bad-value``, ``schema-mismatch``.
    """
    table = _without_views(_table(rows))
    told = {
        key: value
        for key, value in (table.schema.metadata or {}).items()
        if key.startswith(b"kedge.")
    }
    told |= {
        f"kedge.{name}".encode(): constants[name].encode()  # type: ignore[union-attr]
        for name in CONSTANTS
        if constants.get(name) is not None
    }
    if "prediction_id" not in table.column_names:
        request = uuid.uuid4().hex
        made = [f"{request}-{k // MOST_ROWS}#{k % MOST_ROWS}" for k in range(len(table))]
        table = table.append_column("prediction_id", pa.array(made, pa.string()))
    if "event_time_ms" not in table.column_names:
        times = pa.array(np.full(len(table), now_ms, dtype=np.int64))
        table = table.append_column("event_time_ms", times)
    table = table.combine_chunks().replace_schema_metadata(told)
    Layout.of(table.schema)
    try:
        table.validate(full=True)
    except pa.ArrowException as error:
        raise DeadLetter("undecodable", f"no valid Arrow table: {error}") from error
    return table


def check_rows(table: pa.Table, *, first: int = 0) -> tuple[Texts, NDArray[np.int64]]:
    """Refuse rows that no partition or no time can be told of.

    Parameters
    ----------
    table
        As :func:`table_of` gives it, not empty.
    first
        Number of its first row, for the message.

    Returns
    -------
    tuple
        The ids, and where the request id of each ends in their bytes.

    Raises
    ------
    DeadLetter
        ``bad-value`` or ``bad-key``.
    """
    ids = Texts.of(_whole(table, "prediction_id"))
    ends = ids.request_ends()
    lengths = pc.utf8_length(ids.array).fill_null(0).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero((lengths == 0) | (lengths > _LONGEST_NAME))
    if bad.size:
        detail = f"row {first + bad[0]}: prediction_id should have 1 to 255 characters"
        raise DeadLetter("bad-value", detail)
    empty = np.flatnonzero(ends == ids.starts)
    if empty.size:
        row = empty[0]
        detail = f"row {first + row}: {ids.array[row]} has no request id before its `#`"
        raise DeadLetter("bad-key", detail)
    late = np.flatnonzero(~times_of(_whole(table, "event_time_ms"))[1])
    if late.size:
        row = first + late[0]
        detail = f"row {row}: event_time_ms should lie between 1970 and the year 9999"
        raise DeadLetter("bad-value", detail)
    return ids, ends


def pieces(table: pa.Table, *, partitions: int, most_rows: int = MOST_ROWS) -> Iterator[Piece]:
    """Split what :func:`table_of` gave into records; rows of a partition stay in order.

    Raises
    ------
    DeadLetter
        A row has no valid id or time, named by its number from 0; before anything is
        given.  Or ``too-large``: one row alone is more than a record holds.
    """
    if not len(table):
        return
    ids, ends = check_rows(table)
    where = ids.partitions(ends, partitions)
    order = np.argsort(where, kind="stable")
    bounds = np.searchsorted(where[order], np.arange(partitions + 1)).tolist()
    ordered = table.take(pa.array(order)).combine_chunks()
    for partition in range(partitions):
        for at in range(bounds[partition], bounds[partition + 1], most_rows):
            rows = min(most_rows, bounds[partition + 1] - at)
            for first, count, value in _records(ordered, at, rows):
                row = order[first]
                key = ids.data[ids.starts[row] : ends[row]].tobytes().decode()
                yield Piece(partition, key, value, count)


def _records(table: pa.Table, first: int, rows: int) -> Iterator[tuple[int, int, bytes]]:
    """Encode rows, halved until each record is small enough."""
    value = _encode(table.slice(first, rows))
    if len(value) <= MOST_RECORD_BYTES:
        yield first, rows, value
    elif rows == 1:
        detail = f"one row takes {len(value):,} bytes; a record holds {MOST_RECORD_BYTES:,}"
        raise DeadLetter("too-large", detail)
    else:
        half = rows // 2
        yield from _records(table, first, half)
        yield from _records(table, first + half, rows - half)


def _encode(rows: pa.Table) -> bytes:
    columns = []
    for column in rows.columns:
        array = column.chunk(0) if column.num_chunks else pa.array([], column.type)
        if pa.types.is_dictionary(array.type) and len(array.dictionary) > len(array):
            # Every record has the whole dictionary: most of it would be of other rows.
            array = array.cast(array.type.value_type)
        columns.append(array)
    batch = pa.RecordBatch.from_arrays(columns, names=rows.column_names)
    batch = batch.replace_schema_metadata(rows.schema.metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    value: bytes = sink.getvalue().to_pybytes()
    return value


def _without_views(table: pa.Table) -> pa.Table:
    """Give views as strings: pyarrow cannot yet put them into another order."""
    for i, column in enumerate(table.schema):
        if pa.types.is_string_view(column.type):
            table = table.set_column(i, column.name, table.column(i).cast(pa.large_string()))
    return table


def _table(rows: Rows) -> pa.Table:
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if not isinstance(rows, Mapping):
        raise UsageError(f"rows are a pyarrow Table or columns by name, not {type(rows).__name__}")
    columns: dict[str, Any] = {}
    for name, column in rows.items():
        columns |= _columns(name, column)
    try:
        return pa.table(columns)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UsageError(f"the columns make no table: {error}") from error


def _columns(name: str, column: Any) -> dict[str, Any]:
    """Take nested columns apart."""
    if isinstance(column, pa.Table):
        column = dict(zip(column.column_names, column.columns, strict=True))
    if name not in NESTED or not isinstance(column, Mapping):
        return {name: column}
    found: dict[str, Any] = {}
    for child, values in column.items():
        found |= _columns(f"{name}.{child}", values)
    return found


def _whole(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).chunk(0)
