"""What ``kedge check`` tells of segments and detectors."""

from __future__ import annotations

from typing import Any

from kedge import Monitor
from kedge_services.cli.summaries import summary


def told(**parts: Any) -> list[str]:
    monitor = Monitor.model_validate(
        {
            "model": "m", "task": "binary", "classes": ["a", "b"], "features": {"x": "numeric"},
            **parts,
        }
    )  # fmt: skip
    return [" ".join(line.split()) for line in summary(monitor).splitlines()]


def test_detectors_beyond_the_budget_are_named() -> None:
    chosen = told(performance={"detectors": ["e-sr", "adwin", "kswin"]})
    assert (
        "detectors e-sr, adwin, kswin; the false alarms of adwin, kswin are outside the budget"
        in chosen
    )
    assert not [line for line in told() if line.startswith("detectors")]


def test_a_segment_is_told_with_its_base() -> None:
    segments = [{"name": "region", "base": "NO"}, {"name": "age"}]
    assert "segments region (against NO), age" in told(segments=segments)
