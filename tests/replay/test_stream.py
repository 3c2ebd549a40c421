"""What arrives when, and what is late, is decided before anything is partitioned."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Monitor
from kedge.errors import UsageError
from kedge_services.local.files import FileRow
from kedge_services.local.replay.stream import Label, Row, Stream, stream_of_file

MONITOR = Monitor.model_validate(
    {
        "model": "m",
        "task": "binary",
        "classes": ["no", "yes"],
        "features": {"x": "numeric"},
        "replay": {"label": "y", "timestamp": "t"},
    }
)
times = st.lists(st.integers(0, 50), min_size=1, max_size=40)


def file_rows(moments: list[int]) -> list[FileRow]:
    return [
        FileRow(at, {"x": float(i)}, "yes" if i % 2 else "no", "no", 0.25)
        for i, at in enumerate(moments)
    ]


def arrived(*moments: tuple[int, int]) -> list[Row]:
    return [Row(f"r{i}", at, arrival, {}) for i, (at, arrival) in enumerate(moments)]


@given(times, st.integers(0, 20))
def test_things_arrive_by_time_predictions_before_labels_rows_in_order(
    moments: list[int], delay: int
) -> None:
    stream = stream_of_file(file_rows(moments), MONITOR, label_delay=timedelta(milliseconds=delay))
    numbers = {row.prediction_id: i for i, row in enumerate(stream.rows)}
    order = [
        (a.arrival_ms, isinstance(a, Label), numbers[a.prediction_id]) for a in stream.arrivals()
    ]
    assert order == sorted(order)
    assert len(order) == 2 * len(moments)
    delays = {label.prediction_id: label.time_ms for label in stream.labels}
    assert all(delays[row.prediction_id] - row.time_ms == delay for row in stream.rows)


@given(times, st.integers(0, 1_000))
def test_a_shuffle_keeps_the_times_and_the_rows(moments: list[int], seed: int) -> None:
    rows = file_rows(moments)
    plain, shuffled = stream_of_file(rows, MONITOR), stream_of_file(rows, MONITOR, permute=seed)
    assert [row.time_ms for row in shuffled.rows] == [row.time_ms for row in plain.rows]
    assert sorted(str(row.features) for row in shuffled.rows) == sorted(
        str(row.features) for row in plain.rows
    )
    # A row's label goes with it.
    labels = shuffled.label_of()
    for row in shuffled.rows:
        odd = float(str(row.features["x"])) % 2
        assert labels[row.prediction_id].label == ("yes" if odd else "no")


def test_a_shuffle_is_the_same_for_the_same_seed() -> None:
    rows = file_rows(list(range(30)))
    one, again, other = (stream_of_file(rows, MONITOR, permute=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_a_row_behind_the_watermark_is_put_aside_with_its_label() -> None:
    """Draw the watermark: the newest time so far less the grace.

    ::

        arrival    0     1     2     3
        time      10    30    19    20        grace 10
        watermark  -     0    20    20        before the record
                               late  in time
    """
    rows = arrived((10, 0), (30, 1), (19, 2), (20, 3))
    labels = [Label(row.prediction_id, "no", row.time_ms, 5) for row in rows]
    stream = Stream.of(rows, labels, grace_ms=10)
    assert [row.prediction_id for row in stream.rows] == ["r0", "r1", "r3"]
    assert [(late.row.prediction_id, late.behind_ms) for late in stream.late] == [("r2", 1)]
    assert {label.prediction_id for label in stream.labels} == {"r0", "r1", "r3"}


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=30), st.integers(0, 30))
def test_every_row_takes_part_or_is_late_with_its_measure(
    moments: list[tuple[int, int]], grace: int
) -> None:
    rows = arrived(*moments)
    stream = Stream.of(rows, [], grace_ms=grace)
    assert len(stream.rows) + len(stream.late) == len(rows)
    newest: int | None = None
    late = {entry.row.prediction_id: entry.behind_ms for entry in stream.late}
    for row in sorted(rows, key=lambda r: r.arrival_ms):
        behind = 0 if newest is None else newest - grace - row.time_ms
        assert late.get(row.prediction_id, 0) == max(0, behind)
        newest = row.time_ms if newest is None else max(newest, row.time_ms)


def test_the_warm_up_takes_its_labels_with_it() -> None:
    stream = stream_of_file(file_rows([1, 2, 3, 4]), MONITOR, label_delay=timedelta(seconds=1))
    first, rest = stream.split(3)
    assert [row.prediction_id for row in first.rows] == ["row-0", "row-1", "row-2"]
    assert {label.prediction_id for label in first.labels} == {"row-0", "row-1", "row-2"}
    assert [label.prediction_id for label in rest.labels] == ["row-3"]


def test_a_limit_counts_from_the_beginning_of_the_file() -> None:
    stream = stream_of_file(file_rows([9, 1, 5]), MONITOR, limit=2)
    assert [row.time_ms for row in stream.rows] == [1, 9]


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(UsageError, match="no rows"):
        stream_of_file([], MONITOR)
