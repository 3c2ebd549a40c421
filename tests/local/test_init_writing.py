"""A draft is written as a monitor that is valid, that says why, and that fits its file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kedge.errors import UsageError
from kedge.monitor import Monitor
from kedge.monitor_file import load_monitor
from kedge_services.local.files import read_rows
from kedge_services.local.init.draft import Draft, draft_from_table
from kedge_services.local.init.from_file import draft_from_file
from kedge_services.local.init.guess import Given
from kedge_services.local.init.listing import entries, shown
from kedge_services.local.init.table import describe
from kedge_services.local.init.writing import as_toml
from kedge_services.local.tables import Block

DATA = Path(__file__).parent.parent / "data"

NAMES = st.text(max_size=12) | st.sampled_from(
    [
        *("label", "target", "y_pred", "prediction", "score", "y_pred_proba", "timestamp"),
        *("date", "id", "year", "partition", "a.b", "# no", "œ", "\x7f", "x" * 300),
        'say "x"',
        "two\nlines",
    ]
)
CELLS = [
    st.integers(0, 1),
    st.integers(),
    st.integers(1_700_000_000_000, 1_700_000_999_999),
    st.floats(),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from(["a", "b"]),
    st.text(max_size=5),
    st.sampled_from(["true", "1", "1.0", "nan", "inf", "-0", "01", "2026-01-01", "1e400", ""]),
    st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)).map(str),  # noqa: DTZ001
    st.just([1]),
    st.none(),
]


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[Any]]:
    rows = draw(st.integers(1, 12) | st.just(120))
    names = draw(st.lists(NAMES, min_size=1, max_size=7, unique=True))

    def column() -> list[Any]:
        cells = draw(st.sampled_from(CELLS))
        if draw(st.booleans()):
            cells = st.none() | cells
        # Few drawn values, repeated: long columns need not be long to draw.
        few = draw(st.lists(cells, min_size=1, max_size=min(rows, 12)))
        repeated = (few * rows)[:rows]
        return sorted(repeated, key=repr) if draw(st.booleans()) else repeated

    return {name: column() for name in names}


def load(text: str, directory: Path) -> Monitor:
    path = directory / "monitor.toml"
    path.write_text(text, encoding="utf-8")
    return load_monitor(path)


def draft_of(columns: Mapping[str, Sequence[Any]], *, texts_only: bool) -> Draft | None:
    rows = len(next(iter(columns.values())))
    if texts_only:
        columns = {n: ["" if c is None else str(c) for c in cells] for n, cells in columns.items()}
    table = describe([Block(1, rows, columns)], texts_only=texts_only, most_rows=10**6)
    try:
        return draft_from_table(table, Given(), file_name="rows.csv", source="rows.csv")
    except UsageError as error:
        assert "no column is left" in str(error) or "values" in str(error)  # noqa: PT017
        return None


@given(tables(), st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_table_gives_a_monitor_that_is_valid(
    columns: dict[str, list[Any]],
    texts_only: bool,  # noqa: FBT001
) -> None:
    draft = draft_of(columns, texts_only=texts_only)
    if draft is None:
        return
    text = as_toml(draft)
    with tempfile.TemporaryDirectory() as directory:
        monitor = load(text, Path(directory))
        assert set(monitor.features) == set(draft.features.types) <= set(columns)
        # What was left out can be taken back by taking a "#" away.
        whole = text
        for name in draft.features.left_out:
            key = name if name.isascii() and name.replace("_", "").isalnum() else None
            if key is not None:
                whole = whole.replace(f"\n# {key} = ", f"\n{key} = ")
        assert set(load(whole, Path(directory)).features) >= set(monitor.features)


@given(tables())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_monitor_made_from_a_file_reads_the_file(columns: dict[str, list[Any]]) -> None:
    rows = len(next(iter(columns.values())))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.ndjson"
        records = ({name: cells[i] for name, cells in columns.items()} for i in range(rows))
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        try:
            draft = draft_from_file(path, Given())
        except UsageError:
            return
        monitor = load(as_toml(draft), Path(directory))
        read = list(read_rows(path, monitor))
        assert len(read) == rows
        declared = set(monitor.classes)
        if draft.task.certainty == "sure" and declared:
            assert {row.label for row in read} <= {*declared, None}


def test_every_guess_says_from_what_and_how_sure() -> None:
    columns: dict[str, list[Any]] = {"x": [i * 0.618 % 1 for i in range(300)]}
    columns["label"] = [i % 2 for i in range(300)]
    draft = draft_of({**columns, "always": [1] * 300}, texts_only=False)
    assert draft is not None
    lines = as_toml(draft).splitlines()
    assert max(map(len, lines)) <= 100
    guessed = [line for line in lines if "# guess: " in line]
    assert all(line.endswith(("(sure)", "(likely)", "(unsure)")) for line in guessed)
    values = [i for i, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    plain = {"positive", "on"}  # follow from a guess, and a default
    for i in values:
        name = lines[i].split(" = ")[0]
        assert name in plain or "# guess: " in lines[i] or lines[i - 1].startswith("# guess: ")


def test_durations_of_fast_rows_fit_each_other(tmp_path: Path) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    times = [f"{begin + timedelta(milliseconds=i)}" for i in range(20_000)]
    columns: dict[str, list[Any]] = {"x": [i * 0.618 % 1 for i in range(20_000)]}
    columns["label"] = [i % 2 for i in range(20_000)]
    draft = draft_of({**columns, "time": times}, texts_only=False)
    assert draft is not None
    monitor = load(as_toml(draft), tmp_path)
    assert monitor.pane_ms == monitor.horizon_ms == 500
    assert monitor.grace_ms == 50


# ------------------------------------------------------------- extracts of real files


def drafted(name: str, tmp_path: Path, **said: str) -> tuple[Monitor, Draft]:
    draft = draft_from_file(DATA / name, Given(**said))
    return load(as_toml(draft), tmp_path), draft


def test_elec2_is_half_hourly_and_its_date_is_no_feature(tmp_path: Path) -> None:
    monitor, draft = drafted("elec2.csv.gz", tmp_path)
    assert (monitor.task, monitor.classes, monitor.positive) == ("binary", ["DOWN", "UP"], "UP")
    assert {name: feature.type for name, feature in monitor.features.items()} == {
        "day": "categorical", "period": "numeric", "nswprice": "numeric", "nswdemand": "numeric",
        "vicprice": "numeric", "vicdemand": "numeric", "transfer": "numeric",
    }  # fmt: skip
    assert "clock" in draft.features.left_out["date"].why
    replay = monitor.replay
    assert replay is not None
    assert (replay.label, replay.prediction, replay.score) == ("class", None, None)
    assert (replay.every, monitor.windows.pane) == (timedelta(minutes=30), timedelta(days=10))
    assert monitor.retrain is not None


def test_california_has_times_answers_and_a_partition(tmp_path: Path) -> None:
    name = "california_housing_500.csv.gz"
    monitor, draft = drafted(name, tmp_path)
    assert (monitor.task, monitor.classes) == ("binary", [0, 1])
    assert list(monitor.features) == [
        "MedInc", "HouseAge", "AveRooms", "AveBedrms", "Population", "AveOccup", "Latitude",
        "Longitude",
    ]  # fmt: skip
    assert {feature.type for feature in monitor.features.values()} == {"numeric"}
    assert set(draft.features.left_out) == {"id", "partition"}
    assert monitor.replay is not None
    assert monitor.replay.model_dump(exclude={"training_time"}) == {
        "label": "clf_target", "prediction": "y_pred", "score": "y_pred_proba",
        "timestamp": "timestamp", "start": None, "every": None, "warm_up": 200,
    }  # fmt: skip
    assert monitor.retrain is None
    rows = list(read_rows(DATA / name, monitor))
    assert len(rows) == 500
    assert {type(row.score) for row in rows} == {float}


def test_acs_has_no_times_but_years(tmp_path: Path) -> None:
    name = "acs_employment_1389.parquet"
    monitor, draft = drafted(name, tmp_path, model="employment")
    assert monitor.model == "employment"
    assert (monitor.task, monitor.classes) == ("binary", [0, 1])
    kinds = {name: feature.type for name, feature in monitor.features.items()}
    assert kinds.pop("AGEP") == "numeric"
    assert len(kinds) == 15
    assert set(kinds.values()) == {"categorical"}
    assert set(draft.features.left_out) == {"id", "year"}
    replay = monitor.replay
    assert replay is not None
    assert (replay.label, replay.prediction) == ("employed", "prediction")
    assert (replay.score, replay.start) == ("predicted_probability", "2015-01-01T00:00:00Z")
    rows = list(read_rows(DATA / name, monitor))
    assert len(rows) == 1_389
    last = datetime.fromtimestamp(rows[-1].time_ms / 1000, tz=UTC)
    assert datetime(2018, 6, 1, tzinfo=UTC) < last < datetime(2019, 1, 1, tzinfo=UTC)


def test_the_list_shows_what_is_doubtful_and_counts_what_is_plain() -> None:
    draft = draft_from_file(DATA / "elec2.csv.gz", Given())
    told, plain = shown(entries(draft))
    assert plain == {"numeric": 6}
    by_field = {entry.field: entry for entry in told}
    assert by_field["features.day"].check == "numeric or categorical?"
    assert by_field["features.date"].is_left_out
    assert by_field["classes"].text == "DOWN, UP"
    assert by_field["start"].check == "when the first row happened"
