"""A replay is a function of its input: the same bytes again, on any number of partitions."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kedge import Monitor
from kedge_services.local.replay.run import Options, Source, replay
from kedge_services.runtime.settings import Settings

COST = {"seconds", "rows_per_s", "peak_rss_mb"}
HOUR_MS = 3_600_000
#: The drift begins here; a row a minute, a pane is two hours.
DRIFT_FROM = 3_000


def monitor(task: str, **changes: Any) -> Monitor:
    declared: dict[str, Any] = {
        "model": "loans",
        "task": task,
        "features": {"income": "numeric", "region": "categorical"},
        "label_horizon": "6h",
        "windows": {"pane": "2h", "scales": [1, 2]},
        "segments": [{"name": "region"}],
        "replay": {
            "timestamp": "time", "label": "truth", "prediction": "answer", "score": "score",
            "warm_up": 1_000,
        },
    }  # fmt: skip
    if task != "regression":
        declared["classes"] = ["no", "yes"] if task == "binary" else ["a", "b", "c"]
    else:
        del declared["replay"]["score"]
    return Monitor.model_validate({**declared, **changes})


def binary(income: float, chance: random.Random, *, drifted: bool) -> dict[str, Any]:
    score = 1 / (1 + math.exp(-income))
    truth = chance.random() < (1 - score if drifted else score)
    return {"truth": "yes" if truth else "no", "answer": "yes" if score >= 0.5 else "no",
            "score": round(score, 6)}  # fmt: skip


def multiclass(income: float, chance: random.Random, *, drifted: bool) -> dict[str, Any]:
    answer = "a" if income < -0.5 else "b" if income < 0.5 else "c"
    truth = chance.choice("abc") if drifted or chance.random() < 0.2 else answer
    return {"truth": truth, "answer": answer, "score": 0.8}


def regression(income: float, chance: random.Random, *, drifted: bool) -> dict[str, Any]:
    noise = chance.gauss(0, 1)
    return {"truth": 3 * income + noise + (4 if drifted else 0), "answer": 3 * income}


def write_rows(
    path: Path, answer: Callable[..., dict[str, Any]], *, rows: int = 5_000, seed: int = 5
) -> Path:
    chance = random.Random(seed)
    lines = []
    for number in range(rows):
        income = chance.gauss(0.8 if number >= DRIFT_FROM else 0, 1)
        row = {"time": 1_700_000_000_000 + number * 60_000, "income": income,
               "region": chance.choice(["north", "south"])}  # fmt: skip
        lines.append(json.dumps({**row, **answer(income, chance, drifted=number >= DRIFT_FROM)}))
    path.write_text("\n".join(lines))
    return path


def run(data: Path, declared: Monitor, out: Path, **changes: Any) -> dict[str, bytes]:
    """Replay; give what was written, the summary without what differs by nature."""
    options = replace(Options(), **changes)
    replay(Source(data), declared, Settings(), options, out)
    written = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    summary = json.loads(written["summary.json"])
    assert summary.keys() >= COST
    plain = {name: value for name, value in summary.items() if name not in COST}
    return {**written, "summary.json": json.dumps(plain).encode()}


def lines(written: dict[str, bytes], name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written[f"{name}.ndjson"].splitlines()]


@pytest.mark.parametrize(
    ("task", "answer"),
    [("binary", binary), ("multiclass", multiclass), ("regression", regression)],
)
def test_the_result_does_not_depend_on_the_partitions(
    task: str, answer: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    data, declared = write_rows(tmp_path / "rows.ndjson", answer), monitor(task)
    one, again, eight = (
        run(data, declared, tmp_path / f"out{i}", partitions=partitions)
        for i, partitions in enumerate([1, 1, 8])
    )
    assert one == again
    assert one == eight
    windows = lines(one, "windows")
    assert windows == sorted(windows, key=lambda w: (w["end_ms"], w["window_id"]))
    assert len({w["window_id"] for w in windows}) == len(windows)
    assert all(w["is_final"] for w in windows)
    # The drift is found, and not before it is there.
    drift_ms = 1_700_000_000_000 + DRIFT_FROM * 60_000
    fired = [a["fired_ms"] for a in lines(one, "alerts") if a["rule"] == "data-drift"]
    assert fired
    assert drift_ms < min(fired) <= drift_ms + 4 * HOUR_MS


def test_labels_that_come_late_change_no_final_performance_window(tmp_path: Path) -> None:
    data, declared = write_rows(tmp_path / "rows.ndjson", binary), monitor("binary")
    found = {}
    for hours in (0, 3):
        written = run(data, declared, tmp_path / str(hours), label_delay=timedelta(hours=hours))
        found[hours] = [w for w in lines(written, "windows") if w["kind"] == "performance"]
    assert found[0] == found[3]
    assert all(w["label_coverage"] == 1 for w in found[0] if not w["is_partial"])


def test_labels_beyond_the_horizon_are_put_aside(tmp_path: Path) -> None:
    data, declared = write_rows(tmp_path / "rows.ndjson", binary), monitor("binary")
    written = run(data, declared, tmp_path / "out", label_delay=timedelta(hours=7))
    assert not any(w["labelled"] for w in lines(written, "windows"))
    summary = json.loads(written["summary.json"])
    letters = lines(written, "dead-letters")
    assert sum(summary["dead_letters"].values()) == len(letters)


def test_windows_count_every_row_once_and_mark_what_is_cut_off(tmp_path: Path) -> None:
    data, declared = write_rows(tmp_path / "rows.ndjson", binary), monitor("binary")
    written = run(data, declared, tmp_path / "out")
    drift = [w for w in lines(written, "windows") if w["kind"] == "drift" and w["scale"] == 1]
    assert sum(w["n"] for w in drift) == 4_000
    ends = [w["is_partial"] for w in drift]
    assert not any(ends[1:-1])
    full = {w["n"] for w in drift if not w["is_partial"]}
    assert full == {120}


def test_the_accuracy_is_that_of_the_answers_in_the_file(tmp_path: Path) -> None:
    data, declared = write_rows(tmp_path / "rows.ndjson", binary), monitor("binary")
    summary = json.loads(run(data, declared, tmp_path / "out")["summary.json"])
    rows = [json.loads(line) for line in data.read_text().splitlines()][1_000:]
    right = [row["answer"] == row["truth"] for row in rows]
    same = [a["truth"] == b["truth"] for a, b in pairwise(rows)]
    assert summary["accuracy"] == pytest.approx(sum(right) / len(rows))
    assert summary["accuracy_no_change"] == pytest.approx(sum(same) / len(same))
    accuracy, naive = summary["accuracy"], summary["accuracy_no_change"]
    assert summary["kappa_t"] == pytest.approx((accuracy - naive) / (1 - naive))
    assert summary["accuracy_static"] is None


def test_a_permuted_stream_is_quiet(tmp_path: Path) -> None:
    data, declared = write_rows(tmp_path / "rows.ndjson", binary), monitor("binary")
    summary = json.loads(run(data, declared, tmp_path / "out", permute=3)["summary.json"])
    assert summary["verdicts"] >= 30
    assert summary["verdicts_with_alarm"] == 0


def test_a_reference_can_be_learnt_from_the_first_events(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.ndjson", binary, rows=14_000)
    declared = monitor("binary", reference={"from": "first-events"})
    one = run(data, declared, tmp_path / "one")
    eight = run(data, declared, tmp_path / "eight", partitions=8)
    assert one == eight
    summary = json.loads(one["summary.json"])
    assert (summary["warm_up"], summary["rows"]) == (0, 14_000)
    statuses = [w["status"] for w in lines(one, "windows") if w["kind"] == "drift"]
    assert statuses[0] == "learning"


def test_the_closed_loop_gets_better_than_its_first_version(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.ndjson", binary)
    retrain = {"on": ["error-rate"], "min_labels": 300, "promotion": "fast",
               "trainer": "river-logistic"}  # fmt: skip
    declared = monitor("binary", retrain=retrain)
    one, again = (
        run(data, declared, tmp_path / name, closed_loop=True) for name in ("one", "again")
    )
    assert one == again
    summary = json.loads(one["summary.json"])
    assert summary["trainings"] >= 1
    assert summary["promotions"] >= 1
    assert summary["accuracy"] > summary["accuracy_static"] + 0.05
    versions = lines(one, "model-versions")
    assert [versions[0]["version"], versions[0]["status"]] == ["k1", "champion"]
    assert len(list((tmp_path / "one" / "artefacts").rglob("*.json"))) >= 2


def test_a_training_takes_the_time_it_is_given(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.ndjson", binary)
    promoted = {}
    for time in ("0s", "5h"):
        declared = monitor(
            "binary",
            retrain={"on": ["error-rate"], "promotion": "fast", "trainer": "river-logistic"},
            replay={"timestamp": "time", "label": "truth", "training_time": time},
        )
        written = run(data, declared, tmp_path / time, closed_loop=True)
        asked = lines(written, "retrain-requests")[0]["event_time_ms"]
        later = [v for v in lines(written, "model-versions") if v["version"] == "k2"]
        promoted[time] = later[0]["changed_ms"] - asked
    assert promoted["5h"] - promoted["0s"] == 5 * HOUR_MS
