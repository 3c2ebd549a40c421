"""Real streams: what a newcomer does with a file, and what the closed loop is worth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kedge_services.cli import main

ROOT = Path(__file__).parent.parent.parent
ELECTRICITY = ROOT / "docs" / "examples" / "electricity.toml"
ELEC2 = ROOT / "tests" / "data" / "elec2.csv.gz"
#: Larger streams lie beside the project, where they are there at all.
SHARED = ROOT.parent / "shared" / "data"
FILES = ("windows", "alerts", "retrain-requests", "model-versions", "dead-letters")


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"SKIPPED, NOT TESTED: {name} is not beside the project in shared/data")
    return path


def replay(data: Path, monitor: Path, out: Path, *options: str) -> dict[str, Any]:
    status = main(
        ["replay", str(data), "--monitor", str(monitor), "--out", str(out), "--json", *options]
    )
    assert status == 0
    names = {path.name for path in out.iterdir()}
    assert names >= {f"{name}.ndjson" for name in FILES} | {"summary.json", "report.html"}
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def written(out: Path) -> dict[str, bytes]:
    """Give all files that two runs write alike."""
    found = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    summary = json.loads(found.pop("summary.json"))
    plain = {k: v for k, v in summary.items() if k not in {"seconds", "rows_per_s", "peak_rss_mb"}}
    return {**found, "summary": json.dumps(plain).encode()}


def test_elec2_is_watched_and_its_known_change_is_seen_at_once(tmp_path: Path) -> None:
    """Row 17,424: three features leave a constant; the pane it lies in says so."""
    monitor = tmp_path / "monitor.toml"
    # A reference before the change that is long enough to know all seasons of prices.
    monitor.write_text(ELECTRICITY.read_text().replace("warm_up = 1000 ", "warm_up = 9999 "))
    summary = replay(ELEC2, monitor, tmp_path / "out")
    assert (summary["rows"], summary["warm_up"]) == (45_312 - 9_999, 9_999)
    assert summary["accuracy_no_change"] == pytest.approx(0.853, abs=0.005)
    change_ms = 831_427_200_000 + 17_424 * 1_800_000
    named = set()
    for line in (tmp_path / "out" / "windows.ndjson").read_text().splitlines():
        window = json.loads(line)
        holds = window["start_ms"] <= change_ms < window["end_ms"]
        if window["kind"] == "drift" and window["scale"] == 1 and holds:
            named |= {found.get("feature") for found in window["detections"]}
    assert named >= {"vicprice", "vicdemand", "transfer"}


def test_the_closed_loop_on_elec2_beats_its_first_version(tmp_path: Path) -> None:
    summary = replay(ELEC2, ELECTRICITY, tmp_path / "out", "--closed-loop", "--limit", "5000")
    assert summary["trainings"] >= 3
    assert summary["promotions"] >= 1
    assert summary["accuracy"] > summary["accuracy_static"]


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_the_closed_loop_on_all_of_elec2_twice_the_same_bytes(tmp_path: Path) -> None:
    one = replay(ELEC2, ELECTRICITY, tmp_path / "one", "--closed-loop")
    assert one["accuracy"] >= 0.70
    assert one["accuracy_static"] == pytest.approx(0.615, abs=0.01)
    replay(ELEC2, ELECTRICITY, tmp_path / "two", "--closed-loop")
    assert written(tmp_path / "one") == written(tmp_path / "two")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("elec2.csv.gz", ["--limit", "12000"]),
        ("california_housing_nannyml.csv.gz", []),
        ("acs_employment_ma_2015_2018.parquet", ["--limit", "40000"]),
    ],
)
def test_a_newcomer_gets_from_a_file_to_windows(
    name: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shared(name)
    copy = tmp_path / name
    shutil.copy(data, copy)
    monitor = tmp_path / "monitor.toml"
    assert main(["init", str(copy), "--out", str(monitor)]) == 0
    assert main(["check", str(monitor)]) == 0
    capsys.readouterr()
    summary = replay(copy, monitor, tmp_path / "out", *options)
    assert summary["verdicts"] >= 5
    assert summary["labelled"] == summary["rows"]
    assert summary["dead_letters"] == {}
    if name != "elec2.csv.gz":
        assert summary["accuracy"] is not None


def test_a_change_of_the_data_is_explained(tmp_path: Path) -> None:
    """California: rows move in space, and the model gets worse; each alert says what moved."""
    data = shared("california_housing_nannyml.csv.gz")
    monitor = tmp_path / "monitor.toml"
    assert main(["init", str(data), "--out", str(monitor)]) == 0
    replay(data, monitor, tmp_path / "out")
    alerts = [
        json.loads(line) for line in (tmp_path / "out" / "alerts.ndjson").read_text().splitlines()
    ]
    told = {alert["rule"]: alert["summary"] for alert in alerts if alert["status"] == "firing"}
    assert "Latitude" in told["data-drift"]
    kinds = ("error rate 0.", "recall 0.", "precision 0.")
    assert any(kind in told["error-rate"] for kind in kinds)
    assert "before; evidence" in told["error-rate"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert told["data-drift"] in page
    assert "<script" not in page
