"""Predictions as Arrow batches: the names and bounds that writers and readers share.

The value of such a record is one Arrow IPC stream with one record batch; each of its rows
is one prediction, with the meaning that it would have as a JSON event of its own.
``docs/arrow.md`` describes the columns.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "CONSTANTS",
    "CONTENT_TYPE",
    "CONTENT_TYPE_HEADER",
    "MAX_BATCH_BYTES",
    "MAX_BATCH_ROWS",
    "SCHEMA_KEY",
    "is_batch",
]

#: The record header that tells a batch from a JSON event, and its value.
CONTENT_TYPE_HEADER = "content-type"
CONTENT_TYPE = b"application/vnd.apache.arrow.stream"
#: Columns that may stand once in the schema's metadata, as ``kedge.<name>``.
CONSTANTS = ("model", "version", "role")
#: The version of the event's schema, in the schema's metadata; absent means 1.
SCHEMA_KEY = b"kedge.schema"
#: What is read from one record at most: rows, and bytes once they are unpacked.
MAX_BATCH_ROWS = 100_000
MAX_BATCH_BYTES = 64 * 1024 * 1024


def is_batch(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """Say whether a record's headers name it a batch; parameters of the type do not matter."""
    for name, value in headers:
        if (
            value is not None
            and name.lower() == CONTENT_TYPE_HEADER
            and value.partition(b";")[0].strip().lower() == CONTENT_TYPE
        ):
            return True
    return False
