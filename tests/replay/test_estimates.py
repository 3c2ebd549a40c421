"""Estimates without labels, through a replay: what windows say, on any number of partitions."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kedge import Monitor
from kedge_services.local.replay.run import Options, Source, replay
from kedge_services.runtime.settings import Settings

T0 = 1_700_006_400_000
MINUTE, PANE = 60_000, 6 * 3_600_000
WARM_UP = 2_160
#: Panes of 360 rows whose labels are not what the scores promise.
WRONG = (10, 11)
MONITOR = Monitor.model_validate(
    {
        "model": "loans",
        "task": "binary",
        "classes": ["no", "yes"],
        "features": {"income": "numeric"},
        "label_horizon": "6h",
        "windows": {"pane": "6h", "scales": [1, 2]},
        "replay": {
            "timestamp": "time", "label": "truth", "prediction": "answer", "score": "score",
            "warm_up": WARM_UP,
        },
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chance = random.Random(8)
    lines = []
    for number in range(8_640):
        score = chance.random()
        share = score**4 if number // 360 in WRONG else score
        row = {
            "time": T0 + number * MINUTE,
            "income": round(chance.gauss(score, 1), 3),
            "truth": "yes" if chance.random() < share else "no",
            "answer": "yes" if score >= 0.5 else "no",
            "score": round(score, 6),
        }
        lines.append(json.dumps(row))
    path = tmp_path_factory.mktemp("estimates") / "rows.ndjson"
    path.write_text("\n".join(lines))
    return path


def windows(data: Path, out: Path, **changes: Any) -> bytes:
    replay(Source(data), MONITOR, Settings(), Options(**changes), out)
    return (out / "windows.ndjson").read_bytes()


def said(written: bytes) -> dict[int, str]:
    """Give what the drift windows of one pane say of the accuracy, by pane."""
    return {
        (window["start_ms"] - T0) // PANE: measure.get("note") or "valid"
        for window in map(json.loads, written.splitlines())
        if window["kind"] == "drift" and window["scale"] == 1
        for measure in window["measures"]
        if measure["name"] == "estimated_accuracy"
    }


def test_a_failed_estimate_is_told_by_the_data_alone(data: Path, tmp_path: Path) -> None:
    one = windows(data, tmp_path / "1")
    assert windows(data, tmp_path / "8", partitions=8) == one
    late = windows(data, tmp_path / "late", label_delay=timedelta(hours=5), partitions=3)
    assert said(late) == said(one)
    notes = said(one)
    assert sorted(notes) == list(range(6, 24))
    # Pane 10 ends at 11; one pane of horizon and one more later windows hear of it.  Panes 12
    # to 14 agree, and the window that ends two panes after the last of them knows.
    wrong = {pane for pane, note in notes.items() if note != "valid"}
    assert wrong == set(range(12, 16))
    assert all("further from the labels than chance allows" in notes[pane] for pane in wrong)
    final = {
        (w["start_ms"] - T0) // PANE: {m["name"]: m for m in w["measures"]}
        for w in map(json.loads, one.splitlines())
        if w["kind"] == "performance" and w["scale"] == 1
    }
    for pane, measures in final.items():
        gap = measures["estimate_gap_accuracy"]
        expected = measures["estimated_accuracy"]["value"] - measures["accuracy"]["value"]
        assert gap["value"] == pytest.approx(expected)
        if pane not in WRONG:
            assert abs(gap["value"]) < gap["threshold"]
