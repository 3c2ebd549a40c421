"""A draft from a file of rows."""

from __future__ import annotations

from pathlib import Path

from kedge_services.local.init.draft import Draft, draft_from_table
from kedge_services.local.init.guess import Given
from kedge_services.local.init.table import describe
from kedge_services.local.tables import blocks, kind_of_file

__all__ = ["draft_from_file"]

#: More tell nothing new, and take their time.
_MOST_ROWS = 1_000_000


def draft_from_file(path: Path, said: Given) -> Draft:
    """Guess a monitor for CSV, NDJSON or Parquet.

    Raises
    ------
    UsageError
        The file cannot be read, or what was said does not fit it.
    """
    table = describe(
        blocks(path), texts_only=kind_of_file(path) == "csv", most_rows=_MOST_ROWS
    )  # fmt: skip
    read = f"{table.rows:,} rows" if table.is_complete else f"the first {table.rows:,} rows"
    return draft_from_table(table, said, file_name=path.name, source=f"{path.name} ({read})")
