"""Files of predictions as columns, to be sent as Arrow batches: Parquet, Arrow IPC, Feather.

The columns are those of ``docs/arrow.md``.  A block of rows is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.errors import DeadLetter, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from kedge.batches import Piece

__all__ = ["BatchFile", "is_batch_file"]

_PARQUET = (".parquet", ".pq")
_ENDINGS = (*_PARQUET, ".arrow", ".feather")
#: Rows of a block; they become records of at most a thousand rows a partition.
_ROWS = 1 << 16
_LONGEST_NAME = 255
#: Without them ``predict_batch`` makes random ids and takes the present, which no file means.
_NEEDED = ("prediction_id", "event_time_ms")


def is_batch_file(path: Path) -> bool:
    """Tell by its name whether a file holds columns."""
    return path.name.lower().endswith(_ENDINGS)


class BatchFile:
    """A file of columns.

    Raises
    ------
    UsageError
        There is no such file, or pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        if not path.is_file():
            what = "is a directory, not a file" if path.is_dir() else "no such file"
            raise UsageError(f"{path}: {what}")
        try:
            import pyarrow as pa
        except ImportError:
            raise UsageError(
                f"{path}: it is read with pyarrow, which is not installed; "
                "run: pip install pyarrow, or write the events as NDJSON"
            ) from None
        self._pa = pa

    def checked(self) -> Iterator[tuple[pa.Table, list[str]]]:
        """Give the rows in blocks that a topic could take, and the models in each.

        Raises
        ------
        UsageError
            The file cannot be read, a column is missing or of a wrong type, or a row could
            never be processed; rows are numbered from 1.
        """
        from kedge.batches import check_rows, table_of

        first = 1
        for block in self._blocks():
            if first == 1:
                self._refuse_columns(block.column_names)
            try:
                table = table_of(block, {}, now_ms=0)
                check_rows(table, first=first)
                models = self._names(table, "model", first)
                self._names(table, "version", first)
                self._check_roles(table, first)
            except DeadLetter as refused:
                raise UsageError(f"{self.name}: {refused.reason}: {refused.detail}") from refused
            yield table, models
            first += len(block)

    def pieces(self, partitions: int, most_rows: int) -> Iterator[Piece]:
        """Give the rows as records for so many partitions; raises as :meth:`checked`."""
        from kedge.batches import pieces

        for table, _ in self.checked():
            try:
                yield from pieces(table, partitions=partitions, most_rows=most_rows)
            except DeadLetter as refused:
                raise UsageError(f"{self.name}: {refused.reason}: {refused.detail}") from refused

    def _blocks(self) -> Iterator[pa.Table]:
        pa = self._pa
        try:
            if self._path.name.lower().endswith(_PARQUET):
                from pyarrow import parquet

                with parquet.ParquetFile(self._path, memory_map=True) as file:
                    for batch in file.iter_batches(_ROWS, use_threads=False):
                        yield pa.Table.from_batches([batch])
                return
            with pa.memory_map(self.name) as source:
                for batch in _record_batches(pa, source):
                    for at in range(0, batch.num_rows, _ROWS):
                        yield pa.Table.from_batches([batch.slice(at, _ROWS)])
        except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
            raise UsageError(f"{self.name}: cannot be read: {error}") from error

    def _refuse_columns(self, names: list[str]) -> None:
        known = f"the columns are: {', '.join(names)}"
        if "label" in names and not any(name.startswith("features") for name in names):
            raise UsageError(
                f"{self.name}: these look like outcomes ({known}); columns hold predictions, "
                "write outcomes as NDJSON, one a line"
            )
        for name in _NEEDED:
            if name not in names:
                raise UsageError(f"{self.name}: no column {name!r}; {known}")

    def _names(self, table: pa.Table, column: str, first: int) -> list[str]:
        """Give the distinct names in a column, or the one in the metadata."""
        if column not in table.column_names:
            return [table.schema.metadata[f"kedge.{column}".encode()].decode()]
        values = table.column(column).combine_chunks()
        found: list[str | None] = values.unique().to_pylist()
        for name in found:
            if not name or len(name) > _LONGEST_NAME:
                row = first + values.to_pylist().index(name)
                raise DeadLetter(
                    "bad-value", f"row {row}: {column} should have 1 to 255 characters"
                )
        return [name for name in found if name is not None]

    def _check_roles(self, table: pa.Table, first: int) -> None:
        if "role" not in table.column_names:
            return
        values = table.column("role").combine_chunks()
        for role in values.unique().to_pylist():
            if role not in ("champion", "shadow", None):
                row = first + values.to_pylist().index(role)
                detail = f"row {row}: role should be champion or shadow, it is {role!r}"
                raise DeadLetter("bad-value", detail)


def _record_batches(pa: Any, source: Any) -> Iterator[pa.RecordBatch]:
    """Read an Arrow file, or a stream in a file."""
    try:
        file = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        yield from pa.ipc.open_stream(source)
        return
    for k in range(file.num_record_batches):
        yield file.get_batch(k)
