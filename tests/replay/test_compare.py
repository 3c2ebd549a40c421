"""Monitors side by side: each as if it had been replayed alone, all in one table and page."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from kedge_services.cli import main
from kedge_services.local.replay.compare import names_of

MONITOR = """
model = "m"
task = "binary"
classes = ["no", "yes"]
features.x = "numeric"
label_horizon = "1h"
windows = {{ pane = "{pane}", scales = [1, 2] }}
replay = {{ timestamp = "time", label = "y", prediction = "p", warm_up = 1000 }}
"""
#: What differs between two runs, and between a table and a summary.
COST = {"seconds", "rows_per_s", "peak_rss_mb"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with data that drifts, and two monitors of the same name."""
    directory = tmp_path_factory.mktemp("compare")
    chance = random.Random(1)
    rows = ["time,x,y,p"]
    for number in range(2_600):
        x = chance.gauss(2 if number > 2_000 else 0, 1)
        y, p = ("yes" if x + chance.gauss(0, 1) > 0 else "no"), "yes" if x > 0 else "no"
        rows.append(f"{1_700_000_000_000 + number * 60_000},{x:.4f},{y},{p}")
    (directory / "rows.csv").write_text("\n".join(rows))
    for folder, pane in (("short", "2h"), ("long", "4h")):
        (directory / folder).mkdir()
        (directory / folder / "m.toml").write_text(MONITOR.format(pane=pane))
    return directory


def kedge(place: Path, *arguments: str) -> int:
    paths = {name: str(place / name) for name in ("rows.csv", "short/m.toml", "long/m.toml")}
    return main(["replay", *(paths.get(text, text) for text in arguments)])


def without_cost(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in COST}


def test_each_monitor_gives_what_it_gives_alone(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    status = kedge(place, "rows.csv", "--compare", "short/m.toml", "long/m.toml", "--out", str(out),
                   "--limit", "2400", "--json")  # fmt: skip
    assert status == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "compare.json").read_text())
    short, long = told["monitors"]
    assert (short["name"], long["name"]) == ("short-m", "long-m")
    assert told["options"] == {"watching only": "", "limit": "2400 rows"}
    assert short["verdicts"] > long["verdicts"] > 0
    assert (short["rows"], long["rows"]) == (1_400, 1_400)
    assert short["first_alert_after_ms"] >= 1_000 * 60_000
    alone = tmp_path / "alone"
    assert kedge(place, "rows.csv", "--monitor", "long/m.toml", "--out", str(alone),
                 "--limit", "2400") == 0  # fmt: skip
    for name in ("windows.ndjson", "alerts.ndjson", "report.html"):
        assert (out / "long-m" / name).read_bytes() == (alone / name).read_bytes()
    summaries = [json.loads((d / "summary.json").read_text()) for d in (out / "long-m", alone)]
    assert without_cost(summaries[0]) == without_cost(summaries[1])
    page = (out / "compare.html").read_text()
    assert "href='long-m/report.html'" in page
    assert "<script" not in page


def test_two_comparisons_write_the_same_but_for_their_cost(place: Path, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        out = tmp_path / name
        assert kedge(place, "rows.csv", "--compare", "short/m.toml", "--compare", "long/m.toml",
                     "--out", str(out), "--permute", "1") == 0  # fmt: skip
        written = json.loads((out / "compare.json").read_text())
        assert written.pop("cost").keys() == {"short-m", "long-m"}
        found.append((written, (out / "compare.html").read_bytes()))
    assert found[0] == found[1]
    assert b"This is the control" in found[0][1]


def test_the_table_is_for_people(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Monitors are told from data by their ending, wherever they stand.
    assert kedge(place, "--compare", "short/m.toml", "long/m.toml", "rows.csv", "--out",
                 str(tmp_path)) == 0  # fmt: skip
    shown = capsys.readouterr().out
    rows = {line[:28].strip(): line[28:].split() for line in shown.splitlines()}
    assert int(rows["panes tested"][0]) > int(rows["panes tested"][1])
    assert "data-drift" in shown
    assert f"Page: {tmp_path / 'compare.html'}" in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["rows.csv"], "give --monitor MONITOR.toml, or --compare A.toml B.toml"),
        (["rows.csv", "--compare", "short/m.toml"], "--compare takes two monitors or more"),
        (
            ["rows.csv", "--compare", "short/m.toml", "--monitor", "long/m.toml"],
            "--monitor is one monitor, --compare several: give one of the two",
        ),
        (["rows.csv", "rows.csv", "--monitor", "long/m.toml"], "one file at a time"),
        (["--compare", "short/m.toml", "long/m.toml"], "name a file to replay"),
        (
            ["rows.csv", "--monitor", "long/m.toml", "--label-delay", "1h"],
            "labels that come 1h after their prediction meet none",
        ),
    ],
)
def test_wrong_usage_is_named(
    arguments: list[str],
    complaint: str,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert kedge(place, *arguments, "--out", str(tmp_path)) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.toml", "b.toml"], ["a", "b"]),
        (["x/m.toml", "y/m.toml"], ["x-m", "y-m"]),
        (["x/m.toml", "x/m.toml"], ["x-m", "x-m-2"]),
        (["x/M.toml", "y/m.toml"], ["x-M", "y-m"]),
        (["compare.json.toml", "a.toml"], ["compare.json-2", "a"]),
    ],
)
def test_names_are_distinct(files: list[str], names: list[str]) -> None:
    assert names_of([Path(file) for file in files]) == names
