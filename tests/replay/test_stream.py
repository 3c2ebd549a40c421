"""What arrives when, and what is late, is decided before anything is partitioned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Monitor
from kedge.base import Scalar
from kedge.errors import UsageError
from kedge_services.local.replay import spill
from kedge_services.local.replay.flow import Flow, flow_of_file
from kedge_services.local.replay.stream import Label, Row, Stream

MONITOR = Monitor.model_validate(
    {
        "model": "m",
        "task": "binary",
        "classes": ["no", "yes"],
        "features": {"x": "numeric"},
        "replay": {"label": "y", "timestamp": "t", "prediction": "p", "score": "s"},
    }
)
times = st.lists(st.integers(0, 50), min_size=1, max_size=40)


def arrived(*moments: tuple[int, int]) -> list[Row]:
    return [Row(f"r{i}", at, arrival, {}) for i, (at, arrival) in enumerate(moments)]


def write_file(directory: Path, moments: list[int]) -> Path:
    path = directory / "rows.ndjson"
    with path.open("w") as file:
        for i, at in enumerate(moments):
            row = {"t": at, "x": float(i), "y": "yes" if i % 2 else "no", "p": "no", "s": 0.25}
            file.write(json.dumps(row) + "\n")
    return path


def flow_of(moments: list[int], **options: Any) -> Flow:
    with TemporaryDirectory() as directory:
        path = write_file(Path(directory), moments)
        flow = flow_of_file(path, MONITOR, Path(directory), **options)
        # All of it is read as long as the file is there.
        return Flow(iter(list(drain(flow))), flow.total, flow.delay_ms)


def drain(flow: Flow) -> Iterator[tuple[Row, Scalar | None]]:
    arrived = flow.before(1 << 50)
    return zip(arrived.rows, arrived.truths, strict=True)


@given(times, st.integers(0, 20), st.integers(1, 60), st.integers(1, 9))
def test_things_arrive_by_time_predictions_before_labels_rows_in_order(
    moments: list[int], delay: int, step: int, most: int
) -> None:
    flow = flow_of(moments, label_delay=timedelta(milliseconds=delay))
    order: list[tuple[int, bool, int]] = []
    labels: dict[str, Label] = {}
    now = 0
    while flow.next_ms is not None:
        rows, _, known = flow.before(now, most=most)
        piece: list[Row | Label] = [*rows, *known]
        assert all(what.arrival_ms < now for what in piece)
        order += sorted(
            (what.arrival_ms, isinstance(what, Label), int(what.prediction_id[4:]))
            for what in piece
        )
        labels |= {label.prediction_id: label for label in known}
        if (following := flow.next_ms) is not None and following >= now:
            now += step
    assert order == sorted(order)
    assert len(order) == 2 * len(moments)
    assert all(labels[f"row-{i}"].time_ms - at == delay for i, at in enumerate(moments))


@given(times, st.integers(0, 1_000))
def test_a_shuffle_keeps_the_times_and_the_rows(moments: list[int], seed: int) -> None:
    plain, shuffled = list(drain(flow_of(moments))), list(drain(flow_of(moments, permute=seed)))
    assert [row.time_ms for row, _ in shuffled] == [row.time_ms for row, _ in plain]
    assert sorted(str(row.features) for row, _ in shuffled) == sorted(
        str(row.features) for row, _ in plain
    )
    # A row's label goes with it.
    for row, truth in shuffled:
        assert truth == ("yes" if float(str(row.features["x"])) % 2 else "no")


def test_a_shuffle_is_the_same_for_the_same_seed() -> None:
    moments = list(range(30))
    one, again, other = (list(drain(flow_of(moments, permute=seed))) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_rows_out_of_order_are_sorted_on_disk_where_they_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = [(i * 7_919) % 1_000 for i in range(3_000)]
    in_memory = list(drain(flow_of(moments)))
    monkeypatch.setattr(spill, "MOST_BYTES", 20_000)
    assert list(drain(flow_of(moments))) == in_memory
    expected = sorted(range(3_000), key=lambda i: (moments[i], i))
    assert [row.prediction_id for row, _ in in_memory] == [f"row-{i}" for i in expected]
    assert list(drain(flow_of(moments, permute=1))) == list(drain(flow_of(moments, permute=1)))


def test_a_file_in_order_is_read_only_as_far_as_the_replay_is(tmp_path: Path) -> None:
    path = write_file(tmp_path, list(range(50_000)))
    flow = flow_of_file(path, MONITOR, tmp_path, label_delay=timedelta(milliseconds=10))
    read = 0
    for now in range(0, 50_010, 500):
        rows, _, _ = flow.before(now)
        read += len(rows)
        # The labels that are on their way are all that is kept.
        assert len(flow.labels) <= 10
    assert (read, flow.total, flow.next_ms) == (50_000, 50_000, 50_000)


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
    flow = flow_of([1, 2, 3, 4], label_delay=timedelta(seconds=1))
    first = flow.take(3)
    assert [row.prediction_id for row in first.rows] == ["row-0", "row-1", "row-2"]
    assert {label.prediction_id for label in first.labels} == {"row-0", "row-1", "row-2"}
    rest = flow.before(1 << 50)
    assert [label.prediction_id for label in rest.labels] == ["row-3"]


def test_a_limit_counts_from_the_beginning_of_the_file() -> None:
    assert [row.time_ms for row, _ in drain(flow_of([9, 1, 5], limit=2))] == [1, 9]


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no rows"):
        flow_of_file(write_file(tmp_path, []), MONITOR, tmp_path)
