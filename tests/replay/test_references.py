"""What a replay holds its rows to: a file, the warm-up, the same hours of the week."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from kedge import Monitor
from kedge.errors import UsageError
from kedge_services.cli import main
from kedge_services.local.replay.run import Options, Source, replay
from kedge_services.runtime.settings import Settings

HOUR_MS = 3_600_000
#: A Monday, 0h UTC.
MONDAY_MS = 1_767_571_200_000
PER_HOUR = 40


def monitor(**changes: Any) -> Monitor:
    declared: dict[str, Any] = {
        "model": "load",
        "task": "regression",
        "labelled": False,
        "features": {"demand": "numeric", "tariff": "categorical"},
        "windows": {"pane": "30m", "scales": [1, 8], "grace": "0s"},
        "replay": {"timestamp": "time", "prediction": "answer", "warm_up": 30 * 24 * PER_HOUR},
    }
    return Monitor.model_validate({**declared, **changes})


def write_rows(path: Path, first_day: int, days: int, *, broken_day: int = 1_000) -> Path:
    """Demand has its hours; on the broken day it is that of twelve hours later."""
    chance = random.Random(first_day)
    lines = []
    for number in range(first_day * 24 * PER_HOUR, (first_day + days) * 24 * PER_HOUR):
        hour = number // PER_HOUR
        shown = hour + 12 if hour // 24 == broken_day else hour
        level = 3 * math.sin(2 * math.pi * shown / 24)
        demand = chance.gauss(level, 1)
        night = chance.random() < (0.8 if shown % 24 < 8 else 0.3)
        row = {"time": MONDAY_MS + number * HOUR_MS // PER_HOUR, "demand": demand,
               "tariff": "low" if night else "high", "answer": demand * 2}  # fmt: skip
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines))
    return path


def run(data: Path, declared: Monitor, out: Path, **options: Any) -> dict[str, list[Any]]:
    replay(Source(data), declared, Settings(), Options(**options), out)
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in out.glob("*.ndjson")
    }


SEASONAL = {"from": "same-hour", "timezone": "UTC"}


def test_the_same_hour_of_the_week_is_what_rows_are_held_to(tmp_path: Path) -> None:
    # 30 days of warm-up, 4 days like them, a day with day and night in each other's place;
    # half an hour has 20 rows, which are too few to judge, four hours have 160.
    data = write_rows(tmp_path / "rows.ndjson", 0, 35, broken_day=34)
    one = run(data, monitor(reference=SEASONAL), tmp_path / "one")
    assert run(data, monitor(reference=SEASONAL), tmp_path / "eight", partitions=8) == one
    broken_ms = MONDAY_MS + 34 * 24 * HOUR_MS
    tested = [w for w in one["windows"] if w["status"] in {"ok", "alarm"}]
    assert len(tested) > 200
    drifted = [w["end_ms"] for w in tested if w["detections"]]
    assert drifted
    assert broken_ms < min(drifted) <= broken_ms + 2 * HOUR_MS
    # Held to all hours at once, most windows are another world.
    plain = run(data, monitor(), tmp_path / "plain")
    early = [w for w in plain["windows"] if w["detections"] and w["end_ms"] <= broken_ms]
    assert len(early) > 100


def test_a_warm_up_of_days_cannot_tell_hours_apart(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.ndjson", 0, 4)
    declared = monitor(reference=SEASONAL)
    assert declared.replay is not None
    short = declared.replay.model_copy(update={"warm_up": 2_000})
    with pytest.raises(UsageError, match=r"2000 rows of 2 days are too few .* in 3 weeks"):
        run(data, declared.model_copy(update={"replay": short}), tmp_path / "out")


def as_toml(path: Path, reference: str) -> Path:
    path.write_text(
        'model = "load"\ntask = "regression"\nlabelled = false\n'
        '[features]\ndemand = "numeric"\ntariff = "categorical"\n'
        '[windows]\npane = "1d"\nscales = [1]\n'
        f"[reference]\n{reference}\n"
        '[replay]\ntimestamp = "time"\nprediction = "answer"\nwarm_up = 5000\n'
    )
    return path


def test_rows_are_held_to_the_monitors_file_from_the_first_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "monitors" / "data").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    write_rows(tmp_path / "monitors" / "data" / "ref.ndjson", 0, 3)
    data = write_rows(tmp_path / "rows.ndjson", 7, 3, broken_day=8)
    toml = as_toml(tmp_path / "monitors" / "load.toml", 'from = "file"\npath = "data/ref.ndjson"')
    # A path is relative to the file it stands in, not to where the command runs.
    monkeypatch.chdir(tmp_path / "elsewhere")
    out = tmp_path / "out"
    assert main(["replay", str(data), "--monitor", str(toml), "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rows"] == 3 * 24 * PER_HOUR
    windows = [json.loads(line) for line in (out / "windows.ndjson").read_text().splitlines()]
    assert {w["status"] for w in windows} == {"ok"}
    named = {m["name"]: m for m in windows[0]["measures"] if m.get("feature") == "demand"}
    assert named.keys() >= {"mean", "std", "min", "max"}
    assert named["mean"]["value"] == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ('from = "file"\npath = "gone.csv"', "gone.csv: no such file"),
        ('from = "file"\npath = "load.toml"', "a file of rows is .csv or .ndjson"),
        ('from = "file"\npath = "other.ndjson"', "row 1: no column 'demand'; there are: x"),
        ('from = "file"', "load.toml:10: reference.path: needed"),
    ],
)
def test_a_file_that_is_none_is_said_to_be_none(
    tmp_path: Path, reference: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "rows.ndjson", 0, 1)
    (tmp_path / "other.ndjson").write_text('{"x": 1}\n')
    toml = as_toml(tmp_path / "load.toml", reference)
    out = str(tmp_path / "out")
    assert main(["replay", str(data), "--monitor", str(toml), "--out", out]) != 0
    assert text in capsys.readouterr().err
