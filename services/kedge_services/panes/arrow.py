"""Arrow batches: from the bytes of a record to its columns.

What is wrong with a batch as a whole is found here, and puts the record aside; what is
wrong with a row is found where its values are read, and puts aside that row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kedge.batch_layout import MAX_BATCH_BYTES, MAX_BATCH_ROWS
from kedge.batch_schema import NESTED, Layout, is_text
from kedge.errors import DeadLetter
from kedge_services.core.ipc_bounds import StreamSize, stream_size

__all__ = ["ArrowReader", "flat_columns"]

_MAX_LAYOUTS = 1_000


@dataclass(slots=True)
class ArrowReader:
    """Opens batches; layouts that came before are known."""

    _layouts: dict[bytes, tuple[pa.Schema, Layout | DeadLetter]] = field(default_factory=dict)

    def open(self, value: bytes | None) -> tuple[Layout, pa.RecordBatch, int]:
        """Read the value of a record; strings are valid UTF-8 and all offsets within bounds.

        Returns
        -------
        tuple
            The layout, the rows, and how many bytes they take.

        Raises
        ------
        DeadLetter
            No batch that could be read: ``undecodable``, ``unsupported-format``,
            ``shape-mismatch``, ``too-large``, ``missing-field`` or ``schema-mismatch``.
        """
        if value is None:
            raise DeadLetter("missing-field", "the record has no value")
        try:
            size = stream_size(value)
        except ValueError as error:
            raise DeadLetter("undecodable", f"no Arrow IPC stream: {error}") from error
        if size.batches != 1:
            detail = f"the stream holds {size.batches} record batches; send one a record"
            raise DeadLetter("shape-mismatch", detail)
        if size.rows > MAX_BATCH_ROWS:
            detail = f"the batch has {size.rows:,} rows; at most {MAX_BATCH_ROWS:,} are read"
            raise DeadLetter("too-large", detail)
        if size.unpacked > MAX_BATCH_BYTES:
            raise _too_large(size.unpacked)
        try:
            batch = self._read(value, size)
            batch.validate(full=True)
            # Names are decoded only here.
            layout = self._layout(size.schema, batch.schema)
            spread = _spread(batch) if layout.repeats else 0
        except (pa.ArrowException, OSError, StopIteration, UnicodeDecodeError) as error:
            raise DeadLetter("undecodable", f"no Arrow record batch: {error}") from error
        if not batch.num_rows:
            raise DeadLetter("shape-mismatch", "the batch has no rows")
        if spread > MAX_BATCH_BYTES:
            raise _too_large(spread)
        return layout, batch, size.unpacked

    def _read(self, value: bytes, size: StreamSize) -> pa.RecordBatch:
        """Read the record batch; where its schema is known, that is not read again."""
        if size.alone and (known := self._layouts.get(size.schema)) is not None:
            message = pa.ipc.read_message(pa.py_buffer(value).slice(size.alone))
            return pa.ipc.read_record_batch(message, known[0])
        return pa.ipc.open_stream(value).read_next_batch()

    def _layout(self, message: bytes, schema: pa.Schema) -> Layout:
        known = self._layouts.get(message)
        if known is None:
            layout: Layout | DeadLetter
            try:
                layout = Layout.of(schema)
            except DeadLetter as refused:
                layout = refused
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            known = self._layouts[message] = (schema, layout)
        layout = known[1]
        if isinstance(layout, DeadLetter):
            raise DeadLetter(layout.reason, layout.detail)
        return layout


def flat_columns(batches: Sequence[pa.RecordBatch]) -> dict[str, pa.Array]:
    """Put batches of one layout one behind the other, and take their structs apart.

    A value in a struct that is null is null.
    """
    if len(batches) == 1:
        (batch,) = batches
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    else:
        table = pa.Table.from_batches(batches).combine_chunks()
        columns = {
            name: column.chunk(0)
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    for name in NESTED:
        found = columns.get(name)
        if found is not None and pa.types.is_struct(found.type):
            del columns[name]
            for child, array in zip(found.type, found.flatten(), strict=True):
                columns[f"{name}.{child.name}"] = array
    return columns


def _spread(batch: pa.RecordBatch) -> int:
    """Give the bytes of strings that are kept once and meant many times, each time counted."""
    total = 0
    for array in flat_columns([batch]).values():
        if not is_text(array.type):
            continue
        if pa.types.is_dictionary(array.type):
            lengths = pc.take(_lengths(array.dictionary), array.indices)
        elif pa.types.is_string_view(array.type):
            lengths = _lengths(array)
        else:
            continue
        total += pc.sum(lengths).as_py() or 0
    return total


def _lengths(texts: pa.Array) -> pa.Array:
    if not pa.types.is_string_view(texts.type):
        return pc.binary_length(texts).cast(pa.int64())
    # A view begins with its length; 16 bytes each.
    views = np.frombuffer(texts.buffers()[1], dtype=np.int32).reshape(-1, 4)
    mine = views[texts.offset : texts.offset + len(texts), 0].astype(np.int64)
    return pa.array(mine, mask=texts.is_null().to_numpy(zero_copy_only=False))


def _too_large(size: int) -> DeadLetter:
    detail = f"the batch unpacks to {size:,} bytes; at most {MAX_BATCH_BYTES:,} are read"
    return DeadLetter("too-large", detail)
