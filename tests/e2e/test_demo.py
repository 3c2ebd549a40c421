"""The demo as a user runs it: a real Kafka, real processes, exit statuses and figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo_process import DemoProcess

ELEC2 = Path(__file__).parent.parent / "data" / "elec2.csv.gz"
#: The loop has to close within this time of the start, on two cores.
CLOSED_WITHIN_S = 150


def demo(directory: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    summary = directory / "summary.json"
    done = subprocess.run(
        [sys.executable, "-m", "kedge_services.cli", "demo", "--json", str(summary), *arguments],
        cwd=directory, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert summary.exists(), done.stdout + done.stderr
    return done, json.loads(summary.read_text())


def test_the_loop_closes_though_a_service_is_killed_on_the_way(tmp_path: Path) -> None:
    run = DemoProcess(tmp_path)
    try:
        run.until_told("traffic begins")
        run.wait(4)
        run.kill("panes")
        s = run.end()
    finally:
        run.close()
    text = run.text()
    assert run.process.returncode == 0, text
    assert s["problems"] == []
    assert s["promotions"] >= 1
    assert s["predictions"] >= 2_000 * 30
    assert s["records_in"] == s["records_accounted"] > 0
    assert s["accuracy_drifted"] < s["accuracy_before_drift"] - 0.03
    assert s["accuracy_after_promotion"] >= s["accuracy_before_drift"] - 0.03
    assert s["drift_started_ms"] < s["first_alert_ms"] <= s["retrain_requested_ms"]
    assert s["retrain_requested_ms"] <= s["candidate_ms"] <= s["promoted_ms"]
    assert {"data-drift", "integrity", "error-rate"} <= set(s["alert_rules"])
    assert s["notifications"] >= 3
    assert s["service_restarts"] == 1
    assert "panes stopped by signal SIGKILL" in text
    assert run.left_behind() == []
    assert s["recount_differences"] == []
    assert s["recount_compared"] > 50_000
    reasons = {
        "undecodable", "bad-value", "unknown-model", "missing-field", "bad-key", "bad-time",
        "duplicate", "late",
    }  # fmt: skip
    assert reasons <= {f for fates in s["fates"].values() for f, n in fates.items() if n}
    elapsed = [float(s) for s in re.findall(r"^ *(\d+\.\d) s  ", text, re.MULTILINE)]
    assert 0 < max(elapsed) < CLOSED_WITHIN_S
    assert "What on-call received:" in text


@pytest.mark.long
def test_without_a_drift_nothing_fires(tmp_path: Path) -> None:
    done, s = demo(tmp_path, "--no-drift")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (s["alerts"], s["promotions"], s["retrain_requests"]) == (0, 0, 0)
    assert s["records_in"] == s["records_accounted"] > 0


@pytest.mark.long
def test_the_loop_runs_on_a_real_stream(tmp_path: Path) -> None:
    done, s = demo(tmp_path, "--data", str(ELEC2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert s["predictions"] == s["outcomes"] == 45_312 - 1_000
    assert s["promotions"] >= 1
    assert s["windows"] > 100
    assert s["records_in"] == s["records_accounted"]


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3])
def test_the_loop_closes_with_other_seeds(tmp_path: Path, seed: int) -> None:
    done, _ = demo(tmp_path, "--seed", str(seed))
    assert done.returncode == 0, done.stdout + done.stderr
