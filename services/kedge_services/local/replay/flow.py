"""What arrives, piece by piece: a file is read as the replay gets there, and not before.

A first pass over the event times alone counts the rows and sees whether they
are in order.  If they are, nothing is held but the row that comes next and the
labels that are on their way.  Rows out of order are sorted first, on disk where
they are many; shuffled ones lie on disk, as they are wanted in any order.
"""

from __future__ import annotations

import marshal
import math
import random
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from kedge.base import Scalar
from kedge.errors import UsageError
from kedge.monitor import Monitor
from kedge_services.local.files import FileRow, read_event_times, read_rows
from kedge_services.local.replay.spill import Shelf, Sorter
from kedge_services.local.replay.stream import (
    FILE_VERSION,
    Arrived,
    Label,
    Late,
    Row,
    Stream,
)

__all__ = ["Flow", "flow_of_file"]

_MS = timedelta(milliseconds=1)


@dataclass
class Flow:
    """Rows and their labels in the order of arrival; what was taken is not kept.

    Attributes
    ----------
    rows
        In the order of arrival, each with the label that counts in the end, None if
        there is none.
    total
        Number of rows.
    delay_ms
        How long after their rows labels arrive; None if ``labels`` says when they do.
    labels
        On their way, in the order of arrival.
    late
        Rows that were put aside, because they came behind the watermark.
    version
        Whose predictions these are.
    """

    rows: Iterator[tuple[Row, Scalar | None]]
    total: int
    delay_ms: int | None = None
    labels: deque[Label] = field(default_factory=deque)
    late: Sequence[Late] = ()
    version: str = FILE_VERSION

    def __post_init__(self) -> None:
        """Look at the first row."""
        self._next = next(self.rows, None)

    @classmethod
    def of(cls, stream: Stream) -> Flow:
        """Let a stream that is in memory arrive."""
        # A stream of nothing but shadows has no champion; then the first version counts.
        serves = stream.champions().rows or stream.rows
        truths = {name: label.label for name, label in stream.label_of().items()}
        return cls(
            ((row, truths.get(row.prediction_id)) for row in stream.rows),
            len(stream),
            labels=deque(stream.labels),
            late=stream.late,
            version=serves[0].version if serves else FILE_VERSION,
        )

    @property
    def next_row_ms(self) -> int | None:
        """When the next row arrives; None: there is none."""
        return None if self._next is None else self._next[0].arrival_ms

    @property
    def next_ms(self) -> int | None:
        """When the next row or label arrives; None: nothing is left."""
        row_ms = self.next_row_ms
        label_ms = self.labels[0].arrival_ms if self.labels else row_ms
        return label_ms if row_ms is None or label_ms is None else min(row_ms, label_ms)

    def take(self, rows: int) -> Stream:
        """Take the first rows, with all of their labels."""
        taken, _ = self._rows_before(math.inf, rows)
        ids = {row.prediction_id for row in taken}
        mine = [label for label in self.labels if label.prediction_id in ids]
        self.labels = deque(label for label in self.labels if label.prediction_id not in ids)
        return Stream(taken, mine)

    def before(self, time_ms: int, *, most: int | None = None) -> Arrived:
        """Take what arrives before this time.

        Parameters
        ----------
        most
            Take only so many rows, and the labels that arrive before the next one.
        """
        rows, truths = self._rows_before(time_ms, most)
        if self._next is not None:
            time_ms = min(time_ms, self._next[0].arrival_ms)
        labels = []
        while self.labels and self.labels[0].arrival_ms < time_ms:
            labels.append(self.labels.popleft())
        return Arrived(rows, truths, labels)

    def _rows_before(
        self, time_ms: float, most: int | None
    ) -> tuple[list[Row], list[Scalar | None]]:
        rows: list[Row] = []
        truths: list[Scalar | None] = []
        entry, delay_ms = self._next, self.delay_ms
        while entry is not None and entry[0].arrival_ms < time_ms and len(rows) != most:
            row, truth = entry
            rows.append(row)
            truths.append(truth)
            if truth is not None and delay_ms is not None:
                known_ms = row.time_ms + delay_ms
                self.labels.append(Label(row.prediction_id, truth, known_ms, known_ms))
            entry = next(self.rows, None)
        self._next = entry
        return rows, truths


def flow_of_file(
    path: Path,
    monitor: Monitor,
    directory: Path,
    *,
    label_delay: timedelta = timedelta(0),
    limit: int | None = None,
    permute: int | None = None,
) -> Flow:
    """Let the rows of a file arrive at their event times, and their labels after the delay.

    Parameters
    ----------
    directory
        Where rows are put that have to be sorted or shuffled and are many.
    limit
        Take only so many rows from the beginning of the file.
    permute
        Seed of a shuffle: what the rows say changes places, the times stay.  What
        was a drift is then spread over the whole stream: the stationary control.

    Raises
    ------
    UsageError
        There are no rows, or the file cannot be read; the message says where.
    """
    total, is_sorted = _look(islice(read_event_times(path, monitor), limit))
    if not total:
        raise UsageError("the data has no rows")
    rows: Iterator[FileRow] = islice(read_rows(path, monitor), limit)
    if permute is not None:
        rows = _shuffled(rows, total, permute, directory)
    numbered: Iterator[tuple[int, FileRow]] = enumerate(rows)
    if not is_sorted:
        numbered = _in_order(numbered, directory)
    return Flow(_arrivals(numbered, monitor), total, delay_ms=label_delay // _MS)


def _look(times_ms: Iterable[int]) -> tuple[int, bool]:
    """Count event times and say whether none is before the one in front of it."""
    count, is_sorted, last_ms = 0, True, -1
    for time_ms in times_ms:
        count += 1
        if time_ms < last_ms:
            is_sorted = False
        last_ms = time_ms
    return count, is_sorted


def _arrivals(
    rows: Iterable[tuple[int, FileRow]], monitor: Monitor
) -> Iterator[tuple[Row, Scalar | None]]:
    # What arrives at its event time is never late.
    is_labelled, is_regression = monitor.labelled, monitor.task == "regression"
    for number, (time_ms, features, label, prediction, score, segments) in rows:
        output: dict[str, Any] | None = None
        if prediction is not None:
            output = {"value" if is_regression else "label": prediction}
            if score is not None and not is_regression:
                output["score"] = score
        name = f"row-{number}"
        row = Row(name, time_ms, time_ms, features, output, FILE_VERSION, "champion", segments)
        yield row, label if is_labelled else None


def _shuffled(rows: Iterable[FileRow], total: int, seed: int, directory: Path) -> Iterator[FileRow]:
    order = array("q", range(total))
    random.Random(seed).shuffle(order)  # noqa: S311 -- a shuffle that can be repeated
    times, shelf = array("q"), Shelf(directory)
    try:
        for row in rows:
            times.append(row.time_ms)
            shelf.append(_plain(row))
        for place, number in enumerate(order):
            yield FileRow._make(shelf[number])._replace(time_ms=times[place])
    finally:
        shelf.close()


def _in_order(
    rows: Iterable[tuple[int, FileRow]], directory: Path
) -> Iterator[tuple[int, FileRow]]:
    sorter = Sorter(directory)
    for number, row in rows:
        sorter.add((row.time_ms, number), marshal.dumps(_plain(row)))
    for (_, number), value in sorter.sorted():
        yield number, FileRow._make(marshal.loads(value))  # noqa: S302 -- written above


def _plain(row: FileRow) -> tuple[Any, ...]:
    segments: Mapping[str, Any] = row.segments
    return (*row[:-1], dict(segments))
