"""A file of rows becomes events by the monitor's [replay] section."""

from __future__ import annotations

import gzip
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kedge.errors import UsageError
from kedge.monitor import Monitor
from kedge_services.local.demo.speed import speed_up_monitor
from kedge_services.local.files import FileRow, read_rows

ELEC2 = Path(__file__).parent.parent / "data" / "elec2.csv.gz"


def monitor(**changes: Any) -> Monitor:
    declared: dict[str, Any] = {
        "model": "m",
        "task": "binary",
        "classes": [0, 1],
        "features": {"x": "numeric", "c": "categorical", "b": "boolean"},
        "replay": {"label": "y", "start": "2026-01-01T00:00:00Z", "every": "30m"},
    }
    return Monitor.model_validate({**declared, **changes})


def test_csv_and_ndjson_give_the_same_rows(tmp_path: Path) -> None:
    csv, ndjson = tmp_path / "rows.csv.gz", tmp_path / "rows.ndjson"
    csv.write_bytes(gzip.compress(b"x,c,b,y\n1.5,a,true,0\n,b,0,1\nmuch,a,1,\n"))
    ndjson.write_text(
        '{"x": 1.5, "c": "a", "b": true, "y": 0}\n{"x": null, "c": "b", "b": false, "y": 1}\n'
        '{"x": "much", "c": "a", "b": true, "y": null}\n'
    )
    start = 1_767_225_600_000
    expected = [
        FileRow(start, {"x": 1.5, "c": "a", "b": True}, 0),
        FileRow(start + 1_800_000, {"x": None, "c": "b", "b": False}, 1),
        FileRow(start + 3_600_000, {"x": "much", "c": "a", "b": True}, None),
    ]
    assert list(read_rows(csv, monitor())) == expected
    assert list(read_rows(ndjson, monitor())) == expected


def test_a_column_of_times_is_read_as_utc(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("x,c,b,y,t\n1,a,1,0,2026-01-01T01:00:00+01:00\n1,a,1,0,1767225600001\n")
    timed = monitor(replay={"label": "y", "timestamp": "t"})
    assert [row.time_ms for row in read_rows(path, timed)] == [1_767_225_600_000, 1_767_225_600_001]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.csv", None, "no such file"),
        ("rows.csv", b"x,c,y\n1,a,0\n", "row 1: no column 'b'; there are: x, c, y"),
        ("rows.csv", b"\xff\xfe\n", "cannot be read"),
        ("rows.csv.gz", b"no gzip", "cannot be read"),
        ("rows.ndjson", b"{\n", "cannot be read"),
        ("rows.xlsx", b"", "a file of rows is .csv or .ndjson"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes | None, expected: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=expected) as caught:
        list(read_rows(path, monitor()))
    assert name in str(caught.value)


def test_a_monitor_without_times_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("x,c,b,y\n1,a,1,0\n")
    with pytest.raises(UsageError, match="no \\[replay\\] section"):
        list(read_rows(path, monitor(replay=None)))
    with pytest.raises(UsageError, match="`timestamp`, or `start` and `every`"):
        list(read_rows(path, monitor(replay={"label": "y"})))


def test_speeding_up_divides_every_duration_and_keeps_none_at_zero() -> None:
    declared = monitor(
        label_horizon="1d",
        outcome_wait="10m",
        windows={"pane": "10d", "grace": "5s"},
        rules=[
            {"name": "a", "metric": "accuracy", "below": 0.5, "for": "2 windows"},
            {"name": "b", "metric": "accuracy", "below": 0.5, "for": "1d"},
        ],
        retrain={"cooldown": "20d"},
    )
    fast = speed_up_monitor(declared, 864_000)
    assert fast.windows.pane == timedelta(seconds=1)
    assert fast.label_horizon == timedelta(milliseconds=100)
    assert fast.windows.grace >= timedelta(microseconds=1)
    assert [rule.for_ for rule in fast.rules] == ["2 windows", "100ms"]
    assert fast.retrain is not None
    assert fast.retrain.cooldown == timedelta(seconds=2)
    assert Monitor.model_validate_json(fast.model_dump_json()).windows.pane == fast.windows.pane
