"""A file of rows becomes events by the monitor's [replay] section."""

from __future__ import annotations

import gzip
import math
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from kedge.base import label_text
from kedge.errors import UsageError
from kedge.monitor import Monitor
from kedge_services.local.cells import (
    BadCellError,
    classes_reader,
    feature_reader,
    feature_value,
    parse_ms,
    read_numbers,
    read_times,
)
from kedge_services.local.demo.speed import speed_up_monitor
from kedge_services.local.files import FileRow, read_rows, records

START = 1_767_225_600_000


def monitor(**changes: Any) -> Monitor:
    declared: dict[str, Any] = {
        "model": "m",
        "task": "binary",
        "classes": [0, 1],
        "features": {"x": "numeric", "c": "categorical", "b": "boolean"},
        "replay": {"label": "y", "start": "2026-01-01T00:00:00Z", "every": "30m"},
    }
    return Monitor.model_validate({**declared, **changes})


def small(**replay: Any) -> Monitor:
    return monitor(features={"x": "numeric"}, replay={"label": "y", "timestamp": "t", **replay})


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    csv, ndjson, table = (tmp_path / f"rows.{end}" for end in ("csv.gz", "ndjson", "parquet"))
    csv.write_bytes(gzip.compress(b"x,c,b,y,extra\n1.5,a,true,0,\n,b,0,1,\n-3,a,1,,\n"))
    ndjson.write_text(
        '{"x": 1.5, "c": "a", "b": true, "y": 0}\n{"x": null, "c": "b", "b": false, "y": 1}\n\n'
        '{"x": -3, "c": "a", "b": true, "y": null}\n'
    )
    columns = {"x": [1.5, None, -3.0], "c": ["a", "b", "a"], "b": [True, False, True]}
    parquet.write_table(pa.table({**columns, "y": pa.array([0.0, 1.0, None])}), table)
    expected = [
        FileRow(START, {"x": 1.5, "c": "a", "b": True}, 0),
        FileRow(START + 1_800_000, {"x": None, "c": "b", "b": False}, 1),
        FileRow(START + 3_600_000, {"x": -3.0, "c": "a", "b": True}, None),
    ]
    for path in (csv, ndjson, table):
        rows = list(read_rows(path, monitor()))
        assert rows == expected, path.name
        assert [type(row.label) for row in rows] == [int, int, type(None)]


def test_a_feature_of_the_wrong_type_stays_wrong_so_that_it_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("x,c,b,y\n1,a,1,0\nmuch,a,maybe,1\n")
    assert [row.features for row in read_rows(path, monitor())] == [
        {"x": 1.0, "c": "a", "b": True},
        {"x": "much", "c": "a", "b": "maybe"},
    ]


def test_predictions_and_scores_are_read_where_there_are_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "x,t,y,p,s\n1,2026-01-01,1,1.0,0.75\n2,2026-01-02,,True,\n3,2026-01-03,0,,nan\n"
    )
    day = 86_400_000
    assert list(read_rows(path, small(prediction="p", score="s"))) == [
        FileRow(START, {"x": 1.0}, 1, 1, 0.75),
        FileRow(START + day, {"x": 2.0}, None, 1, None),
        FileRow(START + 2 * day, {"x": 3.0}, 0, None, None),
    ]
    unlabelled = monitor(
        labelled=False, features={"x": "numeric"}, replay={"timestamp": "t", "prediction": "p"}
    )
    assert [row.label for row in read_rows(path, unlabelled)] == [None] * 3
    assert [row.prediction for row in read_rows(path, unlabelled)] == [1, 1, None]


def test_segments_are_columns_that_may_be_features_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("t,x,y,sex,c\n1,1,0,f,a\n2,2,1,,b\n")
    declared = small().declaration() | {
        "features": {"x": "numeric", "c": "categorical"},
        "segments": [{"name": "sex"}, {"name": "c"}],
    }
    rows = list(read_rows(path, Monitor.model_validate(declared)))
    assert [row.segments for row in rows] == [{"c": "a", "sex": "f"}, {"c": "b"}]
    assert [row.features for row in rows] == [{"x": 1.0, "c": "a"}, {"x": 2.0, "c": "b"}]


def test_a_regression_is_about_floats(tmp_path: Path) -> None:
    path = tmp_path / "rows.ndjson"
    path.write_text('{"x": 1, "y": 7, "p": "6.5"}\n{"x": 1, "y": null, "p": NaN}\n')
    priced = monitor(
        task="regression", classes=[], features={"x": "numeric"},
        replay={"label": "y", "prediction": "p", "start": "2026-01-01", "every": "1s"},
    )  # fmt: skip
    first, second = read_rows(path, priced)
    assert (first.label, first.prediction) == (7.0, 6.5)
    assert type(first.label) is float
    assert (second.label, second.prediction, second.time_ms) == (None, None, START + 1000)


TIMES = ["2026-01-01 00:00:00", "2026-01-01T01:00:00.250+01:00", "1767225600001", "2026-01-01"]


def test_times_are_iso_dates_or_milliseconds_and_utc_where_they_do_not_say(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("x,y,t\n" + "".join(f"1,0,{time}\n" for time in TIMES))
    times = [row.time_ms for row in read_rows(path, small())]
    assert times == [START, START + 250, START + 1, START]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (pa.timestamp("ns"), [START * 1_000_000 + 1_999_999], START + 1),
        (pa.timestamp("us", "Europe/Oslo"), [START * 1000], START),
        (pa.timestamp("s"), [START // 1000], START),
        (pa.date32(), [date(2026, 1, 1)], START),
        (pa.int64(), [START], START),
        (pa.float64(), [float(START)], START),
        (pa.string(), ["2026-01-01T00:00:00Z"], START),
    ],
)
def test_arrow_times_are_instants(
    tmp_path: Path, kind: Any, values: list[Any], expected: int
) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"x": [1.0], "y": [0], "t": pa.array(values, kind)}), path)
    assert [row.time_ms for row in read_rows(path, small())] == [expected]


def test_rows_keep_their_order_and_their_numbers_over_many_blocks(tmp_path: Path) -> None:
    rows = 10_000
    times = [START + 1000 * ((i * 7_919) % rows) for i in range(rows)]
    path = tmp_path / "rows.parquet"
    columns = {"x": [float(i) for i in range(rows)], "y": [i % 2 for i in range(rows)], "t": times}
    parquet.write_table(pa.table(columns), path, row_group_size=3_000)
    read = list(read_rows(path, small()))
    assert [row.time_ms for row in read] == times
    assert [row.features["x"] for row in read] == columns["x"]
    paced = small(timestamp=None, start="2026-01-01", every="1s")
    assert [row.time_ms for row in read_rows(path, paced)] == [
        START + 1000 * i for i in range(rows)
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.csv", None, "no such file"),
        ("rows.csv", b"x,t\n1,0\n", "no column 'y'; there are: x, t"),
        ("rows.csv", b"\xff\xfe\n", "cannot be read"),
        ("rows.csv", b"x,y,t\n1,0,1\n\n1,0\n", "row 2: 2 cells, but the header has 3"),
        ("rows.csv", b"x,y,t,x\n1,0,1,2\n", "2 columns are called 'x'"),
        ("rows.csv", b"x,y,t\n1,0,1\n1,0,soon\n", "row 2: t: Invalid isoformat string: 'soon'"),
        ("rows.csv", b"x,y,t\n1,0,1\n1,0,\n", "row 2: t: the cell is empty"),
        ("rows.csv", b"x,y,t\n1,0,1930-01-01\n", "row 1: t: '1930-01-01' is not between"),
        ("rows.csv", b"x;y;t\n1;0;1\n", "separated by ';', not by commas"),
        ("rows.csv.gz", b"no gzip", "cannot be read"),
        ("rows.ndjson", b'{"x": 1, "y": 1, "t": 1}\n{\n', "row 2 is no JSON"),
        ("rows.ndjson", b"[1]\n", "row 1 is no JSON object"),
        ("rows.ndjson", b'{"x": 1, "t": 1}\n{"x": 1}\n', "no column 'y'; there are: x, t$"),
        ("rows.parquet", b"PAR1", "cannot be read"),
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
        list(read_rows(path, small()))
    assert name in str(caught.value)


def test_what_a_json_object_leaves_out_is_null(tmp_path: Path) -> None:
    path = tmp_path / "rows.ndjson"
    path.write_text('{"y": 0, "t": 1}\n{"x": 1, "t": 2, "z": 0}\n')
    rows = list(read_rows(path, small()))
    assert rows == [FileRow(1, {"x": None}, 0), FileRow(2, {"x": 1.0}, None)]


def test_what_parquet_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"x": [1.0], "t": [1]}), path)
    with pytest.raises(UsageError, match=r"rows.parquet: no column 'y'; there are: x, t$"):
        list(read_rows(path, small()))


def test_a_row_is_named_beyond_the_first_block(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("x,y,t,s\n" + "1,0,1,0.5\n" * 9_000 + "1,0,1,high\n")
    with pytest.raises(UsageError, match=r"row 9001: s: expected a number \(got 'high'\)"):
        list(read_rows(path, small(score="s")))


def test_parquet_without_pyarrow_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"")
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path\n"
        "from kedge_services.local.files import records\n"
        "list(records(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert "UsageError" in done.stderr
    assert "Parquet is read with pyarrow, which is not installed; run: pip" in done.stderr


def test_a_monitor_without_times_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("x,c,b,y\n1,a,1,0\n")
    with pytest.raises(UsageError, match="no \\[replay\\] section"):
        list(read_rows(path, monitor(replay=None)))
    with pytest.raises(UsageError, match="`timestamp`, or `start` and `every`"):
        list(read_rows(path, monitor(replay={"label": "y"})))
    with pytest.raises(UsageError, match=r"\[replay\] start: Invalid isoformat"):
        list(read_rows(path, monitor(replay={"label": "y", "start": "now", "every": "1s"})))


def test_records_are_rows_as_they_are_written(tmp_path: Path) -> None:
    csv, ndjson, table = (tmp_path / f"rows.{end}" for end in ("csv", "jsonl", "parquet"))
    csv.write_text("\ufeffx,y\n1,\n")
    ndjson.write_text('{"x": 1}\n{"y": [2]}\n')
    parquet.write_table(pa.table({"x": [1], "y": pa.array(["a"]).dictionary_encode()}), table)
    assert list(records(csv)) == [{"x": "1", "y": ""}]
    assert list(records(ndjson)) == [{"x": 1}, {"y": [2]}]
    assert list(records(table)) == [{"x": 1, "y": "a"}]


# ---------------------------------------------------------------------- columns

CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from(["", "1", "1.0", "nan", "inf", "-inf", "true", "False", "1e400"]),
)  # fmt: skip


def same(left: Sequence[Any], right: Sequence[Any]) -> bool:
    return [(type(a), str(a)) for a in left] == [(type(b), str(b)) for b in right]


@given(st.lists(CELLS) | st.lists(st.floats()) | st.lists(st.sampled_from(["1", "", "a"])))
@pytest.mark.parametrize("kind", ["numeric", "categorical", "boolean"])
def test_a_column_of_features_is_read_as_cell_by_cell(kind: str, cells: list[Any]) -> None:
    values = feature_reader(kind)(cells)
    assert same(values, [feature_value(cell, kind) for cell in cells])
    assert not any(isinstance(value, float) and math.isnan(value) for value in values)


def not_a_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return True
    return False


@given(st.lists(CELLS))
def test_a_column_of_numbers_is_floats_or_an_error_at_the_first_that_is_none(
    cells: list[Any],
) -> None:
    first_bad = next(
        (i for i, cell in enumerate(cells) if type(cell) is str and not_a_number(cell)), None
    )
    if first_bad is None:
        assert all(value is None or type(value) is float for value in read_numbers(cells))
        return
    with pytest.raises(BadCellError) as caught:
        read_numbers(cells)
    assert caught.value.index == first_bad


@given(
    st.lists(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)), min_size=1),  # noqa: DTZ001
    st.sampled_from([None, "", "Z", "+02:00", "-11:30"]),
)
def test_a_column_of_times_is_read_as_cell_by_cell(
    moments: list[datetime], zone: str | None
) -> None:
    later = [moment + timedelta(days=1) for moment in moments]
    cells = later if zone is None else [moment.isoformat() + zone for moment in later]
    times = read_times(cells)
    assert times == [parse_ms(cell) for cell in cells] == [read_times([c, "5"])[0] for c in cells]
    if not zone:
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        exact = [(moment.replace(tzinfo=UTC) - epoch) for moment in later]
        assert times == [delta // timedelta(milliseconds=1) for delta in exact]


@pytest.mark.parametrize(
    ("classes", "cells", "expected"),
    [
        ([0, 1], ["0", "1.0", 1, 0.0, True, "False", ""], [0, 1, 1, 0, 1, 0, None]),
        (
            [False, True],
            ["0", "TRUE", 1, 0.0, True, "false"],
            [False, True, True, False, True, False],
        ),
        (["no", "yes"], ["yes", "no", "maybe", "nan", None], ["yes", "no", "maybe", None, None]),
        ([1, 2, 3], [3.0, "2", "4", True, math.nan], [3, 2, "4", "true", None]),
        (["1", "0"], ["1.0", 0, "true"], ["1", "0", "1"]),
        (["nan", "inf"], ["nan", "inf"], ["nan", "inf"]),
        ([0.5, 1.5], ["0.5", 1.5, "2.50"], [0.5, 1.5, "2.50"]),
    ],
)
def test_a_label_is_the_declared_class_of_its_text(
    classes: list[Any], cells: list[Any], expected: list[Any]
) -> None:
    assert same(classes_reader(classes)(cells), expected)


@given(st.lists(st.one_of(st.booleans(), st.integers(), st.text(min_size=1)), min_size=2))
def test_a_declared_class_is_always_read_as_itself(labels: list[Any]) -> None:
    declared = list({label_text(label): label for label in labels}.values())
    assert same(classes_reader(declared)(declared), declared)
    texts = [label_text(label) for label in declared]
    assert same(classes_reader(declared)(texts), declared)


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
