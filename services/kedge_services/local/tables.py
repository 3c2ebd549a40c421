"""Files of rows as blocks of columns: CSV, NDJSON, Parquet.

A block is some thousand rows, so a file is never in memory whole, and what is
done with a column is done for thousands of cells at once.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from kedge.errors import UsageError

__all__ = ["Block", "blocks", "kind_of_file", "records"]

_ROWS = 4_096
_UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)


class Block(NamedTuple):
    """Rows that follow one another, as columns; ``first`` is the first one's number, from 1."""

    first: int
    rows: int
    columns: Mapping[str, Sequence[Any]]


def blocks(path: Path, wanted: Sequence[str] | None = None) -> Iterator[Block]:
    """Read a file in its order, CSV as texts; only the ``wanted`` columns (None: all).

    Raises
    ------
    UsageError
        The file cannot be read, has no such column, or a row is broken; the
        message names the file and, where there is one, the row.
    """
    kind = kind_of_file(path)
    try:
        if kind == "parquet":
            yield from _parquet_blocks(path, wanted)
            return
        with _open(path) as file:
            if kind == "csv":
                yield from _csv_blocks(path, file, wanted)
            else:
                yield from _ndjson_blocks(path, file, wanted)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def records(path: Path) -> Iterator[Mapping[str, Any]]:
    """Read a file row by row, CSV as texts.

    Raises
    ------
    UsageError
        As for :func:`blocks`.
    """
    if kind_of_file(path) == "ndjson":
        try:
            with _open(path) as file:
                yield from _objects(path, file)
        except _UNREADABLE as error:
            raise _unreadable(path, error) from error
        return
    for block in blocks(path):
        for values in zip(*block.columns.values(), strict=True):
            yield dict(zip(block.columns, values, strict=True))


def kind_of_file(path: Path) -> Literal["csv", "ndjson", "parquet"]:
    """Tell by its name what a file is.

    Raises
    ------
    UsageError
        There is no such file, or its name says nothing that is known.
    """
    if not path.is_file():
        what = "is a directory, not a file" if path.is_dir() else "no such file"
        raise UsageError(f"{path}: {what}")
    name = path.name.lower()
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    name = name.removesuffix(".gz")
    if name.endswith((".ndjson", ".jsonl")):
        return "ndjson"
    if name.endswith(".csv"):
        return "csv"
    raise UsageError(f"{path}: a file of rows is .csv or .ndjson, each also .gz, or .parquet")


def _open(path: Path) -> IO[str]:
    # Spreadsheets begin their CSV with a byte order mark.
    if path.suffix.lower() == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _unreadable(path: Path, why: object) -> UsageError:
    return UsageError(f"{path}: cannot be read: {why}")


def _missing(place: object, column: str, known: Sequence[str]) -> UsageError:
    return UsageError(f"{place}: no column {column!r}; there are: {', '.join(known)}")


# ------------------------------------------------------------------------ CSV


def _csv_blocks(path: Path, file: IO[str], wanted: Sequence[str] | None) -> Iterator[Block]:
    reader = csv.reader(file)
    header = next(filter(None, reader), None)
    if header is None:
        return
    if len(header) == 1 and (mark := next((m for m in ";\t|" if m in header[0]), None)):
        raise UsageError(f"{path}: its cells are separated by {mark!r}, not by commas as in CSV")
    names = header if wanted is None else wanted
    for name in names:
        if name not in header:
            raise _missing(path, name, header)
        if header.count(name) > 1:
            raise UsageError(f"{path}: {header.count(name)} columns are called {name!r}")
    places = [(name, header.index(name)) for name in names]
    first = 1
    while rows := list(islice(filter(None, reader), _ROWS)):
        if set(map(len, rows)) != {len(header)}:
            raise _ragged(path, first, rows, len(header))
        columns: dict[str, Sequence[str]]
        if len(places) == 1:  # of event times alone nothing else need be turned round
            columns = {name: list(map(itemgetter(place), rows)) for name, place in places}
        else:
            turned = list(zip(*rows, strict=True))
            columns = {name: turned[place] for name, place in places}
        yield Block(first, len(rows), columns)
        first += len(rows)


def _ragged(path: Path, first: int, rows: Sequence[Sequence[str]], width: int) -> UsageError:
    number, cells = next(
        (first + i, len(row)) for i, row in enumerate(rows) if len(row) != width
    )  # fmt: skip
    return UsageError(f"{path}: row {number}: {cells} cells, but the header has {width}")


# --------------------------------------------------------------------- NDJSON


def _ndjson_blocks(path: Path, file: IO[str], wanted: Sequence[str] | None) -> Iterator[Block]:
    objects = _objects(path, file)
    first = 1
    while rows := list(islice(objects, _ROWS)):
        known = list(dict.fromkeys(key for row in rows for key in row))
        # As on the wire, what an object leaves out is null; what all leave out is misspelt.
        for name in wanted or () if first == 1 else ():
            if name not in known:
                raise _missing(path, name, known)
        columns = {name: [row.get(name) for row in rows] for name in wanted or known}
        yield Block(first, len(rows), columns)
        first += len(rows)


def _objects(path: Path, file: IO[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(filter(str.strip, file), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _unreadable(path, f"row {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise _unreadable(path, f"row {number} is no JSON object")
        yield row


# -------------------------------------------------------------------- Parquet


def _parquet_blocks(path: Path, wanted: Sequence[str] | None) -> Iterator[Block]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            f"{path}: Parquet is read with pyarrow, which is not installed; "
            "run: pip install pyarrow, or write the rows as CSV or NDJSON"
        ) from None
    first = 1
    try:
        with parquet.ParquetFile(path, memory_map=True) as file:
            known = file.schema_arrow.names
            for name in wanted or ():
                if name not in known:
                    raise _missing(path, name, known)
            names = None if wanted is None else list(wanted)
            for batch in file.iter_batches(_ROWS, columns=names, use_threads=False):
                columns = zip(batch.schema.names, batch.columns, strict=True)
                yield Block(first, len(batch), {name: _cells(array) for name, array in columns})
                first += len(batch)
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise _unreadable(path, error) from error


def _cells(array: Any) -> list[Any]:
    """Give an Arrow array as a list, the quick way where it gives the same."""
    from pyarrow import timestamp, types

    if types.is_dictionary(array.type):
        values = _cells(array.dictionary)
        return [None if place is None else values[place] for place in _cells(array.indices)]
    if types.is_timestamp(array.type):
        # Instants in UTC; a datetime has no nanoseconds.
        return list(array.cast(timestamp("us"), safe=False).to_pylist())
    plain = types.is_floating(array.type) or types.is_integer(array.type)
    if plain and not array.null_count:
        return list(array.to_numpy(zero_copy_only=False).tolist())
    return list(array.to_pylist())
