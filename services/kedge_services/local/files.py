"""Reads a file of rows the way a monitor's ``[replay]`` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from kedge.base import Scalar
from kedge.errors import UsageError
from kedge.monitor import Monitor, ReplayColumns
from kedge_services.local.cells import (
    BadCellError,
    Reader,
    classes_reader,
    feature_reader,
    feature_value,
    parse_ms,
    read_numbers,
    read_times,
)
from kedge_services.local.tables import Block, blocks, records

__all__ = ["FileRow", "feature_value", "read_event_times", "read_rows", "records"]

_MS = timedelta(milliseconds=1)
_NONE: Mapping[str, Scalar] = MappingProxyType({})


class FileRow(NamedTuple):
    """One row of a file; what it has no column for, and an empty cell, is None.

    Attributes
    ----------
    time_ms
        Event time.
    features
        The declared ones.
    label, prediction
        A declared class (what is none stays a text), for regression a float.
    score
        Binary: the probability of the positive class, which is the last one
        declared, whatever was predicted.  Multiclass: the score of the
        predicted class.
    segments
        The value of each declared segment that has one; the columns are called
        like the segments, and may be features, too.
    """

    time_ms: int
    features: dict[str, Scalar | None]
    label: Scalar | None = None
    prediction: Scalar | None = None
    score: float | None = None
    segments: Mapping[str, Scalar] = _NONE


def read_rows(path: Path, monitor: Monitor) -> Iterator[FileRow]:
    """Read CSV or NDJSON (also ``.gz``) or Parquet in file order, which may not be that of time.

    Raises
    ------
    UsageError
        The file cannot be read, a column is missing, or a time, a score or a
        label that has to be a number is none; the message names the file and
        the row.
    """
    replay = _columns(path, monitor)
    clock = _clock(path, replay)
    features = {name: feature_reader(f.type) for name, f in monitor.features.items()}
    answers = _answers(monitor, replay)
    groups = {segment.name for segment in monitor.segments}
    segments = {name: features.get(name, feature_reader("categorical")) for name in sorted(groups)}
    columns = [*features, *segments, *(name for name, _ in answers), replay.timestamp]
    wanted = list(dict.fromkeys(name for name in columns if name is not None))
    for block in blocks(path, wanted):
        values = zip(
            *(_read(path, block, name, read) for name, read in features.items()), strict=True
        )
        answered = (
            repeat(None) if name is None else _read(path, block, name, read)
            for name, read in answers
        )
        # Nothing here runs in Python for a row: that is half of the time of reading a file.
        rows = zip(
            _times(path, block, replay, clock),
            map(dict, map(zip, repeat(tuple(features)), values)),
            *answered,
            _segments(path, block, segments),
            strict=False,
        )
        yield from map(FileRow._make, rows)


def read_event_times(path: Path, monitor: Monitor) -> Iterator[int]:
    """Read the event times alone, in file order.

    Raises
    ------
    UsageError
        As for :func:`read_rows`, of what there is to times.
    """
    replay = _columns(path, monitor)
    clock = _clock(path, replay)
    # Without a column of times another one tells how many rows there are.
    name = replay.timestamp or replay.label or next(iter(monitor.features), None)
    for block in blocks(path, None if name is None else [name]):
        yield from _times(path, block, replay, clock)


def _columns(path: Path, monitor: Monitor) -> ReplayColumns:
    if monitor.replay is None:
        raise UsageError(f"the monitor of {monitor.model} has no [replay] section for {path}")
    return monitor.replay


def _answers(monitor: Monitor, replay: ReplayColumns) -> list[tuple[str | None, Reader]]:
    regression = monitor.task == "regression"
    answer: Reader = read_numbers if regression else classes_reader(monitor.classes)
    return [(replay.label, answer), (replay.prediction, answer), (replay.score, read_numbers)]


def _segments(
    path: Path, block: Block, segments: Mapping[str, Reader]
) -> Iterable[Mapping[str, Scalar]]:
    if not segments:
        return repeat(_NONE)
    columns = [_read(path, block, name, read) for name, read in segments.items()]
    return (
        {name: value for name, value in zip(segments, values, strict=True) if value is not None}
        for values in zip(*columns, strict=True)
    )


def _read(path: Path, block: Block, column: str, read: Reader) -> Sequence[Any]:
    try:
        return read(block.columns[column])
    except BadCellError as error:
        row = block.first + error.index
        raise UsageError(f"{path}: row {row}: {column}: {error}") from error


def _clock(path: Path, replay: ReplayColumns) -> tuple[int, int]:
    """Give the time of the first row and from row to row, in ms."""
    if replay.timestamp is not None:
        return 0, 0
    if replay.start is None or replay.every is None:
        raise UsageError(f"{path}: [replay] needs `timestamp`, or `start` and `every`")
    try:
        return parse_ms(replay.start), replay.every // _MS
    except ValueError as error:
        raise UsageError(f"{path}: [replay] start: {error}") from error


def _times(
    path: Path, block: Block, replay: ReplayColumns, clock: tuple[int, int]
) -> Sequence[int]:
    if replay.timestamp is not None:
        return _read(path, block, replay.timestamp, read_times)
    start, every = clock
    begin = start + (block.first - 1) * every
    return [begin + number * every for number in range(block.rows)]
