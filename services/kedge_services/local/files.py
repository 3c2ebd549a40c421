"""Reads a file of rows the way a monitor's ``[replay]`` says."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple

from kedge.base import Scalar, label_text
from kedge.errors import UsageError
from kedge.monitor import Monitor, ReplayColumns

__all__ = ["FileRow", "feature_value", "label_value", "read_rows", "records"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class FileRow(NamedTuple):
    """One row: its event time, the declared features, and its label (None if empty)."""

    time_ms: int
    features: dict[str, Scalar | None]
    label: Scalar | None


def read_rows(path: Path, monitor: Monitor) -> Iterator[FileRow]:
    """Read CSV or NDJSON (also ``.gz``) in file order.

    Raises
    ------
    UsageError
        The file cannot be read, a column is missing or a time cannot be parsed;
        the message names the file and the row.
    """
    columns = monitor.replay
    if columns is None:
        raise UsageError(f"the monitor of {monitor.model} has no [replay] section for {path}")
    classes = {label_text(label): label for label in monitor.classes}
    for number, row in enumerate(records(path)):
        missing = [name for name in (*monitor.features, columns.label) if name not in row]
        if missing:
            raise UsageError(
                f"{path}: row {number + 1}: no column {missing[0]!r}; there are: {', '.join(row)}"
            )
        features = {name: feature_value(row[name], f.type) for name, f in monitor.features.items()}
        label = label_value(row[columns.label], monitor, classes)
        yield FileRow(_time_ms(path, number, row, columns), features, label)


def records(path: Path) -> Iterator[Mapping[str, Any]]:
    """Read the rows of a file as they are written, CSV as texts.

    Raises
    ------
    UsageError
        The file cannot be read; the message names it.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    kind = "".join(suffix for suffix in path.suffixes if suffix != ".gz")
    try:
        with _open(path) as file:
            if kind.endswith((".ndjson", ".jsonl")):
                for line in file:
                    yield json.loads(line)
            elif kind.endswith(".csv"):
                yield from csv.DictReader(file)
            else:
                raise UsageError(f"{path}: a file of rows is .csv or .ndjson, each also .gz")
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def feature_value(value: Any, kind: str) -> Scalar | None:
    """Give a feature's value in its declared type; empty cells and NaN are None."""
    if value is None or value == "":
        return None
    if kind == "numeric":
        try:
            number = float(value)
        except (TypeError, ValueError):
            return str(value)  # stays wrong, so that it is counted as a type error
        return None if math.isnan(number) else number
    if kind == "boolean" and isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
    return value if isinstance(value, (str, bool, int, float)) else str(value)


def label_value(value: Any, monitor: Monitor, classes: Mapping[str, Scalar]) -> Scalar | None:
    """Give a label as it is declared; ``classes`` are the declared labels by their text."""
    if value is None or value == "":
        return None
    if monitor.task == "regression":
        return float(value)
    text = label_text(value)
    return classes.get(text, text)


def _time_ms(path: Path, number: int, row: Mapping[str, Any], columns: ReplayColumns) -> int:
    try:
        if columns.timestamp is not None:
            return _parse_ms(row[columns.timestamp])
        if columns.start is None or columns.every is None:
            raise UsageError("[replay] needs `timestamp`, or `start` and `every`")
        return _parse_ms(columns.start) + number * (columns.every // _MS)
    except (KeyError, ValueError) as error:
        raise UsageError(f"{path}: row {number + 1}: no time: {error}") from error


def _parse_ms(value: Any) -> int:
    """Read an ISO 8601 time (UTC without an offset) or integer ms since the epoch."""
    if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
        return int(value)
    parsed = datetime.fromisoformat(str(value))
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return (parsed - _EPOCH) // _MS
